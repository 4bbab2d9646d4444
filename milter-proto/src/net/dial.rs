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
use tracing::warn;

use crate::edit::Edit;
use crate::net::address::Address;
use crate::net::frames::{Frames, StreamError};
use crate::net::limits::Limits;
use crate::net::stream::Stream;
use crate::session::{Answer, Event, Expect, Fault, MtaSide, ProtocolError, Sent, Stage, Warning};
use crate::verdict::Verdict;
use crate::wire::{Command, Offer, Reply};

/// How long to wait for a filter. Begin with the default, or with [`Timeouts::each`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For the connection, and again for the negotiation.
    pub connect: Duration,
    /// For an answer at any stage but the end of the message, progress reports or not.
    pub answer: Duration,
    /// For the answer at the end of the message, all edits and progress reports included.
    pub finish: Duration,
    /// Between two replies at the end of the message: what a progress report buys. Sendmail gives a
    /// filter 10 s, Postfix 300 s.
    pub silence: Duration,
    /// From the first byte of a reply to its last.
    pub frame: Duration,
    /// For the filter to take what is written.
    pub write: Duration,
}

impl Timeouts {
    /// The same for everything.
    #[must_use]
    pub const fn each(time: Duration) -> Self {
        Self {
            connect: time,
            answer: time,
            finish: time,
            silence: time,
            frame: time,
            write: time,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(8),
            finish: Duration::from_secs(240),
            silence: Duration::from_secs(240),
            frame: Duration::from_secs(60),
            write: Duration::from_secs(60),
        }
    }
}

/// What went wrong with a filter.
#[derive(Debug, Error)]
#[non_exhaustive]
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
    /// An earlier error has left the conversation out of step.
    #[error("the connection was given up after an earlier error")]
    GivenUp,
}

impl DialError {
    /// Whether the caller made it, and nothing was sent.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Protocol(error) if error.fault == Fault::Caller)
    }
}

/// What a filter said to an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Response {
    /// Its verdict; `Continue` where it was not asked.
    pub verdict: Verdict,
    /// Its edits, in order; only at the end of the message, and only with `Continue` and `Accept`.
    pub edits: Vec<Edit>,
    /// Whether it wants no more events of this kind.
    pub skip: bool,
}

/// A conversation with one filter.
#[derive(Debug)]
pub struct Client<S = Stream> {
    frames: Frames<S>,
    side: MtaSide,
    timeouts: Timeouts,
    /// What comes now cannot be told from what should have come earlier.
    given_up: bool,
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
        let limits = Limits {
            frame_time: timeouts.frame,
            write_time: timeouts.write,
            ..Limits::default()
        };
        let (side, command) = MtaSide::offer(offer.version, offer.actions, offer.steps);
        let mut client = Self {
            frames: Frames::new(stream, &limits),
            side,
            timeouts,
            given_up: false,
        };
        client.put(&command)?;
        let reply = client.reply(timeouts.connect).await?;
        let warnings = client.side.negotiated(reply)?;
        Ok((client, warnings))
    }

    /// Refuses replies whose length field is above `cap`, in bytes; [`Decoder::CAP`] until told
    /// otherwise.
    ///
    /// [`Decoder::CAP`]: crate::wire::Decoder::CAP
    pub fn limit_frames(&mut self, cap: u32) {
        self.frames.set_cap(cap);
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
    /// breaks the protocol. In the latter cases the connection is of no more use, and every later
    /// call is an error: an answer that comes late must not be taken for another one.
    pub async fn send(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Response, DialError> {
        if self.given_up {
            return Err(DialError::GivenUp);
        }
        let sent = self.send_all(event, macros).await;
        if let Err(error) = &sent {
            self.given_up = !error.is_ours();
        }
        sent
    }

    /// Sends an event, and whatever has to go before it or is left of it.
    async fn send_all(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Response, DialError> {
        let mut next = Some(event);
        let mut response = Response::default();
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
        let (whole, silence) = match sent.expect {
            Expect::Nothing if self.frames.output().len() < Self::COLLECT => {
                return Ok(Response::default());
            }
            Expect::Nothing => {
                self.flush().await?;
                return Ok(Response::default());
            }
            Expect::Verdict => (self.timeouts.answer, self.timeouts.answer),
            Expect::EndOfMessage => (self.timeouts.finish, self.timeouts.silence),
        };
        let answered = timeout(whole, self.answer(silence)).await;
        let answered = answered.map_err(|_| self.late(whole))?;
        if let Some(complaint) = self.side.take_complaint() {
            warn!(error = %complaint, "taken for continue");
        }
        answered
    }

    /// Writes what was collected, and reads replies up to the verdict, none of which may be longer
    /// in coming than `silence`.
    async fn answer(&mut self, silence: Duration) -> Result<Response, DialError> {
        let mut response = Response::default();
        loop {
            let reply = self.reply(silence).await?;
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

    async fn reply(&mut self, silence: Duration) -> Result<Reply, DialError> {
        self.flush().await?;
        let stage = self.side.stage();
        let read = timeout(silence, self.frames.read(silence)).await;
        let frame = match read {
            Err(_) | Ok(Err(StreamError::Idle(_))) => return Err(self.late(silence)),
            Ok(Err(error)) => return Err(DialError::Stream(stage, error)),
            Ok(Ok(None)) => return Err(DialError::Closed(stage)),
            Ok(Ok(Some(frame))) => frame,
        };
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
