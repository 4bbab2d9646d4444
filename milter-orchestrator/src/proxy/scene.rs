//! What routes ask of the world outside a connection: how many clients there are, and what time it
//! is. Both are taken once for each client, when it comes, so that they stay as they are for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::route::clock::{Clock, Moment};

/// The world outside a connection. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Scene {
    clients: Arc<AtomicU64>,
    clock: Clock,
}

/// What it was like when a client came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Clients in hand, this one among them.
    pub(crate) load: u64,
    /// When.
    pub(crate) time: Moment,
}

/// A client that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU64>);

impl Default for Scene {
    fn default() -> Self {
        Self::with_clock(Clock::local())
    }
}

impl Scene {
    /// One with that clock.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        let clients = Arc::default();
        Self { clients, clock }
    }

    /// Counts a client.
    pub(crate) fn count(&self) -> Counted {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.clients))
    }

    /// As it is now.
    pub(crate) fn arrival(&self) -> Arrival {
        Arrival {
            load: self.clients.load(Ordering::Relaxed),
            time: self.clock.now(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
