//! What each filter is told next.
//!
//! A filter is told one thing at a time, in the order of the session, and the next one when it has
//! answered. It is told as soon as the MTA has told us, with exceptions: a recipient goes to one
//! filter after the other, since it cannot be taken back; content goes to the filters of the
//! segment whose turn it is; the header waits for the body, and both are told without waiting for
//! answers, which takes one round trip instead of one for each field. In a strict chain everything
//! goes to one filter after the other, step by step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milter_proto::session::Event;
use milter_proto::wire::options::MacroStage;
use milter_proto::wire::{Actions, Command, Macros, Offer, Steps};

use super::Session;
use super::introduce::Introduced;
use super::lineup::Segment;
use crate::proxy::child::{Asked, ChildError, Link, State, Then};
use crate::proxy::message::{Pairs, Told};
use crate::proxy::offer;
use crate::proxy::plan::Position;

/// How long a kept connection may take to show that it works: libmilter says nothing at all where
/// it had not expected to be used again.
const PROOF: Duration = Duration::from_secs(2);

/// What to do about a filter's position.
enum Move {
    /// Tell it this, which leads to the next position.
    Tell(Told, Position),
    /// It need not know: on to this position.
    Pass(Position),
    /// Nothing can be told yet.
    Wait,
    /// What should be told cannot be read back.
    Lost(String),
}

impl Session {
    /// Puts one event into the queue of every filter that can be told something.
    pub(super) fn feed_all(&mut self) {
        self.pass_idle_segments();
        for index in 0..self.children.len() {
            while self.children[index].out.is_empty() && self.feed(index) {}
        }
    }

    /// Bytes of the body by which the slowest filter of the segment is behind.
    pub(super) fn lag(&self) -> u64 {
        let (Some(message), Some(lineup)) = (&self.message, &self.lineup) else {
            return 0;
        };
        let reading = lineup.segment(message.segment);
        let members = reading.into_iter().flat_map(Segment::members);
        let lags = members.map(|index| self.lag_of(index, message.body.len()));
        lags.max().unwrap_or_default()
    }

    /// Bytes of a body of `length` that have not been told to a filter yet.
    pub(super) fn lag_of(&self, index: usize, length: u64) -> u64 {
        let child = &self.children[index];
        // Told of the client anew and refusing it, a filter reads no further.
        let excused = child.member.shadow || child.refusal.is_some() || self.holds_content(index);
        if !child.is_active() || excused {
            return 0;
        }
        match child.part.as_ref().map(|part| part.position) {
            Some(Position::Body(offset)) => length - offset,
            None | Some(Position::EndOfMessage | Position::Finished) => 0,
            Some(_) => length,
        }
    }

    /// A segment in which everybody has accepted, or failed in a way that lets the message pass,
    /// has nothing to wait for.
    fn pass_idle_segments(&mut self) {
        while let (Some(message), Some(lineup)) = (&self.message, &self.lineup)
            && message.segment + 1 < lineup.len()
            && message.end.is_none()
            && let Some(segment) = lineup.segment(message.segment)
            && segment.members().all(|index| self.is_through(index))
        {
            if let Some(message) = &mut self.message {
                message.segment += 1;
            }
        }
    }

    /// Whether nothing is to be expected of a filter that could keep the message from passing.
    fn is_through(&self, index: usize) -> bool {
        let Some(part) = &self.children[index].part else {
            return !self.is_awaited(index);
        };
        match part.state {
            State::Done => true,
            State::Failed(policy) => self.children[index].member.shadow || self.excuses(policy),
            State::Active | State::Finished | State::Refused(_) => false,
        }
    }

    /// Puts the next event into a filter's queue; `false` when there is none for now.
    pub(super) fn feed(&mut self, index: usize) -> bool {
        let child = &mut self.children[index];
        let Link::Up(side) = &child.link else {
            return false;
        };
        if side.answer_owed() || child.asked.is_some() {
            return self.feed_ahead(index);
        }
        if let Some(Then { at, next, told }) = child.then.take() {
            return self.tell(index, at, next, told);
        }
        if std::mem::take(&mut child.must_abort) {
            let abort = Told::bare(Event::Abort);
            return self.tell(index, Position::Unknown, Position::Unknown, abort);
        }
        match self.introduce(index) {
            Introduced::Told => return true,
            Introduced::Waits => return false,
            Introduced::Known => {}
        }
        let child = &self.children[index];
        if child.refusal.is_some() || child.accepted || !child.is_active() {
            return false;
        }
        self.go_on(index)
    }

    /// The same for a filter that has not answered yet: header fields and body can follow each
    /// other all the same, but in a strict chain.
    fn feed_ahead(&mut self, index: usize) -> bool {
        let child = &self.children[index];
        let position = child.part.as_ref().map(|part| part.position);
        let content = Position::Header(0)..Position::EndOfMessage;
        let follows = position.is_some_and(|position| content.contains(&position))
            && child.may_be_told_ahead()
            && child.is_active()
            && !self.is_strict();
        follows && self.go_on(index)
    }

