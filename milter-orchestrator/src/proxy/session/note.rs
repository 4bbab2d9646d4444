//! What the MTA tells, written down; and who is to hear of it.
//!
//! Nothing is decided here but the chain of filters, by the routes and what is known so far. What
//! exceeds a limit refuses the message for now; nothing else can fail.

use std::sync::Arc;

use bytes::Bytes;
use milter_proto::message::{Address, Header};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;

use super::{Lineup, Session};
use crate::member::Chain;
use crate::proxy::child::{Child, Link, Part, State};
use crate::proxy::headers::MtaKind;
use crate::proxy::message::{Decided, Message, Pairs, Recipient, Told};
use crate::proxy::plan::Position;
use crate::proxy::{offer, report};
use crate::route::{Choice, Client, Fact, Facts};

impl Session {
    pub(super) fn note_connect(&mut self, told: Told) -> (Position, Position) {
        self.introduction.connect = Some(told.detached());
        let version = self.side.facts().macro_value("v");
        self.mta.kind = match version.map(|version| version.first()) {
            // Sendmail's is a bare number, as 8.17.1; Postfix's begins with its name.
            Some(Some(b'0'..=b'9')) => MtaKind::Sendmail,
            _ => MtaKind::Postfix,
        };
        let choice = self.shared.routes.choose(&self.facts(None));
        if let Choice::Chain(chain) = choice {
            self.line_up(&chain);
            self.part_with_others();
        }
        for index in Arc::clone(&self.order).iter().copied() {
            if matches!(self.children[index].link, Link::Idle | Link::Leaving) {
                self.dial(index);
            }
        }
        (Position::Connect, Position::Helo)
    }

    pub(super) fn note_helo(&mut self, told: Told) -> (Position, Position) {
        self.introduction.helo = Some(told.detached());
        self.introduction.helo_number += 1;
        for child in &mut self.children {
            child.refusal.take_if(|(at, _)| *at == Position::Helo);
        }
        (Position::Helo, Position::Unknown)
    }

    pub(super) fn note_unknown(&mut self, told: Told) -> (Position, Position) {
        self.introduction.unknown = Some(Told::bare(told.event));
        self.introduction.unknown_number += 1;
        (Position::Unknown, Position::Mail)
    }

    pub(super) fn note_mail(&mut self, told: Told) -> (Position, Position) {
        let facts = self.side.facts();
        let said = |name| {
            facts
                .macro_value(name)
                .is_some_and(|value| !value.is_empty())
        };
        let authenticated = said("auth_type") || said("auth_authen");
        let choice = self.shared.routes.choose(&self.facts(Some(authenticated)));
        let limits = &self.shared.limits;
        let mut message = Message::new(told.detached(), self.mta.kind, limits, self.now);
        match choice {
            Choice::Chain(chain) => self.line_up(&chain),
            Choice::NotYet | Choice::NoRoute => {
                self.disband();
                message.decided = Some(Decided {
                    verdict: Some(Verdict::TempFail),
                    by: "no route matches".to_owned(),
                });
                let line = report::Line::new(&message, &self.side);
                line.log(&self.shared.listen, "-", &[], self.now);
            }
        }
        self.message = Some(message);
        self.shared.budget.earn();
        self.begin_parts();
        (Position::Mail, Position::Rcpt(0))
    }

    /// Everything after MAIL. Without a message in hand, which the MTA's side of the conversation
    /// sees to, nothing is noted.
    pub(super) fn note_content(&mut self, told: Told) -> (Position, Position) {
        let nowhere = (Position::Finished, Position::Finished);
        let Some(message) = &mut self.message else {
            return nowhere;
        };
        match told.event {
            Event::Rcpt(_) => {
                let number = message.recipients.len();
                if number >= self.shared.limits.recipients {
                    self.refuse_for_now("too many recipients");
                    return (Position::Rcpt(number), Position::Rcpt(number));
                }
                let rejected = told.macros.as_ref().is_some_and(is_rejected);
                message.recipients.push(Recipient {
                    told: told.detached(),
                    rejected,
                    refused: false,
                });
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
        let from = message.body.len();
        if message.decided.is_none()
            && let Err(error) = message.body.append(chunk)
        {
            self.refuse_for_now(&error.to_string());
            return (Position::Body(from), Position::Body(from));
        }
        (Position::Body(from), Position::Body(message.body.len()))
    }

    /// The facts that routes are chosen by.
    pub(super) fn facts(&self, authenticated: Option<bool>) -> Facts<'_> {
        let client = match &self.introduction.connect {
            None => Fact::NotYet,
            Some(told) => Fact::Known(match &told.event {
                Event::Connect(connection) => match connection.address {
                    Address::Inet(address) => Client::Ip(address.ip()),
                    Address::Unknown | Address::Unix(_) | Address::Unparsable { .. } => {
                        Client::NoIp
                    }
                },
                _ => Client::NoIp,
            }),
        };
        Facts {
            listen: &self.shared.listen,
            client,
            authenticated: authenticated.map_or(Fact::NotYet, Fact::Known),
        }
    }

    /// Puts the members of a chain into their places.
    fn line_up(&mut self, chain: &Arc<Chain>) {
        let mut placed = Vec::new();
        let mut place = |member: &Arc<_>| {
            let is_it = |child: &Child| Arc::ptr_eq(&child.member, member);
            let index = self.children.iter().position(is_it)?;
            // A second place of the same filter would be a second say on the same conversation.
            if placed.contains(&index) {
                return None;
            }
            placed.push(index);
            Some(index)
        };
        let mut segments: Vec<Vec<usize>> = Vec::new();
        for segment in &chain.segments {
            segments.push(segment.iter().filter_map(&mut place).collect());
        }
        self.order = segments.iter().flatten().copied().collect();
        self.lineup = Some(Lineup {
            chain: Arc::clone(chain),
            segments,
        });
    }

    /// Nobody is in the line-up.
    pub(super) fn disband(&mut self) {
        self.lineup = None;
        self.order = Arc::default();
    }

    /// Lets go of filters that no message of this client can go through.
    fn part_with_others(&mut self) {
        for (index, child) in self.children.iter_mut().enumerate() {
            if !self.order.contains(&index) {
                child.leave();
            }
        }
    }

    /// Gives every filter of the chain its part, and calls those that are not there.
    fn begin_parts(&mut self) {
        for index in Arc::clone(&self.order).iter().copied() {
            let child = &mut self.children[index];
            let mut part = Part::new();
            if child.accepted {
                part.state = State::Done;
            }
            child.part = Some(part);
            if !child.accepted && matches!(child.link, Link::Idle | Link::Failed | Link::Leaving) {
                self.dial(index);
            }
        }
    }
}

/// Whether the macros of a recipient say that the MTA itself has refused it.
fn is_rejected(pairs: &Pairs) -> bool {
    pairs
        .iter()
        .any(|(name, value)| offer::same_macro(name, b"rcpt_mailer") && value.as_ref() == b"error")
}
