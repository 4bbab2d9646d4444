//! Takes connections and runs one task for each, until told to stop.
//!
//! At the limit of connections no more are accepted: they wait in the system's queue. A task that
//! panics costs its own connection. Stopping means: accept no more, let every task know ([`Stop`]),
//! wait for them for the time of grace, and end those that are left. A server may also pause, or
//! leave its sockets to somebody else, as [`Admission`] says.

use std::future::{Future, poll_fn};
use std::io;
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

/// What a server is to do with connections. It may go from any of these to any other, but for the
/// last two, which are for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// Take them.
    #[default]
    Open,
    /// Take none: they wait in the system's queue. Those that are open are told to [`Stop`], for
    /// as long as it takes them.
    Paused,
    /// Take what is in the queue, then close the sockets. Those that are open go on as if nothing
    /// had happened, and the server ends with the last of them.
    Closed,
    /// Close the sockets, tell those that are open to [`Stop`], and end them after their time of
    /// grace.
    Stopping,
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
    let (order, admission) = watch::channel(Admission::Open);
    let stopping = async {
        shutdown.await;
        order.send_replace(Admission::Stopping);
    };
    let serving = admit(listeners, limits, admission, handle);
    tokio::join!(stopping, serving).1
}

/// Takes connections from `listeners` and runs `handle` for each, as `admission` says at the
/// moment; when its sender is gone, that means [`Admission::Stopping`].
pub async fn admit<H, W>(
    listeners: Vec<Listener>,
    limits: Limits,
    mut admission: watch::Receiver<Admission>,
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
    let mut listeners = Some(listeners);
    loop {
        let now = *admission.borrow_and_update();
        let pausing = now == Admission::Paused;
        stop.send_if_modified(|stop| std::mem::replace(stop, pausing) != pausing);
        if now == Admission::Stopping || (listeners.is_none() && tasks.is_empty()) {
            break;
        }
        turn += 1;
        let open = listeners.as_deref().unwrap_or_default();
        let closing = now == Admission::Closed && listeners.is_some();
        let taken = tokio::select! {
            changed = admission.changed() => {
                if changed.is_err() {
                    break;
                }
                None
            }
            Some(ended) = tasks.join_next() => {
                report(ended);
                None
            }
            next = next_connection(open, &permits, turn), if now == Admission::Open => Some(next),
            next = queued_connection(open, &permits), if closing => {
                if next.is_none() {
                    listeners = None;
                }
                next
            }
        };
        if let Some((stream, peer, permit)) = taken {
            served.connections += 1;
            let work = handle(stream, peer, Stop(stopping.clone()));
            tasks.spawn(async move {
                work.await;
                drop(permit);
            });
        }
    }
    drop(listeners);
    stop.send_replace(true);
    served.cut = finish(tasks, limits.grace).await;
    served
}

/// Waits for those that were told to stop, and ends those that do not within the time of grace:
/// how many.
async fn finish(mut tasks: JoinSet<()>, grace: Duration) -> usize {
    let drained = timeout(grace, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_ok() {
        return 0;
    }
    let connections = tasks.len();
    warn!(connections, "cut off: not done in the time of grace");
    tasks.shutdown().await;
    connections
}

/// A connection that has come already; `None` when there is none, or none that can be had.
async fn queued_connection(
    listeners: &[Listener],
    permits: &Arc<Semaphore>,
) -> Option<(Stream, Peer, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    let next = poll_fn(|cx| {
        let ready = listeners
            .iter()
            .find_map(|listener| match listener.poll_accept(cx) {
                Poll::Ready(Ok(accepted)) => Some(accepted),
                Poll::Ready(Err(_)) | Poll::Pending => None,
            });
        Poll::Ready(ready)
    });
    let (stream, peer) = next.await?;
    Some((stream, peer, permit))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::net::Address;

    /// A server whose connections end when their peer does, or when they are told to.
    struct Running {
        directory: TempDir,
        order: watch::Sender<Admission>,
        taken: Arc<AtomicUsize>,
        task: JoinHandle<Served>,
    }

    impl Running {
        async fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            let listener = Listener::bind(&Address::Unix(path)).await.unwrap();
            let (order, admission) = watch::channel(Admission::Paused);
            let taken = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&taken);
            let handle = move |mut stream: Stream, _: Peer, mut stop: Stop| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    let mut byte = [0];
                    tokio::select! {
                        _ = stream.read(&mut byte) => {}
                        () = stop.requested() => {}
                    }
                }
            };
            let limits = Limits::default();
            let task = tokio::spawn(admit(vec![listener], limits, admission, handle));
            Self {
                directory,
                order,
                taken,
                task,
            }
        }

        async fn connect(&self) -> io::Result<UnixStream> {
            UnixStream::connect(self.directory.path().join("socket")).await
        }

        async fn wait_for(&self, taken: usize) {
            let all = async {
                while self.taken.load(Ordering::Relaxed) < taken {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(30), all).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_pause_takes_none_and_ends_those_that_are_open() {
        let server = Running::start().await;
        let _early = server.connect().await.unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(server.taken.load(Ordering::Relaxed), 0);
        server.order.send_replace(Admission::Open);
        server.wait_for(1).await;
        let mut second = server.connect().await.unwrap();
        server.wait_for(2).await;
        server.order.send_replace(Admission::Paused);
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
        let mut third = server.connect().await.unwrap();
        server.order.send_replace(Admission::Open);
        server.wait_for(3).await;
        server.order.send_replace(Admission::Stopping);
        assert_eq!(third.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(server.task.await.unwrap().connections, 3);
    }

    #[tokio::test]
    async fn who_closes_takes_the_queue_and_waits_for_all() {
        let server = Running::start().await;
        let queued = [(); 3].map(|()| server.connect());
        let mut open = Vec::new();
        for one in queued {
            open.push(one.await.unwrap());
        }
        server.order.send_replace(Admission::Closed);
        server.wait_for(3).await;
        let closed = async { while server.connect().await.is_ok() {} };
        timeout(Duration::from_secs(30), closed).await.unwrap();
        assert!(!server.task.is_finished());
        drop(open);
        let served = timeout(Duration::from_secs(30), server.task).await;
        assert!(served.unwrap().unwrap().connections >= 3);
    }
}
