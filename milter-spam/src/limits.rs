//! How much of a message is looked at: every list, text and depth that a sender could make large
//! has its limit here.
//!
//! Nothing is refused because of a limit: what lies beyond is not looked at, and the message gets
//! the symbol `SCAN_LIMIT_REACHED` with the name of the limit, so that the log tells it.

use milter_proto::daemon::config::Size;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The section `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of the body that are scanned; a longer message is scanned up to here.
    pub body: Size,
    /// Bytes of all header fields together that are kept.
    pub header: Size,
    /// Header fields that are kept.
    pub header_fields: usize,
    /// Envelope recipients, and addresses in one header field, that are kept.
    pub addresses: usize,
    /// MIME parts.
    pub parts: usize,
    /// Multiparts and messages within each other.
    pub depth: usize,
    /// Decoded text of one message, all parts together.
    pub text: Size,
    /// Decoded bytes of one attachment that are looked at for its kind and for the names within an
    /// archive.
    pub attachment: Size,
    /// Names that are read from one archive.
    pub archive_entries: usize,
    /// Open HTML elements that are tracked for what is hidden.
    pub html_depth: usize,
    /// Links of one message.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size::from_bytes(10 << 20),
            header: Size::from_bytes(256 << 10),
            header_fields: 1000,
            addresses: 1000,
            parts: 1000,
            depth: 32,
            text: Size::from_bytes(1 << 20),
            attachment: Size::from_bytes(10 << 20),
            archive_entries: 1000,
            html_depth: 256,
            links: 1000,
        }
    }
}

/// The limits that a message reached, by the names that they have in the configuration; each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached(Vec<&'static str>);

impl Reached {
    /// Notes that `limit` was reached.
    pub fn note(&mut self, limit: &'static str) {
        if !self.0.contains(&limit) {
            self.0.push(limit);
        }
    }

    /// The names, in the order in which they were reached.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }
}
