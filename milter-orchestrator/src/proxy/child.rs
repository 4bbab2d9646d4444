//! One filter as one connection of an MTA knows it: the conversation with it, and its part in the
//! message in hand.
//!
//! Pure: what is to be written waits in [`Child::out`], what was read comes in as replies, and
//! whether there is a connection at all is a value ([`Link`]) that the caller brings about. What a
//! filter did wrong is a [`ChildError`], which says nothing of the filter's name: whoever logs it
//! knows that.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::session::{Event, Fault, MtaSide, ProtocolError, Reason, Stage};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Command, Steps};
use thiserror::Error;

use super::edits::Spacing;
use super::headers::MtaKind;
use super::message::Told;
use super::plan::Position;
use super::spool::{LineEnds, Spool, SpoolError, SpoolLimits};
use super::suspicion::Suspicion;
use crate::counters::{Decision, Failure};
use crate::member::{Member, OnFailure};

/// Answers to content that a filter may owe: more would only fill its memory.
const ANSWERS_MAX: usize = 1000;

/// What a filter did wrong.
#[derive(Debug, Error)]
pub(crate) enum ChildError {
    /// It is known not to be there.
    #[error("is down")]
    Down,
    /// It cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// It did not answer in time.
    #[error("no answer {stage} within {} ms", after.as_millis())]
    Late {
        /// How far the conversation was.
        stage: Stage,
        /// How long was waited.
        after: Duration,
    },
    /// The MTA cannot wait any longer for all filters together.
    #[error("not done when the MTA's time was over")]
    OutOfTime,
    /// It closed the connection.
    #[error("closed the connection {0}")]
    Closed(Stage),
    /// The stream broke.
    #[error("connection broken {0}: {1}")]
    Stream(Stage, #[source] io::Error),
    /// It does not take what is sent to it.
    #[error("took nothing of what was sent for {} s", .0.as_secs())]
    Stalled(Duration),
    /// It broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It wants what was not agreed with the MTA when the connection began.
    #[error("wants more than before: works again from the MTA's next connection on")]
    WantsMore,
    /// It crashed on this message before.
    #[error("crashed twice on this message before, not told of it again")]
    Poison,
    /// Told everything again, it took back what it had said.
    #[error("on a second try refuses a recipient that it took before")]
    Contradiction,
    /// Its edits are too large to be kept.
    #[error("more than {0} bytes of edits")]
    Edits(usize),
    /// It sent more than was asked.
    #[error("sent bytes that nothing asked for")]
    Surplus,
    /// Its new body cannot be kept.
    #[error("its new body: {0}")]
    Body(#[source] SpoolError),
}

impl ChildError {
    /// Whether the connection is gone, which the end of the filter's process looks like.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Stream(..))
    }

    /// What it is counted as.
    pub(crate) fn kind(&self) -> Failure {
        match self {
            Self::Down | Self::Poison => Failure::Breaker,
            Self::Connect(_) => Failure::Connect,
            Self::Late { .. } | Self::OutOfTime | Self::Stalled(_) => Failure::Timeout,
            Self::Closed(_) | Self::Stream(..) => Failure::Closed,
            Self::Protocol(_) | Self::WantsMore | Self::Contradiction | Self::Surplus => {
                Failure::Desync
            }
            Self::Edits(_) | Self::Body(_) => Failure::Oversize,
        }
    }

    /// Whether it said something that nothing had asked for.
    pub(crate) fn is_out_of_step(&self) -> bool {
        match self {
            Self::Surplus => true,
            Self::Protocol(error) => match error.reason {
                // A sign of progress may cross its answer, and is none.
                Reason::Unasked(code) => error.fault == Fault::Filter && code != b'p',
                Reason::EditTooEarly(_) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether telling it everything again on a new connection is worth a try.
    pub(crate) fn is_worth_a_replay(&self) -> bool {
        match self {
            Self::Late { stage, .. } | Self::Closed(stage) | Self::Stream(stage, _) => {
                *stage != Stage::Start
            }
            Self::Stalled(_) | Self::Protocol(_) | Self::Surplus => true,
            Self::Down
            | Self::Poison
            | Self::Connect(_)
            | Self::OutOfTime
            | Self::WantsMore
            | Self::Contradiction
            | Self::Edits(_)
            | Self::Body(_) => false,
        }
    }
}

/// Whether there is a connection to a filter.
#[derive(Debug)]
pub(crate) enum Link {
    /// None, and none is wanted yet.
    Idle,
    /// One is wanted, by this time.
    Dialling(Instant),
    /// There is one; the negotiation must be over by this time.
    Negotiating(MtaSide, Instant),
    /// There is one.
    Up(MtaSide),
    /// The last words are in [`Child::out`]; to be closed then.
    Leaving,
    /// None any more, and none is wanted in this message.
    Failed,
}

/// A question that a filter has not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// What about.
    pub(crate) at: Position,
    /// Since when.
    pub(crate) since: Instant,
    /// The answer is late from then on.
    pub(crate) until: Instant,
    /// How long it may take altogether, or between two signs of progress.
    pub(crate) allowed: Duration,
    /// It belongs to a message that is over: the answer will be dropped.
    pub(crate) leftover: bool,
}

/// What has become of a filter's part in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It is being told of it.
    Active,
    /// It accepted before the end.
    Done,
    /// It has seen everything and lets it pass.
    Finished,
    /// It does not let it pass.
    Refused(Verdict),
    /// It failed; its policy stands for it.
    Failed(OnFailure),
}

/// A filter's part in the message in hand.
#[derive(Debug)]
pub(crate) struct Part {
    /// What it is to be told next.
    pub(crate) position: Position,
    /// What has become of it.
    pub(crate) state: State,
    /// The recipient that it has just refused, with its word.
    pub(crate) refused_rcpt: Option<(usize, Verdict)>,
    /// Wants no more of the body.
    pub(crate) skips_body: bool,
    /// Its edits of header and envelope so far, in the MTA's form.
    pub(crate) edits: Vec<Edit>,
    /// Bytes in them.
    pub(crate) edit_bytes: usize,
    /// Its new body so far.
    pub(crate) body: Option<Replacement>,
    /// Its new body, once it has let the message pass.
    pub(crate) new_body: Option<Spool>,
    /// At the end it said that it wants nothing more, where it could have said to go on.
    pub(crate) accepts: bool,
    /// It has put a body in place of the one it saw.
    pub(crate) replaces_body: bool,
    /// Has been told everything a second time.
    pub(crate) replayed: bool,
    /// Whether the filter's crashes may be this message's doing.
    pub(crate) suspicion: Suspicion,
    /// Time in which it was waited for.
    pub(crate) busy: Duration,
    /// What went wrong last.
    pub(crate) error: Option<String>,
    /// What that is counted as.
    pub(crate) failure: Option<Failure>,
}

impl Part {
    /// One that begins.
    pub(crate) fn new() -> Self {
        Self {
            position: Position::Mail,
            state: State::Active,
            refused_rcpt: None,
            skips_body: false,
            edits: Vec::new(),
            edit_bytes: 0,
            body: None,
            new_body: None,
            accepts: false,
            replaces_body: false,
            replayed: false,
            suspicion: Suspicion::default(),
            busy: Duration::ZERO,
            error: None,
            failure: None,
        }
    }

    /// Begins again; nothing of what it said or changed stays.
    pub(crate) fn restart(&mut self) {
        *self = Self {
            replayed: self.replayed,
            suspicion: std::mem::take(&mut self.suspicion),
            busy: self.busy,
            error: self.error.take(),
            ..Self::new()
        };
    }
}

/// A body that a filter puts in place of the one it saw.
#[derive(Debug)]
pub(crate) struct Replacement {
    spool: Spool,
    ends: LineEnds,
    /// Postfix ends the last line as well.
    ends_last_line: bool,
}

impl Replacement {
    /// An empty one.
    pub(crate) fn new(limits: Arc<SpoolLimits>, kind: MtaKind) -> Self {
        Self {
            spool: Spool::new(limits),
            ends: LineEnds::default(),
            ends_last_line: kind == MtaKind::Postfix,
        }
    }

    /// Takes its next piece.
    pub(crate) fn append(&mut self, piece: &Bytes) -> Result<(), SpoolError> {
        self.spool.append(self.ends.complete(piece))
    }

    /// The whole of it.
    pub(crate) fn finish(mut self) -> Result<Spool, SpoolError> {
        if self.ends_last_line {
            self.spool.append(self.ends.finish())?;
        }
        Ok(self.spool)
    }
}

/// What is to be told once something else has been answered.
#[derive(Debug)]
pub(crate) struct Then {
    /// Where it belongs.
    pub(crate) at: Position,
    /// Where that leads.
    pub(crate) next: Position,
    /// What.
    pub(crate) told: Told,
}

/// A message that a shadow is still busy with.
#[derive(Debug, Clone)]
pub(crate) struct Behind {
    /// Its queue id.
    pub(crate) queue_id: String,
    /// What was decided about it.
    pub(crate) decision: Decision,
}

/// One filter.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its configuration and health.
    pub(crate) member: Arc<Member>,
    /// The connection to it.
    pub(crate) link: Link,
    /// Counts connections, so that the caller sees that one is to be replaced.
    pub(crate) generation: u32,
    /// For a shadow: the message that it is still busy with, though that is
    /// decided.
    pub(crate) behind: Option<Behind>,
    /// A connection that was kept from another client would do.
    pub(crate) may_resume: bool,
    /// The connection was kept, and has not shown yet that it works.
    pub(crate) unproven: bool,
    /// The conversation that is being left, when it may go on with another client.
    pub(crate) kept: Option<MtaSide>,
    /// What is to be written to it.
    pub(crate) out: VecDeque<Command>,
    /// What it is asked.
    pub(crate) asked: Option<Asked>,
    /// What else it was told of content meanwhile, and answers after that.
    pub(crate) ahead: VecDeque<Position>,
    /// What follows on that.
    pub(crate) then: Option<Then>,
    /// It has been told of the client.
    pub(crate) connect_told: bool,
    /// The HELO that it has been told of, by number.
    pub(crate) helo_told: u32,
    /// The unknown command that it has been told of, by number.
    pub(crate) unknown_told: u32,
    /// Its word on that command, if it has one.
    pub(crate) unknown_word: Option<Verdict>,
    /// It does not want this client, or this name of it.
    pub(crate) refusal: Option<(Position, Verdict)>,
    /// It accepted the client and wants to hear no more of it.
    pub(crate) accepted: bool,
    /// The last macros without an event that it has been told, by number.
    pub(crate) loose_told: u32,
    /// An ABORT is due as soon as it has answered.
    pub(crate) must_abort: bool,
    /// When the latest connection was negotiated.
    pub(crate) up_since: Option<Instant>,
    /// It crashed when it was told of the client.
    pub(crate) crashed_on_client: bool,
    /// Its part in the message in hand.
    pub(crate) part: Option<Part>,
}

impl Child {
    /// One that is not connected.
    pub(crate) fn new(member: Arc<Member>) -> Self {
        Self {
            member,
            link: Link::Idle,
            generation: 0,
            behind: None,
            may_resume: false,
            unproven: false,
            kept: None,
            out: VecDeque::new(),
            asked: None,
            ahead: VecDeque::new(),
            then: None,
            connect_told: false,
            helo_told: 0,
            unknown_told: 0,
            unknown_word: None,
            refusal: None,
            accepted: false,
            loose_told: 0,
            must_abort: false,
            up_since: None,
            crashed_on_client: false,
            part: None,
        }
    }

