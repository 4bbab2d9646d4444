//! Whether the MTA can be answered, and what.
//!
//! How each filter stands is read off its position and state; who decides by that is [`plan`]'s.
//! The end of the message has rules of its own: [`finish`](super::finish).

use milter_proto::session::ProtocolError;
use milter_proto::verdict::{BodyVerdict, Verdict};
use milter_proto::wire::{Actions, Steps};

use super::Session;
use crate::member::OnFailure;
use crate::proxy::child::{Child, Link, State};
use crate::proxy::message::Decided;
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
        if self.refuse_unrouted_recipient(at)? {
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
            // Somebody may want to hear of it who is not asked yet.
            Decision::Accept if self.is_open() => self.answer(at, Verdict::Continue)?,
            // With TLS the client gives another name later, which may lead elsewhere.
            Decision::Accept if at == Position::Helo && self.asks_for_helo() => {
                self.answer(at, Verdict::Continue)?;
            }
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

    /// Whether a route, or a filter's own condition, asks for the HELO name.
    fn asks_for_helo(&self) -> bool {
        let wants = self.shared.wants.as_ref();
        wants.is_some_and(|wants| !wants.steps.contains(Steps::NO_HELO))
    }

    fn log_client_refused(&self, by: Option<usize>, at: Position, verdict: &Verdict) {
        let by = by.map_or("-", |index| &*self.children[index].member.name);
        let what = match verdict {
            Verdict::Accept => "client goes unfiltered",
            _ => "client refused",
        };
        tracing::info!(
            listen = %self.shared.listen,
            client = %report::client(self.side.facts()),
            stage = ?at,
            decision = %report::verdict(verdict),
            by,
            "{what}"
        );
    }

    /// Filters whose word counts, in the chain's order.
    pub(super) fn deciding(&self) -> impl Iterator<Item = usize> {
        self.order
            .iter()
            .copied()
            .filter(|index| !self.children[*index].member.shadow)
    }

    pub(super) fn standing_of_client(&self, index: usize, at: Position) -> Standing {
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
        let words = standings.iter().map(|(_, standing)| standing.clone());
        let decision = if at < Position::Header(0) {
            plan::decide(words)
        } else {
            plan::decide_on_content(words)
        };
        match decision {
            Decision::Wait if !self.answers_ahead(at) => return Ok(false),
            Decision::Wait => self.answer(at, Verdict::Continue)?,
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
            Decision::Accept if self.is_open() => self.answer(at, Verdict::Continue)?,
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
    pub(super) fn standing(&self, index: usize, at: Position, target: Position) -> Standing {
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
                    // It is told at the end of the message.
                    _ if at >= Position::Header(0) && self.holds_content(index) => Standing::Passed,
                    _ => Standing::Waiting,
                }
            }
        }
    }

    /// Whether a message passes though a filter with that policy has failed.
    pub(super) fn excuses(&self, policy: OnFailure) -> bool {
        plan::failed(policy, self.mta.allows(Actions::QUARANTINE)) == Standing::Passed
    }

    /// Whether a filter is asked at all: the envelope concerns everybody, content the segment whose
    /// turn it is.
    pub(super) fn has_turn(&self, index: usize, target: Position) -> bool {
        if target <= Position::Header(0) {
            return true;
        }
        let (Some(message), Some(lineup)) = (&self.message, &self.lineup) else {
            return false;
        };
        lineup
            .segment(message.segment)
            .is_some_and(|segment| segment.contains(index))
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

    /// Whether the MTA need not wait for what filters say to a piece of the content: it takes
    /// nothing back, and what they say counts at its next question. Except where everybody may
    /// want no more of the body, or somebody takes it too slowly.
    fn answers_ahead(&self, at: Position) -> bool {
        let wants_all = |index: &usize| {
            let child = &self.children[*index];
            child.is_active() && child.takes_content_at_once() && !child.has(Steps::NO_BODY)
        };
        !self.is_strict()
            && match at {
                Position::Header(_) | Position::EndOfHeaders => true,
                Position::Body(_) if self.lag() > self.shared.limits.lag => false,
                Position::Body(_) => !self.mta.has(Steps::SKIP) || self.order.iter().any(wants_all),
                _ => false,
            }
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
                || part.is_none_or(|part| part.skips_body || part.state != State::Active)
        };
        !self.is_open() && !self.order.is_empty() && self.order.iter().all(skips)
    }

    pub(super) fn name_of(&self, index: Option<usize>) -> String {
        index.map_or_else(String::new, |index| {
            self.children[index].member.name.clone()
        })
    }
}
