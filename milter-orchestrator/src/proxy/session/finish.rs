//! The end of the message: one segment after the other, then the last word.
//!
//! When everybody in a segment has let the message pass, their edits are applied in order and the
//! next segment is told of the result. Only the last word makes anything of it count: with a
//! positive one the net difference goes to the MTA, with any other nothing does.

use milter_proto::edit::Edit;
use milter_proto::session::ProtocolError;
use milter_proto::verdict::Verdict;
use milter_proto::wire::options::Steps;

use super::lineup::{Lineup, Segment};
use super::{Pending, Session};
use crate::member::OnFailure;
use crate::proxy::child::State;
use crate::proxy::edits;
use crate::proxy::headers::{Looked, MtaKind, Snapshot};
use crate::proxy::message::{Decided, Message};
use crate::proxy::plan::{self, Decision, Position, Standing};

impl Session {
    /// The end of the message: one segment after the other.
    pub(super) fn judge_end(&mut self, pending: Pending) -> Result<bool, ProtocolError> {
        loop {
            let Some(message) = &self.message else {
                self.answer(Position::EndOfMessage, Verdict::TempFail)?;
                return Ok(true);
            };
            let number = message.segment;
            let segment = self
                .lineup
                .as_ref()
                .and_then(|lineup| lineup.segment(number).cloned())
                .unwrap_or_default();
            self.settle_turn(&segment);
            let standings: Vec<(usize, Standing)> = segment
                .members()
                .filter(|index| !self.children[*index].member.shadow)
                .map(|index| {
                    (
                        index,
                        self.standing(index, Position::EndOfMessage, Position::Finished),
                    )
                })
                .collect();
            match plan::decide(standings.iter().map(|(_, standing)| standing.clone())) {
                Decision::Wait => return Ok(false),
                Decision::Refuse { by, verdict } => {
                    let by = self.name_of(standings.get(by).map(|(index, _)| *index));
                    self.conclude(verdict, by)?;
                    return Ok(true);
                }
                Decision::Continue | Decision::Accept => {}
            }
            if self.waits_for_shadows(&segment, pending) {
                return Ok(false);
            }
            self.apply(&segment);
            if let Some(verdict) = self.decided_verdict() {
                self.answer(Position::EndOfMessage, verdict)?;
                self.drop_decided();
                return Ok(true);
            }
            if self.is_held_for_good() || !self.next_segment(number) {
                return self.pass().map(|()| true);
            }
            self.feed_all();
        }
    }

    /// Whether filters that only watch are still being told of the message, and have some time left
    /// for it. What they make of it nobody waits for, nor for one that is busy with an earlier
    /// message.
    fn waits_for_shadows(&self, segment: &Segment, pending: Pending) -> bool {
        let is_told = |index: usize| {
            let child = &self.children[index];
            let late = child.asked.is_some_and(|asked| asked.leftover);
            child.member.shadow
                && child.is_active()
                && child.refusal.is_none()
                && !late
                && child
                    .part
                    .as_ref()
                    .is_some_and(|part| part.position < Position::Finished)
        };
        self.now < pending.since + self.shared.limits.shadow && segment.members().any(is_told)
    }

    /// Whether the rest of a strict chain does not see the message: Postfix asks no other filter
    /// once one has put it into quarantine.
    fn is_held_for_good(&self) -> bool {
        let held = |message: &Message| !message.quarantine.is_empty();
        self.is_strict()
            && self.mta.kind == MtaKind::Postfix
            && self.message.as_ref().is_some_and(held)
    }

    /// Turns to the segment after `number`; `false` when there is none.
    fn next_segment(&mut self, number: usize) -> bool {
        let segments = self.lineup.as_ref().map_or(0, Lineup::len);
        let Some(message) = &mut self.message else {
            return false;
        };
        if number + 1 >= segments {
            return false;
        }
        message.begin_segment(number + 1);
        true
    }

