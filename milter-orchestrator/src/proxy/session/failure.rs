//! Filters that fail.
//!
//! A filter that fails is disconnected and the message in hand is told once more, from its
//! beginning, on a new connection; when that fails too, or cannot help, the filter's policy stands
//! for it. What was done by filters before it stays, and those after it are still asked. The next
//! message starts clean.

use std::time::Instant;

use milter_proto::session::MtaSide;
use milter_proto::wire::WireError;

use super::Session;
use crate::proxy::child::{ChildError, Link, Part, State};
use crate::proxy::report;

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
        let now = self.now;
        let leftover = self.children[index]
            .asked
            .is_some_and(|asked| asked.leftover);
        let between = !self.children[index].is_active();
        if self.start_over(index, error) {
            return;
        }
        let child = &mut self.children[index];
        if error.is_out_of_step() && child.member.health.lose_step() {
            let filter = &child.member.name;
            tracing::debug!(%filter, "filter out of step, told content piece by piece from now on");
        }
        child.disconnect(Link::Failed);
        // So that nothing that was read with it is taken for something new.
        child.generation = child.generation.wrapping_add(1);
        let name = child.member.name.clone();
        if between && matches!(error, ChildError::Closed(_) | ChildError::Down) {
            // Nothing depends on it: filters may close a connection that has nothing to do.
            tracing::debug!(filter = %name, %error, "filter disconnected between messages");
            return;
        }
        child.member.health.counters().failure(error.kind());
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
}