    /// Wants a connection by `until`.
    pub(crate) fn dial(&mut self, until: Instant) {
        self.disconnect(Link::Dialling(until));
        self.generation = self.generation.wrapping_add(1);
        self.may_resume = false;
    }

    /// Gives the connection up, and all that was said on it.
    pub(crate) fn disconnect(&mut self, link: Link) {
        self.link = link;
        self.out.clear();
        self.asked = None;
        self.ahead.clear();
        self.then = None;
        self.connect_told = false;
        self.helo_told = 0;
        self.unknown_word = None;
        self.refusal = None;
        self.loose_told = 0;
        self.must_abort = false;
        self.unproven = false;
        self.kept = None;
        self.behind = None;
    }

    /// Says good-bye, where there is somebody to say it to.
    pub(crate) fn leave(&mut self) {
        let link = std::mem::replace(&mut self.link, Link::Idle);
        let mut kept = None;
        let words = match link {
            Link::Up(mut side) if self.member.pool > 0 => match words_to_keep(&mut side) {
                Some(words) => {
                    kept = Some(side);
                    words
                }
                None => side.quit(),
            },
            Link::Up(side) => side.quit(),
            Link::Idle | Link::Dialling(_) | Link::Negotiating(..) | Link::Failed => Vec::new(),
            Link::Leaving => return self.link = Link::Leaving,
        };
        let unsent = std::mem::take(&mut self.out);
        self.disconnect(Link::Idle);
        if !words.is_empty() {
            self.out = unsent.into_iter().chain(words).collect();
            self.link = Link::Leaving;
            self.kept = kept;
        }
    }

