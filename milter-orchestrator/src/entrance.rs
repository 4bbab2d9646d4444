//! Listening for MTAs: accepts connections up to a limit, gives each a task, and lets them finish.
//!
//! A connection beyond the limit waits in the queue of the socket. A failure to accept is logged and
//! waited out, never spun on; a connection whose task panics is closed and costs the others nothing.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use milter_proto::daemon::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::route::Routes;

/// Pause after a failed accept: out of descriptors, mostly, which only time can heal.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Connections are accepted.
    Serve,
    /// No more; messages in hand are finished.
    Finish,
    /// What is left is cut off.
    Abort,
}

/// The routes for new connections; a reload replaces them.
#[derive(Debug)]
pub(crate) struct CurrentRoutes(RwLock<Arc<Routes>>);

impl CurrentRoutes {
    pub(crate) fn new(routes: Arc<Routes>) -> Self {
        Self(RwLock::new(routes))
    }

    pub(crate) fn read(&self) -> Arc<Routes> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, routes: Arc<Routes>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Entrance {
    listener: Listener,
    /// Name of its `[listen.NAME]` section.
    name: Arc<str>,
    /// Connections at the same time.
    max_connections: usize,
    /// Connections at the moment, for `status`.
    connections: Arc<AtomicU64>,
    /// Where messages go.
    routes: Arc<CurrentRoutes>,
}

/// Something that accepts connections.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    fn new(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(tcp) => Self::Tcp(TcpListener::from_std(tcp)?),
            Socket::Unix(unix) => Self::Unix(UnixListener::from_std(unix)?),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, _) = tcp.accept().await?;
                // Replies are small and somebody waits for each.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(unix) => Ok(Box::new(unix.accept().await?.0)),
        }
    }
}

impl Entrance {
    /// For a listener of the configuration.
    ///
    /// # Errors
    /// When the socket cannot be used at all.
    pub(crate) fn new(
        name: &str,
        max_connections: u32,
        socket: Socket,
        routes: Arc<CurrentRoutes>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: Listener::new(socket)?,
            name: name.into(),
            max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
            connections: Arc::default(),
            routes,
        })
    }

    /// Name of its `[listen.NAME]` section.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The count of its connections, which goes on counting.
    pub(crate) fn connections(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.connections)
    }

    /// Accepts until told to finish, then waits for the connections that are left.
    pub(crate) async fn serve(self, mut stage: watch::Receiver<Stage>) {
        let mut tasks = JoinSet::new();
        loop {
            let full = tasks.len() >= self.max_connections;
            tokio::select! {
                biased;
                () = reached(&mut stage, Stage::Finish) => break,
                Some(ended) = tasks.join_next() => self.ended(ended),
                accepted = self.listener.accept(), if !full => match accepted {
                    Ok(stream) => self.admit(stream, &mut tasks, stage.clone()),
                    Err(error) => {
                        tracing::warn!(listener = &*self.name, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => self.ended(ended),
                    None => return,
                },
                () = reached(&mut stage, Stage::Abort) => {
                    let left = tasks.len();
                    tracing::warn!(listener = &*self.name, left, "connections are cut off");
                    tasks.shutdown().await;
                    return;
                }
            }
        }
    }

    fn admit(
        &self,
        stream: Box<dyn Stream>,
        tasks: &mut JoinSet<()>,
        stage: watch::Receiver<Stage>,
    ) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (listen, routes) = (Arc::clone(&self.name), self.routes.read());
        tasks.spawn(async move {
            let stop = finishing(stage);
            // Until the proxy has its front door: the MTA sees a closed connection.
            drop((stream, listen, routes));
            drop(stop);
        });
    }

    fn ended(&self, ended: Result<(), JoinError>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = ended
            && error.is_panic()
        {
            let listener = &*self.name;
            tracing::error!(
                listener,
                "a connection failed by a fault of ours and was closed"
            );
        }
    }
}

/// Waits until the end has come so far.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    // A sender that is gone means the same.
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

/// Waits until no new message is to be begun.
async fn finishing(mut stage: watch::Receiver<Stage>) {
    reached(&mut stage, Stage::Finish).await;
}
