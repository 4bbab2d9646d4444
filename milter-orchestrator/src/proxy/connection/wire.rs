//! Frames on one socket, read and written without waiting.
//!
//! What is written is collected up to a limit and leaves in one system call; large payloads are not
//! copied. What is read comes by way of the stack into memory of just its size; where more comes
//! than fits there, or a frame is incomplete, straight into memory for the rest. So a round that
//! reads nothing allocates nothing, and an idle connection has no buffers at all.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milter_proto::edit::Edit;
use milter_proto::wire::{CHUNK_MAX, Command, Decoder, Frame, Reply, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Bytes collected before more has to wait.
const ROOM: usize = 128 * 1024;
/// Bytes read by way of the stack: most messages, or what a peer says in answer.
const GLANCE: usize = 32 * 1024;
/// Bytes read at a time at most: whole frames of the largest chunks that MTAs send, so that none
/// has to be put together from two buffers.
const GULP: usize = 4 * (5 + CHUNK_MAX);
/// A payload of this size is worth a buffer of its own.
const LARGE: usize = 4 * 1024;
/// Buffers in one write.
const SLICES: usize = 16;

/// What came of reading.
pub(super) enum Read {
    /// Bytes.
    Some,
    /// The end.
    End,
    /// An error.
    Broken(io::Error),
}

/// Writing failed.
#[derive(Debug)]
pub(super) struct Broken(pub(super) io::Error);

/// One socket.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    input: BytesMut,
    /// More came last time than a glance takes.
    bulk: bool,
    /// What is complete and waits to be written.
    output: VecDeque<Bytes>,
    /// What follows it.
    tail: BytesMut,
    waiting: usize,
    /// When something was last taken, or began to wait.
    progress: Instant,
    /// Since when an incomplete frame has been there.
    begun: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            bulk: false,
            output: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            progress: now,
            begun: None,
        }
    }

    /// The socket, once everything is written and read.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Whether more may be put.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < ROOM
    }

    /// Whether everything is written.
    pub(super) fn is_written(&self) -> bool {
        self.waiting == 0
    }

    /// Whether bytes have been read that are no complete frame.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Since when something waits to be written of which nothing was taken.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (self.waiting > 0).then_some(self.progress)
    }

    /// Appends a command.
    pub(super) fn put_command(&mut self, command: &Command, now: Instant) -> Result<(), WireError> {
        match command {
            Command::Body(chunk) if chunk.len() >= LARGE => {
                self.put_large(command.code(), chunk, now);
                Ok(())
            }
            command => self.put(now, |tail| command.encode(tail)),
        }
    }

    /// Appends a reply.
    pub(super) fn put_reply(&mut self, reply: &Reply, now: Instant) -> Result<(), WireError> {
        match reply {
            Reply::Edit(Edit::ReplaceBody(piece)) if piece.len() >= LARGE => {
                self.put_large(reply.code(), piece, now);
                Ok(())
            }
            reply => self.put(now, |tail| reply.encode(tail)),
        }
    }

    fn put(
        &mut self,
        now: Instant,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let before = self.tail.len();
        encode(&mut self.tail)?;
        self.count(self.tail.len() - before, now);
        Ok(())
    }

    /// Appends a frame whose payload stays where it is.
    fn put_large(&mut self, code: u8, payload: &Bytes, now: Instant) {
        // A body chunk was cut out of a frame, so its length fits.
        let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
        self.tail.put_u32(length);
        self.tail.put_u8(code);
        self.output.push_back(self.tail.split().freeze());
        self.output.push_back(payload.clone());
        self.count(payload.len() + 5, now);
    }

    fn count(&mut self, bytes: usize, now: Instant) {
        if self.waiting == 0 {
            self.progress = now;
        }
        self.waiting += bytes;
    }

    /// Writes what the socket takes; ready with whether it took anything.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<bool, Broken>> {
        let mut progress = false;
        while self.waiting > 0 {
            if !self.tail.is_empty() {
                self.output.push_back(self.tail.split().freeze());
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.output.len().min(SLICES);
            for (slice, bytes) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(bytes);
            }
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Broken(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => {
                    self.progress = now;
                    progress = true;
                    self.advance(written);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken(error))),
                Poll::Pending => break,
            }
        }
        if progress || self.waiting == 0 {
            Poll::Ready(Ok(progress))
        } else {
            Poll::Pending
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.waiting = self.waiting.saturating_sub(written);
        while let Some(first) = self.output.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.output.pop_front();
        }
    }

    /// Reads once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        let read = if self.input.is_empty() && !self.bulk {
            self.poll_glance(cx)
        } else {
            self.poll_gulp(cx)
        };
        read.map(|read| match read {
            Ok(0) => Read::End,
            Ok(_) => Read::Some,
            Err(error) => Read::Broken(error),
        })
    }

    /// Reads by way of the stack.
    fn poll_glance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); GLANCE];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        self.input = BytesMut::from(read);
        self.bulk = read.len() == GLANCE;
        Poll::Ready(Ok(read.len()))
    }

    /// Reads the rest of a frame, or as much as is there.
    fn poll_gulp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let begins = self.input.is_empty();
        if begins {
            self.input = BytesMut::with_capacity(GULP);
        } else {
            // As what has come, not as what was announced: that costs the peer nothing.
            let earned = (2 * self.input.len()).max(LARGE);
            self.input
                .reserve(missing(&self.input).clamp(1, GULP.min(earned)));
        }
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match &read {
            // Nothing to hold on to while nothing comes.
            Poll::Pending if begins => self.input = BytesMut::new(),
            Poll::Ready(Ok(bytes)) if begins => {
                self.bulk = *bytes >= GLANCE;
                if !self.bulk {
                    self.input = BytesMut::from(&self.input[..]);
                }
            }
            Poll::Pending | Poll::Ready(_) => {}
        }
        read
    }

    /// The next complete frame of what was read.
    pub(super) fn next_frame(
        &mut self,
        decoder: &Decoder,
        now: Instant,
    ) -> Result<Option<Frame>, WireError> {
        let frame = decoder.decode(&mut self.input)?;
        if frame.is_some() || self.input.is_empty() {
            self.begun = None;
        } else {
            self.begun.get_or_insert(now);
        }
        Ok(frame)
    }

    /// Since when an incomplete frame has been there.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.begun
    }

    /// Nothing is being read: an incomplete frame is not the peer's fault, and has its time from
    /// now on.
    pub(super) fn excuse(&mut self, now: Instant) {
        if let Some(begun) = &mut self.begun {
            *begun = now;
        }
    }

    /// Judges what is left at the end of the stream.
    pub(super) fn finish(&self, decoder: &Decoder) -> Result<(), WireError> {
        decoder.finish(&self.input)
    }
}

