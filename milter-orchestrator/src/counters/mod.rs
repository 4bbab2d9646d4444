//! What a filter has said and done since the orchestrator started, in numbers.
//!
//! Counting is a handful of relaxed additions: no lock, no allocation, no clock of its own. Reading
//! makes [`Counts`], which `status --json` shows; names in it end as those of Prometheus do
//! (`_total` only grows, `_seconds` is a histogram) and stay as they are from version to version.
//! Numbers that are read while mail passes may be of slightly different moments. Nothing here can
//! fail.

mod cells;
mod traffic;
mod words;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use milter_proto::verdict::Verdict;
use serde::{Deserialize, Serialize};

use crate::member::OnFailure;
use cells::{Row, Times};
use words::Label;

pub use cells::{BOUNDS_MS, Histogram, HistogramBucket};
pub use traffic::{Traffic, TrafficCounts};
pub use words::{Change, Crash, Decision, Failure, Link, Mta, MtaFault, Phase, Replay, Word};

/// How long answers in one phase took, by what they said; and with that, how many there were.
type InPhase = [Times; Word::COUNT];

/// The numbers of one filter: for those who count.
#[derive(Debug)]
pub struct Counters {
    links: Row<{ Link::COUNT }>,
    messages: Row<{ Word::COUNT }>,
    /// By what had gone wrong.
    fallbacks: [Row<4>; Failure::COUNT],
    failures: Row<{ Failure::COUNT }>,
    changes: Row<{ Change::COUNT }>,
    crashes: Row<{ Crash::COUNT }>,
    replays: AtomicU64,
    replayed: Row<{ Replay::COUNT }>,
    unseen: AtomicU64,
    /// A shadow's words, by what was decided.
    shadow: [Row<{ Word::COUNT }>; Decision::COUNT],
    missed: AtomicU64,
    phases: [InPhase; Phase::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            links: Row::default(),
            messages: Row::default(),
            fallbacks: std::array::from_fn(|_| Row::default()),
            failures: Row::default(),
            changes: Row::default(),
            crashes: Row::default(),
            replays: AtomicU64::new(0),
            replayed: Row::default(),
            unseen: AtomicU64::new(0),
            shadow: std::array::from_fn(|_| Row::default()),
            missed: AtomicU64::new(0),
            phases: std::array::from_fn(|_| std::array::from_fn(|_| Times::default())),
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
        let times = self.phases.get(phase.number());
        if let Some(times) = times.and_then(|in_phase| in_phase.get(word.number())) {
            times.add(took);
        }
    }

    /// The filter's own word on a message.
    pub fn message(&self, word: Word) {
        self.messages.add(word, 1);
    }

    /// A message on which the filter's policy spoke for it, and what had gone wrong.
    pub fn fallback(&self, policy: OnFailure, failure: Failure) {
        if let Some(row) = self.fallbacks.get(failure.number()) {
            row.add(policy, 1);
        }
    }

    /// A message that passed without a word of the filter, because its policy allowed it.
    pub fn unseen(&self) {
        self.unseen.fetch_add(1, Ordering::Relaxed);
    }

    /// What a shadow said of a message, and what was decided about that. A text of its own counts
    /// as the refusal that it is.
    pub fn shadow(&self, decision: Decision, verdict: &Verdict) {
        let word = match Decision::of(Some(verdict), false) {
            Decision::Reject => Word::Reject,
            Decision::Tempfail => Word::Tempfail,
            _ => Word::from(verdict),
        };
        if let Some(row) = self.shadow.get(decision.number()) {
            row.add(word, 1);
        }
    }

    /// A message of which a shadow had not heard all when it was over, or on which it failed.
    pub fn missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
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

    /// What came of that.
    pub fn replayed(&self, replay: Replay) {
        self.replayed.add(replay, 1);
    }

    /// Messages on which the filter said its own word.
    #[must_use]
    pub fn own_words(&self) -> u64 {
        self.messages.sum()
    }

