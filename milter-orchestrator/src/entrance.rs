//! Listening for MTAs: hands each connection to the proxy, with the routes of the moment.
//!
//! Accepting, the limit of connections and their time of grace are `milter_proto::net`'s business;
//! a connection whose task panics is closed and costs the others nothing. A [`Door`] is the hold on
//! a listener that is served: it opens, pauses and closes it, and can lend its socket to a
//! successor.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milter_proto::daemon::{Bound, Socket, SocketFile};
use milter_proto::net::{self, Admission, Listener, admit};
use tokio::sync::watch;

use crate::config::Listen;
use crate::counters::Traffic;
use crate::proxy::{Limits, Proxy, Scene};
use crate::route::Routes;

/// What counts for new connections; a reload replaces it.
#[derive(Debug)]
pub(crate) struct Current(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Rules,
    /// What the listeners have in common whatever the rules are.
    scene: Scene,
    /// One for each listener that had a connection under these rules.
    proxies: HashMap<Arc<str>, Proxy>,
    /// The numbers of each listener, whatever the rules.
    traffic: HashMap<Arc<str>, Arc<Traffic>>,
}

/// Where messages go, and how much of everything they may have.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) routes: Arc<Routes>,
    pub(crate) limits: Limits,
}

impl Current {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(Mutex::new(Inner {
            rules,
            scene: Scene::default(),
            proxies: HashMap::new(),
            traffic: HashMap::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Rules {
        self.inner().rules.clone()
    }

    /// The old rules last as long as the connections that began with them, and no longer.
    pub(crate) fn replace(&self, rules: Rules) {
        let mut inner = self.inner();
        inner.rules = rules;
        inner.proxies.clear();
    }

    /// For a new connection; those before keep theirs.
    fn proxy(&self, listener: &Arc<str>) -> Proxy {
        let mut inner = self.inner();
        let Rules { routes, limits } = inner.rules.clone();
        let scene = inner.scene.clone();
        let traffic = Arc::clone(inner.traffic.entry(Arc::clone(listener)).or_default());
        let proxies = inner.proxies.entry(Arc::clone(listener));
        let proxy = || Proxy::within(scene, &**listener, routes, limits).counted_by(traffic);
        proxies.or_insert_with(proxy).clone()
    }

    /// The numbers of a listener.
    pub(crate) fn traffic(&self, listener: &str) -> Arc<Traffic> {
        let traffic = self.inner().traffic.get(listener).cloned();
        traffic.unwrap_or_default()
    }
}

/// A listener that is served. Dropping it does not end that: [`Door::say`] does.
#[derive(Debug)]
pub(crate) struct Door {
    /// As it was configured.
    pub(crate) listen: Listen,
    /// Connections at the moment, for `status`.
    pub(crate) connections: Arc<AtomicU64>,
    socket: Socket,
    file: Option<SocketFile>,
    order: watch::Sender<Admission>,
}

impl Door {
    /// Says whether connections are taken.
    pub(crate) fn say(&self, admission: Admission) {
        self.order.send_replace(admission);
    }

    /// Lets nobody in any more; the file goes first, so that nobody comes in vain. Connections go
    /// on; what they are told from now on comes from the sender that is returned.
    pub(crate) fn close(self) -> watch::Sender<Admission> {
        drop(self.file);
        self.order.send_replace(Admission::Closed);
        self.order
    }

    /// The same, with the socket and its file for another door.
    pub(crate) fn replace(self) -> (Bound, watch::Sender<Admission>) {
        let bound = Bound {
            name: String::new(),
            socket: self.socket,
            address: self.listen.socket.to_string(),
            file: self.file,
        };
        self.order.send_replace(Admission::Closed);
        (bound, self.order)
    }

    /// The same, while another process serves the socket and has the file.
    pub(crate) fn hand_over(self) -> watch::Sender<Admission> {
        if let Some(file) = self.file {
            file.leave();
        }
        self.order.send_replace(Admission::Closed);
        self.order
    }

    /// The socket once more, for another process.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(match self.socket.try_clone()? {
            Socket::Tcp(tcp) => tcp.into(),
            Socket::Unix(unix) => unix.into(),
        })
    }

    /// A file that another process has left is ours from now on.
    pub(crate) fn arm(&mut self) {
        if let Some(file) = &mut self.file {
            file.arm();
        }
    }

    /// Whether there is a file to be removed.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }
}

/// One listening socket, and the task that serves it.
#[derive(Debug)]
pub(crate) struct Entrance {
    listener: Listener,
    /// Name of its `[listen.NAME]` section.
    name: Arc<str>,
    limits: net::Limits,
    connections: Arc<AtomicU64>,
    rules: Arc<Current>,
    admission: watch::Receiver<Admission>,
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(connections: &Arc<AtomicU64>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entrance {
    /// For a listener of the configuration, at first as `admission` says. Messages in hand have
    /// `grace` to finish.
    ///
    /// # Errors
    /// When the socket cannot be used at all.
    pub(crate) fn new(
        bound: Bound,
        listen: &Listen,
        grace: Duration,
        rules: &Arc<Current>,
        admission: Admission,
    ) -> io::Result<(Self, Door)> {
        let listener = match bound.socket.try_clone()? {
            Socket::Tcp(tcp) => Listener::from_tcp(tcp)?,
            Socket::Unix(unix) => Listener::from_unix(unix)?,
        };
        let mut limits = net::Limits::default();
        limits.connections = usize::try_from(listen.max_connections).unwrap_or(usize::MAX);
        limits.grace = grace;
        let (order, admission) = watch::channel(admission);
        let connections = Arc::<AtomicU64>::default();
        let door = Door {
            listen: listen.clone(),
            connections: Arc::clone(&connections),
            socket: bound.socket,
            file: bound.file,
            order,
        };
        let entrance = Self {
            listener,
            name: bound.name.into(),
            limits,
            connections,
            rules: Arc::clone(rules),
            admission,
        };
        Ok((entrance, door))
    }

    /// Serves as its door says, until the last connection has gone.
    pub(crate) async fn serve(self) {
        let Self {
            listener,
            name,
            limits,
            connections,
            rules,
            admission,
        } = self;
        admit(vec![listener], limits, admission, |stream, peer, stop| {
            let counted = Counted::new(&connections);
            let (name, proxy) = (Arc::clone(&name), rules.proxy(&name));
            async move {
                if let Err(error) = proxy.serve(stream, &peer, stop).await {
                    let listener = &*name;
                    tracing::warn!(listener, %peer, %error, "connection of an MTA closed");
                }
                drop(counted);
            }
        })
        .await;
    }
}
