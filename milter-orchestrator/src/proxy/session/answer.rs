//! The word to the MTA, and what ends with it.
//!
//! A message is decided once: everybody's part ends, those who are in the middle of it are told
//! ABORT, and one line is logged. What a filter still says about it is dropped.

use std::time::{Duration, Instant};

use milter_proto::edit::Edit;
use milter_proto::session::ProtocolError;
use milter_proto::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use milter_proto::wire::Reply;

use super::{Pending, Session, Settled};
use crate::counters::Decision;
use crate::proxy::child::{Behind, Child, ChildError};
use crate::proxy::message::Decided;
use crate::proxy::plan::Position;
use crate::proxy::report;

impl Session {
    pub(super) fn answer(&mut self, at: Position, verdict: Verdict) -> Result<(), ProtocolError> {
        let replies = self.answer_quietly(at, verdict, Vec::new())?;
        for reply in replies {
            self.outgoing.push(reply);
        }
        Ok(())
    }

    /// Answers the MTA's question; what is to be written is returned.
    pub(super) fn answer_quietly(
        &mut self,
        at: Position,
        verdict: Verdict,
        edits: Vec<Edit>,
    ) -> Result<Vec<Reply>, ProtocolError> {
        if let (Some(pending), Some(message)) = (self.pending.take(), &mut self.message) {
            message.waited += self.now.saturating_duration_since(pending.since);
        }
        match at {
            Position::Connect | Position::Helo => {
                let greeting = match verdict {
                    Verdict::Continue | Verdict::Discard => Greeting::Continue,
                    Verdict::Accept => Greeting::Accept,
                    Verdict::Reject => Greeting::Reject,
                    Verdict::TempFail => Greeting::TempFail,
                    Verdict::Reply(reply) => Greeting::Reply(reply),
                };
                Ok(vec![self.side.greet(greeting)?])
            }
            Position::Body(_) => {
                let reply = self.side.body(BodyVerdict::Go(verdict))?;
                Ok(reply.into_iter().collect())
            }
            Position::EndOfMessage => self.side.finish(Outcome { edits, verdict }),
            Position::Unknown
            | Position::Mail
            | Position::Rcpt(_)
            | Position::Data
            | Position::Header(_)
            | Position::EndOfHeaders
            | Position::Finished => Ok(vec![self.side.reply(verdict)?]),
        }
    }

    /// The MTA gives up what it asked.
    pub(super) fn forget_question(&mut self) {
        let Some(Pending { at, .. }) = self.pending.take() else {
            return;
        };
        let Some(at) = at else {
            // There is no conversation yet that could go on.
            self.over = true;
            self.children.iter_mut().for_each(Child::leave);
            return;
        };
        let unsaid = self.answer_quietly(at, Verdict::Continue, Vec::new());
        debug_assert!(unsaid.is_ok(), "a question was pending");
        self.end_message("aborted by the MTA");
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
        self.note_settled();
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
        // Of a message that was decided before, somebody may have a part that joined late.
        self.end_parts();
        self.message = None;
    }

    /// Takes down for the report that a filter has failed, and how long it was waited for.
    pub(super) fn note_failure(&mut self, index: usize, error: &ChildError) {
        let now = self.now;
        let Child { asked, part, .. } = &mut self.children[index];
        let Some(part) = part else { return };
        part.failure = Some(error.kind());
        if let Some(asked) = asked
            && !asked.leftover
        {
            part.busy += now.saturating_duration_since(asked.since);
        }
    }

    /// Keeps what is known of the time that a decided message took, until it is answered.
    fn note_settled(&mut self) {
        let (Some(message), Some(pending)) = (&self.message, &self.pending) else {
            return;
        };
        self.settled = Some(Settled {
            since: pending.since,
            waited: message.waited,
            filters: self.time_of_filters(),
        });
    }

    /// How long the message in hand took at its filters: the slowest one of each segment.
    fn time_of_filters(&self) -> Duration {
        let busy = |index: usize| {
            let child = &self.children[index];
            let part = child.part.as_ref().filter(|_| !child.member.shadow);
            part.map_or(Duration::ZERO, |part| part.busy)
        };
        let Some(lineup) = &self.lineup else {
            return Duration::ZERO;
        };
        let segments = (0..lineup.len()).filter_map(|number| lineup.segment(number));
        segments
            .map(|segment| segment.members().map(busy).max().unwrap_or_default())
            .sum()
    }

    /// The word on a message is on its way: counts what of its time was neither the MTA's nor a
    /// filter's.
    pub(super) fn count_added(&mut self, now: Instant) {
        if let Some(settled) = self.settled.take() {
            self.shared.traffic.added(settled.added(now));
        }
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
                    refusal: child.refusal.as_ref().map(|(_, verdict)| verdict),
                })
            })
            .collect();
        let chain = self
            .lineup
            .as_ref()
            .map_or("-", |lineup| &*lineup.chain.name);
        let added = self.settled.map(|settled| settled.added(self.now));
        let line = report::Line::new(message, &self.side).with_added(added);
        line.log(&self.shared, chain, &parts, self.now);
    }

    /// Aborts what is under way at the filters. Answers that are still owed are dropped when they
    /// come, if they come soon.
    fn end_parts(&mut self) {
        let drain = self.now + self.shared.limits.drain;
        let queue_id = report::queue_id(self.side.facts());
        let decision = self
            .message
            .as_ref()
            .map_or(Decision::Abandoned, |message| {
                let decided = message.decided.as_ref();
                let verdict = decided.and_then(|decided| decided.verdict.as_ref());
                Decision::of(verdict, !message.quarantine.is_empty())
            });
        for child in &mut self.children {
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
                } else if asked.at == Position::EndOfMessage {
                    let queue_id = queue_id.clone();
                    child.behind = Some(Behind { queue_id, decision });
                }
            }
        }
    }
}
