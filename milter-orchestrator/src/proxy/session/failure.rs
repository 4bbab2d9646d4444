//! Filters that come, answer, fail, and are late.
//!
//! A filter that fails is disconnected and the message in hand is told once more, from its
//! beginning, on a new connection; when that fails too, or cannot help, the filter's policy stands
//! for it. What was done by filters before it stays, and those after it are still asked. The next
//! message starts clean.

use std::sync::Arc;
use std::time::Instant;

use milter_proto::edit::Edit;
use milter_proto::session::{Answer, MtaSide, ProtocolError};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Offer, Reply, Steps, WireError};

use super::{Pending, Session};
use crate::proxy::child::{Asked, ChildError, Link, Replacement, State};
use crate::proxy::plan::Position;
use crate::proxy::report;
use crate::proxy::{edits, offer};

impl Session {
    /// Wants a connection to a filter; one that is known to be down has failed at once.
    pub(super) fn dial(&mut self, index: usize) {
        let until = self.now + self.children[index].member.timeouts.connect;
        self.children[index].dial(until);
        if !self.children[index].member.health.may_try() {
            self.fail(index, &ChildError::Down);
        }
    }

    /// There is a connection to a filter.
    pub(crate) fn connected(&mut self, index: usize, now: Instant) {
        self.now = now;
        let offer = offer::for_filter(&self.mta.offer);
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

    /// A filter's connection is gone, or cannot be had.
    pub(crate) fn lost(&mut self, index: usize, error: &ChildError, now: Instant) {
        self.now = now;
        if self.children.get(index).is_some() {
            self.fail(index, error);
        }
    }

    /// The last words to a filter are written.
    pub(crate) fn left(&mut self, index: usize) {
        if let Some(child) = self.children.get_mut(index)
            && matches!(child.link, Link::Leaving)
        {
            child.disconnect(Link::Idle);
        }
    }

    /// Takes everything that was read from a filter at once; `more` when an incomplete reply
    /// follows. With something behind the answer that is owed, the answer itself cannot be trusted:
    /// it may be a late one to an earlier question.
    pub(crate) fn replies(&mut self, index: usize, replies: Vec<Reply>, more: bool, now: Instant) {
        self.now = now;
        let is_word = |reply: &Reply| !matches!(reply, Reply::Progress | Reply::Edit(_));
        let word = replies.iter().position(is_word);
        let behind = word.map_or(0, |at| replies.len() - 1 - at);
        if word.is_some() && (behind > 0 || more) {
            self.fail(index, &ChildError::Surplus);
            return;
        }
        for reply in replies {
            if let Err(error) = self.reply(index, reply) {
                self.fail(index, &error);
                return;
            }
        }
        let child = &self.children[index];
        if more && child.side().is_some_and(|side| !side.answer_owed()) {
            self.fail(index, &ChildError::Surplus);
        }
    }

    fn reply(&mut self, index: usize, reply: Reply) -> Result<(), ChildError> {
        let now = self.now;
        let child = &mut self.children[index];
        match &mut child.link {
            Link::Negotiating(..) => self.negotiated(index, reply),
            Link::Up(side) => match (side.receive(reply)?, &mut child.asked) {
                (Answer::Progress, Some(asked)) => {
                    asked.until = now + asked.allowed;
                    Ok(())
                }
                (Answer::Progress, None) => Ok(()),
                (Answer::Edit(edit), _) => self.edit(index, edit),
                (Answer::Skip, _) => {
                    self.skip(index);
                    Ok(())
                }
                (Answer::Verdict(verdict), _) => self.settle(index, verdict),
            },
            // Said while it is being left.
            Link::Idle | Link::Dialling(_) | Link::Leaving | Link::Failed => Ok(()),
        }
    }

    /// A filter has answered the negotiation.
    fn negotiated(&mut self, index: usize, reply: Reply) -> Result<(), ChildError> {
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
        let agreed = self.mta.agreed.as_ref();
        if agreed.is_some_and(|agreed| wants_more(options, agreed, child.member.shadow)) {
            return Err(ChildError::WantsMore);
        }
        child.link = Link::Up(side);
        child.unknown_told = self.introduction.unknown_number;
        Ok(())
    }

    fn edit(&mut self, index: usize, edit: Edit) -> Result<(), ChildError> {
        let spacing = self.children[index].spacing(self.mta.has(Steps::LEADING_SPACE));
        let child = &mut self.children[index];
        let leftover = child.asked.is_some_and(|asked| asked.leftover);
        let (Some(part), false) = (&mut child.part, leftover) else {
            return Ok(());
        };
        match edit {
            Edit::ReplaceBody(piece) => {
                let (limits, kind) = (&self.shared.limits.spool, self.mta.kind);
                let body = part
                    .body
                    .get_or_insert_with(|| Replacement::new(Arc::clone(limits), kind));
                body.append(&piece).map_err(ChildError::Body)
            }
            edit => {
                let limit = self.shared.limits.header.bytes;
                part.edit_bytes += edits::weight(&edit);
                if part.edit_bytes > limit {
                    return Err(ChildError::Edits(limit));
                }
                part.edits.push(spacing.told(edit));
                Ok(())
            }
        }
    }

    /// A filter wants no more events of the kind that it was asked about.
    fn skip(&mut self, index: usize) {
        let Some(asked) = self.answered(index) else {
            return;
        };
        if let Some(part) = &mut self.children[index].part {
            part.skips_body |= matches!(asked.at, Position::Body(_));
        }
    }

    /// Notes that a filter has answered; `None` when the answer is about nothing any more.
    fn answered(&mut self, index: usize) -> Option<Asked> {
        let child = &mut self.children[index];
        let asked = child.asked.take()?;
        if asked.leftover {
            return None;
        }
        if let Some(part) = &mut child.part {
            part.busy += self.now.saturating_duration_since(asked.since);
        }
        Some(asked)
    }

    /// A filter has given its word.
    fn settle(&mut self, index: usize, verdict: Verdict) -> Result<(), ChildError> {
        let Some(asked) = self.answered(index) else {
            return Ok(());
        };
        let refuses = !matches!(verdict, Verdict::Continue | Verdict::Accept);
        let child = &mut self.children[index];
        match asked.at {
            Position::Connect | Position::Helo => {
                if refuses {
                    child.refusal = Some((asked.at, verdict));
                } else if verdict == Verdict::Accept {
                    child.accepted = true;
                    if let Some(part) = &mut child.part {
                        part.state = State::Done;
                    }
                    child.leave();
                }
                return Ok(());
            }
            Position::Unknown => {
                child.unknown_word = refuses.then_some(verdict);
                return Ok(());
            }
            _ => {}
        }
        let of_recipient = match asked.at {
            Position::Rcpt(number) => Some(number).filter(|_| verdict != Verdict::Discard),
            _ => None,
        };
        let in_question = self.pending.and_then(|pending| pending.at);
        let Some(part) = &mut child.part else {
            return Ok(());
        };
        match (verdict, of_recipient) {
            (Verdict::Continue | Verdict::Accept, _) if asked.at == Position::EndOfMessage => {
                let body = part.body.take().map(Replacement::finish).transpose();
                part.new_body = body.map_err(ChildError::Body)?;
                part.state = State::Finished;
            }
            (Verdict::Continue, _) => {}
            (Verdict::Accept, _) => part.state = State::Done,
            (verdict, Some(number)) => {
                if in_question != Some(asked.at) {
                    return Err(ChildError::Contradiction);
                }
                part.refused_rcpt = Some((number, verdict));
            }
            (verdict, None) => {
                part.edits.clear();
                part.state = State::Refused(verdict);
            }
        }
        Ok(())
    }

    /// A filter has failed: it is disconnected, and tried again or replaced by its policy.
    pub(super) fn fail(&mut self, index: usize, error: &ChildError) {
        let now = self.now;
        let leftover = self.children[index]
            .asked
            .is_some_and(|asked| asked.leftover);
        let between = !self.children[index].is_active();
        let child = &mut self.children[index];
        child.disconnect(Link::Failed);
        // So that nothing that was read with it is taken for something new.
        child.generation = child.generation.wrapping_add(1);
        let name = child.member.name.clone();
        if between && matches!(error, ChildError::Closed(_) | ChildError::Down) {
            // Nothing depends on it: filters may close a connection that has nothing to do.
            tracing::debug!(filter = %name, %error, "filter disconnected between messages");
            return;
        }
        if between {
            tracing::warn!(filter = %name, %error, "filter failed between messages");
            child.member.health.note_error(&error.to_string());
            return;
        }
        if leftover {
            child.dial(now + child.member.timeouts.connect);
            return;
        }
        let again = self.may_replay(index, error);
        let queue_id = report::queue_id(self.side.facts());
        let child = &mut self.children[index];
        let Some(part) = &mut child.part else {
            return;
        };
        part.error = Some(error.to_string());
        if again {
            tracing::warn!(filter = %name, %queue_id, %error, "filter failed, told all again");
            part.restart();
            child.member.health.count_replay(&error.to_string());
            child.dial(now + child.member.timeouts.connect);
            if let Some(message) = &mut self.message {
                message.replays += 1;
            }
            return;
        }
        let policy = child.member.on_failure;
        part.state = State::Failed(policy);
        tracing::warn!(filter = %name, %queue_id, %error, ?policy, "filter failed, policy applies");
    }

    /// Whether telling it everything again may help, and is still possible.
    fn may_replay(&self, index: usize, error: &ChildError) -> bool {
        let child = &self.children[index];
        let told_before = child.part.as_ref().is_some_and(|part| part.replayed);
        let complete = self
            .message
            .as_ref()
            .is_some_and(|message| !message.body_cut);
        error.is_worth_a_replay()
            && !told_before
            && !child.member.shadow
            && complete
            && child.member.health.may_try()
            && self.pending.is_none_or(|pending| self.now < pending.until)
            && self.shared.budget.take()
    }

    /// When something happens by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let pending = self.pending.iter().flat_map(|pending| {
            let shadow = pending.since + self.shared.limits.shadow;
            let shadow = pending
                .progress
                .is_some()
                .then_some(shadow)
                .filter(|shadow| *shadow > self.now);
            [Some(pending.until), pending.progress, shadow]
        });
        let children = self.children.iter().map(|child| match &child.link {
            Link::Dialling(until) | Link::Negotiating(_, until) => Some(*until),
            Link::Up(_) => child.asked.map(|asked| asked.until),
            Link::Idle | Link::Leaving | Link::Failed => None,
        });
        pending.chain(children).flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.now = now;
        for index in 0..self.children.len() {
            self.tick_child(index);
        }
        if let Some(pending) = &mut self.pending {
            if pending.progress.is_some_and(|due| due <= now) {
                pending.progress = Some(now + self.shared.limits.progress);
                self.outgoing.push(Reply::Progress);
            }
            if pending.until <= now {
                let pending = *pending;
                self.out_of_time(pending);
            }
        }
        self.advance()?;
        self.answer_overdue()
    }

    /// Whoever could have kept the MTA waiting has failed by now; should there be a question open
    /// all the same, nobody else will answer it.
    fn answer_overdue(&mut self) -> Result<(), ProtocolError> {
        match self.pending {
            Some(Pending {
                at: Some(at),
                until,
                ..
            }) if until <= self.now => {
                self.refuse_for_now("no answer in time");
                self.answer(at, Verdict::TempFail)?;
                self.drop_decided();
                self.advance()
            }
            _ => Ok(()),
        }
    }

    fn tick_child(&mut self, index: usize) {
        let now = self.now;
        let child = &self.children[index];
        let (until, after) = match (&child.link, child.asked) {
            (Link::Dialling(until) | Link::Negotiating(_, until), _) => {
                (*until, child.member.timeouts.connect)
            }
            (Link::Up(_), Some(asked)) => (asked.until, asked.allowed),
            _ => return,
        };
        if until <= now {
            let stage = child.stage();
            self.fail(index, &ChildError::Late { stage, after });
        }
    }

    /// The MTA must be answered now: whoever keeps it waiting has failed.
    fn out_of_time(&mut self, pending: Pending) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let late = match pending.at {
                None => matches!(child.link, Link::Dialling(_) | Link::Negotiating(..)),
                Some(Position::Connect | Position::Helo | Position::Unknown) => {
                    matches!(child.link, Link::Dialling(_) | Link::Negotiating(..))
                        || child.asked.is_some()
                }
                Some(Position::EndOfMessage) => child.is_active(),
                Some(_) => child.is_active() && !child.reached(pending.target),
            };
            if late && !child.member.shadow {
                self.fail(index, &ChildError::OutOfTime);
            }
        }
    }

    /// A command that cannot be encoded is not the filter's fault, but it cannot be told.
    pub(crate) fn untold(&mut self, index: usize, error: WireError, now: Instant) {
        self.now = now;
        let Some(child) = self.children.get(index) else {
            return;
        };
        let error = match child.side() {
            Some(side) => ChildError::Protocol(side.malformed(error)),
            None => ChildError::Surplus,
        };
        self.fail(index, &error);
    }

    /// Whether a filter is being said good-bye.
    pub(crate) fn is_leaving(&self, index: usize) -> bool {
        self.children
            .get(index)
            .is_some_and(|child| matches!(child.link, Link::Leaving))
    }
}

/// Whether a filter now wants events or edits that the MTA was not asked for.
fn wants_more(options: &Offer, agreed: &Offer, shadow: bool) -> bool {
    let actions = options.actions - agreed.actions - Actions::SET_MACRO_LIST;
    // Both of these can be made up for.
    let left_out = (agreed.steps & Steps::NO_ALL) - Steps::NO_DATA - Steps::NO_EOH;
    (!shadow && !actions.is_empty()) || !options.steps.contains(left_out)
}
