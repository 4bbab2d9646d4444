//! The body of the message in hand, kept for filters that come later and for a second try.
//!
//! A body stays in memory up to a limit of its own, and beyond that as far as there is something
//! left of a [`SpoolBudget`] that all bodies share. Otherwise its oldest bytes go to a file that
//! has no name, so that nothing is left behind whatever happens. Bytes come out as they went in:
//! nothing is normalised here. Writing to the file goes to the page cache a chunk at a time, which
//! is why it does not leave the task. A full disk or a body over the limit is a [`SpoolError`]; the
//! message must then be refused for now.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use milter_proto::wire::CHUNK_MAX;
use thiserror::Error;

/// What a chunk counts for at least: a small one costs more than its bytes.
const CHUNK_COST_MIN: usize = 512;

/// Where and how much body is kept.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Bytes in memory that any body may have.
    pub memory: usize,
    /// Bytes in memory on top of that, for all bodies together.
    pub budget: Arc<SpoolBudget>,
    /// Bytes of one body altogether.
    pub total: u64,
    /// Where the rest of it goes.
    pub directory: PathBuf,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            memory: 256 * 1024,
            budget: Arc::new(SpoolBudget::new(64 * 1024 * 1024)),
            total: 1024 * 1024 * 1024,
            directory: std::env::temp_dir(),
        }
    }
}

/// Memory that is shared: whoever comes first has it, until that body is done with.
#[derive(Debug, Default)]
pub struct SpoolBudget {
    limit: usize,
    taken: AtomicUsize,
    /// Bytes in files.
    spilled: AtomicU64,
}