    /// Brings a filter one step further in the message.
    fn go_on(&mut self, index: usize) -> bool {
        let Some(part) = &self.children[index].part else {
            return false;
        };
        let position = part.position;
        let holds = part.suspicion.holds && position == Position::Header(0);
        if holds && (self.holds_content(index) || self.spares(index)) {
            self.rest(index);
            return false;
        }
        match self.next_move(index, position) {
            Move::Tell(_, next)
                if position < Position::Header(0) && !self.is_clear(index, position, next) =>
            {
                false
            }
            Move::Tell(told, next) => {
                self.takes_turn(index) && self.tell(index, position, next, told)
            }
            Move::Pass(next) => {
                self.place(index, next);
                true
            }
            Move::Wait => {
                self.rest(index);
                false
            }
            Move::Lost(error) => {
                self.refuse_for_now(&error);
                false
            }
        }
    }

    /// The next event of the message for a filter at `position`.
    fn next_move(&self, index: usize, position: Position) -> Move {
        let Some(message) = &self.message else {
            return Move::Wait;
        };
        match position {
            Position::Connect | Position::Helo | Position::Unknown => Move::Pass(Position::Mail),
            Position::Mail => Move::Tell(message.mail.clone(), Position::Rcpt(0)),
            Position::Rcpt(number) => self.next_recipient(index, number),
            Position::Data => match &message.data {
                Some(told) => Move::Tell(told.clone(), Position::Header(0)),
                // The conversation makes one up for a filter that wants it.
                None => Move::Pass(Position::Header(0)),
            },
            Position::Header(number) => self.next_header(index, number),
            Position::EndOfHeaders => match &message.end_of_headers {
                Some(told) => Move::Tell(told.clone(), Position::Body(0)),
                None => Move::Pass(Position::Body(0)),
            },
            Position::Body(offset) => self.next_body(index, offset),
            Position::EndOfMessage => match &message.end {
                Some(told) => Move::Tell(told.clone(), Position::Finished),
                None => Move::Wait,
            },
            Position::Finished => Move::Wait,
        }
    }

    fn next_recipient(&self, index: usize, number: usize) -> Move {
        let Some(message) = &self.message else {
            return Move::Wait;
        };
        let Some(recipient) = message.recipients.get(number) else {
            return if message.content_begun() || message.end.is_some() {
                Move::Pass(Position::Data)
            } else {
                Move::Wait
            };
        };
        let next = Position::Rcpt(number + 1);
        let unwanted = recipient.rejected && !self.children[index].has(Steps::RCPT_REJECTED);
        let foreign = !self.has_say(index, number);
        if recipient.refused || recipient.unrouted || unwanted || foreign {
            return Move::Pass(next);
        }
        // Whoever comes earlier in the chain may refuse it, and a filter cannot be told so. Once
        // there is content, who refused did not mean the recipient.
        let answered = message.content_begun() || message.end.is_some();
        let last_call = self.is_last_call();
        let clear = self
            .order
            .iter()
            .take_while(|other| **other != index)
            .map(|other| &self.children[*other])
            .filter(|child| !child.member.shadow)
            .all(|child| match &child.part {
                Some(part) if part.state == State::Active => {
                    let refused = part.refused_rcpt.is_some();
                    if child.refusal.is_some() {
                        answered
                    } else {
                        (child.reached(next) || last_call) && (answered || !refused)
                    }
                }
                // A discard is about the whole message, which is over with it.
                Some(part) => answered || !matches!(part.state, State::Refused(_)),
                None => true,
            });
        if clear {
            Move::Tell(recipient.told.clone(), next)
        } else {
            Move::Wait
        }
    }

    fn next_header(&self, index: usize, number: usize) -> Move {
        let Some(message) = self.message_for(index) else {
            return Move::Wait;
        };
        let child = &self.children[index];
        let begun = message.body_begun || message.end.is_some();
        if !begun && child.takes_content_at_once() && !self.is_strict() {
            return Move::Wait;
        }
        if child.has(Steps::NO_HEADERS) && number < message.view.len() {
            return Move::Pass(Position::Header(message.view.len()));
        }
        match message.view.get(number) {
            Some(header) => {
                let spacing = child.spacing(self.mta.has(Steps::LEADING_SPACE));
                let event = Event::Header(spacing.shown(header));
                Move::Tell(Told::bare(event), Position::Header(number + 1))
            }
            None if message.header_complete => Move::Pass(Position::EndOfHeaders),
            None => Move::Wait,
        }
    }

    fn next_body(&self, index: usize, offset: u64) -> Move {
        let Some(message) = self.message_for(index) else {
            return Move::Wait;
        };
        let child = &self.children[index];
        let length = message.body.len();
        let skips = child.part.as_ref().is_some_and(|part| part.skips_body);
        if offset < length && (skips || child.has(Steps::NO_BODY)) {
            return Move::Pass(Position::Body(length));
        }
        if offset < length {
            return match message.body.read(offset) {
                Ok(chunk) => {
                    let next = Position::Body(offset + chunk.len() as u64);
                    Move::Tell(Told::bare(Event::Body(chunk)), next)
                }
                Err(error) => Move::Lost(error.to_string()),
            };
        }
        if message.end.is_some() {
            Move::Pass(Position::EndOfMessage)
        } else {
            Move::Wait
        }
    }

