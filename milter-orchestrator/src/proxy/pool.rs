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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// All that wait, by the names of their filters, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    kept: Mutex<HashMap<String, Vec<Kept>>>,
    swept: AtomicBool,
}

impl Pool {
    /// The newest connection to that filter that was negotiated from the same offer.
    pub(crate) fn take(&self, filter: &str, offer: &Offer, now: Instant) -> Option<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = kept.get_mut(filter)?;
        let is_fit = |one: &Kept| one.offered == *offer && one.since + IDLE_MAX > now;
        let place = connections.iter().rposition(is_fit)?;
        Some(connections.remove(place))
    }

    /// Takes one in; the oldest has to go when there are more than `limit` then.
    fn put(&self, filter: &str, connection: Kept, limit: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = kept.entry(filter.to_owned()).or_default();
        connections.push(connection);
        let surplus = connections.len().saturating_sub(limit);
        connections.drain(..surplus);
    }

    /// Closes what has waited for too long; whether nothing is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, connections| {
            connections.retain(|one| one.since + IDLE_MAX > now);
            !connections.is_empty()
        });
        kept.is_empty()
    }
}

/// Keeps a connection to a filter, at most `limit` of them.
pub(crate) fn keep(shared: &Arc<Shared>, filter: &str, connection: Kept, limit: usize) {
    shared.pool.put(filter, connection, limit);
    if shared.pool.swept.swap(true, Ordering::AcqRel) {
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
                shared.pool.swept.store(false, Ordering::Release);
                return;
            }
        }
    });
}