/// Bytes that the frame at the beginning of `input` lacks, as far as can be told.
fn missing(input: &[u8]) -> usize {
    let Some(head) = input.first_chunk::<4>() else {
        return GLANCE;
    };
    // Nobody has to believe this number: what is reserved for it is bounded.
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    length.saturating_add(4).saturating_sub(input.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_frame_that_nobody_reads_on_has_its_time_from_then_on() {
        let (near, mut far) = tokio::io::duplex(64);
        let begun = Instant::now();
        let mut wire = Wire::new(near, begun);
        far.write_all(&[0, 0, 0, 9, b'B']).await.unwrap();
        std::future::poll_fn(|cx| wire.poll_read(cx)).await;
        let decoder = Decoder::new(1 << 16);
        assert!(wire.next_frame(&decoder, begun).unwrap().is_none());
        assert_eq!(wire.incomplete_since(), Some(begun));

        let later = begun + Duration::from_secs(90);
        wire.excuse(later);
        assert_eq!(wire.incomplete_since(), Some(later));

        far.write_all(b"12345678").await.unwrap();
        std::future::poll_fn(|cx| wire.poll_read(cx)).await;
        assert!(wire.next_frame(&decoder, later).unwrap().is_some());
        wire.excuse(later);
        assert_eq!(wire.incomplete_since(), None);
    }

    /// A socket that takes everything, and remembers where in memory it was.
    #[derive(Default)]
    struct Notes {
        writes: usize,
        /// Where each buffer began, and its length.
        buffers: Vec<(usize, usize)>,
    }

    impl AsyncRead for Notes {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Notes {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffers: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes += 1;
            let places = buffers.iter().map(|one| (one.as_ptr().addr(), one.len()));
            self.buffers.extend(places);
            Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_message_is_one_write_and_its_body_is_nowhere_copied() {
        let now = Instant::now();
        let body = Bytes::from(vec![b'x'; 20_000]);
        let field = milter_proto::message::Header::new("Received", " from here to there");
        let mut wires: Vec<Wire<Notes>> =
            (0..3).map(|_| Wire::new(Notes::default(), now)).collect();
        for wire in &mut wires {
            for _ in 0..30 {
                wire.put_command(&Command::Header(field.clone()), now)
                    .unwrap();
            }
            wire.put_command(&Command::Body(body.clone()), now).unwrap();
            wire.put_command(&Command::EndOfMessage(Bytes::new()), now)
                .unwrap();
            let written = std::future::poll_fn(|cx| wire.poll_write(cx, now)).await;
            assert!(written.unwrap() && wire.is_written());
            assert_eq!(wire.stream.writes, 1);
            let place = (body.as_ptr().addr(), body.len());
            assert!(wire.stream.buffers.contains(&place), "the body was copied");
        }
    }

    #[tokio::test]
    async fn reading_keeps_no_more_memory_than_what_has_come() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let now = Instant::now();
        let mut wire = Wire::new(near, now);
        let decoder = Decoder::new(1 << 16);
        for length in [1, 100, GLANCE - 5, GLANCE - 4, 65_536] {
            let mut frame = u32::try_from(length).unwrap().to_be_bytes().to_vec();
            frame.resize(4 + length, b'B');
            far.write_all(&frame).await.unwrap();
            let mut reads = 0;
            let frame = loop {
                std::future::poll_fn(|cx| wire.poll_read(cx)).await;
                reads += 1;
                if let Some(frame) = wire.next_frame(&decoder, now).unwrap() {
                    break frame;
                }
            };
            assert_eq!(frame.payload.len() + 1, length);
            assert!(reads <= 2, "{length}: {reads} reads");
            // The buffer goes with the frame; asking for more in vain leaves none behind.
            let waiting = std::future::poll_fn(|cx| Poll::Ready(wire.poll_read(cx).is_pending()));
            assert!(waiting.await);
            assert_eq!(wire.input.capacity(), 0, "{length}");
        }
    }
}
