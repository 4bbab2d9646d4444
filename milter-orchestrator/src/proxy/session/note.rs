//! What the MTA tells, written down, and the question that comes with it.
//!
//! Nothing is decided here. What exceeds a limit refuses the message for now; nothing else can
//! fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::message::Header;
use milter_proto::session::{Event, ProtocolError};
use milter_proto::wire::{MacroStage, Macros, Steps};

use super::{Loose, Pending, Session};
use crate::counters::Mta;
use crate::proxy::child::Link;
use crate::proxy::headers::MtaKind;
use crate::proxy::message::{Message, Pairs, Recipient, Told};
use crate::proxy::offer;
use crate::proxy::plan::Position;

impl Session {
    /// Writes an event down, and the question that comes with it.
    pub(super) fn event(&mut self, event: Event, asked: bool) -> Result<(), ProtocolError> {
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

    pub(super) fn question(
        &self,
        at: Option<Position>,
        target: Position,
        until: Instant,
    ) -> Pending {
        let at_end = at == Some(Position::EndOfMessage);
        Pending {
            at,
            target,
            until,
            put_off: false,
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
        if self.macros.is_empty() {
            return None;
        }
        let code = event.clone().into_command().code();
        let place = self.macros.iter().position(|(stage, _)| *stage == code)?;
        Some(self.macros.swap_remove(place).1)
    }

    /// Keeps macros for the event that they belong to. Those that Postfix repeats before each
    /// header field, piece of the body and unknown command say nothing new, and libmilter drops
    /// them: they are for strict chains.
    pub(super) fn note_macros(&mut self, macros: &Macros) {
        let stage = macros.stage;
        let is_repeated = matches!(stage, b'L' | b'B' | b'U') && self.is_strict();
        if MacroStage::from_code(stage).is_none() && !is_repeated {
            return;
        }
        let pairs = macros.pairs.iter();
        // Copied: see `Told::detached`.
        let pairs = pairs.map(|(name, value)| (name.to_vec().into(), value.to_vec().into()));
        let pairs: Pairs = pairs.collect();
        if is_repeated {
            self.repeated.retain(|(known, _)| *known != stage);
            self.repeated.push((stage, pairs));
            return;
        }
        self.macros.retain(|(known, _)| *known != stage);
        self.note_loose_macros(stage, &pairs);
        self.macros.push((stage, pairs));
    }

    /// Keeps macros for which no event will come, until the filters are told of the next one.
    fn note_loose_macros(&mut self, stage: u8, pairs: &Pairs) {
        let (step, at) = match stage {
            b'H' => (Steps::NO_HELO, Position::Mail),
            b'R' => (Steps::NO_RCPT, Position::Rcpt(0)),
            b'T' => (Steps::NO_DATA, Position::Data),
            b'N' => (Steps::NO_EOH, Position::EndOfHeaders),
            _ => return,
        };
        let of_message = stage != b'H';
        if of_message && self.message.is_none() || !self.mta.has(step) {
            return;
        }
        self.loose_number += 1;
        // The latest of each kind replaces those before, at the filters as well.
        self.loose.retain(|loose| loose.stage != stage);
        self.loose.push(Loose {
            number: self.loose_number,
            stage,
            at,
            pairs: Arc::clone(pairs),
        });
    }

    fn note_connect(&mut self, told: Told) -> (Position, Position) {
        self.introduction.connect = Some(told.detached());
        let version = self.side.facts().macro_value("v");
        self.mta.kind = match version.map(|version| version.first()) {
            // Sendmail's is a bare number, as 8.17.1; Postfix's begins with its name.
            Some(Some(b'0'..=b'9')) => MtaKind::Sendmail,
            _ => MtaKind::Postfix,
        };
        self.shared.traffic.session(match self.mta.kind {
            MtaKind::Postfix => Mta::Postfix,
            MtaKind::Sendmail => Mta::Sendmail,
        });
        self.disband();
        self.route_client();
        if self.lineup.is_some() {
            self.part_with_others();
        }
        self.call_everybody();
        (Position::Connect, Position::Helo)
    }

    /// Connects to the filters of the line-up that are not there.
    fn call_everybody(&mut self) {
        for index in Arc::clone(&self.order).iter().copied() {
            let child = &self.children[index];
            if !child.accepted && matches!(child.link, Link::Idle | Link::Leaving) {
                self.dial(index);
            }
        }
    }

    fn note_helo(&mut self, told: Told) -> (Position, Position) {
        self.introduction.helo = Some(told.detached());
        self.introduction.helo_number += 1;
        for child in &mut self.children {
            child.refusal.take_if(|(at, _)| *at == Position::Helo);
        }
        if self.message.is_none() {
            let gated = self.lineup.as_ref().is_some_and(|up| !up.gates.is_empty());
            if gated || self.shared.routes.only().is_none() {
                // What an earlier message has decided says nothing about the next one.
                self.disband();
            }
            self.route_client();
            self.call_everybody();
        }
        (Position::Helo, Position::Unknown)
    }

    fn note_unknown(&mut self, told: Told) -> (Position, Position) {
        self.introduction.unknown = Some(Told::bare(told.event));
        self.introduction.unknown_number += 1;
        (Position::Unknown, Position::Mail)
    }

    fn note_mail(&mut self, told: Told) -> (Position, Position) {
        let limits = &self.shared.limits;
        let message = Message::new(told.detached(), self.mta.kind, limits, self.now);
        self.message = Some(message);
        // What was said of the client is true of every message.
        self.loose.retain(|loose| loose.stage == b'H');
        self.route_message();
        self.begin_parts();
        self.settle_gates(0..0);
        (Position::Mail, Position::Rcpt(0))
    }

    /// Everything after MAIL. Without a message in hand, which the MTA's side of the conversation
    /// sees to, nothing is noted.
    fn note_content(&mut self, told: Told) -> (Position, Position) {
        let of_content = !matches!(told.event, Event::Rcpt(_));
        let begun = |message: &Message| message.content_begun() || message.end.is_some();
        let was_begun = self.message.as_ref().is_none_or(begun);
        let places = self.note_piece(told);
        if of_content && !was_begun {
            self.route_content();
        }
        if places.0 == Position::EndOfMessage {
            self.route_rest();
        }
        places
    }

    fn note_piece(&mut self, told: Told) -> (Position, Position) {
        let nowhere = (Position::Finished, Position::Finished);
        let Some(message) = &mut self.message else {
            return nowhere;
        };
        match told.event {
            Event::Rcpt(_) => {
                let number = message.recipients.len();
                message.recipient_bytes += told.bytes();
                let limits = &self.shared.limits;
                if number >= limits.recipients || message.recipient_bytes > limits.recipient_bytes {
                    self.refuse_for_now("too many recipients");
                    return (Position::Rcpt(number), Position::Rcpt(number));
                }
                let rejected = told.macros.as_ref().is_some_and(is_rejected);
                message.recipients.push(Recipient {
                    told: told.detached(),
                    rejected,
                    refused: false,
                    unrouted: false,
                    route: None,
                });
                if !rejected {
                    self.route_recipient(number);
                }
                (Position::Rcpt(number), Position::Rcpt(number + 1))
            }
            Event::Data => {
                message.data = Some(told);
                (Position::Data, Position::Header(0))
            }
            Event::Header(header) => {
                let number = message.view.len();
                self.note_header(header);
                (Position::Header(number), Position::Header(number + 1))
            }
            Event::EndOfHeaders => {
                message.end_of_headers = Some(told);
                self.complete_header();
                (Position::EndOfHeaders, Position::Body(0))
            }
            Event::Body(chunk) => {
                self.complete_header();
                self.note_body(chunk)
            }
            Event::EndOfMessage => {
                let fields = message.view.iter();
                let fields = fields.map(|field| field.name.len() + field.value.len() + 4);
                message.size = Some(message.body.len() + fields.sum::<usize>() as u64);
                message.end = Some(told);
                self.complete_header();
                (Position::EndOfMessage, Position::Finished)
            }
            Event::Connect(_)
            | Event::Helo(_)
            | Event::Mail(_)
            | Event::Unknown(_)
            | Event::Abort
            | Event::QuitReuse => nowhere,
        }
    }

    fn note_header(&mut self, header: Header) {
        let Some(message) = &mut self.message else {
            return;
        };
        if message.decided.is_some() {
            return;
        }
        message.view.push(header.clone());
        if let Err(error) = message.headers.receive(header) {
            self.refuse_for_now(&error.to_string());
        }
    }

    /// What comes now is no header field any more.
    fn complete_header(&mut self) {
        if let Some(message) = &mut self.message
            && !message.header_complete
        {
            message.header_complete = true;
            message.seen = message.headers.snapshot();
        }
    }

    fn note_body(&mut self, chunk: Bytes) -> (Position, Position) {
        let Some(message) = &mut self.message else {
            return (Position::Finished, Position::Finished);
        };
        message.body_begun = true;
        let from = message.body.len();
        if message.decided.is_none()
            && let Err(error) = message.body.append(chunk)
        {
            self.refuse_for_now(&error.to_string());
            return (Position::Body(from), Position::Body(from));
        }
        (Position::Body(from), Position::Body(message.body.len()))
    }
}

/// Whether the macros of a recipient say that the MTA itself has refused it.
fn is_rejected(pairs: &Pairs) -> bool {
    pairs
        .iter()
        .any(|(name, value)| offer::same_macro(name, b"rcpt_mailer") && value.as_ref() == b"error")
}
