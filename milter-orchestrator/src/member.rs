//! Members of chains: a filter as the proxy sees it, whoever started it.
//!
//! Configuration makes the values, the supervisor writes their [`Health`], the proxy reads it and
//! counts what it did. Nothing here connects, waits or decides; failure shows only as counters and
//! a last error.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use milter_proto::wire::Offer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::counters::{Counters, Failure};
use crate::isolation::Isolation;
use crate::route::Condition;

pub use milter_proto::net::Address;

/// A filter in a chain. Shared by all chains that name it.
#[derive(Debug)]
pub struct Member {
    /// Name of its `[milter.NAME]` section.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// What its failure means for the message.
    pub on_failure: OnFailure,
    /// How long the proxy waits for it.
    pub timeouts: Timeouts,
    /// Sees everything, changes and decides nothing.
    pub shadow: bool,
    /// Which messages of its chains it sees.
    pub condition: Condition,
    /// Connections to it that are kept for the next client; 0: each client gets new ones.
    pub pool: usize,
    /// What is known about its state, and counters.
    pub health: Arc<Health>,
}

/// What a filter's failure means for the message.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Go on without this filter.
    Accept,
    /// Refuse for now (4xx): the client tries again.
    #[default]
    TempFail,
    /// Refuse for good (5xx).
    Reject,
    /// Take the message, hold it in the MTA's quarantine.
    Quarantine,
}

/// How long the proxy waits for a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection and for the answer to the negotiation, each.
    pub connect: Duration,
    /// For the answer to any command before the end of the message.
    pub command: Duration,
    /// For the answer to the end of the message; a sign of progress starts it anew.
    pub end_of_message: Duration,
}

impl Default for Timeouts {
    /// Below what MTAs give: Sendmail 10 s for a reply, Postfix 30 s for commands and 300 s for
    /// content.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            command: Duration::from_secs(8),
            end_of_message: Duration::from_secs(120),
        }
    }
}

/// What is believed about a filter at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Readiness {
    /// Not asked yet.
    Unknown = 0,
    /// It answers negotiations.
    Ready = 1,
    /// It does not answer; worth a try nevertheless, since connections queue while it restarts.
    Down = 2,
    /// It failed too often: not to be tried, its policy applies at once.
    Open = 3,
}

/// What a filter negotiated, as the bits of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Edits that it may make (`SMFIF_*`).
    pub actions: u32,
    /// Events that it left out, replies that it does not give, and the like (`SMFIP_*`).
    pub steps: u32,
}

impl From<&Offer> for Negotiated {
    fn from(options: &Offer) -> Self {
        Self {
            actions: options.actions.bits(),
            steps: options.steps.bits(),
        }
    }
}

/// Nothing is known yet of how it answers.
const STEP_UNKNOWN: u8 = 0;

/// It gives one answer to each question.
const IN_STEP: u8 = 1;

/// It has answered what nobody had asked.
const OUT_OF_STEP: u8 = 2;

/// A filter's state and counters, cheap to read from everywhere.
#[derive(Debug, Default)]
pub struct Health {
    readiness: AtomicU8,
    counters: Arc<Counters>,
    last_error: Mutex<Option<LastError>>,
    negotiated: Mutex<Option<Negotiated>>,
    suspected: Notify,
    step: AtomicU8,
    isolation: Isolation,
}

/// The latest thing that went wrong.
#[derive(Debug, Clone)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// What, for the operator.
    pub message: Arc<str>,
}

impl Health {
    /// Of a process that takes the place of this one: nothing is known of it yet, and the numbers
    /// go on.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self {
            counters: Arc::clone(&self.counters),
            ..Self::default()
        }
    }

    /// What is believed at the moment.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Relaxed) {
            1 => Readiness::Ready,
            2 => Readiness::Down,
            3 => Readiness::Open,
            _ => Readiness::Unknown,
        }
    }

    /// Whether the proxy should try to connect at all.
    #[must_use]
    pub fn may_try(&self) -> bool {
        self.readiness() != Readiness::Open
    }

    /// Sets what is believed: for the supervisor.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::Relaxed);
    }

    /// Its numbers: for the proxy, which counts, and for whoever reads them.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Its crashes, and what is remembered of them: for the proxy.
    #[must_use]
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// Counts a message on which the failure policy had to speak for the filter, remembers why, and
    /// has the supervisor look at it at once: for the proxy. Where the filter was not even tried,
    /// the reason for that stays the latest error.
    pub fn count_fallback(&self, policy: OnFailure, failure: Failure, why: &str) {
        self.counters.fallback(policy, failure);
        if self.may_try() || self.last_error().is_none() {
            self.note_error(why);
        }
        self.suspected.notify_one();
    }

    /// Counts a message that had to be told a second time, and remembers why: for the proxy.
    pub fn count_replay(&self, why: &str) {
        self.counters.replay();
        self.note_error(why);
    }

    /// Remembers an error without counting a message.
    pub fn note_error(&self, why: &str) {
        let error = LastError {
            at: SystemTime::now(),
            message: why.into(),
        };
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// Whether it has shown, in a message that was told one question at a time, that it gives one
    /// answer to each, and never failed to since. An answer too many is noticed only that way.
    #[must_use]
    pub fn keeps_step(&self) -> bool {
        self.step.load(Ordering::Relaxed) == IN_STEP
    }

    /// It came to its last word on a message without an answer too many: for the proxy.
    pub fn show_step(&self) {
        // Reading first spares the others this line of the cache, message by message.
        if self.step.load(Ordering::Relaxed) == STEP_UNKNOWN {
            let order = Ordering::Relaxed;
            let _ = self
                .step
                .compare_exchange(STEP_UNKNOWN, IN_STEP, order, order);
        }
    }

    /// It said something that nothing had asked for: for the proxy. Whether that is news.
    pub fn lose_step(&self) -> bool {
        self.step.swap(OUT_OF_STEP, Ordering::Relaxed) != OUT_OF_STEP
    }

    /// Messages on which the filter said its own word.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.counters.own_words()
    }

    /// Messages on which the failure policy spoke for it.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.counters.fallbacks()
    }

    /// Messages that had to be told a second time.
    #[must_use]
    pub fn replays(&self) -> u64 {
        self.counters.replays()
    }

    /// The latest error.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Remembers what the filter negotiated, with an MTA or a probe: for whoever did.
    pub fn note_negotiated(&self, negotiated: Negotiated) {
        *self
            .negotiated
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(negotiated);
    }

    /// What it negotiated last.
    #[must_use]
    pub fn negotiated(&self) -> Option<Negotiated> {
        *self
            .negotiated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the proxy suspects the filter: for the supervisor.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }
}

/// The filters that a message goes through.
#[derive(Debug)]
pub struct Chain {
    /// Name of the `[[route]]`.
    pub name: String,
    /// As written: one after the other where one may change what the other reads; the members of
    /// one segment always run in parallel on the same bytes. None at all: mail passes untouched.
    pub segments: Vec<Vec<Arc<Member>>>,
    /// Every event goes to one filter at a time, and to the next one only when it has let it pass.
    pub strict: bool,
}

impl Chain {
    /// All members, in configuration order.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.segments.iter().flatten()
    }
}
