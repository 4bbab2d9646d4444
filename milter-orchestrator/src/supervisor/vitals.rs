//! What a milter's keeper shows of it: written by the keeper, read by whoever shows it to people or
//! to monitoring.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::child::State;

/// State, process and starts of one child.
#[derive(Debug)]
pub struct Vitals(Mutex<Reading>);

/// What [`Vitals`] show at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Where it is in its life.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// Starts that were tried.
    pub starts: u64,
    /// It has crashed so often that its failure policy applies at once, until it answers.
    pub breaker_open: bool,
    /// How long the next start is put off, while it is.
    pub backoff: Option<Duration>,
    /// How long the latest probe took that was answered.
    pub probe: Option<Duration>,
    /// Why it had to be started again, or could not be started, and how often.
    pub ends: BTreeMap<Cause, u64>,
}

/// Why a child has ended, or does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// By itself, with a status.
    Exited,
    /// By this signal, which was not ours.
    Signal(i32),
    /// Killed: it ran and made no progress.
    Hung,
    /// Killed: it did not get ready in time.
    Late,
    /// The operator, or a new configuration, asked for a fresh one.
    Asked,
    /// It could not be started.
    NotStarted,
    /// With its nursery.
    Lost,
}

impl Cause {
    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signal(_) => "signal",
            Self::Hung => "hung",
            Self::Late => "late",
            Self::Asked => "asked",
            Self::NotStarted => "not_started",
            Self::Lost => "lost",
        }
    }

    /// The number of the signal that ended it.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(number) => Some(number),
            Self::Exited
            | Self::Hung
            | Self::Late
            | Self::Asked
            | Self::NotStarted
            | Self::Lost => None,
        }
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self(Mutex::new(Reading {
            state: State::Down,
            since: SystemTime::now(),
            pid: None,
            starts: 0,
            breaker_open: false,
            backoff: None,
            probe: None,
            ends: BTreeMap::new(),
        }))
    }
}

impl Vitals {
    /// What there is to see now.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows the state it is in now, and its process.
    pub fn moved(&self, state: State, pid: Option<i32>) {
        self.change(|reading| {
            if reading.state != state {
                reading.since = SystemTime::now();
            }
            if state != State::Backoff {
                reading.backoff = None;
            }
            reading.state = state;
            reading.pid = pid;
        });
    }

    /// Shows whether its failure policy applies at once.
    pub fn show_breaker(&self, open: bool) {
        self.change(|reading| reading.breaker_open = open);
    }

    /// Shows how long the next start is put off.
    pub fn show_backoff(&self, delay: Duration) {
        self.change(|reading| reading.backoff = Some(delay));
    }

    /// Shows how long it took to answer a probe.
    pub fn show_probe(&self, time: Duration) {
        self.change(|reading| reading.probe = Some(time));
    }

    /// Counts a start.
    pub fn count_start(&self) {
        self.change(|reading| reading.starts = reading.starts.saturating_add(1));
    }

    /// Counts an end, or a start that failed.
    pub fn count_end(&self, cause: Cause) {
        self.change(|reading| {
            let ends = reading.ends.entry(cause).or_insert(0);
            *ends = ends.saturating_add(1);
        });
    }
}
