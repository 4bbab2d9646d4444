//! Which filters see the message, as far as that is known: at CONNECT, HELO and MAIL, with every
//! recipient, and at the end of the message.
//!
//! Until a chain is known, nobody is told anything and the MTA is told to go on. A filter that
//! joins late is connected then and told everything from the beginning, as a filter that has failed
//! is. Before the content begins it takes its place in the chain; later, behind those that are
//! there. A filter whose own condition is open has its place all the same, and joins when its turn
//! comes.
//!
//! A recipient that no route takes is refused for now; where it cannot be refused alone, the
//! message is.

use std::ops::Range;
use std::sync::Arc;

use milter_proto::session::ProtocolError;
use milter_proto::verdict::Verdict;

use super::Session;
use super::facts::View;
use super::lineup::{Gate, Segment};
use crate::member::Chain;
use crate::proxy::message::{Decided, Recipient};
use crate::proxy::plan::Position;
use crate::proxy::report;
use crate::route::{self, Choice, Fact};

impl Session {
    /// The chain of the client or the message as a whole, by what is known.
    pub(super) fn choose(&self) -> Choice {
        if let Some(chain) = self.shared.routes.only() {
            return Choice::Chain(Arc::clone(chain));
        }
        self.choose_for(None)
    }

    fn choose_for(&self, recipient: Option<usize>) -> Choice {
        let view = View {
            session: self,
            recipient,
        };
        self.shared.routes.choose(&view.facts())
    }

    /// The client is known, or its HELO name: who can be told is called.
    pub(super) fn route_client(&mut self) {
        if self.shared.wants_arrival && self.arrival.is_none() {
            self.arrival = Some(self.shared.scene.arrival());
        }
        if self.lineup.is_none()
            && let Choice::Chain(chain) = self.choose()
        {
            self.line_up(&chain);
        }
        self.settle_gates(0..0);
    }

    /// MAIL has come.
    pub(super) fn route_message(&mut self) {
        match self.choose() {
            Choice::Chain(chain) => self.line_up(&chain),
            Choice::NotYet => {
                self.disband();
                if let Some(message) = &mut self.message {
                    message.undecided = true;
                }
            }
            Choice::NoRoute => {
                self.disband();
                self.refuse_unrouted();
            }
        }
    }

    fn refuse_unrouted(&mut self) {
        let Some(message) = &mut self.message else {
            return;
        };
        message.decided = Some(Decided {
            verdict: Some(Verdict::TempFail),
            by: "no route matches".to_owned(),
        });
        let line = report::Line::new(message, &self.side);
        line.log(&self.shared, "-", &[], self.now);
    }

    /// A recipient has come: its chain joins those of the others.
    pub(super) fn route_recipient(&mut self, number: usize) {
        // Nobody joins a message that is decided.
        let Some(message) = self.message.as_ref().filter(|one| one.decided.is_none()) else {
            return;
        };
        if message.undecided {
            self.route_one(number);
        }
        self.settle_gates(number..number + 1);
    }

    fn route_one(&mut self, number: usize) {
        let choice = self.choose_for(Some(number));
        let Some(message) = &mut self.message else {
            return;
        };
        let Some(recipient) = message.recipients.get_mut(number) else {
            return;
        };
        match choice {
            Choice::NotYet => {}
            Choice::NoRoute => recipient.unrouted = true,
            Choice::Chain(chain) => {
                recipient.route = Some(Arc::clone(&chain));
                let known = |one: &Arc<Chain>| Arc::ptr_eq(one, &chain);
                if !message.routes.iter().any(known) {
                    message.routes.push(chain);
                    self.join();
                }
            }
        }
    }

    /// The line-up follows the chains of the recipients; who is new in it begins.
    fn join(&mut self) {
        let Some(message) = &mut self.message else {
            return;
        };
        if message.decided.is_some() {
            return;
        }
        let Some(chain) = route::merge(&message.routes) else {
            return;
        };
        if message.content_begun() && self.lineup.is_some() {
            self.append(&chain);
        } else {
            message.segment = 0;
            self.line_up(&chain);
        }
        for index in Arc::clone(&self.order).iter().copied() {
            if self.children[index].part.is_none() {
                self.begin_part(index);
            }
        }
    }

