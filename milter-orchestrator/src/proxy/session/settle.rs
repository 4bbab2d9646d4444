//! What a filter says, taken down at its place.
//!
//! Edits are kept with the filter's part until the last word; a word becomes its state. What it
//! means for the MTA is [`judge`](super::judge)'s. A reply that breaks the protocol, or exceeds a
//! limit, is the filter's failure and nobody else's.

use std::sync::Arc;
use std::time::Instant;

use milter_proto::edit::Edit;
use milter_proto::session::{Answer, MtaSide};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Reply, Steps};

use super::Session;
use crate::counters::Word;
use crate::proxy::child::{Asked, Behind, ChildError, Link, Replacement, State};
use crate::proxy::edits;
use crate::proxy::headers::MtaKind;
use crate::proxy::plan::{self, Position};
use crate::proxy::report;

impl Session {
    /// Takes everything that was read from a filter at once; `more` when an incomplete reply
    /// follows. With something behind the last answer that is owed, that answer itself cannot be
    /// trusted: it may be a late one to an earlier question.
    pub(crate) fn replies(&mut self, index: usize, replies: Vec<Reply>, more: bool, now: Instant) {
        self.now = now;
        let is_word = |reply: &Reply| !matches!(reply, Reply::Progress | Reply::Edit(_));
        let owed = match &self.children[index].link {
            Link::Negotiating(..) => 1,
            Link::Up(side) => side.answers_owed().max(1),
            // Said while it is being left, and not asked for.
            Link::Idle | Link::Dialling(_) | Link::Leaving | Link::Failed => {
                self.children[index].kept = None;
                return;
            }
        };
        let mut words = (0..replies.len()).filter(|at| is_word(&replies[*at]));
        let last = words.nth(owed - 1);
        if last.is_some_and(|last| last + 1 < replies.len() || more) {
            self.fail(index, &ChildError::Surplus);
            return;
        }
        for reply in replies {
            if let Err(error) = self.reply(index, reply) {
                self.fail(index, &error);
                return;
            }
            if self.replace_spent(index) {
                return;
            }
        }
        let child = &self.children[index];
        if more && child.side().is_some_and(|side| !side.answer_owed()) {
            self.fail(index, &ChildError::Surplus);
        }
    }

    pub(super) fn reply(&mut self, index: usize, reply: Reply) -> Result<(), ChildError> {
        let now = self.now;
        let fold = self.mta.kind.fold(self.is_strict());
        let child = &mut self.children[index];
        let side = match &mut child.link {
            Link::Negotiating(..) => return self.negotiated(index, reply),
            Link::Up(side) => side,
            Link::Idle | Link::Dialling(_) | Link::Leaving | Link::Failed => return Ok(()),
        };
        side.fold_with(fold);
        let discards = reply == Reply::Discard;
        let answer = side.receive(reply)?;
        if let Some(complaint) = side.take_complaint() {
            tracing::warn!(filter = %child.member.name, error = %complaint, "taken for a continue");
        }
        match (answer, &mut child.asked) {
            (Answer::Progress, Some(asked)) => {
                let total = asked.since + self.shared.limits.end_of_message;
                // The MTA's patience limits the others; what nobody waits for gets no more time.
                if child.member.shadow {
                    asked.until = (now + asked.allowed).min(total);
                } else if !asked.leftover {
                    asked.until = now + asked.allowed;
                }
            }
            (Answer::Progress, None) => {}
            (Answer::Edit(edit), _) => self.edit(index, edit)?,
            (Answer::Skip, _) => self.skip(index),
            (Answer::Verdict(verdict), asked) => {
                let at_connect = asked.is_some_and(|asked| asked.at == Position::Connect);
                self.settle(index, verdict)?;
                if discards && at_connect && self.is_strict() && self.mta.kind == MtaKind::Sendmail
                {
                    // Sendmail asks no filter at all about such a client.
                    self.children[index].refusal = Some((Position::Connect, Verdict::Accept));
                }
            }
        }
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
        let Some(asked) = self.answered(index, Word::Skip) else {
            return;
        };
        if let Some(part) = &mut self.children[index].part {
            part.skips_body |= matches!(asked.at, Position::Body(_));
        }
    }

    /// Notes that a filter has answered; `None` when the answer is about nothing any more.
    fn answered(&mut self, index: usize, word: Word) -> Option<Asked> {
        let child = &mut self.children[index];
        let asked = child.asked.take()?;
        let took = self.now.saturating_duration_since(asked.since);
        let counters = child.member.health.counters();
        counters.answer(asked.at.phase(), word, took);
        child.unproven = false;
        if let Some(at) = child.ahead.pop_front() {
            // A kept connection has shown by now that it works.
            let allowed = child.member.timeouts.command;
            let until = match asked.leftover {
                true => asked.until,
                false => self.now + allowed,
            };
            child.asked = Some(Asked {
                at,
                since: self.now,
                until,
                allowed,
                ..asked
            });
        }
        if asked.leftover {
            return None;
        }
        if let Some(part) = &mut child.part {
            part.busy += took;
        }
        Some(asked)
    }

