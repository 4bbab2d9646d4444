//! Runs a [`Filter`] for every connection.
//!
//! All complete frames of what was read are handled, then their replies go out in one write.
//! Whatever a filter does, mail is never let through for want of an answer: a panic, a decision
//! that takes too long, and edits that must not be sent are logged with the peer and answered with
//! a temporary failure. A peer that breaks the protocol is disconnected, with one line of log that
//! says who, at which stage, and why.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{error, warn};

use crate::filter::{Context, Filter, Transaction};
use crate::net::accept::{Served, Stop, accept};
use crate::net::frames::{Frames, StreamError};
use crate::net::limits::Limits;
use crate::net::stream::{Listener, Peer};
use crate::session::{Event, FilterSide, ProtocolError, Step};
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::{Command, Reply, Steps};

/// Serves a filter on `listeners` until `shutdown` completes and the messages in hand are done.
///
/// `filter` is called once for each connection, so that it can hand out another one after a reload.
pub async fn serve<F: Filter>(
    listeners: Vec<Listener>,
    filter: impl Fn() -> Arc<F> + Send,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> Served {
    accept(listeners, limits, shutdown, |stream, peer, stop| {
        let filter = filter();
        async move {
            let name = peer.to_string();
            if let Err(failure) = converse(filter, stream, peer, limits, stop).await {
                warn!(peer = %name, error = %failure, "connection closed");
            }
        }
    })
    .await
}

/// Why a connection ended before its time.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The stream broke: where, and how.
    #[error("{0}: {1}")]
    Stream(crate::session::Stage, #[source] StreamError),
    /// The MTA broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Runs one conversation on any stream, until the MTA ends it or `stop` asks for it between
/// messages.
///
/// # Errors
/// When the stream or the protocol breaks. Nothing more can be said to the MTA then.
pub async fn converse<F: Filter, S: AsyncRead + AsyncWrite + Unpin>(
    filter: Arc<F>,
    stream: S,
    peer: Peer,
    limits: Limits,
    mut stop: Stop,
) -> Result<(), ConnectionError> {
    let mut conversation = Conversation {
        filter,
        peer,
        limits,
        side: FilterSide::new(),
        frames: Frames::new(stream, &limits),
        message: Message::None,
        refusal: None,
    };
    let ended = conversation.run(&mut stop).await;
    if let Err(ConnectionError::Protocol(_)) = ended {
        // Answers to what was in order still count; that they cannot be sent changes nothing.
        let _ = conversation.frames.flush().await;
    }
    ended
}

/// The message in hand.
enum Message<T> {
    None,
    Open(T),
    /// The filter wants no more of the body, and its word for that could not be sent.
    Skipping(T),
    /// Decided where no answer was possible, or by failure: the answer to every question until the
    /// message is over.
    Decided(Verdict),
}

/// Why a filter did not decide.
#[derive(Debug, Error)]
enum Lapse {
    #[error("the filter panicked")]
    Panic,
    #[error("the filter did not decide within {} s", .0.as_secs())]
    Late(Duration),
}

struct Conversation<F: Filter, S> {
    filter: Arc<F>,
    peer: Peer,
    limits: Limits,
    side: FilterSide,
    frames: Frames<S>,
    message: Message<F::Transaction>,
    /// A refusal of the client where no answer was possible: given at the next question.
    refusal: Option<Greeting>,
}

type Flow = std::ops::ControlFlow<()>;

impl<F: Filter, S: AsyncRead + AsyncWrite + Unpin> Conversation<F, S> {
    async fn run(&mut self, stop: &mut Stop) -> Result<(), ConnectionError> {
        while let Some(command) = self.next_command(stop).await? {
            if self.take(command).await?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The next command; replies are written when there is none left in the buffer.
    async fn next_command(&mut self, stop: &mut Stop) -> Result<Option<Command>, ConnectionError> {
        let buffered = self.frames.buffered();
        let frame = match buffered.map_err(|error| self.side.malformed(error))? {
            Some(frame) => Some(frame),
            None => {
                self.flush().await?;
                let between = !self.side.stage().in_message();
                tokio::select! {
                    biased;
                    read = self.frames.read(self.limits.idle) => {
                        read.map_err(|error| self.broken(error))?
                    }
                    () = stop.requested(), if between => None,
                }
            }
        };
        let Some(frame) = frame else {
            return Ok(None);
        };
        let command = Command::parse(frame).map_err(|error| self.side.malformed(error))?;
        Ok(Some(command))
    }

    fn broken(&self, error: StreamError) -> ConnectionError {
        ConnectionError::Stream(self.side.stage(), error)
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        let written = self.frames.flush().await;
        written.map_err(|error| self.broken(error))
    }

    /// Does what follows from a command.
    async fn take(&mut self, command: Command) -> Result<Flow, ConnectionError> {
        let mut step = Some(self.side.receive(command)?);
        if let Some(complaint) = self.side.take_complaint() {
            warn!(peer = %self.peer, error = %complaint, "answered with a temporary failure");
        }
        while let Some(now) = step {
            match now {
                Step::Negotiate(_) => {
                    let mut needs = self.filter.needs();
                    // The trait has no method for unknown commands.
                    needs.steps |= Steps::NO_UNKNOWN;
                    let reply = self.side.accept(&needs)?;
                    self.say(reply)?;
                }
                Step::Ask(event) => self.ask(event).await?,
                Step::Tell(event) => self.tell(event).await,
                Step::Answer(reply) => self.say(reply)?,
                Step::Silent => {}
                Step::Close => {
                    self.flush().await?;
                    return Ok(Flow::Break(()));
                }
            }
            step = self.side.next_step();
        }
        if !self.side.stage().in_message() {
            self.message = Message::None;
        }
        Ok(Flow::Continue(()))
    }

    fn say(&mut self, reply: Reply) -> Result<(), ConnectionError> {
        let written = reply.encode(self.frames.output());
        Ok(written.map_err(|error| self.side.malformed(error))?)
    }

    /// Puts a question to the filter and answers it.
    async fn ask(&mut self, event: Event) -> Result<(), ConnectionError> {
        let reply = match event {
            Event::Connect(_) | Event::Helo(_) => {
                let greeting = self.greet(&event).await;
                self.side.greet(greeting)?
            }
            Event::Body(chunk) => {
                let verdict = self.body(chunk).await;
                match self.side.body(verdict)? {
                    Some(reply) => reply,
                    None => return Ok(()),
                }
            }
            Event::EndOfMessage => return self.finish().await,
            event => {
                let verdict = self.judge(event).await;
                self.side.reply(verdict)?
            }
        };
        self.say(reply)
    }

    /// Tells the filter what needs no answer. A decision all the same is kept for the next
    /// question.
    async fn tell(&mut self, event: Event) {
        match event {
            Event::Connect(_) | Event::Helo(_) => {
                let greeting = self.greet(&event).await;
                if greeting != Greeting::Continue {
                    self.refusal = Some(greeting);
                }
            }
            Event::Body(chunk) => match self.body(chunk).await {
                BodyVerdict::Go(verdict) => self.keep(verdict),
                BodyVerdict::Skip => {
                    let message = std::mem::replace(&mut self.message, Message::None);
                    self.message = match message {
                        Message::Open(transaction) => Message::Skipping(transaction),
                        message => message,
                    };
                }
            },
            Event::Abort => self.message = Message::None,
            Event::QuitReuse => {
                self.message = Message::None;
                self.refusal = None;
            }
            event => {
                let verdict = self.judge(event).await;
                self.keep(verdict);
            }
        }
    }

    fn keep(&mut self, verdict: Verdict) {
        if verdict != Verdict::Continue {
            self.message = Message::Decided(verdict);
        }
    }

    async fn greet(&mut self, event: &Event) -> Greeting {
        self.message = Message::None;
        let cx = Context::new(self.side.facts());
        let decided = if matches!(event, Event::Connect(_)) {
            self.refusal = None;
            guard(self.limits.stage, self.filter.connect(cx)).await
        } else {
            if let Some(refusal) = &self.refusal {
                return refusal.clone();
            }
            guard(self.limits.stage, self.filter.helo(cx)).await
        };
        decided.unwrap_or_else(|lapse| {
            self.report(&lapse);
            Greeting::TempFail
        })
    }

    /// Makes a transaction where there is none yet: at MAIL, or later when the filter asked for no
    /// MAIL.
    async fn begin(&mut self) {
        if let Some(refusal) = &self.refusal {
            self.message = Message::Decided(refusal.clone().into());
            return;
        }
        let cx = Context::new(self.side.facts());
        let filter = &self.filter;
        let begun = guard(self.limits.stage, async { filter.begin(cx) }).await;
        self.message = match begun {
            Ok(transaction) => Message::Open(transaction),
            Err(lapse) => self.fail(&lapse),
        };
    }

    async fn judge(&mut self, event: Event) -> Verdict {
        if matches!(event, Event::Mail(_)) || matches!(self.message, Message::None) {
            self.begin().await;
        }
        let (Message::Open(transaction) | Message::Skipping(transaction)) = &mut self.message
        else {
            return self.decided();
        };
        let cx = Context::new(self.side.facts());
        let time = self.limits.stage;
        let judged = match event {
            Event::Mail(path) => guard(time, transaction.mail(cx, path)).await,
            Event::Rcpt(path) if cx.rcpt_is_rejected() => {
                let told = guard(time, transaction.rejected_rcpt(cx, path)).await;
                told.map(|()| Verdict::Continue)
            }
            Event::Rcpt(path) => guard(time, transaction.rcpt(cx, path)).await,
            Event::Data => guard(time, transaction.data(cx)).await,
            Event::Header(header) => guard(time, transaction.header(cx, header)).await,
            Event::EndOfHeaders => guard(time, transaction.end_of_headers(cx)).await,
            Event::Connect(_)
            | Event::Helo(_)
            | Event::Body(_)
            | Event::EndOfMessage
            | Event::Unknown(_)
            | Event::Abort
            | Event::QuitReuse => Ok(Verdict::Continue),
        };
        judged.unwrap_or_else(|lapse| {
            self.message = self.fail(&lapse);
            Verdict::TempFail
        })
    }

    async fn body(&mut self, chunk: Bytes) -> BodyVerdict {
        if matches!(self.message, Message::None) {
            self.begin().await;
        }
        let transaction = match &mut self.message {
            Message::Open(transaction) => transaction,
            Message::Skipping(_) => return BodyVerdict::default(),
            Message::None | Message::Decided(_) => return BodyVerdict::Go(self.decided()),
        };
        let cx = Context::new(self.side.facts());
        let judged = guard(self.limits.stage, transaction.body(cx, chunk)).await;
        judged.unwrap_or_else(|lapse| {
            self.message = self.fail(&lapse);
            BodyVerdict::Go(Verdict::TempFail)
        })
    }

    /// The end of the message: the filter decides while the MTA is kept waiting.
    async fn finish(&mut self) -> Result<(), ConnectionError> {
        if matches!(self.message, Message::None) {
            self.begin().await;
        }
        // What was said so far must not wait for what may take minutes.
        self.flush().await?;
        let outcome = match std::mem::replace(&mut self.message, Message::None) {
            Message::Open(transaction) | Message::Skipping(transaction) => {
                self.wait_for(transaction).await?
            }
            Message::Decided(verdict) => verdict.into(),
            Message::None => Verdict::TempFail.into(),
        };
        let replies = match self.side.finish(outcome) {
            Ok(replies) => replies,
            Err(failure) => {
                error!(peer = %self.peer, error = %failure, "message deferred");
                self.side.finish(Verdict::TempFail.into())?
            }
        };
        replies.into_iter().try_for_each(|reply| self.say(reply))
    }

    /// Waits for a transaction's decision and reports progress meanwhile.
    async fn wait_for(&mut self, transaction: F::Transaction) -> Result<Outcome, ConnectionError> {
        let cx = Context::new(self.side.facts());
        let mut decision = pin!(guard(self.limits.finish, transaction.finish(cx)));
        let every = self.limits.progress;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                decided = &mut decision => {
                    return Ok(decided.unwrap_or_else(|lapse| {
                        self.report(&lapse);
                        Verdict::TempFail.into()
                    }));
                }
                _ = ticks.tick() => {
                    let progress = self.side.progress()?;
                    let written = progress.encode(self.frames.output());
                    written.map_err(|error| self.side.malformed(error))?;
                    let stage = self.side.stage();
                    let flushed = self.frames.flush().await;
                    flushed.map_err(|error| ConnectionError::Stream(stage, error))?;
                }
            }
        }
    }

    fn decided(&self) -> Verdict {
        match &self.message {
            Message::Decided(verdict) => verdict.clone(),
            Message::None | Message::Open(_) | Message::Skipping(_) => Verdict::TempFail,
        }
    }

    fn fail(&self, lapse: &Lapse) -> Message<F::Transaction> {
        self.report(lapse);
        Message::Decided(Verdict::TempFail)
    }

    fn report(&self, lapse: &Lapse) {
        let facts = self.side.facts();
        let queue_id = String::from_utf8_lossy(Context::new(facts).queue_id());
        let stage = self.side.stage();
        error!(peer = %self.peer, %stage, ?queue_id, error = %lapse, "deferred");
    }
}

/// Runs what a filter wrote: for so long at most, and a panic ends here.
async fn guard<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Lapse> {
    let mut work = pin!(work);
    let caught = poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Lapse::Panic)),
        }
    });
    timeout(time, caught)
        .await
        .unwrap_or(Err(Lapse::Late(time)))
}