    /// The conversation, when it is under way.
    pub(crate) fn side(&self) -> Option<&MtaSide> {
        match &self.link {
            Link::Up(side) => Some(side),
            Link::Idle
            | Link::Dialling(_)
            | Link::Negotiating(..)
            | Link::Leaving
            | Link::Failed => None,
        }
    }

    /// How far the conversation is.
    pub(crate) fn stage(&self) -> Stage {
        match &self.link {
            Link::Up(side) | Link::Negotiating(side, _) => side.stage(),
            Link::Idle | Link::Dialling(_) | Link::Leaving | Link::Failed => Stage::Start,
        }
    }

    /// Whether `step` was agreed.
    pub(crate) fn has(&self, step: Steps) -> bool {
        self.side()
            .is_some_and(|side| side.options().steps.contains(step))
    }

    /// How leading space is converted between it and an MTA that sends it, or not.
    pub(crate) fn spacing(&self, mta: bool) -> Spacing {
        Spacing {
            mta,
            filter: self.has(Steps::LEADING_SPACE),
        }
    }

    /// Whether it can be told more of a message's content before it has answered. One that may skip
    /// the rest is asked piece by piece, since it would be told what it does not want; and where
    /// it expects no MAIL, libmilter takes content that follows a refusal for a new message. One
    /// that answers too often would not be noticed: its answer to the last of the content would be
    /// taken for that to the end of the message. So its first message goes piece by piece.
    pub(crate) fn takes_content_at_once(&self) -> bool {
        !self.has(Steps::SKIP) && !self.has(Steps::NO_MAIL) && self.member.health.keeps_step()
    }

