//! Whether the MTA can be answered, and what.
//!
//! How each filter stands is read off its position and state; who decides by that is
//! [`plan`]'s. At the end of the message the segments follow one another: when
//! everybody in one has let the message pass, their edits are applied in order and the next one is
//! told of the result. Only the last word makes anything of it count: with a positive one the net
//! difference goes to the MTA, with any other nothing does.

use std::sync::Arc;

use milter_proto::edit::Edit;
use milter_proto::session::ProtocolError;
use milter_proto::verdict::{BodyVerdict, Verdict};
use milter_proto::wire::{Actions, Steps};

use super::{Pending, Session};
use crate::member::OnFailure;
use crate::proxy::child::{Child, Link, State};
use crate::proxy::edits;
use crate::proxy::message::{Decided, Message};
use crate::proxy::plan::{self, Decision, Position, Standing};
use crate::proxy::report;

impl Session {
    /// Answers the pending question if that is possible; `false` when somebody must be waited for.
    pub(super) fn judge(&mut self) -> Result<bool, ProtocolError> {
        let Some(pending) = self.pending else {
            return Ok(false);
        };
        let Some(at) = pending.at else {
            return self.judge_negotiation();
        };
        if let Some(verdict) = self.decided_verdict()
            && at > Position::Unknown
        {
            self.answer(at, verdict)?;
            self.drop_decided();
            return Ok(true);
        }
        match at {
            Position::Connect | Position::Helo | Position::Unknown => self.judge_client(at),
            Position::EndOfMessage => self.judge_end(pending),
            Position::Mail
            | Position::Rcpt(_)
            | Position::Data
            | Position::Header(_)
            | Position::EndOfHeaders
            | Position::Body(_)
            | Position::Finished => self.judge_message(at, pending.target),
        }
    }

    fn judge_negotiation(&mut self) -> Result<bool, ProtocolError> {
        let waits = |child: &Child| matches!(child.link, Link::Dialling(_) | Link::Negotiating(..));
        if self.children.iter().any(waits) {
            return Ok(false);
        }
        self.agree()?;
        Ok(true)
    }

    /// CONNECT, HELO and unknown commands, which are about no message.
    fn judge_client(&mut self, at: Position) -> Result<bool, ProtocolError> {
        let standings: Vec<(usize, Standing)> = self
            .deciding()
            .map(|index| (index, self.standing_of_client(index, at)))
            .collect();
        let decision = plan::decide(standings.iter().map(|(_, standing)| standing.clone()));
        match decision {
            Decision::Wait => return Ok(false),
            Decision::Continue => self.answer(at, Verdict::Continue)?,
            // An unknown command cannot be accepted.
            Decision::Accept if at == Position::Unknown => self.answer(at, Verdict::Continue)?,
            Decision::Accept => self.answer(at, Verdict::Accept)?,
            Decision::Refuse { by, verdict } => {
                self.log_client_refused(standings.get(by).map(|(index, _)| *index), at, &verdict);
                self.answer(at, verdict)?;
                if at == Position::Connect {
                    self.children.iter_mut().for_each(Child::leave);
                }
            }
        }
        Ok(true)
    }

    fn log_client_refused(&self, by: Option<usize>, at: Position, verdict: &Verdict) {
        let by = by.map_or("-", |index| &*self.children[index].member.name);
        tracing::info!(
            listen = %self.shared.listen,
            client = %report::client(self.side.facts()),
            stage = ?at,
            decision = %report::verdict(verdict),
            by,
            "client refused"
        );
    }

    /// Filters whose word counts, in the chain's order.
    fn deciding(&self) -> impl Iterator<Item = usize> {
        self.order
            .iter()
            .copied()
            .filter(|index| !self.children[*index].member.shadow)
    }

    fn standing_of_client(&self, index: usize, at: Position) -> Standing {
        let child = &self.children[index];
        if child.accepted {
            return Standing::Done;
        }
        let told = match child.link {
            Link::Up(_) => match at {
                Position::Connect => child.connect_told,
                Position::Helo => child.helo_told == self.introduction.helo_number,
                _ => child.unknown_told == self.introduction.unknown_number,
            },
            Link::Dialling(_) | Link::Negotiating(..) => false,
            // One that failed is tried again when there is a message.
            Link::Idle | Link::Leaving | Link::Failed => return Standing::Passed,
        };
        let word = match at {
            Position::Unknown => child.unknown_word.as_ref(),
            _ => child.refusal.as_ref().map(|(_, verdict)| verdict),
        };
        if let Some(verdict) = word {
            return Standing::Refused(verdict.clone());
        }
        if child.refusal.is_some() || (told && child.asked.is_none() && child.then.is_none()) {
            Standing::Passed
        } else {
            Standing::Waiting
        }
    }

