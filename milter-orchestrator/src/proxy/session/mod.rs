//! One connection of an MTA as a state machine: commands of the MTA, replies of filters and the
//! time go in; commands for filters and replies to the MTA come out.
//!
//! How one event goes through:
//!
//! 1. [`Session::command`] takes it. What comes before the last question is answered waits in
//!    `inbox`; [`Session::advance`] takes it from there, through the protocol's own state machine,
//!    and says everything that can be said now.
//! 2. [`note`] writes it down: who the client is in [`Introduction`], everything of a message in
//!    [`Message`]. Where the MTA wants an answer, a [`Pending`] question is left. At CONNECT and
//!    MAIL, [`lineup`] chooses the filters.
//! 3. [`feed`] tells it, after [`introduce`] has told who the client is. Every filter has a
//!    position in what is written and is told what comes next as soon as it may be. So filters of
//!    one segment run side by side while the MTA is still sending, a filter that has to begin again
//!    on a new connection just starts over at the first event, and nothing is told twice on a
//!    connection.
//! 4. [`settle`] takes down what a filter says: edits with its part, its word as its state.
//! 5. [`judge`] looks at all positions and states until the question can be answered; at the end of
//!    the message [`finish`] takes one segment after the other and applies their edits.
//! 6. [`answer`] gives the word, logs the message once it is decided, and ends everybody's part in
//!    it. What is to be written waits in [`outgoing`].
//!
//! Before the first event there is [`negotiation`]. What goes wrong with a filter is dealt with in
//! [`failure`], what goes by time in [`clock`].
//!
//! There is no socket, no clock and no task here. A filter that fails never ends the connection;
//! only an MTA that breaks the protocol does, which is the one error of this module.

mod answer;
mod clock;
mod facts;
mod failure;
mod feed;
mod finish;
mod introduce;
mod judge;
mod lineup;
mod negotiation;
mod note;
mod outgoing;
mod routing;
mod settle;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::net::Peer;
use milter_proto::session::{FilterSide, ProtocolError, Step};
use milter_proto::wire::{Actions, Command, Offer, Reply, Steps};

use self::lineup::Lineup;
use self::outgoing::Outgoing;
use super::Shared;
use super::child::{Child, Link};
use super::headers::MtaKind;
use super::message::{Message, Pairs, Told};
use super::plan::Position;
use super::scene::Arrival;

/// What is known of the MTA.
#[derive(Debug)]
struct Mta {
    /// What it offered.
    offer: Offer,
    /// What was agreed with it, once that is so.
    agreed: Option<Offer>,
    /// Which one it is, once it has said so.
    kind: MtaKind,
}

impl Mta {
    fn has(&self, step: Steps) -> bool {
        self.agreed
            .as_ref()
            .is_some_and(|agreed| agreed.steps.contains(step))
    }

    fn allows(&self, action: Actions) -> bool {
        self.agreed
            .as_ref()
            .is_some_and(|agreed| agreed.actions.contains(action))
    }
}

/// What the MTA has told of the client, kept for filters that connect later.
#[derive(Debug, Default)]
struct Introduction {
    connect: Option<Told>,
    helo: Option<Told>,
    /// Counts names, so that everybody can be told of each once.
    helo_number: u32,
    unknown: Option<Told>,
    unknown_number: u32,
}

/// Macros that came without the event that they belong to: the MTA was not asked for it, and sends
/// them all the same.
#[derive(Debug)]
struct Loose {
    /// Counts them over the whole connection.
    number: u32,
    /// The letter of the event.
    stage: u8,
    /// Where the event would have been.
    at: Position,
    pairs: Pairs,
}

/// A question of the MTA's that has not been answered.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// About what; `None` for the negotiation.
    at: Option<Position>,
    /// Where every filter must have come.
    target: Position,
    /// The MTA must be answered by then.
    until: Instant,
    /// That was put off once, for those whose turn came only then.
    put_off: bool,
    /// Since when.
    since: Instant,
    /// When the next sign of progress is due; at the end of the message only.
    progress: Option<Instant>,
}

/// A message that is decided, and the time that it took so far.
#[derive(Debug, Clone, Copy)]
struct Settled {
    /// When the question came that its word answers.
    since: Instant,
    /// How long the MTA had waited before that.
    waited: Duration,
    /// How long filters took: the slowest one of each segment.
    filters: Duration,
}

impl Settled {
    /// What of it was neither the MTA's nor a filter's.
    fn added(&self, now: Instant) -> Duration {
        let waited = self.waited + now.saturating_duration_since(self.since);
        waited.saturating_sub(self.filters)
    }
}

/// One connection of an MTA.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// The MTA, for the log.
    peer: Option<Peer>,
    side: FilterSide,
    mta: Mta,
    children: Vec<Child>,
    lineup: Option<Lineup>,
    /// The filters of the line-up in the chain's order.
    order: Arc<[usize]>,
    introduction: Introduction,
    /// What the world was like when the client came.
    arrival: Option<Arrival>,
    /// The latest macro frame of each kind that no event has taken yet.
    macros: Vec<(u8, Pairs)>,
    /// The latest macro frame of each kind that Postfix repeats before every event of it; in
    /// strict chains only.
    repeated: Vec<(u8, Pairs)>,
    /// Macros of events of the message that the MTA leaves out.
    loose: Vec<Loose>,
    loose_number: u32,
    message: Option<Message>,
    /// The message that is decided and not answered yet, for the time that it took.
    settled: Option<Settled>,
    pending: Option<Pending>,
    /// Commands that came before the last question was answered.
    inbox: VecDeque<Command>,
    outgoing: Outgoing,
    now: Instant,
    over: bool,
}