    /// Whether the answers that are owed are about content of the message in hand, and more of it
    /// may follow.
    pub(crate) fn may_be_told_ahead(&self) -> bool {
        let content = Position::Header(0)..Position::EndOfMessage;
        let of_content = |asked: &Asked| !asked.leftover && content.contains(&asked.at);
        self.asked.as_ref().is_some_and(of_content)
            && self.then.is_none()
            && self.takes_content_at_once()
            && self.ahead.len() < ANSWERS_MAX
    }

    /// Whether everything before `target` has been told and answered.
    pub(crate) fn reached(&self, target: Position) -> bool {
        let Some(part) = &self.part else {
            return true;
        };
        let asked = self.asked.filter(|asked| !asked.leftover);
        let open = [
            asked.map(|asked| asked.at),
            self.then.as_ref().map(|then| then.at),
        ];
        part.position >= target && open.iter().flatten().all(|at| *at >= target)
    }

    /// Whether its part in the message is still open.
    pub(crate) fn is_active(&self) -> bool {
        matches!(&self.part, Some(part) if part.state == State::Active)
    }
}

/// What to tell a filter whose connection is to be kept for another client; `None` when it has to
/// be closed.
fn words_to_keep(side: &mut MtaSide) -> Option<Vec<Command>> {
    let mut words = Vec::new();
    if side.answer_owed() {
        return None;
    }
    if side.stage().in_message() {
        words.extend(side.send(Event::Abort, None).ok()?.commands);
    }
    words.extend(side.send(Event::QuitReuse, None).ok()?.commands);
    Some(words)
}
