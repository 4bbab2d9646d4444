//! The proxy: one connection of an MTA on one side, the filters of a chain on the other.
//!
//! For the MTA it is a filter, for the filters it is an MTA. `session` holds all of the rules and
//! neither sockets nor clocks: commands, replies and the time go in, replies and commands come out.
//! `connection` moves the bytes. Beneath them are the pure parts: what is negotiated (`offer`),
//! who decides (`plan`), who waits for whom (`segments`), what becomes of the header (`headers`)
//! and the body (`spool`).
//!
//! What every part keeps to:
//! * Whatever the MTA would have done with the same filters in its own configuration, in the same
//!   order, it does with the proxy between.
//! * Nothing of a filter reaches the MTA but through its decoded reply, and no edit of anybody
//!   before the last positive word.
//! * A filter that fails costs no other connection anything, and no mail: it is tried again, then
//!   its `on_failure` speaks for it. Mail is never let through for want of an answer.
//!
//! Failure shows in one line of log for each message, in warnings that name the filter, and in the
//! counters of its [`Health`](crate::member::Health).

mod child;
mod connection;
mod edits;
mod headers;
mod limits;
mod message;
mod offer;
mod plan;
mod pool;
mod report;
mod scene;
pub(crate) mod segments;
mod session;
#[cfg(test)]
mod simulation;
mod spool;
mod suspicion;
#[cfg(test)]
mod tests;
mod wants;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use milter_proto::net::{Peer, Stop};
use milter_proto::wire::Offer;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::connection::ConnectionError;
pub use self::limits::{HeaderLimits, Limits, SpoolBudget, SpoolLimits, stock_headers};
use self::pool::Pool;
pub use self::scene::Scene;
use crate::counters::Traffic;
use crate::member::{Member, Negotiated};
use crate::route::Routes;

/// What the connections of one listener have in common. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy for mail that comes in by the listener of that name.
    #[must_use]
    pub fn new(listen: impl Into<String>, routes: Arc<Routes>, limits: Limits) -> Self {
        Self::within(Scene::default(), listen, routes, limits)
    }

    /// The same in a world that others share, or that a test has made.
    #[must_use]
    pub fn within(
        scene: Scene,
        listen: impl Into<String>,
        routes: Arc<Routes>,
        limits: Limits,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                listen: listen.into(),
                wants: wants::of(&routes),
                wants_arrival: wants::arrival(&routes),
                scene,
                routes,
                limits,
                traffic: Arc::default(),
                profiles: Mutex::default(),
                pool: Pool::default(),
            }),
        }
    }

    /// With numbers that go on counting when the next proxy of the listener takes its place. To be
    /// called before it is cloned.
    #[must_use]
    pub fn counted_by(mut self, traffic: Arc<Traffic>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.traffic = traffic;
        }
        self
    }

    /// Serves one connection of an MTA, until either side ends it, or `stop` asks for it between
    /// messages.
    ///
    /// # Errors
    /// When the MTA's stream breaks or it breaks the protocol. A filter's failure is none.
    pub async fn serve<S>(&self, stream: S, peer: &Peer, stop: Stop) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        tracing::debug!(listen = %self.shared.listen, %peer, "an MTA connected");
        let _counted = self.shared.scene.count();
        let ended = connection::run(stream, peer, Arc::clone(&self.shared), stop).await;
        if let Err(error) = &ended {
            self.shared.traffic.fault(error.kind());
        }
        ended
    }
}

/// The clock, which tests can turn.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What [`Proxy`] shares with its connections.
#[derive(Debug)]
struct Shared {
    listen: String,
    traffic: Arc<Traffic>,
    routes: Arc<Routes>,
    /// What routes need to be told, as if they were a filter.
    wants: Option<Offer>,
    /// They ask for the time, or for how many clients there are.
    wants_arrival: bool,
    scene: Scene,
    limits: Limits,
    /// What each filter negotiated last, by name.
    profiles: Mutex<HashMap<String, Offer>>,
    /// Connections to filters that wait for the next client.
    pool: Pool,
}

impl Shared {
    /// What a filter negotiated the last time that it could be asked.
    fn remembered(&self, name: &str) -> Option<Offer> {
        let profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        profiles.get(name).cloned()
    }

    /// Whether it is known what a filter wants, and that this is still so as far as anybody has
    /// asked it since.
    fn is_familiar(&self, member: &Member) -> bool {
        let remembered = self.remembered(&member.name);
        let latest = member.health.negotiated();
        remembered
            .is_some_and(|known| latest.is_none_or(|latest| latest == Negotiated::from(&known)))
    }

    /// Keeps what a filter has negotiated.
    fn remember(&self, name: &str, options: &Offer) {
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        if profiles.get(name) == Some(options) {
            return;
        }
        let mut kept = options.clone();
        for (_, names) in &mut kept.macros {
            // Copied: it is a piece of a large buffer.
            *names = Bytes::copy_from_slice(names);
        }
        profiles.insert(name.to_owned(), kept);
    }
}