impl Session {
    /// Waits for the negotiation.
    pub(crate) fn new(shared: Arc<Shared>, now: Instant) -> Self {
        Self {
            shared,
            peer: None,
            side: FilterSide::new(),
            mta: Mta {
                offer: Offer::full(),
                agreed: None,
                kind: MtaKind::Postfix,
            },
            children: Vec::new(),
            lineup: None,
            order: Arc::default(),
            introduction: Introduction::default(),
            arrival: None,
            macros: Vec::new(),
            repeated: Vec::new(),
            loose: Vec::new(),
            loose_number: 0,
            message: None,
            settled: None,
            pending: None,
            inbox: VecDeque::new(),
            outgoing: Outgoing::default(),
            now,
            over: false,
        }
    }

    /// With a name for the MTA in the log.
    pub(crate) fn with(self, peer: &Peer) -> Self {
        let peer = Some(peer.clone());
        Self { peer, ..self }
    }

    /// Takes the MTA's next command.
    pub(crate) fn command(&mut self, command: Command, now: Instant) -> Result<(), ProtocolError> {
        self.now = now;
        let ends = matches!(command, Command::Abort | Command::Quit | Command::QuitReuse);
        if ends && self.inbox.is_empty() {
            self.forget_question();
        }
        self.inbox.push_back(command);
        self.advance()
    }

    /// The MTA has closed the connection. In the middle of a message nobody is told: closing is
    /// what a filter must expect.
    pub(crate) fn closed(&mut self, now: Instant) {
        self.now = now;
        self.end_message("the MTA closed the connection");
        self.pending = None;
        self.over = true;
        for child in &mut self.children {
            match child.asked {
                Some(_) => child.disconnect(Link::Idle),
                None => child.leave(),
            }
        }
    }

    /// Whether the connection is to be closed once everything is written.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether there is nothing in hand, so that the connection can end without harm.
    pub(crate) fn is_idle(&self) -> bool {
        self.message.is_none() && self.pending.is_none() && self.inbox.is_empty()
    }

    /// Whether it is the MTA's turn to say something.
    pub(crate) fn awaits_mta(&self) -> bool {
        self.pending.is_none() && self.wants_input()
    }

    /// Whether the next command should be read: not before the last one is answered, beyond what
    /// tells that the MTA has given up, nor faster than filters take the body.
    pub(crate) fn wants_input(&self) -> bool {
        if self.over || !self.inbox.is_empty() {
            return false;
        }
        self.pending.is_some() || self.lag() <= self.shared.limits.lag
    }

    /// The next reply to be written.
    pub(crate) fn next_reply(&mut self) -> Option<Reply> {
        self.outgoing.next()
    }

    /// A reply is on its way to the MTA.
    pub(crate) fn replied(&mut self, now: Instant) {
        if self.settled.is_some() && self.outgoing.is_empty() {
            self.count_added(now);
        }
    }

    /// The filters.
    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The next command to be written to a filter.
    pub(crate) fn next_command(&mut self, index: usize, now: Instant) -> Option<Command> {
        self.now = now;
        loop {
            if let Some(command) = self.children.get_mut(index)?.out.pop_front() {
                return Some(command);
            }
            if !self.feed(index) {
                return None;
            }
        }
    }

    /// Does everything that can be done now. To be called after anything else.
    pub(crate) fn advance(&mut self) -> Result<(), ProtocolError> {
        while !self.over {
            self.feed_all();
            if self.pending.is_some() {
                if !self.judge()? {
                    break;
                }
                continue;
            }
            let step = if let Some(step) = self.side.next_step() {
                step
            } else if let Some(command) = self.inbox.pop_front() {
                self.receive(command)?
            } else {
                break;
            };
            self.take(step)?;
        }
        Ok(())
    }

    fn receive(&mut self, command: Command) -> Result<Step, ProtocolError> {
        if let Command::Macros(macros) = &command {
            self.note_macros(macros);
        }
        let step = self.side.receive(command)?;
        if let Some(complaint) = self.side.take_complaint() {
            tracing::warn!(
                listen = %self.shared.listen,
                peer = self.peer.as_ref().map(tracing::field::display),
                error = %complaint,
                "the MTA sent a command out of order, it was refused for now"
            );
        }
        Ok(step)
    }

    fn take(&mut self, step: Step) -> Result<(), ProtocolError> {
        match step {
            Step::Negotiate(offer) => self.negotiate(&offer),
            Step::Ask(event) => self.event(event, true)?,
            Step::Tell(event) => self.event(event, false)?,
            Step::Answer(reply) => self.outgoing.push(reply),
            Step::Silent => {}
            Step::Close => {
                self.over = true;
                for child in &mut self.children {
                    child.leave();
                }
            }
        }
        Ok(())
    }
}
