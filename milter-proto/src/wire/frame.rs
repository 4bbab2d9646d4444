//! A frame: length, code, payload; and the decoder that cuts a byte stream into frames.
//!
//! The length is four bytes, big endian, and counts the code. The decoder never allocates: it looks
//! at bytes that have arrived and splits them off, so a peer that announces much and sends little
//! costs nothing. It knows neither codes nor order. A stream that it cannot cut any further is a
//! [`WireError`]; nothing after it can be trusted and the connection must be closed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::error::WireError;

/// One frame in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The command (`SMFIC_*`) or reply (`SMFIR_*`) byte.
    pub code: u8,
    /// Everything after it.
    pub payload: Bytes,
}

impl Frame {
    /// Appends the frame as it goes on the wire.
    pub fn encode(&self, out: &mut BytesMut) {
        put_frame(out, self.code, &[&self.payload]);
    }
}

/// Appends a frame of `code` whose payload is `parts`, one after the other.
pub(crate) fn put_frame(out: &mut BytesMut, code: u8, parts: &[&[u8]]) {
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    // No payload comes near 4 GiB: the largest are header fields and body chunks, capped on entry.
    let length = u32::try_from(payload + 1).unwrap_or(u32::MAX);
    out.reserve(payload + 5);
    out.put_u32(length);
    out.put_u8(code);
    for part in parts {
        out.put_slice(part);
    }
}

/// Cuts a stream into frames. Holds no bytes itself, so one decoder serves any number of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoder {
    cap: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(Self::CAP)
    }
}

impl Decoder {
    /// The largest length accepted by default: a code and 1 MiB, the most that any MTA can
    /// be made to send.
    pub const CAP: u32 = 1024 * 1024 + 1;

    /// A decoder that refuses frames whose length field is above `cap`.
    #[must_use]
    pub const fn new(cap: u32) -> Self {
        Self { cap }
    }

    /// Splits the first frame off `buffer`; `None` until it is complete. Call again until `None`.
    ///
    /// # Errors
    /// When the length is 0 or above the cap; the buffer is left as it was.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(head) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = self.check(*head)?;
        if buffer.len() - 4 < length {
            return Ok(None);
        }
        buffer.advance(4);
        let mut frame = buffer.split_to(length).freeze();
        let code = frame.get_u8();
        Ok(Some(Frame {
            code,
            payload: frame,
        }))
    }

    /// Judges what is left of a stream that has ended.
    ///
    /// # Errors
    /// When it ended inside a frame.
    pub fn finish(&self, buffer: &BytesMut) -> Result<(), WireError> {
        if buffer.is_empty() {
            return Ok(());
        }
        if buffer.iter().all(|byte| is_text(*byte)) {
            return Err(WireError::Text(begin(buffer)));
        }
        Err(WireError::CutOff { have: buffer.len() })
    }

    /// The length field as a number of bytes to wait for.
    fn check(self, head: [u8; 4]) -> Result<usize, WireError> {
        let length = u32::from_be_bytes(head);
        if length == 0 {
            return Err(WireError::Empty);
        }
        if length <= self.cap {
            // A u32 fits wherever a buffer of that size does.
            return Ok(length as usize);
        }
        if head.iter().all(|byte| is_text(*byte)) {
            return Err(WireError::Text(begin(&head)));
        }
        Err(WireError::TooLong {
            length,
            cap: self.cap,
        })
    }
}

/// What a line of SMTP, HTTP or a log consists of.
fn is_text(byte: u8) -> bool {
    byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The first few characters of a text, for a message.
fn begin(text: &[u8]) -> String {
    text.iter().take(16).map(|byte| char::from(*byte)).collect()
}
