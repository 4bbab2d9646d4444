//! Drives a filter as an MTA does.
//!
//! Macros and event leave in one write; events that the filter does not answer are collected up to
//! 64 KiB; only a question waits. Any error means that the conversation is out of step: the
//! connection is of no more use, and whatever was edited must be forgotten.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::edit::Edit;
use crate::net::address::Address;
use crate::net::frames::{Frames, StreamError};
use crate::net::limits::Limits;
use crate::net::stream::Stream;
use crate::session::{Answer, Event, Expect, MtaSide, ProtocolError, Sent, Stage, Warning};
use crate::verdict::Verdict;
use crate::wire::{Command, Offer, Reply};

/// How long to wait for a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, and again for the negotiation.
    pub connect: Duration,
    /// For an answer at any stage but the end of the message, progress reports or not.
    pub answer: Duration,
    /// For the answer at the end of the message, all edits and progress reports included.
    pub finish: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(8),
            finish: Duration::from_secs(240),
        }
    }
}

/// What went wrong with a filter.
#[derive(Debug, Error)]
pub enum DialError {
    /// It cannot be reached.
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, #[source] io::Error),
    /// It did not answer in time.
    #[error("no answer {stage} within {} s", after.as_secs())]
    Late {
        /// How far the conversation was.
        stage: Stage,
        /// How long was waited.
        after: Duration,
    },
    /// It closed the connection where an answer was due.
    #[error("closed the connection {0}")]
    Closed(Stage),
    /// The stream broke.
    #[error("{0}: {1}")]
    Stream(Stage, #[source] StreamError),
    /// It broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// What a filter said to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its verdict; `Continue` where it was not asked.
    pub verdict: Verdict,
    /// Its edits, in order; only at the end of the message, and only with `Continue` and `Accept`.
    pub edits: Vec<Edit>,
    /// Whether it wants no more events of this kind.
    pub skip: bool,
}

impl Response {
    fn new() -> Self {
        Self {
            verdict: Verdict::Continue,
            edits: Vec::new(),
            skip: false,
        }
    }
}

/// A conversation with one filter.
#[derive(Debug)]
pub struct Client<S = Stream> {
    frames: Frames<S>,
    side: MtaSide,
    timeouts: Timeouts,
}

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// When the filter cannot be reached, is late, or answers wrongly.
    pub async fn connect(
        address: &Address,
        offer: &Offer,
        timeouts: Timeouts,
    ) -> Result<(Self, Vec<Warning>), DialError> {
        let late = DialError::Late {
            stage: Stage::Start,
            after: timeouts.connect,
        };
        let connected = timeout(timeouts.connect, Stream::connect(address)).await;
        let stream = connected
            .map_err(|_| late)?
            .map_err(|error| DialError::Connect(address.clone(), error))?;
        Self::negotiate(stream, offer, timeouts).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Bytes that are collected before they are written.
    const COLLECT: usize = 64 * 1024;

    /// Negotiates on a stream that is connected already.
    ///
    /// # Errors
    /// When the filter is late or answers wrongly.
    pub async fn negotiate(
        stream: S,
        offer: &Offer,
        timeouts: Timeouts,
    ) -> Result<(Self, Vec<Warning>), DialError> {
        let limits = Limits::default();
        let (side, command) = MtaSide::offer(offer.version, offer.actions, offer.steps);
        let mut client = Self {
            frames: Frames::new(stream, &limits),
            side,
            timeouts,
        };
        client.put(&command)?;
        let after = timeouts.connect;
        let reply = timeout(after, client.reply()).await;
        let reply = reply.map_err(|_| client.late(after))??;
        let warnings = client.side.negotiated(reply)?;
        Ok((client, warnings))
    }

    /// What was agreed.
    #[must_use]
    pub fn options(&self) -> &Offer {
        self.side.options()
    }

    /// The state of the conversation.
    #[must_use]
    pub fn side(&self) -> &MtaSide {
        &self.side
    }

    /// Tells the filter of an event, with its macros, and waits for its word if it has one.
    ///
    /// # Errors
    /// When the event is out of order (nothing is sent then), or the filter is late, closes, or
    /// breaks the protocol. The connection must be given up in those cases.
    pub async fn send(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Response, DialError> {
        let mut next = Some(event);
        let mut response = Response::new();
        while let Some(event) = next {
            self.check_silence().await?;
            let sent = self.side.send(event, macros)?;
            response = self.exchange(&sent).await?;
            next = sent
                .then
                .filter(|_| response.verdict == Verdict::Continue && !response.skip);
        }
        Ok(response)
    }

    /// Says good-bye. What cannot be said any more does not matter.
    pub async fn quit(self) {
        let Self {
            mut frames, side, ..
        } = self;
        for command in side.quit() {
            if command.encode(frames.output()).is_err() {
                return;
            }
        }
        // The conversation is over either way.
        let _ = frames.flush().await;
    }

    /// Writes what was sent and reads what is expected.
    async fn exchange(&mut self, sent: &Sent) -> Result<Response, DialError> {
        for command in &sent.commands {
            self.put(command)?;
        }
        let after = match sent.expect {
            Expect::Nothing if self.frames.output().len() < Self::COLLECT => {
                return Ok(Response::new());
            }
            Expect::Nothing => {
                self.flush().await?;
                return Ok(Response::new());
            }
            Expect::Verdict => self.timeouts.answer,
            Expect::EndOfMessage => self.timeouts.finish,
        };
        let answered = timeout(after, self.answer()).await;
        answered.map_err(|_| self.late(after))?
    }

    /// Writes what was collected, and reads replies up to the verdict.
    async fn answer(&mut self) -> Result<Response, DialError> {
        let mut response = Response::new();
        loop {
            let reply = self.reply().await?;
            match self.side.receive(reply)? {
                Answer::Progress => {}
                Answer::Edit(edit) => response.edits.push(edit),
                Answer::Skip => {
                    response.skip = true;
                    return Ok(response);
                }
                Answer::Verdict(verdict) => {
                    if !matches!(verdict, Verdict::Continue | Verdict::Accept) {
                        response.edits.clear();
                    }
                    response.verdict = verdict;
                    return Ok(response);
                }
            }
        }
    }

    async fn reply(&mut self) -> Result<Reply, DialError> {
        self.flush().await?;
        let stage = self.side.stage();
        // The caller's time-out is the shorter one.
        let read = self.frames.read(Limits::default().idle).await;
        let frame = read
            .map_err(|error| DialError::Stream(stage, error))?
            .ok_or(DialError::Closed(stage))?;
        let reply = Reply::parse(frame);
        Ok(reply.map_err(|error| self.side.malformed(error))?)
    }

    /// Something that arrives unasked would be taken for the next answer, and all later ones would
    /// be off by one.
    async fn check_silence(&mut self) -> Result<(), DialError> {
        let stage = self.side.stage();
        let disturbed = self.frames.is_disturbed().await;
        if !disturbed.map_err(|error| DialError::Stream(stage, error))? {
            return Ok(());
        }
        let buffered = self.frames.buffered();
        let Some(frame) = buffered.map_err(|error| self.side.malformed(error))? else {
            return Err(DialError::Closed(stage));
        };
        let reply = Reply::parse(frame).map_err(|error| self.side.malformed(error))?;
        self.side.receive(reply)?;
        Err(DialError::Closed(stage))
    }

    fn put(&mut self, command: &Command) -> Result<(), DialError> {
        let written = command.encode(self.frames.output());
        Ok(written.map_err(|error| self.side.malformed(error))?)
    }

    async fn flush(&mut self) -> Result<(), DialError> {
        let stage = self.side.stage();
        let written = self.frames.flush().await;
        written.map_err(|error| DialError::Stream(stage, error))
    }

    fn late(&self, after: Duration) -> DialError {
        DialError::Late {
            stage: self.side.stage(),
            after,
        }
    }
}
