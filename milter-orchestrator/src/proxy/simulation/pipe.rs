//! One direction of a connection: bytes that arrive in pieces, in order, each at its time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::chance::Chance;

/// Bytes under way. An end of the stream is a piece that is none.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pieces: VecDeque<(Instant, Option<Bytes>)>,
    bytes: usize,
    cut: bool,
}

impl Pipe {
    /// Bytes that have not arrived.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Puts bytes on their way, in pieces of any size; when the last of them arrives.
    pub(super) fn push(&mut self, bytes: Bytes, at: Instant, chance: &mut Chance) -> Instant {
        let mut rest = bytes;
        let mut at = self.pieces.back().map_or(at, |(last, _)| at.max(*last));
        while !rest.is_empty() {
            let size = match chance.below(8) {
                0 => 1 + chance.place(8),
                1 => 1 + chance.place(4096),
                _ => rest.len(),
            };
            let piece = rest.split_to(size.min(rest.len()));
            self.push_whole(piece, at);
            if !rest.is_empty() {
                at += Duration::from_micros(chance.below(3) * 700);
            }
        }
        at
    }

    /// Puts bytes on their way in one piece.
    pub(super) fn push_whole(&mut self, bytes: Bytes, at: Instant) {
        let at = self.pieces.back().map_or(at, |(last, _)| at.max(*last));
        self.bytes += bytes.len();
        self.pieces.push_back((at, Some(bytes)));
    }

    /// Whoever writes is gone: what it has not written by now never comes.
    pub(super) fn cut(&mut self, now: Instant) {
        self.pieces.retain(|(at, _)| *at <= now);
        let bytes = self.pieces.iter().filter_map(|(_, piece)| piece.as_ref());
        self.bytes = bytes.map(Bytes::len).sum();
        self.pieces.push_back((now, None));
        self.cut = true;
    }

    /// Nobody writes any more.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Nobody will read what is under way.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    /// The next piece that has arrived.
    pub(super) fn due(&mut self, now: Instant) -> Option<Option<Bytes>> {
        self.pieces.front().filter(|(at, _)| *at <= now)?;
        let (_, piece) = self.pieces.pop_front()?;
        self.bytes -= piece.as_ref().map_or(0, Bytes::len);
        Some(piece)
    }

    /// When the next piece arrives.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.pieces.front().map(|(at, _)| *at)
    }
}
