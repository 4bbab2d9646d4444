//! Why bytes are no frame, no command or no reply.

use thiserror::Error;

use crate::verdict::InvalidReply;

/// What is wrong with bytes from a peer, or with a value that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame whose length is 0: it has no code.
    #[error("frame of length 0")]
    Empty,
    /// A frame over the cap; nothing was allocated for it.
    #[error("frame of {length} bytes is over the limit of {cap}")]
    TooLong {
        /// The length field.
        length: u32,
        /// The most that is accepted.
        cap: u32,
    },
    /// Printable text where a frame should begin.
    #[error("the peer sends text, not milter frames (an SMTP or HTTP client, or a log?): {0:?}")]
    Text(String),
    /// The stream ended inside a frame.
    #[error("closed inside a frame, {have} bytes of which had arrived")]
    CutOff {
        /// Bytes of the frame that had arrived.
        have: usize,
    },
    /// A command or reply byte that the protocol does not have.
    #[error("unknown frame type {}", show(*.0))]
    UnknownCode(u8),
    /// A frame of a known type with a payload that does not fit it.
    #[error("malformed frame of type {}: {reason}", show(*.code))]
    Malformed {
        /// The command or reply byte.
        code: u8,
        /// What does not fit.
        reason: Malformed,
    },
}

/// What does not fit in a payload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than the type has at least.
    #[error("too short")]
    TooShort,
    /// Bytes after the end.
    #[error("unexpected bytes at the end")]
    Trailing,
    /// A string that does not end in NUL.
    #[error("a string does not end in NUL")]
    NoNul,
    /// A NUL inside a string.
    #[error("a string holds a NUL")]
    InnerNul,
    /// A macro name without a value.
    #[error("a macro has no value")]
    NoValue,
    /// More strings, or macros, than any line of SMTP or any configuration brings about.
    #[error("more than {0} of them")]
    TooMany(usize),
    /// A payload that is far longer than any line of SMTP.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// A header field without a name.
    #[error("a header field has no name")]
    NoName,
    /// A client address of an unknown family.
    #[error("unknown address family {}", show(*.0))]
    Family(u8),
    /// A text that is no SMTP reply.
    #[error(transparent)]
    Reply(#[from] InvalidReply),
}

impl Malformed {
    /// The error for a frame of type `code`.
    pub(crate) fn of(self, code: u8) -> WireError {
        WireError::Malformed { code, reason: self }
    }
}

/// A frame type for a message: the character where it is one, its number otherwise.
fn show(code: u8) -> String {
    if code.is_ascii_graphic() {
        format!("'{}'", char::from(code))
    } else {
        format!("{code:#04x}")
    }
}
