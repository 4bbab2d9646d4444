//! Numbers that many tasks add to at once: a row of them, and a histogram.
//!
//! Relaxed additions only: no lock, no allocation, no clock. What is read while somebody counts may
//! be of slightly different moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::Label;

/// A number for each value of an enum.
#[derive(Debug)]
pub(crate) struct Row<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Row<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Row<N> {
    /// Adds to the number of one value.
    pub(crate) fn add(&self, label: impl Label, count: u64) {
        if let Some(cell) = self.0.get(label.number()) {
            cell.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// All of them together.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// All of them, by value.
    pub(crate) fn read<L: Label>(&self) -> BTreeMap<L, u64> {
        let cells = self.0.iter().map(|cell| cell.load(Ordering::Relaxed));
        L::ALL.iter().copied().zip(cells).collect()
    }
}

/// Upper bounds of a histogram's buckets, in milliseconds; one without bound follows.
pub const BOUNDS_MS: [u64; 14] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000,
];

/// How long answers took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: Row<{ BOUNDS_MS.len() + 1 }>,
    micros: AtomicU64,
}

/// A bucket by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket(usize);

impl Label for Bucket {
    const ALL: &'static [Self] = &[];

    fn number(self) -> usize {
        self.0
    }
}

impl Times {
    /// Counts one.
    pub(crate) fn add(&self, took: Duration) {
        let fits = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS.iter().position(fits).unwrap_or(BOUNDS_MS.len());
        self.buckets.add(Bucket(bucket), 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.sum()
    }

    /// What there is.
    pub(crate) fn read(&self) -> Histogram {
        let mut count = 0;
        let bounds = BOUNDS_MS.iter().copied().map(Some).chain([None]);
        let cells = self.buckets.0.iter();
        let buckets = bounds.zip(cells).map(|(le_ms, cell)| {
            count += cell.load(Ordering::Relaxed);
            HistogramBucket { le_ms, count }
        });
        Histogram {
            buckets: buckets.collect(),
            count,
            sum_us: self.micros.load(Ordering::Relaxed),
        }
    }
}

/// A cumulative histogram.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// How many took no longer than each bound, in the order of the bounds.
    pub buckets: Vec<HistogramBucket>,
    /// How many there were.
    pub count: u64,
    /// How long all took together, in microseconds.
    pub sum_us: u64,
}

/// One bucket of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramBucket {
    /// The bound in milliseconds; none in the last one.
    pub le_ms: Option<u64>,
    /// How many took no longer.
    pub count: u64,
}

impl Histogram {
    /// Both together; the bounds are the same everywhere.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            let pairs = self.buckets.iter_mut().zip(&other.buckets);
            pairs.for_each(|(bucket, other)| bucket.count += other.count);
        }
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// The bucket below which `percent` of all lie; `None` when there are none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<HistogramBucket> {
        let wanted = self.count.saturating_mul(percent).div_ceil(100).max(1);
        let reached = |bucket: &&HistogramBucket| bucket.count >= wanted;
        self.buckets.iter().find(reached).copied()
    }
}
