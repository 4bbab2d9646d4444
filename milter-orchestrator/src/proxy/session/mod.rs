//! One connection of an MTA as a state machine: commands of the MTA, replies of filters and the
//! time go in; commands for filters and replies to the MTA come out.
//!
//! The MTA's events are written down ([`note`], [`Message`]). Every filter has a position in what
//! is written and is told what comes next as soon as it may be ([`feed`]); so filters of one
//! segment run side by side while the MTA is still sending, a filter that has to begin again on a
//! new connection just starts over at the first event, and nothing is told twice on a connection.
//! Where the MTA waits for an answer, all positions are looked at ([`judge`]) until one can be
//! given.
//!
//! There is no socket, no clock and no task here. A filter that fails is dealt with
//! ([`failure`]) and never ends the connection; only an MTA that breaks the protocol
//! does, which is the one error of this module.

mod failure;
mod feed;
mod judge;
mod note;
mod outgoing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::edit::Edit;
use milter_proto::session::{Event, FilterSide, ProtocolError, Step};
use milter_proto::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use milter_proto::wire::{Actions, Command, MacroStage, Offer, Reply, Steps};

use self::outgoing::Outgoing;
use super::Shared;
use super::child::{Child, Link};
use super::headers::MtaKind;
use super::message::{Message, Pairs, Told};
use super::offer::{self, Wish};
use super::plan::Position;
use crate::member::{Chain, OnFailure};

/// What is known of the MTA.
#[derive(Debug)]
struct Mta {
    /// What it offered.
    offer: Offer,
    /// What was agreed with it, once that is so.
    agreed: Option<Offer>,
    /// Which one it is, once it has said so.
    kind: MtaKind,
}

impl Mta {
    fn has(&self, step: Steps) -> bool {
        self.agreed
            .as_ref()
            .is_some_and(|agreed| agreed.steps.contains(step))
    }

    fn allows(&self, action: Actions) -> bool {
        self.agreed
            .as_ref()
            .is_some_and(|agreed| agreed.actions.contains(action))
    }
}

/// The filters that a message goes through, by their numbers.
#[derive(Debug, Clone)]
struct Lineup {
    chain: Arc<Chain>,
    segments: Vec<Vec<usize>>,
}

/// What the MTA has told of the client, kept for filters that connect later.
#[derive(Debug, Default)]
struct Introduction {
    connect: Option<Told>,
    helo: Option<Told>,
    /// Counts names, so that everybody can be told of each once.
    helo_number: u32,
    unknown: Option<Told>,
    unknown_number: u32,
}

/// A question of the MTA's that has not been answered.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// About what; `None` for the negotiation.
    at: Option<Position>,
    /// Where every filter must have come.
    target: Position,
    /// The MTA must be answered by then.
    until: Instant,
    /// Since when.
    since: Instant,
    /// When the next sign of progress is due; at the end of the message only.
    progress: Option<Instant>,
}

/// One connection of an MTA.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    side: FilterSide,
    mta: Mta,
    children: Vec<Child>,
    lineup: Option<Lineup>,
    /// The filters of the line-up in the chain's order.
    order: Arc<[usize]>,
    introduction: Introduction,
    /// The latest macro frame of each kind that no event has taken yet.
    macros: Vec<(u8, Pairs)>,
    message: Option<Message>,
    pending: Option<Pending>,
    /// Commands that came before the last question was answered.
    inbox: VecDeque<Command>,
    outgoing: Outgoing,
    now: Instant,
    over: bool,
}

impl Session {
    /// Waits for the negotiation.
    pub(crate) fn new(shared: Arc<Shared>, now: Instant) -> Self {
        Self {
            shared,
            side: FilterSide::new(),
            mta: Mta {
                offer: Offer::full(),
                agreed: None,
                kind: MtaKind::Postfix,
            },
            children: Vec::new(),
            lineup: None,
            order: Arc::default(),
            introduction: Introduction::default(),
            macros: Vec::new(),
            message: None,
            pending: None,
            inbox: VecDeque::new(),
            outgoing: Outgoing::default(),
            now,
            over: false,
        }
    }

    /// Takes the MTA's next command.
    pub(crate) fn command(&mut self, command: Command, now: Instant) -> Result<(), ProtocolError> {
        self.now = now;
        let ends = matches!(command, Command::Abort | Command::Quit | Command::QuitReuse);
        if ends && self.inbox.is_empty() {
            self.forget_question();
        }
        self.inbox.push_back(command);
        self.advance()
    }