impl SpoolBudget {
    /// So many bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
            spilled: AtomicU64::new(0),
        }
    }

    /// Bytes that are to be had.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of it that are taken at the moment.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Bytes of bodies that are in files at the moment.
    #[must_use]
    pub fn spilled(&self) -> u64 {
        self.spilled.load(Ordering::Relaxed)
    }

    /// Takes all of `bytes` or nothing; `false` when there is not as much left.
    fn take(&self, bytes: usize) -> bool {
        // A number that nothing else depends on: no order with other memory is needed.
        let relaxed = Ordering::Relaxed;
        let more = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.taken.fetch_update(relaxed, relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why a body cannot be kept.
#[derive(Debug, Error)]
pub(crate) enum SpoolError {
    /// It is larger than the limit.
    #[error("body is over the spool limit of {0} bytes")]
    TooLarge(u64),
    /// The file cannot be written or read.
    #[error("spool file in {directory}: {source}")]
    Io {
        /// Where it was to be.
        directory: String,
        /// What the system says.
        source: io::Error,
    },
}

/// One body.
#[derive(Debug)]
pub(crate) struct Spool {
    limits: Arc<SpoolLimits>,
    /// The newest chunks, each with its offset; they end at `length`.
    tail: VecDeque<(u64, Bytes)>,
    /// What the tail counts for.
    cost: usize,
    /// What was taken of the shared budget for it.
    borrowed: usize,
    /// Everything before the tail.
    file: Option<File>,
    /// Bytes in it.
    spilled: u64,
    length: u64,
}

impl Spool {
    /// An empty body.
    pub(crate) fn new(limits: Arc<SpoolLimits>) -> Self {
        Self {
            limits,
            tail: VecDeque::new(),
            cost: 0,
            borrowed: 0,
            file: None,
            spilled: 0,
            length: 0,
        }
    }

    /// Bytes in the body so far.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Whether part of it is in a file.
    #[cfg(test)]
    pub(crate) fn is_spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the next bytes.
    pub(crate) fn append(&mut self, chunk: Bytes) -> Result<(), SpoolError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let length = self.length + chunk.len() as u64;
        if length > self.limits.total {
            return Err(SpoolError::TooLarge(self.limits.total));
        }
        self.cost += cost(&chunk);
        self.tail.push_back((self.length, chunk));
        self.length = length;
        while !self.fits() && self.spill_oldest()? {}
        Ok(())
    }

    /// Whether all of the tail may stay in memory, for which more of the budget is taken.
    fn fits(&mut self) -> bool {
        let lacking = self.cost.saturating_sub(self.limits.memory + self.borrowed);
        if lacking > 0 && !self.limits.budget.take(lacking) {
            return false;
        }
        self.borrowed += lacking;
        true
    }

    /// Up to [`CHUNK_MAX`] bytes from `offset` on; empty at the end.
    pub(crate) fn read(&self, offset: u64) -> Result<Bytes, SpoolError> {
        let tail_start = self.tail.front().map_or(self.length, |(start, _)| *start);
        if offset < tail_start {
            return self.read_file(offset, tail_start);
        }
        let after = self.tail.partition_point(|(start, _)| *start <= offset);
        let Some((start, chunk)) = after.checked_sub(1).and_then(|at| self.tail.get(at)) else {
            return Ok(Bytes::new());
        };
        // Within the chunk that holds it, so it fits.
        let skip = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let begin = skip.min(chunk.len());
        let end = begin.saturating_add(CHUNK_MAX).min(chunk.len());
        Ok(chunk.slice(begin..end))
    }

    fn read_file(&self, offset: u64, end: u64) -> Result<Bytes, SpoolError> {
        let Some(file) = &self.file else {
            return Ok(Bytes::new());
        };
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let mut buffer = BytesMut::zeroed(wanted.min(CHUNK_MAX));
        file.read_exact_at(&mut buffer, offset)
            .map_err(|source| self.error(source))?;
        Ok(buffer.freeze())
    }

    /// Moves the oldest chunk to the file; `false` when there is none.
    fn spill_oldest(&mut self) -> Result<bool, SpoolError> {
        let Some((offset, chunk)) = self.tail.front().cloned() else {
            return Ok(false);
        };
        if self.file.is_none() {
            let file = tempfile::tempfile_in(&self.limits.directory)
                .map_err(|source| self.error(source))?;
            self.file = Some(file);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&chunk, offset)
                .map_err(|source| self.error(source))?;
        }
        let bytes = chunk.len() as u64;
        self.spilled += bytes;
        let spilled = &self.limits.budget.spilled;
        spilled.fetch_add(bytes, Ordering::Relaxed);
        self.tail.pop_front();
        self.cost -= cost(&chunk);
        Ok(true)
    }

    fn error(&self, source: io::Error) -> SpoolError {
        SpoolError::Io {
            directory: self.limits.directory.display().to_string(),
            source,
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let budget = &self.limits.budget;
        budget.give_back(self.borrowed);
        budget.spilled.fetch_sub(self.spilled, Ordering::Relaxed);
    }
}

fn cost(chunk: &Bytes) -> usize {
    chunk.len().max(CHUNK_COST_MIN)
}

/// Turns a replacement body into what the MTA makes of it: every line ends in CR LF, to Postfix the
/// last one too.
///
/// Later filters must see what will be delivered; sent to the MTA it comes to the same.
#[derive(Debug, Default)]
pub(crate) struct LineEnds {
    last: Option<u8>,
}

impl LineEnds {
    /// The next bytes, with a CR before every LF.
    pub(crate) fn complete(&mut self, chunk: &Bytes) -> Bytes {
        let mut previous = self.last;
        let mut bare = 0;
        for byte in chunk {
            bare += usize::from(*byte == b'\n' && previous != Some(b'\r'));
            previous = Some(*byte);
        }
        if bare == 0 {
            self.last = previous;
            return chunk.clone();
        }
        let mut out = BytesMut::with_capacity(chunk.len() + bare);
        for byte in chunk {
            if *byte == b'\n' && self.last != Some(b'\r') {
                out.extend_from_slice(b"\r");
            }
            out.extend_from_slice(&[*byte]);
            self.last = Some(*byte);
        }
        out.freeze()
    }

    /// What is missing at the end of the body.
    pub(crate) fn finish(&self) -> Bytes {
        match self.last {
            None | Some(b'\n') => Bytes::new(),
            Some(_) => Bytes::from_static(b"\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(memory: usize, total: u64) -> Spool {
        Spool::new(Arc::new(SpoolLimits {
            memory,
            budget: Arc::default(),
            total,
            ..SpoolLimits::default()
        }))
    }

    fn read_all(spool: &Spool, from: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let chunk = spool.read(from + all.len() as u64).unwrap();
            assert!(chunk.len() <= CHUNK_MAX);
            if chunk.is_empty() {
                return all;
            }
            all.extend_from_slice(&chunk);
        }
    }

    #[test]
    fn what_goes_in_comes_out_from_any_offset_wherever_it_is_kept() {
        let body: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        for (memory, size) in [(1 << 30, 70_000), (1 << 16, 65_535), (0, 1000), (4096, 7)] {
            let mut spool = spool(memory, 1 << 30);
            let body = &body[..body.len().min(size * 300)];
            for chunk in body.chunks(size) {
                spool.append(Bytes::copy_from_slice(chunk)).unwrap();
            }
            assert_eq!(spool.len(), body.len() as u64);
            assert_eq!(spool.is_spilled(), memory < 1 << 30, "{memory}");
            for from in [0, 1, 65_535, body.len() / 2, body.len() - 1, body.len()] {
                let from = from.min(body.len());
                assert!(
                    read_all(&spool, from as u64) == body[from..],
                    "{memory} {from}"
                );
            }
        }
    }

    #[test]
    fn all_bodies_share_the_budget_and_give_it_back() {
        let limits = Arc::new(SpoolLimits {
            memory: 1000,
            budget: Arc::new(SpoolBudget::new(10_000)),
            ..SpoolLimits::default()
        });
        let taken = || limits.budget.taken.load(Ordering::Relaxed);
        let fill = |chunks: usize| {
            let mut spool = Spool::new(Arc::clone(&limits));
            for _ in 0..chunks {
                spool.append(Bytes::from(vec![b'x'; 1000])).unwrap();
            }
            spool
        };
        let first = fill(8);
        assert_eq!((first.is_spilled(), taken()), (false, 7000));
        // Its own thousand, and what is left of the budget.
        let second = fill(8);
        assert_eq!((second.is_spilled(), taken()), (true, 10_000));
        assert_eq!(read_all(&second, 0).len(), 8000);
        let third = fill(2);
        assert_eq!((third.is_spilled(), taken()), (true, 10_000));
        assert!(limits.budget.spilled() > 0);
        drop(first);
        assert_eq!(taken(), 3000);
        let fourth = fill(8);
        assert_eq!((fourth.is_spilled(), taken()), (false, 10_000));
        drop((second, third, fourth));
        assert_eq!((taken(), limits.budget.spilled()), (0, 0));
    }

    #[test]
    fn whoever_reads_gets_the_same_memory() {
        let mut spool = spool(1 << 20, 1 << 20);
        let chunk = Bytes::from(vec![b'x'; 60_000]);
        spool.append(chunk.clone()).unwrap();
        for _ in 0..3 {
            let read = spool.read(0).unwrap();
            assert_eq!((read.as_ptr(), read.len()), (chunk.as_ptr(), chunk.len()));
        }
    }

    #[test]
    fn the_limit_and_a_missing_directory_are_errors() {
        let mut small = spool(1024, 10);
        small.append(Bytes::from_static(b"0123456789")).unwrap();
        let error = small.append(Bytes::from_static(b"x")).unwrap_err();
        assert!(error.to_string().contains("limit of 10 bytes"), "{error}");
        let mut nowhere = Spool::new(Arc::new(SpoolLimits {
            memory: 0,
            budget: Arc::default(),
            total: 100,
            directory: PathBuf::from("/nonexistent/spool"),
        }));
        let error = nowhere.append(Bytes::from_static(b"x")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/spool"), "{error}");
    }

    #[test]
    fn line_ends_are_completed_whatever_the_split() {
        let body = b"a\nb\r\nc\rd\n\n\r\n\re";
        let whole = b"a\r\nb\r\nc\rd\r\n\r\n\r\n\re\r\n";
        for size in 1..=body.len() {
            let mut ends = LineEnds::default();
            let mut out = Vec::new();
            for chunk in body.chunks(size) {
                out.extend_from_slice(&ends.complete(&Bytes::copy_from_slice(chunk)));
            }
            out.extend_from_slice(&ends.finish());
            assert_eq!(out, whole, "split at {size}");
        }
        assert!(LineEnds::default().finish().is_empty());
    }
}
