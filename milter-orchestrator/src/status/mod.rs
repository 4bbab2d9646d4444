//! A snapshot of everything as data; [`render`] makes tables of it for people.
//!
//! The control socket sends it as JSON; `milter-orchestrator status` renders it. Nothing here asks
//! or measures: what is shown was counted elsewhere. Times are whole seconds since 1970.

mod paint;
mod show;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::counters::{Counts, TrafficCounts};
use crate::member::{Member, Negotiated, OnFailure, Readiness};
use crate::proxy::SpoolBudget;
use crate::supervisor::Kept;
use crate::supervisor::child::State;

pub use paint::Paint;
pub use show::Show;
pub use table::{render, render_in};

/// Everything that `status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the orchestrator.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// It takes no more mail, because of `drain`.
    #[serde(default)]
    pub draining: bool,
    /// When it started.
    pub since: u64,
    /// When this was taken.
    pub now: u64,
    /// Where MTAs connect.
    pub listeners: Vec<ListenerStatus>,
    /// The milters.
    pub milters: Vec<MilterStatus>,
    /// Where bodies of messages are.
    #[serde(default)]
    pub spool: SpoolStatus,
    /// What came of reloads.
    #[serde(default)]
    pub reload: ReloadStatus,
}

/// What came of reloads since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// New configurations that count, or counted.
    pub succeeded: u64,
    /// Those that were refused.
    pub failed: u64,
    /// When the last one was; 0: there was none.
    pub at: u64,
    /// Why the last one was refused; `None` when it was not.
    pub error: Option<String>,
}

/// Where bodies of messages are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Of the memory that all messages share, as much is taken.
    pub memory: u64,
    /// As much there is of it.
    pub memory_limit: u64,
    /// As much is in files.
    pub files: u64,
}

impl From<&SpoolBudget> for SpoolStatus {
    fn from(budget: &SpoolBudget) -> Self {
        let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            memory: wide(budget.taken()),
            memory_limit: wide(budget.limit()),
            files: budget.spilled(),
        }
    }
}

impl Snapshot {
    /// Connections of MTAs, by all listeners.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.listeners.iter().map(|one| one.connections).sum()
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub socket: String,
    /// Connections of MTAs at the moment.
    pub connections: u64,
    /// What came in by it, and what became of it.
    #[serde(default)]
    pub traffic: TrafficCounts,
}

/// One milter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MilterStatus {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: State,
    /// Whether mail goes to it.
    pub readiness: Readiness,
    /// Where it listens.
    pub socket: String,
    /// What its failure means.
    pub on_failure: OnFailure,
    /// It changes nothing.
    pub shadow: bool,
    /// Its process, while there is one of ours.
    pub pid: Option<i32>,
    /// Since when it is in its state.
    pub since: u64,
    /// Starts after the first.
    pub restarts: u64,
    /// Why it had to be started again, or could not be started.
    #[serde(default)]
    pub ends: Vec<EndStatus>,
    /// How long the next start is put off, while it is; in milliseconds.
    #[serde(default)]
    pub backoff_ms: Option<u64>,
    /// How long the latest probe took that was answered; in microseconds.
    #[serde(default)]
    pub probe_us: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<ErrorStatus>,
    /// Messages on which it said its own word.
    pub messages: u64,
    /// Messages on which its failure policy spoke for it.
    pub fallbacks: u64,
    /// What it negotiated last, with an MTA or a probe.
    #[serde(default)]
    pub negotiated: Option<Negotiated>,
    /// Its numbers.
    #[serde(default)]
    pub counts: Counts,
}

/// Whose a milter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Ours: started and ended by us.
    Spawned,
    /// Somebody else's.
    Foreign,
}

/// Why a child ended, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndStatus {
    /// The cause, in a word.
    pub cause: String,
    /// The signal, if it was one.
    pub signal: Option<i32>,
    /// How often.
    pub count: u64,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// When.
    pub at: u64,
    /// What.
    pub message: String,
}

impl MilterStatus {
    /// Of a milter at this moment; `member` has the policies that count now.
    #[must_use]
    pub fn of(kept: &Kept, member: &Member) -> Self {
        let Kept {
            vitals, spawned, ..
        } = kept;
        let reading = vitals.read();
        let last_error = member.health.last_error().map(|error| ErrorStatus {
            at: seconds(error.at),
            message: error.message.to_string(),
        });
        let ends = reading.ends.iter().map(|(cause, count)| EndStatus {
            cause: cause.name().to_owned(),
            signal: cause.signal(),
            count: *count,
        });
        Self {
            name: member.name.clone(),
            kind: if *spawned {
                Kind::Spawned
            } else {
                Kind::Foreign
            },
            state: reading.state,
            readiness: member.health.readiness(),
            socket: member.address.to_string(),
            on_failure: member.on_failure,
            shadow: member.shadow,
            pid: reading.pid,
            since: seconds(reading.since),
            restarts: reading.starts.saturating_sub(1),
            ends: ends.collect(),
            backoff_ms: reading.backoff.map(|time| whole(time.as_millis())),
            probe_us: reading.probe.map(|time| whole(time.as_micros())),
            last_error,
            messages: member.health.messages(),
            fallbacks: member.health.fallbacks(),
            negotiated: member.health.negotiated(),
            counts: member.health.counters().read(),
        }
    }

    /// Its state in a word or two.
    pub(crate) fn word(&self) -> &'static str {
        match (self.state, self.readiness) {
            (State::Up, _) => "up",
            (State::Starting, Readiness::Open) => "crashing",
            (State::Starting, _) => "starting",
            (State::Sick, _) => "not answering",
            (State::Killed | State::Replacing, _) => "restarting",
            (State::Backoff, Readiness::Open) => "crashing",
            (State::Backoff, _) => "restarting",
            (State::Stopping, _) => "stopping",
            (State::Down, _) => "down",
        }
    }
}

fn whole(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
