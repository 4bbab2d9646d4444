//! What came in by a listener and what became of it, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cells::{Histogram, Row, Times};
use super::words::{Decision, Mta, MtaFault};

/// The numbers of one listener: for those who count.
#[derive(Debug, Default)]
pub struct Traffic {
    sessions: Row<{ Mta::COUNT }>,
    messages: Row<{ Decision::COUNT }>,
    bytes: AtomicU64,
    faults: Row<{ MtaFault::COUNT }>,
    added: Times,
}

impl Traffic {
    /// A client that an MTA told of.
    pub fn session(&self, mta: Mta) {
        self.sessions.add(mta, 1);
    }

    /// A message that is over, and the bytes of its body.
    pub fn message(&self, decision: Decision, bytes: u64) {
        self.messages.add(decision, 1);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How long a message took beyond what its filters took.
    pub fn added(&self, took: Duration) {
        self.added.add(took);
    }

    /// A connection of an MTA that went wrong.
    pub fn fault(&self, fault: MtaFault) {
        self.faults.add(fault, 1);
    }

    /// All numbers as they are now.
    #[must_use]
    pub fn read(&self) -> TrafficCounts {
        TrafficCounts {
            sessions_total: self.sessions.read(),
            messages_total: self.messages.read(),
            bytes_total: self.bytes.load(Ordering::Relaxed),
            protocol_errors_total: self.faults.read(),
            added_latency_seconds: self.added.read(),
        }
    }
}

/// The numbers of one listener, as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficCounts {
    /// Clients that MTAs told of.
    pub sessions_total: BTreeMap<Mta, u64>,
    /// Messages by what became of them.
    pub messages_total: BTreeMap<Decision, u64>,
    /// Bytes of their bodies.
    pub bytes_total: u64,
    /// Connections of MTAs that went wrong.
    pub protocol_errors_total: BTreeMap<MtaFault, u64>,
    /// How long messages took beyond what their filters took: from the MTA's questions to our
    /// answers, less the time of the slowest filter of each segment.
    pub added_latency_seconds: Histogram,
}