    /// Messages on which the policy spoke for it.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.iter().map(Row::sum).sum()
    }

    /// Those on which the filter itself was to blame: it was tried, and did not answer, or not as
    /// it should.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let blamed = |failure: &Failure| match failure {
            Failure::Connect | Failure::Timeout | Failure::Closed | Failure::Desync => true,
            Failure::Oversize | Failure::Breaker => false,
        };
        let rows = Failure::ALL.iter().zip(&self.fallbacks);
        rows.filter(|(failure, _)| blamed(failure))
            .map(|(_, row)| row.sum())
            .sum()
    }

    /// Messages that were told a second time.
    #[must_use]
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// The pairs that have occurred.
    fn shadow_words(&self) -> BTreeMap<Decision, BTreeMap<Word, u64>> {
        let rows = Decision::ALL.iter().copied().zip(&self.shadow);
        let occurred = rows.map(|(decision, row)| {
            let mut words: BTreeMap<Word, u64> = row.read();
            words.retain(|_, count| *count > 0);
            (decision, words)
        });
        occurred.filter(|(_, words)| !words.is_empty()).collect()
    }

    /// All numbers as they are now.
    #[must_use]
    pub fn read(&self) -> Counts {
        let phases = Phase::ALL.iter().copied().zip(&self.phases);
        let phases = phases.map(|(phase, in_phase)| (phase, PhaseCounts::read(in_phase)));
        let fallbacks = Failure::ALL.iter().copied().zip(&self.fallbacks);
        let fallbacks = fallbacks.map(|(failure, row)| (failure, row.read()));
        let fallback_reasons_total: BTreeMap<_, BTreeMap<OnFailure, u64>> = fallbacks.collect();
        let mut fallback_total: BTreeMap<OnFailure, u64> = Row::<4>::default().read();
        for (policy, count) in fallback_reasons_total.values().flatten() {
            *fallback_total.entry(*policy).or_default() += count;
        }
        let mut messages_total = self.messages.read();
        // About a message nobody says that.
        messages_total.remove(&Word::Skip);
        Counts {
            connections_total: self.links.read(),
            messages_total,
            fallback_total,
            fallback_reasons_total,
            unscanned_accepted_total: self.unseen.load(Ordering::Relaxed),
            shadow_words_total: self.shadow_words(),
            shadow_missed_total: self.missed.load(Ordering::Relaxed),
            failures_total: self.failures.read(),
            replays_total: self.replays(),
            crashes_total: self.crashes.read(),
            replay_results_total: self.replayed.read(),
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
    /// The same, by what had gone wrong.
    pub fallback_reasons_total: BTreeMap<Failure, BTreeMap<OnFailure, u64>>,
    /// Messages that passed without a word of this filter, because it failed and its policy allows
    /// that.
    pub unscanned_accepted_total: u64,
    /// For a shadow: messages by what was decided about them, and by what it said or would have
    /// said.
    pub shadow_words_total: BTreeMap<Decision, BTreeMap<Word, u64>>,
    /// For a shadow: messages of which it had not heard all when they were over, or on which it
    /// failed.
    pub shadow_missed_total: u64,
    /// What went wrong with the filter, between messages too, by kind. A message that was told a
    /// second time with success counts here and not as a fallback.
    pub failures_total: BTreeMap<Failure, u64>,
    /// Messages that were told a second time.
    pub replays_total: u64,
    /// What its crashes in the middle of a message led to, beside messages told a second time.
    pub crashes_total: BTreeMap<Crash, u64>,
    /// What came of those, once their messages were over.
    pub replay_results_total: BTreeMap<Replay, u64>,
    /// Changes to messages that the filter let pass, by kind.
    pub changes_total: BTreeMap<Change, u64>,
    /// By what the filter was asked about; where it never answered anything there is no entry.
    pub phases: BTreeMap<Phase, PhaseCounts>,
}

impl Counts {
    /// For a shadow: how many messages would have ended otherwise by its word.
    #[must_use]
    pub fn shadow_differs(&self) -> u64 {
        let passes =
            |decision: &Decision| matches!(decision, Decision::Accept | Decision::Quarantine);
        let same = |decision: &Decision, word: &Word| match word {
            Word::Continue | Word::Accept | Word::Skip => passes(decision),
            Word::Reject => *decision == Decision::Reject,
            Word::Tempfail | Word::Reply => *decision == Decision::Tempfail,
            Word::Discard => *decision == Decision::Discard,
        };
        let words = self.shadow_words_total.iter();
        let pairs = words.flat_map(|(decision, words)| {
            words
                .iter()
                .map(move |(word, count)| (decision, word, count))
        });
        pairs
            .filter(|(decision, word, _)| !same(decision, word))
            .map(|(_, _, count)| *count)
            .sum()
    }
}

/// What was counted in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PhaseCounts {
    /// Answers by what they said; a shadow's too.
    pub answers_total: BTreeMap<Word, u64>,
    /// How long they took, from the question written to the answer read.
    pub answer_seconds: Histogram,
    /// The same, by what they said; where it never said that there is no entry.
    #[serde(default)]
    pub answer_seconds_by_word: BTreeMap<Word, Histogram>,
}

impl PhaseCounts {
    fn read(in_phase: &InPhase) -> Self {
        let mut counts = Self::default();
        for (word, times) in Word::ALL.iter().copied().zip(in_phase) {
            counts.answers_total.insert(word, times.count());
            if times.count() > 0 {
                let histogram = times.read();
                counts.answer_seconds.add(&histogram);
                counts.answer_seconds_by_word.insert(word, histogram);
            }
        }
        counts
    }
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
        counters.fallback(OnFailure::Quarantine, Failure::Closed);
        counters.replayed(Replay::Failed);
        counters.unseen();
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
            ("/fallback_total/accept", 0),
            ("/fallback_reasons_total/closed/quarantine", 1),
            ("/fallback_reasons_total/timeout/quarantine", 0),
            ("/unscanned_accepted_total", 1),
            ("/replay_results_total/failed", 1),
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
