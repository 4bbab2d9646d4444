//! Filters that fail.
//!
//! A filter that fails is disconnected and the message in hand is told once more, from its
//! beginning, on a new connection; when that fails too, or cannot help, the filter's policy stands
//! for it. What was done by filters before it stays, and those after it are still asked. The next
//! message starts clean.
//!
//! A crash hits every message that the filter had in hand. They are told again one after the other,
//! and only the one whose turn it is counts as its cause; after the second time it is poison and
//! known again when it comes back ([`Suspicion`](suspicion::Suspicion)).

use std::time::{Duration, Instant};

use milter_proto::session::MtaSide;
use milter_proto::wire::WireError;

use super::{Pending, Session};
use crate::counters::Crash;
use crate::proxy::child::{ChildError, Link, Part, State};
use crate::proxy::plan::Position;
use crate::proxy::{report, suspicion};

/// What a filter was doing when it failed.
#[derive(Debug, Clone, Copy)]
enum Lapse {
    /// It has lost a connection on which nothing was in hand.
    Idle,
    /// It has lost one in the middle of something.
    Crash,
    /// It did something else.
    Other,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    /// A new connection, which takes nothing from the second try.
    Redial,
    /// Everything is told again.
    Replay,
    /// Its policy stands for it.
    Policy,
}

