//! Frames on a stream, with deadlines.
//!
//! Reads fill a buffer of 64 KiB, from which frames are cut without copying, and which is given
//! back while nothing comes: an idle connection holds no buffer. Writes are collected until
//! [`Frames::flush`]. A peer that sends a frame byte by byte, or does not take what is
//! written, is an error once its time is up. After an error the stream is of no more use.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use crate::net::limits::Limits;
use crate::wire::{Decoder, Frame, WireError};

/// Why a stream of frames broke.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The bytes are no frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Nothing was sent for so long.
    #[error("nothing was sent for {} s", .0.as_secs())]
    Idle(Duration),
    /// A frame was begun and not completed in time.
    #[error("a frame was not complete after {} s", .0.as_secs())]
    SlowFrame(Duration),
    /// The peer did not take what was written in time.
    #[error("the peer took nothing for {} s", .0.as_secs())]
    SlowWrite(Duration),
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads and writes frames.
#[derive(Debug)]
pub struct Frames<S> {
    stream: S,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    frame_time: Duration,
    write_time: Duration,
    /// When the incomplete frame in the buffer was first seen.
    begun: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Bytes that are read at a time.
    const BUFFER: usize = 64 * 1024;
    /// The buffer is renewed when less than this is free, so that what is kept of one buffer never
    /// costs much more than it holds. An output buffer above this is not kept either.
    const LOW: usize = 8 * 1024;

    /// Frames on `stream`.
    pub fn new(stream: S, limits: &Limits) -> Self {
        Self {
            stream,
            decoder: Decoder::new(limits.frame),
            input: BytesMut::new(),
            output: BytesMut::new(),
            frame_time: limits.frame_time,
            write_time: limits.write_time,
            begun: None,
        }
    }

    /// The next frame of what has been read already.
    ///
    /// # Errors
    /// When the bytes are no frames.
    pub fn buffered(&mut self) -> Result<Option<Frame>, WireError> {
        let frame = self.decoder.decode(&mut self.input)?;
        if frame.is_some() {
            self.begun = None;
        }
        Ok(frame)
    }

    /// The next frame, waiting for it; `None` when the peer has closed the stream between frames.
    /// Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// When nothing comes for `idle`, or the stream breaks.
    pub async fn read(&mut self, idle: Duration) -> Result<Option<Frame>, StreamError> {
        let called = Instant::now();
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            let (deadline, late) = if self.input.is_empty() {
                (called + idle, StreamError::Idle(idle))
            } else {
                let begun = *self.begun.get_or_insert_with(Instant::now);
                let time = self.frame_time;
                (begun + time, StreamError::SlowFrame(time))
            };
            let read = timeout_at(deadline, self.fill()).await;
            if read.map_err(|_| late)?? == 0 {
                self.decoder.finish(&self.input)?;
                return Ok(None);
            }
        }
    }

    /// Where frames to be written are collected.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes everything collected.
    ///
    /// # Errors
    /// When the peer does not take it in time, or is gone.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let late = StreamError::SlowWrite(self.write_time);
        let write = timeout(self.write_time, self.stream.write_all(&self.output)).await;
        write.map_err(|_| late)??;
        self.output.clear();
        if self.output.capacity() > Self::LOW {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Whether bytes have arrived that nobody waits for, or the peer has closed. Never waits.
    ///
    /// # Errors
    /// When the stream is broken.
    pub async fn is_disturbed(&mut self) -> Result<bool, StreamError> {
        if !self.input.is_empty() {
            return Ok(true);
        }
        let mut space = [0; 1024];
        let mut buffer = ReadBuf::new(&mut space);
        let stream = &mut self.stream;
        let arrived = poll_fn(|cx| {
            Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result.map(|()| true),
                Poll::Pending => Ok(false),
            })
        })
        .await?;
        self.input.extend_from_slice(buffer.filled());
        Ok(arrived)
    }

    /// Refuses frames whose length field is above `cap` from now on.
    pub fn set_cap(&mut self, cap: u32) {
        self.decoder = Decoder::new(cap);
    }

    /// The stream; what was read and not used is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Reads once, without holding a buffer while there is nothing in it and nothing comes.
    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            self.make_room();
            let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
            if read.is_pending() && self.input.is_empty() {
                self.input = BytesMut::new();
            }
            read
        })
        .await
    }

    /// Bytes that the buffers occupy.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    fn make_room(&mut self) {
        if self.input.capacity() - self.input.len() < Self::LOW {
            self.input.reserve(Self::BUFFER);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let (near, mut far) = duplex(1 << 20);
        let mut frames = Frames::new(near, &Limits::default());
        let mut large = vec![0, 0, 0xff, 0xff, b'B'];
        large.resize(4 + 0xffff, b'x');
        for _ in 0..3 {
            far.write_all(&large).await.unwrap();
            let frame = frames.read(Duration::from_secs(10)).await.unwrap().unwrap();
            assert_eq!(frame.payload.len(), 0xfffe);
            frames.output().extend_from_slice(&large);
            frames.flush().await.unwrap();
        }
        let idle = frames.read(Duration::from_millis(20)).await;
        assert!(matches!(idle, Err(StreamError::Idle(_))));
        assert_eq!(frames.held(), 0);
    }
}