    /// Everything from MAIL to the body.
    fn judge_message(&mut self, at: Position, target: Position) -> Result<bool, ProtocolError> {
        let standings: Vec<(usize, Standing)> = self
            .deciding()
            .map(|index| (index, self.standing(index, at, target)))
            .collect();
        match plan::decide(standings.iter().map(|(_, standing)| standing.clone())) {
            Decision::Wait => return Ok(false),
            Decision::Continue if self.can_skip(at) => {
                if let Some(message) = &mut self.message {
                    message.body_cut = true;
                }
                self.pending = None;
                if let Some(reply) = self.side.body(BodyVerdict::Skip)? {
                    self.outgoing.push(reply);
                }
            }
            Decision::Continue => self.answer(at, Verdict::Continue)?,
            Decision::Accept => {
                self.decide(Decided {
                    verdict: Some(Verdict::Accept),
                    by: "every filter".to_owned(),
                });
                self.answer(at, Verdict::Accept)?;
                self.drop_decided();
            }
            Decision::Refuse { by, verdict } => {
                let index = standings.get(by).map(|(index, _)| *index);
                if let Some(index) = index
                    && self.refuses_recipient(index, at)
                {
                    self.answer(at, verdict)?;
                } else {
                    let by = self.name_of(index);
                    self.decide(Decided {
                        verdict: Some(verdict.clone()),
                        by,
                    });
                    self.answer(at, verdict)?;
                    self.drop_decided();
                }
            }
        }
        Ok(true)
    }

    /// How a filter stands to what the MTA asked.
    fn standing(&self, index: usize, at: Position, target: Position) -> Standing {
        let child = &self.children[index];
        let Some(part) = &child.part else {
            return Standing::Passed;
        };
        match &part.state {
            State::Done => Standing::Done,
            State::Finished => Standing::Passed,
            State::Failed(policy) => plan::failed(*policy, self.mta.allows(Actions::QUARANTINE)),
            State::Refused(_) | State::Active if !self.has_turn(index, target) => Standing::Passed,
            State::Refused(verdict) => Standing::Refused(verdict.clone()),
            State::Active => {
                if let Some((_, verdict)) = &child.refusal {
                    return Standing::Refused(verdict.clone());
                }
                match &part.refused_rcpt {
                    Some((number, verdict)) if at == Position::Rcpt(*number) => {
                        Standing::Refused(verdict.clone())
                    }
                    _ if child.reached(target) => Standing::Passed,
                    _ => Standing::Waiting,
                }
            }
        }
    }

    /// Whether a filter is asked at all: the envelope concerns everybody, content the segment whose
    /// turn it is.
    fn has_turn(&self, index: usize, target: Position) -> bool {
        if target <= Position::Header(0) {
            return true;
        }
        let (Some(message), Some(lineup)) = (&self.message, &self.lineup) else {
            return false;
        };
        lineup
            .segments
            .get(message.segment)
            .is_some_and(|segment| segment.contains(&index))
    }

    /// Whether the word of a filter is about the recipient in question alone, which is struck off.
    fn refuses_recipient(&mut self, index: usize, at: Position) -> bool {
        let Position::Rcpt(number) = at else {
            return false;
        };
        let Some(part) = &mut self.children[index].part else {
            return false;
        };
        let own = part.refused_rcpt.take_if(|(refused, _)| *refused == number);
        if own.is_none() {
            return false;
        }
        let recipient = self
            .message
            .as_mut()
            .and_then(|message| message.recipients.get_mut(number));
        if let Some(recipient) = recipient {
            recipient.refused = true;
        }
        true
    }

    /// Whether nobody needs what is left of the body, in this segment or a later one.
    fn can_skip(&self, at: Position) -> bool {
        if !matches!(at, Position::Body(_)) || !self.mta.has(Steps::SKIP) {
            return false;
        }
        let skips = |index: &usize| {
            let child = &self.children[*index];
            let part = child.part.as_ref();
            child.has(Steps::NO_BODY)
                || part.is_none_or(|part| part.skips_body || part.state == State::Done)
        };
        !self.order.is_empty() && self.order.iter().all(skips)
    }

