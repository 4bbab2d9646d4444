//! Takes connections and runs one task for each, until told to stop.
//!
//! At the limit of connections no more are accepted: they wait in the system's queue. A task that
//! panics costs its own connection. Stopping means: accept no more, let every task know ([`Stop`]),
//! wait for them for the time of grace, and end those that are left.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use crate::net::limits::Limits;
use crate::net::stream::{Listener, Peer, Stream};

/// Tells a connection that the server is stopping.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// One that never stops.
    #[must_use]
    pub fn never() -> Self {
        // Without its sender, `requested` waits for ever.
        Self(watch::channel(false).1)
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a server has done by the time it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Served {
    /// Connections taken.
    pub connections: u64,
    /// Those that were cut off because their time of grace was over.
    pub cut: usize,
}

/// Takes connections from `listeners` and runs `handle` for each, until `shutdown` completes.
pub async fn accept<H, W>(
    listeners: Vec<Listener>,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
    handle: H,
) -> Served
where
    H: Fn(Stream, Peer, Stop) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let (stop, stopping) = watch::channel(false);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut tasks = JoinSet::new();
    let mut served = Served::default();
    let mut turn = 0;
    let mut shutdown = pin!(shutdown);
    loop {
        turn += 1;
        let next = next_connection(&listeners, &permits, turn);
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = tasks.join_next() => report(ended),
            (stream, peer, permit) = next => {
                served.connections += 1;
                let work = handle(stream, peer, Stop(stopping.clone()));
                tasks.spawn(async move {
                    work.await;
                    drop(permit);
                });
            }
        }
    }
    drop(listeners);
    stop.send_replace(true);
    let drained = timeout(limits.grace, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        served.cut = tasks.len();
        warn!(
            connections = served.cut,
            "cut off: not done in the time of grace"
        );
        tasks.shutdown().await;
    }
    served
}

/// The next connection within the limit. A failing accept (no file descriptors, say) is tried
/// again.
async fn next_connection(
    listeners: &[Listener],
    permits: &Arc<Semaphore>,
    turn: usize,
) -> (Stream, Peer, OwnedSemaphorePermit) {
    let permit = loop {
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(permits).acquire_owned().await {
            break permit;
        }
    };
    loop {
        match any_connection(listeners, turn).await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(failure) => {
                warn!(error = %failure, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection from any listener; another one is asked first each turn.
async fn any_connection(listeners: &[Listener], turn: usize) -> io::Result<(Stream, Peer)> {
    poll_fn(|cx| {
        let (before, from) = listeners.split_at(turn % listeners.len().max(1));
        for listener in from.iter().chain(before) {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

fn report(ended: Result<(), JoinError>) {
    match ended {
        Err(failure) if failure.is_panic() => {
            error!(error = %failure, "a connection's task panicked; the connection is closed");
        }
        Ok(()) | Err(_) => {}
    }
}
