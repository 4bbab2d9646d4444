//! A scripted filter on a socket.
//!
//! Every connection is a [`ScriptedFilter`] of its own; they share one transcript. A connection
//! keeps the script it began with: after [`FilterServer::set_script`] it writes into a transcript
//! that nobody reads any more. Errors of a connection end that connection alone, without a word,
//! since the other side may do anything here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::filter::{ScriptedFilter, Told};
use super::script::{Act, FilterScript};
use crate::net::{Address, Listener, Stream};

/// A running filter. Its task, and with it every connection, ends when this is dropped.
#[derive(Debug)]
pub struct FilterServer {
    address: Address,
    shared: Arc<Mutex<Arc<Run>>>,
    task: JoinHandle<()>,
}

/// What belongs to one script.
#[derive(Debug)]
struct Run {
    script: FilterScript,
    /// Connections so far, and what they were told.
    log: Mutex<(u32, Vec<Told>)>,
    /// How many connections are open.
    open: watch::Sender<usize>,
}

/// Counts a connection as open as long as it lives.
struct Guest(Arc<Run>);

impl Guest {
    fn new(run: Arc<Run>) -> Self {
        run.open.send_modify(|open| *open += 1);
        Self(run)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0
            .open
            .send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl Run {
    fn new(script: FilterScript) -> Arc<Self> {
        Arc::new(Self {
            script,
            log: Mutex::default(),
            open: watch::Sender::new(0),
        })
    }

    fn connect(&self) -> ScriptedFilter {
        let mut log = lock(&self.log);
        log.0 += 1;
        ScriptedFilter::on_connection(self.script.clone(), log.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FilterServer {
    /// Binds `address` and serves the script there.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start(address: &Address, script: FilterScript) -> io::Result<Self> {
        Self::on(Listener::bind(address).await?, script)
    }

    /// Serves the script on a socket that is bound already.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn on(listener: Listener, script: FilterScript) -> io::Result<Self> {
        let address = listener.address()?;
        let shared = Arc::new(Mutex::new(Run::new(script)));
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// From now on new connections follow this script; they are counted from 1 again, and the
    /// transcript is empty. Connections that are open keep their script.
    pub fn set_script(&self, script: FilterScript) {
        *lock(&self.shared) = Run::new(script);
    }

    /// What it was told since the script was set, or since the last call.
    #[must_use]
    pub fn take_transcript(&self) -> Vec<Told> {
        std::mem::take(&mut lock(&self.run().log).1)
    }

    /// The same, leaving it there.
    #[must_use]
    pub fn transcript(&self) -> Vec<Told> {
        lock(&self.run().log).1.clone()
    }

    /// How many connections there were since the script was set.
    #[must_use]
    pub fn connections(&self) -> u32 {
        lock(&self.run().log).0
    }

    /// How many of them are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        *self.run().open.borrow()
    }

    /// Waits until no connection of this script is open: then the transcript is complete.
    pub async fn idle(&self) {
        let mut open = self.run().open.subscribe();
        // The sender is held by the run, which is held here: it cannot be gone.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    fn run(&self) -> Arc<Run> {
        Arc::clone(&lock(&self.shared))
    }
}

impl Drop for FilterServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: Listener, shared: Arc<Mutex<Arc<Run>>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)) => {
                let Ok((stream, _)) = accepted else { return };
                let guest = Guest::new(Arc::clone(&lock(&shared)));
                connections.spawn(async move {
                    // The other side may go away at any time: scripts are about that.
                    let _ = converse(stream, &guest.0).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: Stream, run: &Run) -> io::Result<()> {
    let mut filter = run.connect();
    let mut input = BytesMut::new();
    let mut acts = filter.open();
    loop {
        if !obey(&mut stream, acts).await? || stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        acts = filter.read(&mut input);
        lock(&run.log).1.extend(filter.take_transcript());
    }
}

/// Does what is to be done; `false` when the connection is over.
async fn obey(stream: &mut Stream, acts: Vec<Act>) -> io::Result<bool> {
    let mut output = BytesMut::new();
    for act in acts {
        act.encode(&mut output).map_err(io::Error::other)?;
        if matches!(act, Act::Say(_) | Act::Raw(_)) {
            continue;
        }
        stream.write_all_buf(&mut output).await?;
        match act {
            Act::Say(_) | Act::Raw(_) => {}
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Close => return Ok(false),
            Act::Hang => {
                hang(stream).await?;
                return Ok(false);
            }
        }
    }
    stream.write_all_buf(&mut output).await?;
    Ok(true)
}

/// Reads nothing, writes nothing, until the other side has closed.
async fn hang(stream: &Stream) -> io::Result<()> {
    let moment = Duration::from_millis(20);
    loop {
        if stream.readable().await? {
            return Ok(());
        }
        tokio::time::sleep(moment).await;
    }
}
