//! The negotiation: with the filters first, then, in the least terms that serve all of them, with
//! the MTA.
//!
//! A filter that cannot be asked in time is expected to want what it wanted last, or everything.
//! One that connects later, because only then it is known that a message goes through it, or for a
//! later message, must make do with what was agreed then, or fail.

use std::sync::Arc;
use std::time::Instant;

use milter_proto::session::{MtaSide, ProtocolError};
use milter_proto::wire::{Actions, Offer, Reply, Steps};

use super::Session;
use crate::counters;
use crate::member::{Negotiated, OnFailure};
use crate::proxy::child::{Child, ChildError, Link};
use crate::proxy::offer::{self, Wish};
use crate::proxy::plan::Position;
use crate::route::Facts;

impl Session {
    /// Calls every filter that a message may have to go through.
    pub(super) fn negotiate(&mut self, offer: &Offer) {
        self.mta.offer = offer::normalise(offer);
        let shared = Arc::clone(&self.shared);
        let facts = Facts::at(&shared.listen);
        let members = shared.routes.members(&facts);
        self.children = members.into_iter().map(Child::new).collect();
        for index in 0..self.children.len() {
            let member = &self.children[index].member;
            // Who may not be needed at all is called only to learn what it wants.
            if shared.routes.is_certain(member, &facts) || !shared.is_familiar(member) {
                self.dial(index);
            }
        }
        let until = self.now + self.shared.limits.negotiation;
        self.pending = Some(self.question(None, Position::Connect, until));
    }

    /// Wants a connection to a filter; one that is known to be down has failed at once.
    pub(super) fn dial(&mut self, index: usize) {
        let until = self.now + self.children[index].member.timeouts.connect;
        self.children[index].dial(until);
        self.children[index].may_resume = self.children[index].member.pool > 0;
        if !self.children[index].member.health.may_try() {
            self.fail(index, &ChildError::Down);
        }
    }

    /// What filters are offered here.
    pub(crate) fn offer(&self) -> Offer {
        offer::for_filter(&self.mta.offer)
    }

    /// There is a connection to a filter that was kept from another client: it is negotiated.
    pub(crate) fn resumed(&mut self, index: usize, side: MtaSide, now: Instant) {
        self.now = now;
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        if !matches!(child.link, Link::Dialling(_)) {
            return;
        }
        child.unproven = true;
        child.member.health.counters().link(counters::Link::Kept);
        child.link = Link::Up(side);
        if let Err(error) = self.welcome(index) {
            self.fail(index, &error);
        }
    }

    /// There is a connection to a filter.
    pub(crate) fn connected(&mut self, index: usize, now: Instant) {
        self.now = now;
        let offer = self.offer();
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        if !matches!(child.link, Link::Dialling(_)) {
            return;
        }
        let (side, command) = MtaSide::offer(offer.version, offer.actions, offer.steps);
        child.out.push_back(command);
        child.link = Link::Negotiating(side, now + child.member.timeouts.connect);
    }

    /// A filter has answered the negotiation.
    pub(super) fn negotiated(&mut self, index: usize, reply: Reply) -> Result<(), ChildError> {
        let child = &mut self.children[index];
        let link = std::mem::replace(&mut child.link, Link::Idle);
        let Link::Negotiating(mut side, until) = link else {
            child.link = link;
            return Ok(());
        };
        let warnings = match side.negotiated(reply) {
            Ok(warnings) => warnings,
            Err(error) => {
                child.link = Link::Negotiating(side, until);
                return Err(error.into());
            }
        };
        for warning in warnings {
            tracing::warn!(filter = %child.member.name, ?warning, "negotiation put right");
        }
        let options = side.options();
        self.shared.remember(&child.member.name, options);
        let health = &child.member.health;
        health.note_negotiated(Negotiated::from(options));
        health.counters().link(counters::Link::New);
        child.link = Link::Up(side);
        self.welcome(index)
    }

    /// A filter is there that has negotiated: whether it fits in.
    fn welcome(&mut self, index: usize) -> Result<(), ChildError> {
        let child = &mut self.children[index];
        child.up_since = Some(self.now);
        let Some(options) = child.side().map(MtaSide::options) else {
            return Ok(());
        };
        let agreed = self.mta.agreed.as_ref();
        if agreed.is_some_and(|agreed| wants_more(options, agreed, child.member.shadow)) {
            return Err(ChildError::WantsMore);
        }
        child.unknown_told = self.introduction.unknown_number;
        self.rearrange(index)
    }

    pub(super) fn judge_negotiation(&mut self) -> Result<bool, ProtocolError> {
        let waits = |child: &Child| matches!(child.link, Link::Dialling(_) | Link::Negotiating(..));
        if self.children.iter().any(waits) {
            return Ok(false);
        }
        self.agree()?;
        Ok(true)
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
        let mut wishes: Vec<Wish<'_>> = self
            .children
            .iter()
            .zip(&answers)
            .map(|(child, answer)| Wish {
                answer: answer.as_ref(),
                shadow: child.member.shadow,
                quarantines: child.member.on_failure == OnFailure::Quarantine,
            })
            .collect();
        wishes.extend(shared.wants.as_ref().map(|wanted| Wish {
            answer: Some(wanted),
            shadow: false,
            quarantines: false,
        }));
        let merged = offer::merge(&self.mta.offer, &wishes);
        let reply = self
            .side
            .agree(merged.actions, merged.steps, merged.macros.clone())?;
        self.mta.agreed = Some(merged);
        self.pending = None;
        self.outgoing.push(reply);
        Ok(())
    }
}

/// Whether a filter now wants events or edits that the MTA was not asked for.
fn wants_more(options: &Offer, agreed: &Offer, shadow: bool) -> bool {
    let actions = options.actions - agreed.actions - Actions::SET_MACRO_LIST;
    // Both of these can be made up for.
    let left_out = (agreed.steps & Steps::NO_ALL) - Steps::NO_DATA - Steps::NO_EOH;
    (!shadow && !actions.is_empty()) || !options.steps.contains(left_out)
}
