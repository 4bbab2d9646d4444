//! What a filter has said and done since the orchestrator started, in numbers.
//!
//! Counting is a handful of relaxed additions: no lock, no allocation, no clock of its own. Reading
//! makes [`Counts`], which `status --json` shows; names in it end as those of Prometheus do
//! (`_total` only grows, `_seconds` is a histogram) and stay as they are from version to version.
//! Numbers that are read while mail passes may be of slightly different moments. Nothing here can
//! fail.

mod cells;
mod words;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::member::OnFailure;
use cells::{Row, Times};
use words::Label;

pub use cells::{BOUNDS_MS, Histogram, HistogramBucket};
pub use words::{Change, Crash, Failure, Link, Phase, Word};

/// What is counted in one phase.
#[derive(Debug, Default)]
struct InPhase {
    answers: Row<{ Word::COUNT }>,
    times: Times,
}

/// The numbers of one filter: for those who count.
#[derive(Debug)]
pub struct Counters {
    links: Row<{ Link::COUNT }>,
    messages: Row<{ Word::COUNT }>,
    fallbacks: Row<4>,
    failures: Row<{ Failure::COUNT }>,
    changes: Row<{ Change::COUNT }>,
    crashes: Row<{ Crash::COUNT }>,
    replays: AtomicU64,
    phases: [InPhase; Phase::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            links: Row::default(),
            messages: Row::default(),
            fallbacks: Row::default(),
            failures: Row::default(),
            changes: Row::default(),
            crashes: Row::default(),
            replays: AtomicU64::new(0),
            phases: std::array::from_fn(|_| InPhase::default()),
        }
    }
}

impl Counters {
    /// A connection for a client.
    pub fn link(&self, link: Link) {
        self.links.add(link, 1);
    }

    /// An answer to something, and how long it took.
    pub fn answer(&self, phase: Phase, word: Word, took: Duration) {
        if let Some(in_phase) = self.phases.get(phase.number()) {
            in_phase.answers.add(word, 1);
            in_phase.times.add(took);
        }
    }

    /// The filter's own word on a message.
    pub fn message(&self, word: Word) {
        self.messages.add(word, 1);
    }

    /// A message on which the filter's policy spoke for it.
    pub fn fallback(&self, policy: OnFailure) {
        self.fallbacks.add(policy, 1);
    }

    /// Something went wrong with the filter, whatever became of the message.
    pub fn failure(&self, failure: Failure) {
        self.failures.add(failure, 1);
    }

    /// Changes to a message that the filter let pass.
    pub fn changes(&self, change: Change, count: u64) {
        self.changes.add(change, count);
    }

    /// What a crash in the middle of a message led to.
    pub fn crash(&self, crash: Crash) {
        self.crashes.add(crash, 1);
    }

    /// A message that was told a second time.
    pub fn replay(&self) {
        self.replays.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages on which the filter said its own word.
    #[must_use]
    pub fn own_words(&self) -> u64 {
        self.messages.sum()
    }

    /// Messages on which the policy spoke for it.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.sum()
    }

    /// Messages that were told a second time.
    #[must_use]
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// All numbers as they are now.
    #[must_use]
    pub fn read(&self) -> Counts {
        let phases = Phase::ALL.iter().copied().zip(&self.phases);
        let phases = phases.map(|(phase, in_phase)| {
            let answers_total = in_phase.answers.read();
            let answer_seconds = in_phase.times.read();
            let counts = PhaseCounts {
                answers_total,
                answer_seconds,
            };
            (phase, counts)
        });
        let mut messages_total = self.messages.read();
        // About a message nobody says that.
        messages_total.remove(&Word::Skip);
        Counts {
            connections_total: self.links.read(),
            messages_total,
            fallback_total: self.fallbacks.read(),
            failures_total: self.failures.read(),
            replays_total: self.replays(),
            crashes_total: self.crashes.read(),
            changes_total: self.changes.read(),
            phases: phases
                .filter(|(_, counts)| counts.answer_seconds.count > 0)
                .collect(),
        }
    }
}

