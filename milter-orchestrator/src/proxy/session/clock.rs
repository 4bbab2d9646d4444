//! What happens by itself when its time has come.
//!
//! A filter that is late has failed, and so has everybody who keeps the MTA waiting when the MTA
//! must have its answer; while it can still wait, it is told of progress.

use std::time::{Duration, Instant};

use milter_proto::session::ProtocolError;
use milter_proto::verdict::Verdict;
use milter_proto::wire::Reply;

use super::{Pending, Session};
use crate::proxy::child::{Child, ChildError, Link, State};
use crate::proxy::plan::{Position, Standing};

/// How long a filter has that could not be asked before the MTA's time was over. Sendmail waits 10
/// s where we say 8 s.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How often a message that is to be told again asks whether it is its turn.
const TURN_POLL: Duration = Duration::from_millis(10);

impl Session {
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
        let turn = self
            .children
            .iter()
            .any(waits_for_turn)
            .then(|| self.now + TURN_POLL);
        pending.chain(children).chain([turn]).flatten().min()
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
                self.put_off(pending);
            }
        }
        self.advance()?;
        self.answer_overdue()
    }

    /// Whether the MTA's time is over, and whoever is left is asked: all at once, since nobody has
    /// time to wait for another.
    pub(super) fn is_last_call(&self) -> bool {
        self.pending.is_some_and(|pending| pending.put_off)
    }

    /// Filters that could not be asked because others before them did not answer are asked now, and
    /// have a moment for it: less than what an MTA waits on top of our limits.
    fn put_off(&mut self, pending: Pending) {
        let Some(at) = pending.at else { return };
        if pending.put_off || at >= Position::Header(0) {
            return;
        }
        let waits = |index: usize| {
            let standing = match at {
                Position::Connect | Position::Helo | Position::Unknown => {
                    self.standing_of_client(index, at)
                }
                _ => self.standing(index, at, pending.target),
            };
            standing == Standing::Waiting
        };
        if self.deciding().any(waits)
            && let Some(pending) = &mut self.pending
        {
            pending.until = self.now + LAST_CALL;
            pending.put_off = true;
        }
    }

    /// Whoever could have kept the MTA waiting has failed by now; should there be a question open
    /// all the same, nobody else will answer it in time. In the content that is no harm: filters
    /// whose turn has only come because others failed are asked again at the end of the message.
    fn answer_overdue(&mut self) -> Result<(), ProtocolError> {
        let Some(Pending {
            at: Some(at),
            until,
            ..
        }) = self.pending
        else {
            return Ok(());
        };
        if until > self.now {
            return Ok(());
        }
        let content = Position::Header(0)..Position::EndOfMessage;
        if content.contains(&at) {
            self.answer(at, Verdict::Continue)?;
        } else {
            self.refuse_for_now("no answer in time");
            self.answer(at, Verdict::TempFail)?;
            self.drop_decided();
        }
        self.advance()
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

    /// Whether a filter gives one answer after the other to content, of which the MTA need not wait
    /// for the last.
    fn keeps_up(&self, index: usize, pending: Pending) -> bool {
        let asked = self.children[index].asked;
        let length = self
            .message
            .as_ref()
            .map_or(0, |message| message.body.len());
        matches!(pending.at, Some(Position::Body(_)))
            && !self.is_strict()
            && asked.is_some_and(|asked| asked.since > pending.since)
            && self.lag_of(index, length) <= self.shared.limits.lag
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
                // Who has not been told because its segment is not yet due keeps nobody waiting,
                // nor does who waits for another's word.
                Some(_) => {
                    let owes = child.asked.is_some() || child.side().is_none();
                    (owes || pending.put_off || waits_for_turn(child))
                        && child.is_active()
                        && !child.reached(pending.target)
                        && self.has_turn(index, pending.target)
                        && !self.keeps_up(index, pending)
                        && !self.holds_content(index)
                }
            };
            if late && !child.member.shadow {
                self.fail(index, &ChildError::OutOfTime);
            }
        }
    }
}

/// Whether a message that is to be told again has to wait until it is its turn.
fn waits_for_turn(child: &Child) -> bool {
    let part = child.part.as_ref();
    part.is_some_and(|part| part.state == State::Active && part.suspicion.waits())
}