    /// The MTA has closed the connection. In the middle of a message nobody is told: closing is
    /// what a filter must expect.
    pub(crate) fn closed(&mut self, now: Instant) {
        self.now = now;
        self.end_message("the MTA closed the connection");
        self.pending = None;
        self.over = true;
        for child in &mut self.children {
            match child.asked {
                Some(_) => child.disconnect(Link::Idle),
                None => child.leave(),
            }
        }
    }

    /// Whether the connection is to be closed once everything is written.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether there is nothing in hand, so that the connection can end without harm.
    pub(crate) fn is_idle(&self) -> bool {
        self.message.is_none() && self.pending.is_none() && self.inbox.is_empty()
    }

    /// Whether it is the MTA's turn to say something.
    pub(crate) fn awaits_mta(&self) -> bool {
        self.pending.is_none() && self.wants_input()
    }

    /// Whether the next command should be read: not before the last one is answered, beyond what
    /// tells that the MTA has given up, nor faster than filters take the body.
    pub(crate) fn wants_input(&self) -> bool {
        if self.over || !self.inbox.is_empty() {
            return false;
        }
        self.pending.is_some() || self.lag() <= self.shared.limits.lag
    }

    /// The next reply to be written.
    pub(crate) fn next_reply(&mut self) -> Option<Reply> {
        self.outgoing.next()
    }

    /// The filters.
    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The next command to be written to a filter.
    pub(crate) fn next_command(&mut self, index: usize, now: Instant) -> Option<Command> {
        self.now = now;
        loop {
            if let Some(command) = self.children.get_mut(index)?.out.pop_front() {
                return Some(command);
            }
            if !self.feed(index) {
                return None;
            }
        }
    }

    /// Does everything that can be done now. To be called after anything else.
    pub(crate) fn advance(&mut self) -> Result<(), ProtocolError> {
        while !self.over {
            self.feed_all();
            if self.pending.is_some() {
                if !self.judge()? {
                    break;
                }
                continue;
            }
            let step = if let Some(step) = self.side.next_step() {
                step
            } else if let Some(command) = self.inbox.pop_front() {
                self.receive(command)?
            } else {
                break;
            };
            self.take(step)?;
        }
        Ok(())
    }

    fn receive(&mut self, command: Command) -> Result<Step, ProtocolError> {
        if let Command::Macros(macros) = &command
            && MacroStage::from_code(macros.stage).is_some()
        {
            let pairs = macros.pairs.iter();
            // Copied: see `Told::detached`.
            let pairs = pairs.map(|(name, value)| (name.to_vec().into(), value.to_vec().into()));
            self.macros.retain(|(stage, _)| *stage != macros.stage);
            self.macros.push((macros.stage, pairs.collect()));
        }
        let step = self.side.receive(command)?;
        if let Some(complaint) = self.side.take_complaint() {
            tracing::warn!(
                listen = %self.shared.listen,
                error = %complaint,
                "the MTA sent a command out of order, it was refused for now"
            );
        }
        Ok(step)
    }

    fn take(&mut self, step: Step) -> Result<(), ProtocolError> {
        match step {
            Step::Negotiate(offer) => self.negotiate(&offer),
            Step::Ask(event) => self.event(event, true)?,
            Step::Tell(event) => self.event(event, false)?,
            Step::Answer(reply) => self.outgoing.push(reply),
            Step::Silent => {}
            Step::Close => {
                self.over = true;
                for child in &mut self.children {
                    child.leave();
                }
            }
        }
        Ok(())
    }

    /// Calls every filter that a message may have to go through.
    fn negotiate(&mut self, offer: &Offer) {
        self.mta.offer = offer::normalise(offer);
        let facts = self.facts(None);
        let members = self.shared.routes.members(&facts);
        self.children = members.into_iter().map(Child::new).collect();
        for index in 0..self.children.len() {
            self.dial(index);
        }
        let until = self.now + self.shared.limits.negotiation;
        self.pending = Some(self.question(None, Position::Connect, until));
    }

    /// The answer to the MTA, once every filter has answered or failed.
    fn agree(&mut self) -> Result<(), ProtocolError> {
        let shared = Arc::clone(&self.shared);
        let answers: Vec<Option<Offer>> = self
            .children
            .iter()
            .map(|child| match child.side() {
                Some(side) => Some(side.options().clone()),
                None => shared.remembered(&child.member.name),
            })
            .collect();
        let wishes: Vec<Wish<'_>> = self
            .children
            .iter()
            .zip(&answers)
            .map(|(child, answer)| Wish {
                answer: answer.as_ref(),
                shadow: child.member.shadow,
                quarantines: child.member.on_failure == OnFailure::Quarantine,
            })
            .collect();
        let merged = offer::merge(&self.mta.offer, &wishes);
        let reply = self
            .side
            .agree(merged.actions, merged.steps, merged.macros.clone())?;
        self.mta.agreed = Some(merged);
        self.pending = None;
        self.outgoing.push(reply);
        Ok(())
    }

