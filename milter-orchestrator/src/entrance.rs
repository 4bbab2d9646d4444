//! Listening for MTAs: hands each connection to the proxy, with the routes of the moment.
//!
//! Accepting, the limit of connections and their time of grace are `milter_proto::net`'s business;
//! a connection whose task panics is closed and costs the others nothing.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use milter_proto::daemon::Socket;
use milter_proto::net::{self, Listener, accept};
use tokio::sync::watch;

use crate::proxy::{Limits, Proxy};
use crate::route::Routes;

/// What counts for new connections; a reload replaces it.
#[derive(Debug)]
pub(crate) struct Current(RwLock<Rules>);

/// Where messages go, and how much of everything they may have.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) routes: Arc<Routes>,
    pub(crate) limits: Limits,
}

impl Current {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(RwLock::new(rules))
    }

    pub(crate) fn read(&self) -> Rules {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    pub(crate) fn replace(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Entrance {
    listener: Listener,
    /// Name of its `[listen.NAME]` section.
    name: Arc<str>,
    limits: net::Limits,
    /// Connections at the moment, for `status`.
    connections: Arc<AtomicU64>,
    rules: Arc<Current>,
}

/// The proxy of one listener: one for as long as the routes stay the same.
#[derive(Debug)]
struct Front {
    name: Arc<str>,
    rules: Arc<Current>,
    latest: Mutex<(Arc<Routes>, Proxy)>,
}

impl Front {
    fn new(name: Arc<str>, rules: Arc<Current>) -> Self {
        let Rules { routes, limits } = rules.read();
        let proxy = Proxy::new(&*name, Arc::clone(&routes), limits);
        Self {
            name,
            rules,
            latest: Mutex::new((routes, proxy)),
        }
    }

    /// For a new connection; those before keep theirs.
    fn proxy(&self) -> Proxy {
        let Rules { routes, limits } = self.rules.read();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&latest.0, &routes) {
            let proxy = Proxy::new(&*self.name, Arc::clone(&routes), limits);
            *latest = (routes, proxy);
        }
        latest.1.clone()
    }
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
    /// For a listener of the configuration. Messages in hand have `grace` to finish.
    ///
    /// # Errors
    /// When the socket cannot be used at all.
    pub(crate) fn new(
        name: &str,
        socket: Socket,
        max_connections: u32,
        grace: Duration,
        rules: Arc<Current>,
    ) -> io::Result<Self> {
        let listener = match socket {
            Socket::Tcp(tcp) => Listener::from_tcp(tcp)?,
            Socket::Unix(unix) => Listener::from_unix(unix)?,
        };
        let mut limits = net::Limits::default();
        limits.connections = usize::try_from(max_connections).unwrap_or(usize::MAX);
        limits.grace = grace;
        Ok(Self {
            listener,
            name: name.into(),
            limits,
            connections: Arc::default(),
            rules,
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

    /// Accepts until told to stop, then lets the connections finish.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>) {
        let shutdown = async move {
            // A sender that is gone means the same.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let Self {
            listener,
            name,
            limits,
            connections,
            rules,
        } = self;
        let front = Front::new(Arc::clone(&name), rules);
        accept(vec![listener], limits, shutdown, |stream, peer, stop| {
            let counted = Counted::new(&connections);
            let (name, proxy) = (Arc::clone(&name), front.proxy());
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
