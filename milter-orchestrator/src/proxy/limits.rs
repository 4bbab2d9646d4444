//! How much of everything a connection may have: every number in one place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use super::headers::{HeaderLimits, stock_headers};
pub use super::spool::{SpoolBudget, SpoolLimits};

/// Limits of one connection of an MTA.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the negotiation with all filters, connecting included. Sendmail waits 10 s for it.
    pub negotiation: Duration,
    /// For the answer to any command before the end of the message. Sendmail waits 10 s.
    pub stage: Duration,
    /// The same when the MTA says that it is Postfix, which waits 30 s.
    pub stage_postfix: Duration,
    /// For the answer to the end of the message, all filters together. Sendmail waits 300 s.
    pub end_of_message: Duration,
    /// How often progress is reported at the end of the message. Sendmail gives up after 10 s
    /// without.
    pub progress: Duration,
    /// How long an answer is waited for that nobody needs any more, before the connection to the
    /// filter is given up.
    pub drain: Duration,
    /// How long the end of the message waits until filters that only watch have been told of all of
    /// it; not for their answers.
    pub shadow: Duration,
    /// How long an MTA may say nothing: it keeps a connection while its client thinks.
    pub idle: Duration,
    /// How long a peer may take nothing of what is written to it.
    pub stall: Duration,
    /// The largest length field accepted from either side, in bytes.
    pub frame: u32,
    /// Bytes of the body that the slowest filter may be behind before the MTA has to wait.
    pub lag: u64,
    /// Recipients of one message.
    pub recipients: usize,
    /// Bytes of all of them, with their parameters and macros.
    pub recipient_bytes: usize,
    /// Of the header.
    pub header: HeaderLimits,
    /// Names of the fields that Sendmail's list begins with, its own Received among them.
    pub sendmail_headers: Arc<[Bytes]>,
    /// Of the body.
    pub spool: Arc<SpoolLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            negotiation: Duration::from_secs(5),
            stage: Duration::from_secs(8),
            stage_postfix: Duration::from_secs(25),
            end_of_message: Duration::from_secs(240),
            progress: Duration::from_secs(4),
            drain: Duration::from_secs(2),
            shadow: Duration::from_millis(250),
            idle: Duration::from_secs(7210),
            stall: Duration::from_secs(60),
            frame: milter_proto::wire::Decoder::CAP,
            lag: 512 * 1024,
            recipients: 50_000,
            recipient_bytes: 16 << 20,
            header: HeaderLimits::default(),
            sendmail_headers: stock_headers(),
            spool: Arc::new(SpoolLimits::default()),
        }
    }
}