impl Session {
    /// A filter's connection is gone, or cannot be had.
    pub(crate) fn lost(&mut self, index: usize, error: &ChildError, now: Instant) {
        self.now = now;
        if self.children.get(index).is_some() {
            self.fail(index, error);
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

    /// The last words to a filter are written. The conversation, when its connection may be kept
    /// for another client.
    pub(crate) fn left(&mut self, index: usize) -> Option<MtaSide> {
        let child = self.children.get_mut(index)?;
        if !matches!(child.link, Link::Leaving) {
            return None;
        }
        let kept = child.kept.take();
        child.disconnect(Link::Idle);
        kept
    }

    /// Whether a filter is being said good-bye.
    pub(crate) fn is_leaving(&self, index: usize) -> bool {
        self.children
            .get(index)
            .is_some_and(|child| matches!(child.link, Link::Leaving))
    }

    /// A filter has failed: it is disconnected, and tried again or replaced by its policy.
    pub(super) fn fail(&mut self, index: usize, error: &ChildError) {
        self.note_failure(index, error);
        let leftover = self.children[index]
            .asked
            .is_some_and(|asked| asked.leftover);
        if self.start_over(index, error) {
            return;
        }
        let lapse = self.lapse(index, error);
        let child = &mut self.children[index];
        if error.is_out_of_step() && child.member.health.lose_step() {
            let filter = &child.member.name;
            tracing::debug!(%filter, "filter out of step, told content piece by piece from now on");
        }
        child.disconnect(Link::Failed);
        // So that nothing that was read with it is taken for something new.
        child.generation = child.generation.wrapping_add(1);
        if !child.is_active() {
            self.failed_between(index, lapse, error);
            return;
        }
        child.member.health.counters().failure(error.kind());
        if leftover {
            child.dial(self.now + child.member.timeouts.connect);
            return;
        }
        let remedy = self.remedy(index, lapse, error);
        let queue_id = report::queue_id(self.side.facts());
        let child = &mut self.children[index];
        let Some(part) = &mut child.part else {
            return;
        };
        part.error = Some(error.to_string());
        let filter = &child.member.name;
        match remedy {
            Remedy::Redial => {
                tracing::debug!(%filter, %queue_id, %error, "filter connected anew");
                part.restart();
                child.dial(self.now + child.member.timeouts.connect);
            }
            Remedy::Replay => {
                tracing::warn!(%filter, %queue_id, %error, "filter failed, told all again");
                part.restart();
                part.replayed = true;
                child.member.health.count_replay(&error.to_string());
                child.dial(self.now + child.member.timeouts.connect);
                if let Some(message) = &mut self.message {
                    message.replays += 1;
                }
            }
            Remedy::Policy => {
                let policy = child.member.on_failure;
                part.state = State::Failed(policy);
                part.suspicion.ends_turn(self.now);
                tracing::warn!(%filter, %queue_id, %error, ?policy, "filter failed, policy holds");
            }
        }
    }

    /// A filter has failed with no message in hand. Filters may close a connection that has nothing
    /// to do.
    fn failed_between(&mut self, index: usize, lapse: Lapse, error: &ChildError) {
        let child = &mut self.children[index];
        let (filter, health) = (&child.member.name, &child.member.health);
        if matches!(error, ChildError::Down) || matches!(lapse, Lapse::Idle) {
            tracing::debug!(%filter, %error, "filter disconnected between messages");
            return;
        }
        child.crashed_on_client |= matches!(lapse, Lapse::Crash);
        health.counters().failure(error.kind());
        tracing::warn!(%filter, %error, "filter failed between messages");
        health.note_error(&error.to_string());
    }

    /// What a filter was doing when it failed.
    fn lapse(&self, index: usize, error: &ChildError) -> Lapse {
        let child = &self.children[index];
        let Link::Up(side) = &child.link else {
            return if error.is_loss() || self.was_dialled_before(index, error) {
                Lapse::Idle
            } else {
                Lapse::Other
            };
        };
        if !error.is_loss() {
            return Lapse::Other;
        }
        let owes = child.asked.is_some() || side.answer_owed();
        let told = match &child.part {
            Some(part) if part.state == State::Active => {
                let rests = part.suspicion.holds && part.position >= Position::Data;
                part.position > Position::Mail && !(rests && self.holds_content(index))
            }
            _ => false,
        };
        if owes || told {
            Lapse::Crash
        } else {
            Lapse::Idle
        }
    }

    /// Whether a connection that never came about was begun for an earlier message: this one has
    /// not had a try.
    fn was_dialled_before(&self, index: usize, error: &ChildError) -> bool {
        let child = &self.children[index];
        let (Link::Dialling(until) | Link::Negotiating(_, until)) = &child.link else {
            return false;
        };
        let came = |began: Instant| *until < began + child.member.timeouts.connect;
        let of_dial = matches!(
            error,
            ChildError::Late { .. } | ChildError::Protocol(_) | ChildError::Surplus
        );
        of_dial
            && self
                .message
                .as_ref()
                .is_some_and(|message| came(message.began))
    }

    /// What is to be done about a filter that failed with a message in hand.
    fn remedy(&mut self, index: usize, lapse: Lapse, error: &ChildError) -> Remedy {
        let now = self.now;
        if !self.may_be_told_again(index, error) {
            return Remedy::Policy;
        }
        let child = &mut self.children[index];
        let Some(part) = &mut child.part else {
            return Remedy::Policy;
        };
        let health = &child.member.health;
        let isolation = health.isolation();
        match lapse {
            Lapse::Idle if part.suspicion.redials() => return Remedy::Redial,
            Lapse::Idle => return Remedy::Policy,
            Lapse::Other if !error.is_worth_a_replay() || part.replayed => return Remedy::Policy,
            Lapse::Other => {}
            Lapse::Crash => {
                let suspicion = &mut part.suspicion;
                if suspicion.is_excused(isolation, child.up_since.unwrap_or(now), now) {
                    health.counters().crash(Crash::Excused);
                } else {
                    let again = suspicion.crashed;
                    suspicion.blame(isolation, now);
                    if again {
                        self.note_poison(index);
                        return Remedy::Policy;
                    }
                    if part.replayed && suspicion.excuses() == 0 {
                        return Remedy::Policy;
                    }
                }
                let in_content = part.position > Position::Header(0);
                part.suspicion.begin(isolation, in_content);
            }
        }
        if isolation.take_replay() {
            return Remedy::Replay;
        }
        health.counters().crash(Crash::Unbudgeted);
        Remedy::Policy
    }

    /// A filter has crashed twice on this message. It is remembered where there was content, by
    /// which it can be known again.
    fn note_poison(&mut self, index: usize) {
        let (child, Some(message)) = (&self.children[index], &self.message) else {
            return;
        };
        let health = &child.member.health;
        health.counters().crash(Crash::Poison);
        let position = child.part.as_ref().map(|part| part.position);
        if message.end.is_none() || position.is_none_or(|position| position <= Position::Header(0))
        {
            return;
        }
        // What cannot be read back is refused elsewhere.
        if let Ok(poison) = suspicion::poison_of(health.isolation(), message) {
            health.isolation().remember(poison, self.now);
        }
    }

    /// Whether content is kept back from a filter until all of it is there.
    pub(super) fn holds_content(&self, index: usize) -> bool {
        let part = self.children[index].part.as_ref();
        part.is_some_and(|part| part.suspicion.holds)
            && self
                .message
                .as_ref()
                .is_some_and(|message| message.end.is_none())
    }

    /// Whether a filter may be told of the message now: one that has crashed on it is told when no
    /// other message is under suspicion at the same time.
    pub(super) fn takes_turn(&mut self, index: usize) -> bool {
        let now = self.now;
        let child = &mut self.children[index];
        match &mut child.part {
            Some(part) if part.state == State::Active => {
                part.suspicion.takes_turn(&child.member, now)
            }
            _ => true,
        }
    }

    /// Whether the message has crashed the filter twice before; it is not told of the content then.
    pub(super) fn spares(&mut self, index: usize) -> bool {
        let (child, Some(message)) = (&self.children[index], &self.message) else {
            return false;
        };
        let isolation = child.member.health.isolation();
        let is_known = suspicion::poison_of(isolation, message)
            .is_ok_and(|poison| isolation.remembers(self.now, |known| *known == poison));
        if is_known {
            child.member.health.counters().crash(Crash::Spared);
            self.fail(index, &ChildError::Poison);
        }
        is_known
    }

    /// A kept connection that has not shown yet that it works says nothing about the filter: a new
    /// one takes its place, if there is time for that.
    fn start_over(&mut self, index: usize, error: &ChildError) -> bool {
        let until = self.now + self.children[index].member.timeouts.connect;
        let child = &mut self.children[index];
        let is_late = matches!(error, ChildError::OutOfTime);
        if !child.unproven || is_late || !matches!(child.link, Link::Up(_)) {
            return false;
        }
        tracing::debug!(filter = %child.member.name, %error, "kept connection is of no use");
        if let Some(part) = &mut child.part
            && part.state == State::Active
        {
            *part = Part::new();
        }
        child.dial(until);
        true
    }

    /// Whether telling it everything again is still possible. One that has hung at the end of the
    /// message may do so again, which must leave some time to the others.
    fn may_be_told_again(&self, index: usize, error: &ChildError) -> bool {
        let member = &self.children[index].member;
        let at_end = |pending: Pending| pending.at == Some(Position::EndOfMessage);
        let late_again = match error {
            ChildError::Late { after, .. } if self.pending.is_some_and(at_end) => *after * 3 / 2,
            _ => Duration::ZERO,
        };
        let complete = self
            .message
            .as_ref()
            .is_some_and(|message| !message.body_cut);
        !member.shadow
            && complete
            && member.health.may_try()
            && self
                .pending
                .is_none_or(|pending| self.now + late_again < pending.until)
    }
}
