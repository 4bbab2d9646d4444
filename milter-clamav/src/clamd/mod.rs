//! clamd's protocol, as far as mail needs it.
//!
//! A connection carries one command. Commands begin with `z`, so that a NUL ends both command and
//! reply. `PING` and `VERSION` are answered by a line. `INSTREAM` is followed by chunks, each a
//! length (32 bits, network order) and that many bytes; a length of 0 ends the stream, and then
//! clamd answers. It answers early in one case: when the stream exceeds its `StreamMaxLength`; it
//! closes the connection then, so whoever writes has to read at the same time.
//!
//! Sessions (`IDSESSION`) are not used: a new connection costs clamd about 25 µs of the 300 µs of
//! the smallest scan, and one connection a message leaves no reply that could be taken for that
//! of another message.
//!
//! What a reply means is decided in [`codec`], bytes are moved in [`client`], and whom to ask is
//! known to [`servers`]. No reply is ever
//! taken for [`Response::Clean`] before the whole message was sent.

pub mod client;
pub mod codec;
pub mod servers;

use std::fmt;

/// What is asked of clamd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Whether it is there.
    Ping,
    /// Its version and that of its signatures.
    Version,
    /// Scan what follows.
    InStream,
}

/// What clamd answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Ping`].
    Pong,
    /// To [`Request::Version`], as clamd words it, cleaned for display.
    Version(String),
    /// Scanned, nothing found.
    Clean,
    /// Scanned, and this was found.
    Found(Signature),
    /// The stream is longer than clamd's `StreamMaxLength`.
    SizeLimit,
    /// clamd could not do it, in its own words, cleaned for display.
    Failed(String),
}

/// Name of what clamd found: printable ASCII without spaces, at most [`Signature::LENGTH_MAX`]
/// bytes, so that it fits into replies, header fields and logs as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature(String);

impl Signature {
    /// Bytes in a name at most; what is longer is cut.
    pub const LENGTH_MAX: usize = 128;

    /// A name from clamd's bytes; whatever is not printable becomes `_`.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let clean = |byte: &u8| match byte {
            b'!'..=b'~' => char::from(*byte),
            _ => '_',
        };
        Self(name.iter().take(Self::LENGTH_MAX).map(clean).collect())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the name says beside "infected".
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.0.starts_with("Heuristics.Encrypted.") {
            Kind::Encrypted
        } else if self.0.starts_with("Heuristics.Limits.Exceeded") {
            Kind::LimitsExceeded
        } else {
            Kind::Malware
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a signature stands for: clamd reports three different things as "found".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A signature of malware, or a heuristic that stands for it.
    Malware,
    /// Something in the message is encrypted (clamd's `AlertEncrypted`): it could not be scanned.
    Encrypted,
    /// A limit of clamd was reached (`AlertExceedsMax`): the rest was not scanned.
    LimitsExceeded,
}