    /// The first of the content has come: no recipient will follow.
    pub(super) fn route_content(&mut self) {
        let Some(message) = &mut self.message else {
            return;
        };
        let undecided = message.undecided;
        let recipients = &message.recipients;
        let open = recipients.is_empty() || recipients.iter().any(Recipient::is_undecided);
        message.undecided = undecided && open;
        let all = 0..message.recipients.len();
        let stranded = undecided && !message.undecided && self.lineup.is_none();
        if stranded && message.decided.is_none() {
            self.refuse_for_now("no route matches");
        }
        self.settle_gates(all);
    }

    /// The end of the message has come, and with it all that can be known of it.
    pub(super) fn route_rest(&mut self) {
        let Some(message) = &mut self.message else {
            return;
        };
        if !message.undecided || message.decided.is_some() {
            return;
        }
        if message.recipients.is_empty() {
            self.route_unheard();
        }
        let count = self
            .message
            .as_ref()
            .map_or(0, |message| message.recipients.len());
        for number in 0..count {
            let recipient = self
                .message
                .as_ref()
                .and_then(|message| message.recipients.get(number));
            if recipient.is_some_and(Recipient::is_undecided) {
                self.route_one(number);
            }
        }
        let Some(message) = &mut self.message else {
            return;
        };
        message.undecided = false;
        let lost = |one: &Recipient| one.route.is_none() && !one.rejected && !one.refused;
        if message.recipients.iter().any(lost) || self.lineup.is_none() {
            self.refuse_for_now("no route matches");
        }
    }

    /// The MTA tells of no recipients: the message goes its way as a whole.
    fn route_unheard(&mut self) {
        if let Choice::Chain(chain) = self.choose()
            && let Some(message) = &mut self.message
        {
            message.routes.push(chain);
            self.join();
        }
    }

    /// Whether a filter may still join the message that is not told of it now.
    pub(super) fn is_open(&self) -> bool {
        let undecided = self.message.as_ref().is_some_and(|one| one.undecided);
        let mut gates = self.lineup.iter().flat_map(|lineup| &lineup.gates);
        undecided || gates.any(|(_, gate)| *gate == Gate::Open)
    }

    /// Whether a filter waits for its own condition to be decided.
    pub(super) fn is_awaited(&self, index: usize) -> bool {
        let mut gates = self.lineup.iter().flat_map(|lineup| &lineup.gates);
        gates.any(|(gated, gate)| *gated == index && *gate == Gate::Open)
    }

    /// What is known of a filter's own condition when it is put into the line-up.
    pub(super) fn gate_of(&self, index: usize) -> Gate {
        match &self.children[index].part {
            Some(_) => Gate::In,
            None => Gate::Open,
        }
    }

    /// Who is told of the message: all but those whose own condition does not hold, or is open.
    pub(super) fn order_by_gates(&mut self) {
        let Some(lineup) = &self.lineup else {
            return;
        };
        let shut = |index: &usize| {
            let mut gates = lineup.gates.iter();
            gates.any(|(gated, gate)| gated == index && *gate != Gate::In)
        };
        let told = lineup.places().filter(|index| !shut(index));
        self.order = told.collect();
    }

    /// Decides open conditions of filters, as far as they can be; `recipients` are those that have
    /// not been asked about.
    pub(super) fn settle_gates(&mut self, recipients: Range<usize>) {
        let Some(lineup) = &self.lineup else {
            return;
        };
        let open = lineup.gates.iter().filter(|(_, gate)| *gate == Gate::Open);
        let decided: Vec<(usize, bool)> = open
            .filter_map(|(index, _)| match self.sees(*index, recipients.clone()) {
                Fact::Known(sees) => Some((*index, sees)),
                Fact::NotYet => None,
            })
            .collect();
        self.pass_gates(&decided);
    }