/// The numbers of one filter, as they were read. All count from the start of the orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Connections to it for clients of an MTA, by how they came about; probes are not among them.
    pub connections_total: BTreeMap<Link, u64>,
    /// Messages by the filter's own word on them; one that failed, or that the MTA gave up before
    /// the filter had a word, is not among them, nor is any of a shadow.
    pub messages_total: BTreeMap<Word, u64>,
    /// Messages on which the filter's `on_failure` spoke for it, by what it said. Those under
    /// `accept` passed without this filter.
    pub fallback_total: BTreeMap<OnFailure, u64>,
    /// What went wrong with the filter, between messages too, by kind. A message that was told a
    /// second time with success counts here and not as a fallback.
    pub failures_total: BTreeMap<Failure, u64>,
    /// Messages that were told a second time.
    pub replays_total: u64,
    /// What its crashes in the middle of a message led to, beside messages told a second time.
    pub crashes_total: BTreeMap<Crash, u64>,
    /// Changes to messages that the filter let pass, by kind.
    pub changes_total: BTreeMap<Change, u64>,
    /// By what the filter was asked about; where it never answered anything there is no entry.
    pub phases: BTreeMap<Phase, PhaseCounts>,
}

/// What was counted in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PhaseCounts {
    /// Answers by what they said; a shadow's too.
    pub answers_total: BTreeMap<Word, u64>,
    /// How long they took, from the question written to the answer read.
    pub answer_seconds: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_cumulative_buckets() {
        let counters = Counters::default();
        for ms in [0, 1, 2, 3, 30_000, 30_001] {
            let took = Duration::from_millis(ms);
            counters.answer(Phase::Mail, Word::Continue, took);
        }
        let counts = counters.read();
        let seconds = &counts.phases[&Phase::Mail].answer_seconds;
        let of = |le_ms| {
            let bucket = seconds.buckets.iter().find(|bucket| bucket.le_ms == le_ms);
            bucket.unwrap().count
        };
        for (bound, count) in [(1, 2), (2, 3), (5, 4), (10_000, 4), (30_000, 5)] {
            assert_eq!(of(Some(bound)), count, "{bound}");
        }
        assert_eq!((of(None), seconds.count), (6, 6));
        assert_eq!(seconds.sum_us, 60_007_000);
        let percentile = |percent| seconds.percentile(percent).unwrap().le_ms;
        assert_eq!(percentile(50), Some(2));
        assert_eq!(percentile(80), Some(30_000));
        assert_eq!(percentile(100), None);
        assert_eq!(Histogram::default().percentile(50), None);
    }

    #[test]
    fn what_is_counted_is_read_under_its_name() {
        let counters = Counters::default();
        counters.link(Link::Kept);
        counters.message(Word::Tempfail);
        counters.fallback(OnFailure::Quarantine);
        counters.failure(Failure::Desync);
        counters.changes(Change::Envelope, 3);
        counters.crash(Crash::Poison);
        counters.replay();
        let json = serde_json::to_value(counters.read()).unwrap();
        for (path, count) in [
            ("/connections_total/new", 0),
            ("/connections_total/kept", 1),
            ("/messages_total/tempfail", 1),
            ("/messages_total/continue", 0),
            ("/fallback_total/quarantine", 1),
            ("/failures_total/desync", 1),
            ("/failures_total/timeout", 0),
            ("/changes_total/envelope", 3),
            ("/crashes_total/poison", 1),
            ("/crashes_total/spared", 0),
            ("/replays_total", 1),
        ] {
            assert_eq!(json.pointer(path), Some(&count.into()), "{path}: {json}");
        }
        assert_eq!(json.pointer("/phases"), Some(&serde_json::json!({})));
        let (words, fallbacks) = (counters.own_words(), counters.fallbacks());
        assert_eq!((words, fallbacks, counters.replays()), (1, 1, 1));
        let back: Counts = serde_json::from_value(json).unwrap();
        assert_eq!(back, counters.read());
    }
}
