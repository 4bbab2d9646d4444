//! Macros: names and values that an MTA sends ahead of a command (`SMFIC_MACRO`).

use bytes::Bytes;

/// A macro frame: for which command, and the pairs in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macros {
    /// The command byte they belong to (`b'C'`, `b'M'` …).
    pub stage: u8,
    /// Name, with braces where the MTA wrote them, and value. An empty value is not an absent one.
    pub pairs: Vec<(Bytes, Bytes)>,
}
