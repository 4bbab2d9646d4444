//! Connections to filters that wait for the next client.
//!
//! When an MTA ends its session, a filter whose connection may be used again (only right after a
//! message that it let pass, or an ABORT: libmilter stalls elsewhere) is told that another client
//! comes (`SMFIC_QUIT_NC`), and the connection is kept here, up to the number that the filter's
//! configuration allows; the newest is taken first, and one that nobody has taken for
//! [`IDLE_MAX`] is closed. It goes only to a session that would have offered the filter the same,
//! and only to one of the same listener and configuration: a pool belongs to those and ends with
//! them. Whether a kept connection still works shows at its first CONNECT; nothing here fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use milter_proto::net::Stream;
use milter_proto::session::MtaSide;
use milter_proto::wire::Offer;

use super::Shared;

/// How long a connection is kept that nobody takes.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(30);

/// How often it is looked for such.
const SWEEP: Duration = Duration::from_secs(5);

/// A connection that waits.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Its socket.
    pub(crate) stream: Stream,
    /// The conversation, before CONNECT.
    pub(crate) side: MtaSide,
    /// What the filter had been offered.
    pub(crate) offered: Offer,
    /// Since when it waits.
    pub(crate) since: Instant,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Waiting>);

/// What a [`Pool`] holds.
#[derive(Debug, Default)]
struct Waiting {
    /// By the names of their filters, the newest last.
    kept: HashMap<String, Vec<Kept>>,
    /// Whether somebody closes what waits for too long.
    swept: bool,
}

impl Pool {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest connection to that filter that was negotiated from the same offer. Those that
    /// the filter has closed, or on which it said something that nobody asked for, are closed.
    pub(crate) fn take(&self, filter: &str, offer: &Offer, now: Instant) -> Option<Kept> {
        let mut waiting = self.waiting();
        let connections = waiting.kept.get_mut(filter)?;
        let is_fit = |one: &Kept| one.offered == *offer && one.since + IDLE_MAX > now;
        loop {
            let place = connections.iter().rposition(is_fit)?;
            let kept = connections.remove(place);
            if kept.stream.is_quiet() {
                return Some(kept);
            }
        }
    }

    /// Takes one in; the oldest has to go when there are more than `limit` then. Whether nobody
    /// closes what waits for too long: the caller has to see to it.
    fn put(&self, filter: &str, connection: Kept, limit: usize) -> bool {
        let mut waiting = self.waiting();
        let connections = waiting.kept.entry(filter.to_owned()).or_default();
        connections.push(connection);
        let surplus = connections.len().saturating_sub(limit);
        connections.drain(..surplus);
        !std::mem::replace(&mut waiting.swept, true)
    }

    /// Closes what has waited for too long; whether nothing is left, and nobody needs to come
    /// again.
    fn sweep(&self, now: Instant) -> bool {
        let mut waiting = self.waiting();
        waiting.kept.retain(|_, connections| {
            connections.retain(|one| one.since + IDLE_MAX > now);
            !connections.is_empty()
        });
        waiting.swept = !waiting.kept.is_empty();
        !waiting.swept
    }
}

/// Keeps a connection to a filter, at most `limit` of them.
pub(crate) fn keep(shared: &Arc<Shared>, filter: &str, connection: Kept, limit: usize) {
    if !shared.pool.put(filter, connection, limit) {
        return;
    }
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            // Gone with the configuration, or with the program.
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if shared.pool.sweep(super::now()) {
                return;
            }
        }
    });
}
