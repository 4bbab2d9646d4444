//! What a milter's keeper shows of it: written by the keeper, read by `status`.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::child::State;

/// State, process and starts of one child.
#[derive(Debug)]
pub struct Vitals(Mutex<Reading>);

/// What [`Vitals`] show at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Where it is in its life.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// Starts that were tried.
    pub starts: u64,
}

impl Default for Vitals {
    fn default() -> Self {
        Self(Mutex::new(Reading {
            state: State::Down,
            since: SystemTime::now(),
            pid: None,
            starts: 0,
        }))
    }
}

impl Vitals {
    /// What there is to see now.
    #[must_use]
    pub fn read(&self) -> Reading {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the state it is in now, and its process.
    pub fn moved(&self, state: State, pid: Option<i32>) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.state != state {
            reading.since = SystemTime::now();
        }
        reading.state = state;
        reading.pid = pid;
    }

    /// Counts a start.
    pub fn count_start(&self) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.starts = reading.starts.saturating_add(1);
    }
}
