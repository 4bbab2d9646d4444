//! Which clamd to ask, and in which order.
//!
//! A server that could not be reached or did not answer is asked last from then on. Once in
//! [`Settings::probe_interval`] a message that comes by starts a `PING` beside it; the answer
//! brings the server back. So a clamd that hangs delays the messages it holds, and none after
//! them, and no server is given up for good: when all are down, all are tried.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milter_proto::net::Address;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Request;
use super::client::{self, Deadlines, Trouble};

/// Which server a new message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first that works, as they are listed.
    Listed,
    /// Each in turn.
    Rotate,
}

/// How the servers are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they are; at least one.
    pub addresses: Vec<Address>,
    /// Which goes first.
    pub order: Order,
    /// For each step.
    pub deadlines: Deadlines,
    /// Between two questions to a server that is down whether it is back.
    pub probe_interval: Duration,
}

/// One clamd.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    health: Mutex<Health>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Up,
    /// Asked last; probed again at that time.
    Down {
        probe_at: Instant,
    },
}

/// All of them.
#[derive(Debug)]
pub struct Servers {
    all: Vec<Arc<Server>>,
    settings: Settings,
    turn: AtomicUsize,
}

impl Servers {
    /// All are taken for healthy until shown otherwise.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let server = |address: &Address| {
            Arc::new(Server {
                address: address.clone(),
                health: Mutex::new(Health::Up),
            })
        };
        Self {
            all: settings.addresses.iter().map(server).collect(),
            settings,
            turn: AtomicUsize::new(0),
        }
    }

    /// As they are listed.
    #[must_use]
    pub fn all(&self) -> &[Arc<Server>] {
        &self.all
    }

    /// For each step with a server.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        self.settings.deadlines
    }

    /// The servers in the order in which the next message should try them: healthy ones first.
    #[must_use]
    pub fn candidates(&self) -> Vec<Arc<Server>> {
        let mut order = self.all.clone();
        if self.settings.order == Order::Rotate && !order.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            order.rotate_left(turn % self.all.len());
        }
        for server in &order {
            self.probe_when_due(server);
        }
        order.sort_by_key(|server| *server.health() != Health::Up);
        order
    }

    /// Notes what became of asking `server`; logs a change.
    pub fn note(&self, server: &Server, trouble: Option<&Trouble>) {
        let Some(trouble) = trouble else {
            if std::mem::replace(&mut *server.health(), Health::Up) != Health::Up {
                info!(clamd = %server.address, "clamd is back");
            }
            return;
        };
        if !trouble.is_of_server() {
            return;
        }
        let probe_at = Instant::now() + self.settings.probe_interval;
        if std::mem::replace(&mut *server.health(), Health::Down { probe_at }) == Health::Up {
            warn!(clamd = %server.address, reason = %trouble, "clamd is down");
        }
    }

    /// Asks every server whether it is there, and logs what it says.
    pub async fn greet(&self) {
        for server in &self.all {
            match server.version(self.deadlines()).await {
                Ok(version) => info!(clamd = %server.address, %version, "clamd found"),
                Err(trouble) => self.note(server, Some(&trouble)),
            }
        }
    }

    fn probe_when_due(&self, server: &Arc<Server>) {
        let now = Instant::now();
        let deadlines = Deadlines {
            reply: self.settings.probe_interval,
            ..self.settings.deadlines
        };
        let longest = deadlines.connect + deadlines.write + deadlines.reply;
        match &mut *server.health() {
            Health::Down { probe_at } if *probe_at <= now => {
                // No second probe while this one runs.
                *probe_at = now + longest + self.settings.probe_interval;
            }
            Health::Down { .. } | Health::Up => return,
        }
        let server = Arc::clone(server);
        let probe_interval = self.settings.probe_interval;
        tokio::spawn(async move {
            let pong = client::ask(&server.address, Request::Ping, deadlines).await;
            let mut health = server.health();
            if pong.is_ok() {
                *health = Health::Up;
                info!(clamd = %server.address, "clamd is back");
            } else {
                let probe_at = Instant::now() + probe_interval;
                *health = Health::Down { probe_at };
            }
        });
    }
}

impl Server {
    /// Asks for a sign of life, then for the version of clamd and its signatures.
    ///
    /// # Errors
    /// Any [`Trouble`].
    pub async fn version(&self, deadlines: Deadlines) -> Result<String, Trouble> {
        client::ask(&self.address, Request::Ping, deadlines).await?;
        client::ask(&self.address, Request::Version, deadlines).await
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
