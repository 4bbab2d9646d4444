//! How much of everything a peer may have.

use std::time::Duration;

use crate::wire::Decoder;

/// Limits of a server. Every one of them is a number that an operator may have to change. Begin
/// with the default and set what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest length field accepted, in bytes.
    pub frame: u32,
    /// Connections at a time. Further ones wait in the listen queue of the system, where the MTA's
    /// own connect time-out applies, rather than being turned away.
    pub connections: usize,
    /// How long an MTA may say nothing between frames: it keeps a connection while its own client
    /// thinks. As libmilter's.
    pub idle: Duration,
    /// From the first byte of a frame to its last.
    pub frame_time: Duration,
    /// How long one write may wait for the peer.
    pub write_time: Duration,
    /// How long a filter may take to decide at any stage but the end of the message; then the
    /// answer is a temporary failure. Sendmail waits 10 s.
    pub stage: Duration,
    /// How long a filter may take at the end of the message; then likewise. Sendmail waits 300 s.
    pub finish: Duration,
    /// How often progress is reported at the end of the message. Sendmail gives up after 10 s
    /// without.
    pub progress: Duration,
    /// How long messages in hand may take to finish when the server is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: Decoder::CAP,
            connections: 512,
            idle: Duration::from_secs(7210),
            frame_time: Duration::from_secs(60),
            write_time: Duration::from_secs(60),
            stage: Duration::from_secs(8),
            finish: Duration::from_secs(240),
            progress: Duration::from_secs(4),
            grace: Duration::from_secs(30),
        }
    }
}