    /// The turn of a segment has come at the end of the message: what is open now is decided, and
    /// what cannot be is taken for seeing it.
    pub(super) fn settle_turn(&mut self, segment: &Segment) {
        let count = self
            .message
            .as_ref()
            .map_or(0, |message| message.recipients.len());
        let open = segment.members().filter(|index| self.is_awaited(*index));
        let decided: Vec<(usize, bool)> = open
            .map(|index| (index, self.sees(index, 0..count) != Fact::Known(false)))
            .collect();
        self.pass_gates(&decided);
    }

    fn pass_gates(&mut self, decided: &[(usize, bool)]) {
        let Some(lineup) = &mut self.lineup else {
            return;
        };
        if decided.is_empty() {
            return;
        }
        for (index, gate) in &mut lineup.gates {
            if let Some((_, sees)) = decided.iter().find(|(one, _)| one == index) {
                *gate = if *sees { Gate::In } else { Gate::Out };
            }
        }
        self.order_by_gates();
        let in_hand = matches!(&self.message, Some(message) if message.decided.is_none());
        for (index, sees) in decided {
            if *sees && in_hand && self.children[*index].part.is_none() {
                self.begin_part(*index);
            }
        }
    }

    /// Whether a filter is to see the message by its own condition.
    fn sees(&self, index: usize, recipients: Range<usize>) -> Fact<bool> {
        let member = &self.children[index].member;
        let holds = |recipient| {
            let view = View {
                session: self,
                recipient,
            };
            member.condition.holds(&view.facts())
        };
        let general = holds(None);
        let Some(message) = self.message.as_ref().filter(|_| !general.is_known()) else {
            return general;
        };
        let mut open = message.recipients.is_empty();
        for number in recipients {
            let Some(recipient) = message.recipients.get(number) else {
                break;
            };
            let mut route = recipient.route.iter().flat_map(|chain| chain.members());
            let elsewhere = recipient.route.is_some() && !route.any(|one| Arc::ptr_eq(one, member));
            if recipient.rejected || recipient.refused || recipient.unrouted || elsewhere {
                continue;
            }
            match holds(Some(number)) {
                Fact::Known(true) => return Fact::Known(true),
                Fact::Known(false) => {}
                Fact::NotYet => open = true,
            }
        }
        if open || !(message.content_begun() || message.end.is_some()) {
            Fact::NotYet
        } else {
            Fact::Known(false)
        }
    }

    /// Whether a filter is asked about a recipient by the configuration; otherwise the message goes
    /// through it for the sake of others, and it is not told of this one.
    pub(super) fn has_say(&self, index: usize, number: usize) -> bool {
        let member = &self.children[index].member;
        let recipients = self.message.as_ref().map(|message| &message.recipients);
        let recipient = recipients.and_then(|recipients| recipients.get(number));
        let route = recipient.and_then(|recipient| recipient.route.as_ref());
        if route.is_none() && member.condition.is_always() {
            return true;
        }
        let view = View {
            session: self,
            recipient: Some(number),
        };
        route.is_none_or(|chain| chain.members().any(|one| Arc::ptr_eq(one, member)))
            && member.condition.holds(&view.facts()) != Fact::Known(false)
    }

    /// Refuses the recipient in question when no route takes it; whether that was so.
    pub(super) fn refuse_unrouted_recipient(
        &mut self,
        at: Position,
    ) -> Result<bool, ProtocolError> {
        let Position::Rcpt(number) = at else {
            return Ok(false);
        };
        let recipients = self.message.as_mut().map(|message| &mut message.recipients);
        let recipient = recipients.and_then(|recipients| recipients.get_mut(number));
        let Some(recipient) = recipient.filter(|one| one.unrouted && !one.refused) else {
            return Ok(false);
        };
        recipient.refused = true;
        tracing::info!(
            listen = %self.shared.listen,
            queue_id = %report::queue_id(self.side.facts()),
            client = %report::client(self.side.facts()),
            "recipient refused for now: no route matches"
        );
        self.answer(at, Verdict::TempFail)?;
        Ok(true)
    }
}