    /// The end of the message: one segment after the other.
    fn judge_end(&mut self, pending: Pending) -> Result<bool, ProtocolError> {
        loop {
            let Some(message) = &self.message else {
                self.answer(Position::EndOfMessage, Verdict::TempFail)?;
                return Ok(true);
            };
            let number = message.segment;
            let segment = self
                .lineup
                .as_ref()
                .and_then(|lineup| lineup.segments.get(number).cloned())
                .unwrap_or_default();
            let standings: Vec<(usize, Standing)> = segment
                .iter()
                .filter(|index| !self.children[**index].member.shadow)
                .map(|index| {
                    (
                        *index,
                        self.standing(*index, Position::EndOfMessage, Position::Finished),
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
            if !self.next_segment(number) {
                return self.pass().map(|()| true);
            }
            self.feed_all();
        }
    }

    /// Whether filters that only watch have some time left.
    fn waits_for_shadows(&self, segment: &[usize], pending: Pending) -> bool {
        self.now < pending.since + self.shared.limits.shadow
            && segment.iter().any(|index| {
                let child = &self.children[*index];
                child.member.shadow && child.is_active() && child.refusal.is_none()
            })
    }

    /// Turns to the segment after `number`; `false` when there is none.
    fn next_segment(&mut self, number: usize) -> bool {
        let segments = self
            .lineup
            .as_ref()
            .map_or(0, |lineup| lineup.segments.len());
        let Some(message) = &mut self.message else {
            return false;
        };
        if number + 1 >= segments {
            return false;
        }
        message.begin_segment(number + 1);
        true
    }

    /// Applies the edits of a segment's filters in their order.
    fn apply(&mut self, segment: &[usize]) {
        for index in segment {
            let child = &mut self.children[*index];
            if child.member.shadow {
                continue;
            }
            let Some(part) = &mut child.part else {
                continue;
            };
            let (State::Finished, Some(message)) = (&part.state, &mut self.message) else {
                continue;
            };
            let seen = message.seen.clone();
            if let Err(error) = message.headers.apply(&seen, &part.edits) {
                let reason = format!("edits of {}: {error}", child.member.name);
                self.refuse_for_now(&reason);
                return;
            }
            if let Some(body) = part.new_body.take() {
                message.body = body;
                message.body_replaced = true;
            }
            keep_envelope(message, &child.member.name, &part.edits);
        }
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
                let reason = bytes::Bytes::from_static(b"not checked, the filter failed");
                message.quarantine.push((child.member.name.clone(), reason));
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
        if !message.quarantine.is_empty() {
            let reasons = message.quarantine.iter();
            let reason = edits::join_reasons(reasons.map(|(name, why)| (name.as_str(), &why[..])));
            edits.push(Edit::Quarantine { reason });
        }
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

    /// Refuses the message for a reason of ours; the MTA hears it at the next question.
    pub(super) fn refuse_for_now(&mut self, reason: &str) {
        tracing::error!(
            listen = %self.shared.listen,
            queue_id = %report::queue_id(self.side.facts()),
            error = %reason,
            "the message is refused for now"
        );
        self.decide(Decided {
            verdict: Some(Verdict::TempFail),
            by: reason.to_owned(),
        });
    }

    /// Ends everybody's part: nothing they say any more makes a difference.
    pub(super) fn decide(&mut self, decided: Decided) {
        let Some(message) = &mut self.message else {
            return;
        };
        if message.decided.is_some() {
            return;
        }
        message.decided = Some(decided);
        self.report();
        self.end_parts();
    }

    /// The word on the message in hand, when there is one.
    pub(super) fn decided_verdict(&self) -> Option<Verdict> {
        self.message.as_ref()?.decided.as_ref()?.verdict.clone()
    }

    /// Forgets a decided message once the MTA regards it as over.
    pub(super) fn drop_decided(&mut self) {
        let decided = matches!(&self.message, Some(message) if message.decided.is_some());
        if decided && !self.side.stage().in_message() {
            self.message = None;
        }
    }

    /// The message in hand is over without having been decided.
    pub(super) fn end_message(&mut self, why: &str) {
        self.decide(Decided {
            verdict: None,
            by: why.to_owned(),
        });
        self.message = None;
    }

    fn report(&mut self) {
        let Some(message) = &self.message else {
            return;
        };
        let parts: Vec<report::Part<'_>> = self
            .order
            .iter()
            .filter_map(|index| {
                let child = &self.children[*index];
                child.part.as_ref().map(|part| report::Part {
                    member: &child.member,
                    part,
                })
            })
            .collect();
        let chain = self
            .lineup
            .as_ref()
            .map_or("-", |lineup| &*lineup.chain.name);
        report::Line::new(message, &self.side).log(&self.shared.listen, chain, &parts, self.now);
    }

    /// Aborts what is under way at the filters. Answers that are still owed are dropped when they
    /// come, if they come soon.
    fn end_parts(&mut self) {
        let drain = self.now + self.shared.limits.drain;
        for index in Arc::clone(&self.order).iter().copied() {
            let child = &mut self.children[index];
            if child.part.take().is_none() {
                continue;
            }
            child.then = None;
            child.must_abort = child.stage().in_message();
            if let Some(asked) = &mut child.asked
                && asked.at >= Position::Mail
            {
                asked.leftover = true;
                if !child.member.shadow {
                    asked.until = asked.until.min(drain);
                }
            }
        }
    }

    fn name_of(&self, index: Option<usize>) -> String {
        index.map_or_else(String::new, |index| {
            self.children[index].member.name.clone()
        })
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
                // The last one counts, where it stands.
                let is_other = |other: &Edit| !matches!(other, Edit::ChangeSender { .. });
                message.envelope.retain(is_other);
                message.envelope.push(edit.clone());
            }
            Edit::AddHeader { .. }
            | Edit::InsertHeader { .. }
            | Edit::ChangeHeader { .. }
            | Edit::ReplaceBody(_) => {}
        }
    }
}