    /// Applies the edits of a segment's filters in their order. Those of one group refer to the
    /// header before any of them; a group behind others, which did not look at what those changed,
    /// refers to the header after them, as it would in the MTA's own chain.
    fn apply(&mut self, segment: &Segment) {
        for (number, group) in segment.groups.iter().enumerate() {
            let Some(message) = &self.message else { return };
            let seen = if number == 0 {
                message.seen.clone()
            } else {
                message.headers.snapshot()
            };
            for index in group {
                if !self.apply_edits_of(*index, &seen) {
                    return;
                }
            }
        }
    }

    /// Applies the edits of one filter; `false` when the message had to be refused for them.
    fn apply_edits_of(&mut self, index: usize, seen: &Snapshot) -> bool {
        let child = &mut self.children[index];
        let looked = if child.has(Steps::NO_HEADERS) {
            Looked::Away
        } else {
            Looked::AtHeader
        };
        let (Some(part), Some(message)) = (&mut child.part, &mut self.message) else {
            return true;
        };
        if child.member.shadow || part.state != State::Finished {
            return true;
        }
        if let Err(error) = message.headers.apply(seen, looked, &part.edits) {
            let reason = format!("edits of {}: {error}", child.member.name);
            self.refuse_for_now(&reason);
            return false;
        }
        if let Some(body) = part.new_body.take() {
            message.body = body;
            message.body_replaced = true;
        }
        keep_envelope(message, &child.member.name, &part.edits);
        true
    }

    /// Everybody lets the message pass.
    fn pass(&mut self) -> Result<(), ProtocolError> {
        for index in self.order.iter() {
            let child = &self.children[*index];
            let Some(part) = &child.part else { continue };
            if part.state == State::Failed(OnFailure::Quarantine)
                && !child.member.shadow
                && let Some(message) = &mut self.message
            {
                let name = child.member.name.clone();
                let reason = format!("not checked, filter {name} failed");
                message.quarantine.push((name, reason.into()));
            }
        }
        self.conclude(Verdict::Continue, "every filter".to_owned())
    }

    /// The last word on the message, with all edits if it is a positive one.
    fn conclude(&mut self, verdict: Verdict, by: String) -> Result<(), ProtocolError> {
        self.decide(Decided {
            verdict: Some(verdict.clone()),
            by,
        });
        let positive = matches!(verdict, Verdict::Continue | Verdict::Accept);
        let Some(message) = self.message.take().filter(|_| positive) else {
            return self.answer(Position::EndOfMessage, verdict);
        };
        let mut edits = message.headers.difference();
        let in_header = edits.len();
        edits.extend(message.envelope);
        let reason = edits::one_reason(&message.quarantine, self.is_strict());
        edits.extend(reason.map(|reason| Edit::Quarantine { reason }));
        self.side.fold_with(self.mta.kind.fold(self.is_strict()));
        let replies = match self.answer_quietly(Position::EndOfMessage, verdict, edits) {
            Ok(replies) => replies,
            Err(error) => {
                tracing::error!(%error, "edits cannot be sent, the message is refused for now");
                return self.answer(Position::EndOfMessage, Verdict::TempFail);
            }
        };
        let mut replies = replies.into_iter();
        for reply in replies.by_ref().take(in_header) {
            self.outgoing.push(reply);
        }
        if message.body_replaced {
            self.outgoing.push_body(message.body);
        }
        for reply in replies {
            self.outgoing.push(reply);
        }
        Ok(())
    }
}

/// Takes over edits of the envelope and reasons for quarantine.
fn keep_envelope(message: &mut Message, name: &str, edits: &[Edit]) {
    for edit in edits {
        match edit {
            Edit::Quarantine { reason } => {
                message.quarantine.push((name.to_owned(), reason.clone()));
            }
            Edit::AddRecipient { .. } | Edit::DeleteRecipient { .. } => {
                message.envelope.push(edit.clone());
            }
            Edit::ChangeSender { .. } => {
                // The last one counts, where it stands; parameters that came with one before stay.
                let of_use = |other: &Edit| match other {
                    Edit::ChangeSender { args, .. } => !args.is_empty(),
                    _ => true,
                };
                message.envelope.retain(of_use);
                message.envelope.push(edit.clone());
            }
            Edit::AddHeader { .. }
            | Edit::InsertHeader { .. }
            | Edit::ChangeHeader { .. }
            | Edit::ReplaceBody(_) => {}
        }
    }
}