    /// Writes an event down, and the question that comes with it.
    fn event(&mut self, event: Event, asked: bool) -> Result<(), ProtocolError> {
        let told = Told {
            macros: self.take_macros(&event),
            event,
        };
        let (at, target) = match &told.event {
            Event::Abort => {
                self.end_message("aborted by the MTA");
                return Ok(());
            }
            Event::QuitReuse => {
                self.forget_client();
                return Ok(());
            }
            Event::Connect(_) => self.note_connect(told),
            Event::Helo(_) => self.note_helo(told),
            Event::Unknown(_) => self.note_unknown(told),
            Event::Mail(_) => self.note_mail(told),
            Event::Rcpt(_)
            | Event::Data
            | Event::Header(_)
            | Event::EndOfHeaders
            | Event::Body(_)
            | Event::EndOfMessage => self.note_content(told),
        };
        if !asked {
            return Ok(());
        }
        let until = self.now + self.time_for(at);
        self.pending = Some(self.question(Some(at), target, until));
        Ok(())
    }

    fn question(&self, at: Option<Position>, target: Position, until: Instant) -> Pending {
        let at_end = at == Some(Position::EndOfMessage);
        Pending {
            at,
            target,
            until,
            since: self.now,
            progress: at_end.then(|| self.now + self.shared.limits.progress),
        }
    }

    /// How long the MTA may be left waiting.
    fn time_for(&self, at: Position) -> Duration {
        let limits = &self.shared.limits;
        match (at, self.mta.kind) {
            (Position::EndOfMessage, _) => limits.end_of_message,
            (_, MtaKind::Postfix) if self.side.facts().macro_value("v").is_some() => {
                limits.stage_postfix
            }
            _ => limits.stage,
        }
    }

    fn take_macros(&mut self, event: &Event) -> Option<Pairs> {
        let code = event.clone().into_command().code();
        let place = self.macros.iter().position(|(stage, _)| *stage == code)?;
        Some(self.macros.swap_remove(place).1)
    }

    /// The client is gone and another will come: as a new connection, with what was agreed.
    fn forget_client(&mut self) {
        self.end_message("the MTA ended the connection");
        self.introduction = Introduction::default();
        self.disband();
        for index in 0..self.children.len() {
            self.children[index].leave();
            self.children[index].accepted = false;
        }
    }

    /// The MTA gives up what it asked.
    fn forget_question(&mut self) {
        let Some(Pending { at, .. }) = self.pending.take() else {
            return;
        };
        let Some(at) = at else {
            // There is no conversation yet that could go on.
            self.over = true;
            self.children.iter_mut().for_each(Child::leave);
            return;
        };
        let unsaid = self.answer_quietly(at, Verdict::Continue, Vec::new());
        debug_assert!(unsaid.is_ok(), "a question was pending");
        self.end_message("aborted by the MTA");
    }

    fn answer(&mut self, at: Position, verdict: Verdict) -> Result<(), ProtocolError> {
        let replies = self.answer_quietly(at, verdict, Vec::new())?;
        for reply in replies {
            self.outgoing.push(reply);
        }
        Ok(())
    }

    /// Answers the MTA's question; what is to be written is returned.
    fn answer_quietly(
        &mut self,
        at: Position,
        verdict: Verdict,
        edits: Vec<Edit>,
    ) -> Result<Vec<Reply>, ProtocolError> {
        self.pending = None;
        match at {
            Position::Connect | Position::Helo => {
                let greeting = match verdict {
                    Verdict::Continue | Verdict::Discard => Greeting::Continue,
                    Verdict::Accept => Greeting::Accept,
                    Verdict::Reject => Greeting::Reject,
                    Verdict::TempFail => Greeting::TempFail,
                    Verdict::Reply(reply) => Greeting::Reply(reply),
                };
                Ok(vec![self.side.greet(greeting)?])
            }
            Position::Body(_) => {
                let reply = self.side.body(BodyVerdict::Go(verdict))?;
                Ok(reply.into_iter().collect())
            }
            Position::EndOfMessage => self.side.finish(Outcome { edits, verdict }),
            Position::Unknown
            | Position::Mail
            | Position::Rcpt(_)
            | Position::Data
            | Position::Header(_)
            | Position::EndOfHeaders
            | Position::Finished => Ok(vec![self.side.reply(verdict)?]),
        }
    }
}
