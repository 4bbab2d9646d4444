//! The sockets of one connection of an MTA: its own, and one for each filter.
//!
//! One task moves all bytes. In every round it hands the session what was read, collects what is to
//! be written, and then waits for any socket or the next deadline; so replies are read while
//! commands are still being written, and no filter can hold up another. What is collected for a
//! socket is bounded, what is read from it too: a peer that is slow slows those that feed it.
//!
//! A filter's broken socket is told to the session and costs nothing else. An MTA's ends the
//! connection with a [`ConnectionError`].

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use milter_proto::net::{Address, Peer, Stop, Stream};
use milter_proto::session::{ProtocolError, Stage};
use milter_proto::wire::{Command, Decoder, Reply, WireError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until};

use self::wire::{Broken, Read, Wire};
use super::child::{ChildError, Link};
use super::pool::{self, Kept};
use super::session::Session;
use super::{Shared, now};
use crate::counters::MtaFault;

mod wire;

/// How long last words to filters may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a connection with an MTA ended before its time.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The MTA broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// What it sent are no commands.
    #[error("not the milter protocol: {0}")]
    Wire(#[from] WireError),
    /// The system says no.
    #[error("connection to the MTA broken: {0}")]
    Io(#[from] io::Error),
    /// It takes nothing of what is written, or does not complete a command.
    #[error("the MTA took nothing, or did not complete a command, for {} s", .0.as_secs())]
    Stalled(Duration),
    /// It has said nothing for so long.
    #[error("the MTA said nothing for {} s", .0.as_secs())]
    Idle(Duration),
}

impl ConnectionError {
    /// What it is counted as.
    pub(super) fn kind(&self) -> MtaFault {
        match self {
            Self::Protocol(_) => MtaFault::Protocol,
            Self::Wire(_) => MtaFault::Frame,
            Self::Io(_) => MtaFault::Broken,
            Self::Stalled(_) => MtaFault::Stalled,
            Self::Idle(_) => MtaFault::Idle,
        }
    }
}

/// A connection attempt.
type Dial = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// The socket of one filter.
enum Line {
    None,
    Dialling(Dial),
    Up(Wire<Stream>),
}

/// A filter's socket, and which connection of the session's it is.
struct Filter {
    line: Line,
    generation: u32,
}

impl Filter {
    /// Waits for the first thing to happen to it; `written` is set when something was written.
    fn poll(&mut self, cx: &mut Context<'_>, index: usize, written: &mut bool) -> Poll<Happened> {
        let wire = match &mut self.line {
            Line::None => return Poll::Pending,
            Line::Dialling(dial) => {
                let dialled = dial.as_mut().poll(cx);
                return dialled.map(|result| Happened::Dialled(index, result));
            }
            Line::Up(wire) => wire,
        };
        let broken = match wire.poll_write(cx, now()) {
            Poll::Ready(Ok(progress)) => {
                *written |= progress;
                None
            }
            Poll::Ready(Err(error)) => Some(error),
            Poll::Pending => None,
        };
        match (wire.poll_read(cx), broken) {
            (Poll::Ready(Read::Broken(_)) | Poll::Pending, Some(broken)) => {
                Poll::Ready(Happened::FilterBroken(index, broken))
            }
            // What it said before it closed counts.
            (Poll::Ready(read), _) => Poll::Ready(Happened::Filter(index, read)),
            (Poll::Pending, None) => Poll::Pending,
        }
    }
}

/// What happened in a round.
enum Happened {
    /// The MTA's bytes.
    Mta(Read),
    /// A filter is connected, or cannot be.
    Dialled(usize, io::Result<Stream>),
    /// A filter's bytes.
    Filter(usize, Read),
    /// A filter's socket could not be written.
    FilterBroken(usize, Broken),
    /// Something could be written.
    Written,
    /// The deadline is over.
    Due,
    /// The program is to stop.
    Stop,
}

/// Everything that is waited for.
struct Lines<S> {
    mta: Wire<S>,
    filters: Vec<Filter>,
    timer: Pin<Box<Sleep>>,
    /// When the timer goes off.
    armed: Instant,
    decoder: Decoder,
    stall: Duration,
    shared: Arc<Shared>,
}

/// Runs the connection to its end.
pub(super) async fn run<S>(
    stream: S,
    peer: &Peer,
    shared: Arc<Shared>,
    mut stop: Stop,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = shared.limits.clone();
    let mut session = Session::new(Arc::clone(&shared), now()).with(peer);
    let armed = now() + limits.idle;
    let mut lines = Lines {
        mta: Wire::new(stream, now()),
        filters: Vec::new(),
        timer: Box::pin(sleep_until(armed.into())),
        armed,
        decoder: Decoder::new(limits.frame),
        stall: limits.stall,
        shared,
    };
    let result = lines.talk(&mut session, &mut stop, limits.idle).await;
    if !session.is_over() {
        session.closed(now());
    }
    lines.say_farewell(&mut session).await;
    result
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lines<S> {
    /// The rounds.
    async fn talk(
        &mut self,
        session: &mut Session,
        stop: &mut Stop,
        idle: Duration,
    ) -> Result<(), ConnectionError> {
        let mut stopping = pin!(stop.requested());
        let mut stop_seen = false;
        let mut heard = now();
        loop {
            self.collect(session)?;
            let ends = session.is_over() || (stop_seen && session.is_idle());
            if ends && self.mta.is_written() {
                return Ok(());
            }
            let wants_input = session.wants_input();
            if !wants_input {
                self.mta.excuse(now());
            }
            let silence = session.awaits_mta().then(|| heard + idle);
            let deadlines = [
                session.deadline(),
                self.stall_deadline(wants_input),
                silence,
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let happened = if deadline.is_some_and(|deadline| deadline <= now()) {
                // Asked for even when the sockets are never quiet.
                Happened::Due
            } else {
                self.arm(deadline);
                poll_fn(|cx| {
                    if !stop_seen && stopping.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Happened::Stop);
                    }
                    self.poll(cx, wants_input)
                })
                .await
            };
            match happened {
                Happened::Stop => stop_seen = true,
                Happened::Mta(read) => {
                    heard = now();
                    self.hear_mta(session, read)?;
                }
                Happened::Due if silence.is_some_and(|silence| silence <= now()) => {
                    return Err(ConnectionError::Idle(idle));
                }
                Happened::Due => {
                    self.check_stalls(session)?;
                    session.tick(now())?;
                }
                other => self.hear_filter(session, other),
            }
        }
    }

    /// Takes from the session what is to be written, as far as there is room, and brings the
    /// sockets in line with what it wants.
    fn collect(&mut self, session: &mut Session) -> Result<(), ConnectionError> {
        loop {
            session.advance()?;
            let mut moved = self.align(session);
            for index in 0..self.filters.len() {
                moved |= self.collect_for(index, session);
            }
            while self.mta.has_room()
                && let Some(reply) = session.next_reply()
            {
                let now = now();
                self.mta.put_reply(&reply, now)?;
                session.replied(now);
                moved = true;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    fn collect_for(&mut self, index: usize, session: &mut Session) -> bool {
        let mut moved = false;
        let now = now();
        while let Some(Filter {
            line: Line::Up(wire),
            ..
        }) = self.filters.get_mut(index)
            && wire.has_room()
            && let Some(command) = session.next_command(index, now)
        {
            moved = true;
            if let Err(error) = wire.put_command(&command, now) {
                session.untold(index, error, now);
            }
        }
        moved
    }

    /// Dials and hangs up as the session says; `true` when that was news for the session.
    fn align(&mut self, session: &mut Session) -> bool {
        let mut resumed = Vec::new();
        for (index, child) in session.children().iter().enumerate() {
            if self.filters.len() <= index {
                self.filters.push(Filter {
                    line: Line::None,
                    generation: 0,
                });
            }
            let Some(filter) = self.filters.get_mut(index) else {
                return false;
            };
            match child.link {
                Link::Dialling(_) if filter.generation != child.generation => {
                    filter.generation = child.generation;
                    let kept = child.may_resume.then(|| {
                        let name = &child.member.name;
                        self.shared.pool.take(name, &session.offer(), now())
                    });
                    filter.line = match kept.flatten() {
                        Some(kept) => {
                            resumed.push((index, kept.side));
                            Line::Up(Wire::new(kept.stream, now()))
                        }
                        None => Line::Dialling(dial(child.member.address.clone())),
                    };
                }
                Link::Dialling(_) | Link::Negotiating(..) | Link::Up(_) | Link::Leaving => {}
                Link::Idle | Link::Failed => filter.line = Line::None,
            }
        }
        let moved = !resumed.is_empty();
        for (index, side) in resumed {
            session.resumed(index, side, now());
        }
        for index in 0..self.filters.len() {
            self.part_with(index, session);
        }
        moved
    }

    /// Ends the connection to a filter that has been told everything, or keeps it.
    fn part_with(&mut self, index: usize, session: &mut Session) {
        let Some(filter) = self.filters.get_mut(index) else {
            return;
        };
        let written = match &filter.line {
            Line::Up(wire) => wire.is_written(),
            Line::None | Line::Dialling(_) => true,
        };
        let child = session.children().get(index);
        let said = child.is_some_and(|child| child.out.is_empty());
        if !session.is_leaving(index) || !written || !said {
            return;
        }
        let line = std::mem::replace(&mut filter.line, Line::None);
        let side = session.left(index);
        let member = session.children().get(index).map(|child| &child.member);
        if let (Line::Up(wire), Some(side), Some(member)) = (line, side, member)
            && !wire.has_input()
        {
            let kept = Kept {
                stream: wire.into_stream(),
                side,
                offered: session.offer(),
                since: now(),
            };
            pool::keep(&self.shared, &member.name, kept, member.pool);
        }
    }

    /// Sets the timer, unless it goes off before `deadline` anyway.
    fn arm(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            return;
        };
        if deadline < self.armed || self.timer.is_elapsed() {
            self.armed = deadline;
            self.timer.as_mut().reset(deadline.into());
        }
    }

    /// Waits for the first thing to happen.
    fn poll(&mut self, cx: &mut Context<'_>, wants_input: bool) -> Poll<Happened> {
        let mut written = false;
        let now = now();
        for (index, filter) in self.filters.iter_mut().enumerate() {
            if let Poll::Ready(happened) = filter.poll(cx, index, &mut written) {
                return Poll::Ready(happened);
            }
        }
        match self.mta.poll_write(cx, now) {
            Poll::Ready(Ok(progress)) => written |= progress,
            Poll::Ready(Err(Broken(error))) => {
                return Poll::Ready(Happened::Mta(Read::Broken(error)));
            }
            Poll::Pending => {}
        }
        if wants_input && let Poll::Ready(read) = self.mta.poll_read(cx) {
            return Poll::Ready(Happened::Mta(read));
        }
        if written {
            return Poll::Ready(Happened::Written);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Happened::Due);
        }
        Poll::Pending
    }

    /// Hands the MTA's commands to the session.
    fn hear_mta(&mut self, session: &mut Session, read: Read) -> Result<(), ConnectionError> {
        match read {
            Read::Some => {
                let now = now();
                while let Some(frame) = self.mta.next_frame(&self.decoder, now)? {
                    session.command(Command::parse(frame)?, now)?;
                }
                Ok(())
            }
            Read::End => {
                session.closed(now());
                self.mta.finish(&self.decoder)?;
                Ok(())
            }
            Read::Broken(error) => {
                session.closed(now());
                Err(error.into())
            }
        }
    }

    fn hear_filter(&mut self, session: &mut Session, happened: Happened) {
        match happened {
            Happened::Dialled(index, Ok(stream)) => {
                if let Some(filter) = self.filters.get_mut(index) {
                    filter.line = Line::Up(Wire::new(stream, now()));
                }
                session.connected(index, now());
            }
            Happened::Dialled(index, Err(error)) => {
                self.hang_up(index);
                session.lost(index, &ChildError::Connect(error), now());
            }
            Happened::Filter(index, Read::Some) => self.hear_replies(session, index),
            Happened::Filter(index, Read::End) => {
                self.hang_up(index);
                let stage = stage_of(session, index);
                session.lost(index, &ChildError::Closed(stage), now());
            }
            Happened::Filter(index, Read::Broken(error))
            | Happened::FilterBroken(index, Broken(error)) => {
                self.hang_up(index);
                let stage = stage_of(session, index);
                let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                // Which of the two ways it is noticed in depends on who was faster.
                let error = if gone.contains(&error.kind()) {
                    ChildError::Closed(stage)
                } else {
                    ChildError::Stream(stage, error)
                };
                session.lost(index, &error, now());
            }
            Happened::Mta(_) | Happened::Written | Happened::Due | Happened::Stop => {}
        }
    }

    /// All replies that have been read go to the session together: what comes after the one that is
    /// owed was not asked for.
    fn hear_replies(&mut self, session: &mut Session, index: usize) {
        let Some(Filter {
            line: Line::Up(wire),
            ..
        }) = self.filters.get_mut(index)
        else {
            return;
        };
        let mut replies = Vec::new();
        let broken = loop {
            match wire.next_frame(&self.decoder, now()) {
                Ok(Some(frame)) => match Reply::parse(frame) {
                    Ok(reply) => replies.push(reply),
                    Err(error) => break Some(error),
                },
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let more = wire.has_input();
        match broken {
            Some(error) => session.untold(index, error, now()),
            None => session.replies(index, replies, more, now()),
        }
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(filter) = self.filters.get_mut(index) {
            filter.line = Line::None;
        }
    }

    /// When somebody has taken nothing for too long, or not completed what is being read.
    fn stall_deadline(&self, wants_input: bool) -> Option<Instant> {
        let filters = self.filters.iter().map(|filter| match &filter.line {
            Line::Up(wire) => wire.waiting_since(),
            Line::None | Line::Dialling(_) => None,
        });
        let incomplete = self.mta.incomplete_since().filter(|_| wants_input);
        let mta = [self.mta.waiting_since(), incomplete];
        let earliest = filters.chain(mta).flatten().min();
        earliest.map(|since| since + self.stall)
    }

    fn check_stalls(&mut self, session: &mut Session) -> Result<(), ConnectionError> {
        let stall = self.stall;
        let stalled = |since: Option<Instant>| since.is_some_and(|since| since + stall <= now());
        let incomplete = self.mta.incomplete_since();
        let incomplete = incomplete.filter(|_| session.wants_input());
        if stalled(self.mta.waiting_since()) || stalled(incomplete) {
            return Err(ConnectionError::Stalled(stall));
        }
        for index in 0..self.filters.len() {
            let Some(Filter {
                line: Line::Up(wire),
                ..
            }) = self.filters.get(index)
            else {
                continue;
            };
            if stalled(wire.waiting_since()) {
                self.hang_up(index);
                session.lost(index, &ChildError::Stalled(stall), now());
            }
        }
        Ok(())
    }

    /// Writes the last words to the filters, for a moment.
    async fn say_farewell(&mut self, session: &mut Session) {
        let farewell = async {
            loop {
                for index in 0..self.filters.len() {
                    self.collect_for(index, session);
                }
                self.align(session);
                if !(0..self.filters.len()).any(|index| session.is_leaving(index)) {
                    return;
                }
                match poll_fn(|cx| self.poll(cx, false)).await {
                    Happened::Due => return,
                    other => self.hear_filter(session, other),
                }
            }
        };
        // Whether they are heard does not matter.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

fn stage_of(session: &Session, index: usize) -> Stage {
    session
        .children()
        .get(index)
        .map_or(Stage::Start, super::child::Child::stage)
}

fn dial(address: Address) -> Dial {
    Box::pin(async move { Stream::connect(&address).await })
}