    /// The message, for a filter whose segment has its turn.
    fn message_for(&self, index: usize) -> Option<&super::Message> {
        let message = self.message.as_ref()?;
        let lineup = self.lineup.as_ref()?;
        let turn = lineup.segment(message.segment)?.contains(index);
        turn.then_some(message)
    }

    /// Tells a filter the macros that came before `at` without an event.
    fn tell_loose_macros(&mut self, index: usize, at: Position) {
        let agreed = self.mta.agreed.as_ref();
        let child = &mut self.children[index];
        let Link::Up(side) = &child.link else {
            return;
        };
        if at < Position::Mail {
            return;
        }
        let told = child.loose_told;
        let news = self
            .loose
            .iter()
            .filter(|loose| loose.number > told && loose.at <= at);
        for loose in news {
            child.loose_told = child.loose_told.max(loose.number);
            if let Some(pairs) = macros_for(side.options(), agreed, loose.stage, &loose.pairs) {
                child.out.push_back(Command::Macros(Macros {
                    stage: loose.stage,
                    pairs: pairs.to_vec(),
                }));
            }
        }
    }

    /// There is nothing to tell a filter for now: others that have crashed it may have their turn.
    fn rest(&mut self, index: usize) {
        if let Some(part) = &mut self.children[index].part {
            part.suspicion.ends_turn(self.now);
        }
    }

    fn place(&mut self, index: usize, next: Position) {
        if let Some(part) = &mut self.children[index].part {
            part.position = next;
        }
    }

    /// The macros that a filter gets with an event: those that came with it, or those that the MTA
    /// repeats for all of its kind.
    fn macros_with(&self, index: usize, told: &Told) -> Option<Pairs> {
        if told.macros.is_none() && self.repeated.is_empty() {
            return None;
        }
        let options = self.children[index].side()?.options();
        let code = told.event.clone().into_command().code();
        let repeated = self.repeated.iter().find(|(stage, _)| *stage == code);
        let pairs = told
            .macros
            .as_ref()
            .or_else(|| repeated.map(|(_, pairs)| pairs))?;
        macros_for(options, self.mta.agreed.as_ref(), code, pairs)
    }

    /// Tells a filter of an event and notes what it owes.
    pub(super) fn tell(&mut self, index: usize, at: Position, next: Position, told: Told) -> bool {
        let now = self.now;
        self.tell_loose_macros(index, at);
        let macros = self.macros_with(index, &told);
        let child = &mut self.children[index];
        let Link::Up(side) = &mut child.link else {
            return false;
        };
        let ahead = child.asked.is_some();
        let sent = if ahead {
            side.send_ahead(told.event, macros.as_deref())
        } else {
            side.send(told.event, macros.as_deref())
        };
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) => {
                self.fail(index, &ChildError::Protocol(error));
                return false;
            }
        };
        child.out.extend(sent.commands);
        let timeouts = child.member.timeouts;
        let allowed = if at == Position::EndOfMessage && sent.then.is_none() {
            timeouts.end_of_message
        } else if child.unproven {
            timeouts.command.min(PROOF)
        } else {
            timeouts.command
        };
        if ahead {
            let owed = side.answers_owed().saturating_sub(1);
            child.ahead.resize(owed, at);
        } else {
            child.asked = side.answer_owed().then(|| Asked {
                at,
                since: now,
                until: now + allowed,
                allowed,
                leftover: false,
            });
        }
        let of_message = at >= Position::Mail;
        match sent.then {
            Some(event) => {
                let macros = told.macros;
                let told = Told { event, macros };
                child.then = Some(Then { at, next, told });
            }
            None if of_message => self.place(index, next),
            None => {}
        }
        true
    }
}

/// The macros that a filter gets of those that came for a command: those it named for the stage, or
/// without a list those that the MTA would have sent without one.
fn macros_for(answer: &Offer, agreed: Option<&Offer>, code: u8, pairs: &Pairs) -> Option<Pairs> {
    // What Postfix repeats is what it sends, or would, at these stages.
    let code = match code {
        b'L' => b'N',
        b'B' => b'E',
        code => code,
    };
    let list = |options: &Offer| {
        let listed = options.actions.contains(Actions::SET_MACRO_LIST);
        let stage = MacroStage::from_code(code).filter(|_| listed)?;
        offer::list_for(options, stage).cloned()
    };
    let wanted: Bytes = match (list(answer), agreed.and_then(list)) {
        // Asked for nothing, nothing is sent.
        (Some(own), _) if own.trim_ascii().is_empty() => return None,
        (Some(own), _) => own,
        // The MTA was asked for more, for the sake of others.
        (None, Some(_)) => Bytes::from_static(offer::default_macros(code).as_bytes()),
        (None, None) => return Some(Arc::clone(pairs)),
    };
    let named = |name: &[u8]| offer::names_in(&wanted).any(|one| offer::same_macro(one, name));
    let kept = pairs.iter().filter(|(name, _)| named(name));
    Some(kept.cloned().collect())
}