    /// A filter has given its word.
    fn settle(&mut self, index: usize, verdict: Verdict) -> Result<(), ChildError> {
        if let Some(Behind { queue_id, decision }) = self.children[index].behind.take() {
            let name = &self.children[index].member.name;
            let counters = self.children[index].member.health.counters();
            counters.shadow(decision, &verdict);
            let word = report::verdict(&verdict);
            tracing::info!(filter = %name, %queue_id, %word, "shadow finished behind the message");
        }
        let Some(asked) = self.answered(index, Word::from(&verdict)) else {
            return Ok(());
        };
        if asked.at < Position::Mail {
            self.settle_client(index, asked.at, verdict);
            return Ok(());
        }
        let verdict = self.on_rejected(asked.at, verdict);
        let child = &mut self.children[index];
        let of_recipient = match asked.at {
            Position::Rcpt(number) => Some(number).filter(|_| verdict != Verdict::Discard),
            _ => None,
        };
        let in_question = self.pending.and_then(|pending| pending.at);
        // What is told ahead of an event, because the MTA left it out, has an answer of its own.
        let is_ahead = match verdict {
            Verdict::Continue => child.then.is_some(),
            _ => child.then.take().is_some(),
        };
        let at_end = asked.at == Position::EndOfMessage && !is_ahead;
        let Some(part) = &mut child.part else {
            return Ok(());
        };
        match (verdict, of_recipient) {
            (verdict @ (Verdict::Continue | Verdict::Accept), _) if at_end => {
                part.accepts = verdict == Verdict::Accept;
                let body = part.body.take().map(Replacement::finish).transpose();
                part.replaces_body = matches!(body, Ok(Some(_)));
                part.new_body = body.map_err(ChildError::Body)?;
                part.state = State::Finished;
                child.member.health.show_step();
            }
            (Verdict::Continue, _) => {}
            (Verdict::Accept, _) => part.state = State::Done,
            (verdict, Some(number)) if in_question == Some(asked.at) => {
                part.refused_rcpt = Some((number, verdict));
            }
            (_, Some(_)) if part.replayed => return Err(ChildError::Contradiction),
            // Told late, it refuses what the MTA has taken: nothing passes against its word.
            (verdict, Some(_)) => {
                part.edits.clear();
                part.state = State::Refused(plan::held(verdict));
            }
            (verdict, None) => {
                let held = asked.at < Position::Header(0) && in_question != Some(asked.at);
                let verdict = if held { plan::held(verdict) } else { verdict };
                part.edits.clear();
                part.state = State::Refused(verdict);
            }
        }
        if part.state != State::Active {
            part.suspicion.ends_turn(self.now);
        }
        Ok(())
    }

    /// Gives up a connection on which nothing more can be told; what else was read from it is
    /// about content that does not matter any more. `false` when it is of use.
    fn replace_spent(&mut self, index: usize) -> bool {
        let child = &mut self.children[index];
        if !child.side().is_some_and(MtaSide::is_spent) {
            return false;
        }
        match &child.part {
            // The next message has begun, and waits for it.
            Some(part) if part.state == State::Active => self.dial(index),
            _ => child.leave(),
        }
        true
    }

    /// What a word comes to about a recipient that the MTA itself has refused: it refuses nothing
    /// more, and nobody is asked for it. Postfix counts the filter that discards there as done.
    fn on_rejected(&self, at: Position, verdict: Verdict) -> Verdict {
        let Position::Rcpt(number) = at else {
            return verdict;
        };
        let recipients = self.message.as_ref().map(|message| &message.recipients);
        let recipient = recipients.and_then(|recipients| recipients.get(number));
        match verdict {
            Verdict::Continue | Verdict::Accept => verdict,
            _ if recipient.is_none_or(|recipient| !recipient.rejected) => verdict,
            Verdict::Discard if self.mta.kind == MtaKind::Postfix => Verdict::Accept,
            _ => Verdict::Continue,
        }
    }

    /// Its word on the client, the HELO name or an unknown command, which are of no message.
    fn settle_client(&mut self, index: usize, at: Position, verdict: Verdict) {
        let refuses = !matches!(verdict, Verdict::Continue | Verdict::Accept);
        let child = &mut self.children[index];
        if at == Position::Unknown {
            if let (Verdict::Accept, Some(part)) = (&verdict, &mut child.part) {
                part.state = State::Done;
            }
            child.unknown_word = refuses.then_some(verdict);
        } else if refuses {
            child.refusal = Some((at, verdict));
        } else if verdict == Verdict::Accept {
            child.accepted = true;
            if let Some(part) = &mut child.part {
                part.state = State::Done;
            }
            child.leave();
        }
    }
}
