//! Whole sessions by chance, held against the rules that must hold whatever happens.
//!
//! An MTA (the protocol crate's side that drives filters, which refuses what has no place), the
//! session that is tested, and one to three filters (the protocol crate's other side, which
//! complains of what is out of order). Filters answer in pieces and after any time, crash, hang,
//! talk nonsense, answer twice or late. The clock jumps. Clients come one after the other, and
//! connections to filters may be kept for the next. What must hold:
//!
//! 1. every question of the MTA's gets exactly one answer, and the end of a message one last word;
//! 2. nothing is said that the stage forbids or that was promised not to be said, on either side;
//! 3. what passes was passed by every filter, or its policy allows that;
//! 4. nothing of one message or client is seen in another;
//! 5. edits arrive all or none, in the chain's order, and with no refusal;
//! 6. a filter sees header and body as the filters before it left them, byte for byte;
//! 7. what is held in memory is bounded;
//! 8. no answer takes longer than the limits say, nor does the end.

pub(super) mod dice;
mod filter;
mod found;
mod mta;

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bolero::produce;
use milter_proto::session::MtaSide;
use milter_proto::wire::{Decoder, Offer, Reply};

use self::dice::Dice;
use self::filter::Filter;
use self::mta::Client;
use crate::member::{Chain, Member, OnFailure};
use crate::proxy::child::{ChildError, Link};
use crate::proxy::session::Session;
use crate::proxy::tests::harness::unreachable_member;
use crate::proxy::{Limits, Proxy, Shared, SpoolLimits};
use crate::route::{Condition, Route, Routes};

/// Real time for one input; it takes a few milliseconds.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Things that may happen before somebody has to wait.
const MOVES_MAX: usize = 50_000;

/// Commands that wait for one filter at most: what one event makes.
const QUEUE_MAX: usize = 8;

/// A session with everything around it.
struct World {
    dice: Dice,
    shared: Arc<Shared>,
    session: Session,
    filters: Vec<Filter>,
    /// For each filter the connection that waits for the next client, and what was offered on it.
    kept: Vec<Option<(MtaSide, Offer)>>,
    /// Counts messages, so that each has a name of its own.
    messages: usize,
    members: Vec<Arc<Member>>,
    /// Which group of the chain each filter is in.
    groups: Vec<usize>,
    /// How rarely a filter does something wrong; 0 for never.
    faults: u8,
    strict: bool,
    begin: Instant,
    now: Instant,
    said: VecDeque<Reply>,
    /// The MTA has closed: nobody reads what is said.
    gone: bool,
    /// What happened, told when it went wrong and `STORY` is set.
    story: Option<Vec<String>>,
}

impl World {
    fn new(bytes: &[u8]) -> Self {
        let mut dice = Dice::new(bytes);
        let count = usize::from(dice.roll(3)) + 1;
        let faults = [0, 0, 100, 30, 8][usize::from(dice.roll(5))];
        let strict = dice.once_in(5);
        let mut members = Vec::new();
        let mut groups = Vec::new();
        let mut segments: Vec<Vec<Arc<Member>>> = Vec::new();
        for number in 0..count {
            let pool = usize::from(dice.roll(2));
            let member = unreachable_member(number, policy(dice.roll(4)), pool);
            if !dice.once_in(4) {
                member.health.show_step();
            }
            members.push(Arc::clone(&member));
            match segments.last_mut() {
                Some(last) if dice.once_in(4) => last.push(member),
                _ => segments.push(vec![member]),
            }
            groups.push(segments.len() - 1);
        }
        let chain = Arc::new(Chain {
            name: "test".to_owned(),
            segments,
            strict,
        });
        let condition = Condition::default();
        let routes = Routes {
            routes: vec![Route { condition, chain }],
        };
        let limits = Limits {
            lag: 8 * 1024,
            spool: Arc::new(SpoolLimits {
                memory: 4 * 1024,
                budget: Arc::default(),
                ..SpoolLimits::default()
            }),
            ..Limits::default()
        };
        let marks = faults > 0 || dice.once_in(2);
        let filters = (0..count).map(|number| Filter::new(number, &mut dice, marks));
        let filters = filters.collect();
        let now = Instant::now();
        let proxy = Proxy::new("test", Arc::new(routes), limits);
        Self {
            session: Session::new(Arc::clone(&proxy.shared), now),
            shared: proxy.shared,
            kept: (0..count).map(|_| None).collect(),
            messages: 0,
            dice,
            filters,
            members,
            groups,
            faults,
            strict,
            begin: now,
            now,
            said: VecDeque::new(),
            gone: false,
            story: std::env::var_os("STORY").map(|_| Vec::new()),
        }
    }

    fn tell_story(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let at = self.now - self.begin;
            story.push(format!("{:>7} ms {}", at.as_millis(), line()));
        }
    }

    /// Whether somebody has done something wrong.
    fn is_disturbed(&self) -> bool {
        self.filters.iter().any(|filter| filter.failed)
    }

    /// Lets everything happen that happens without time passing.
    fn settle(&mut self) {
        for _ in 0..MOVES_MAX {
            self.session
                .advance()
                .expect("the MTA keeps to the protocol");
            let mut moved = false;
            for index in 0..self.filters.len() {
                moved |= self.connect(index) | self.tell(index) | self.hear(index);
            }
            while let Some(reply) = self.session.next_reply() {
                self.tell_story(|| format!("mta <- {reply:?}"));
                self.said.push_back(reply);
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Lets time pass until something happens; `false` when nothing ever will.
    fn pass_time(&mut self) -> bool {
        let says = |filter: &Filter| filter.says.front().map(|(at, _)| *at);
        let wakes = self.filters.iter().filter_map(says);
        let deadline = self.session.deadline();
        let Some(next) = wakes.chain(deadline).min() else {
            return false;
        };
        self.now = next.max(self.now);
        if deadline.is_some_and(|due| due <= self.now) {
            let ticked = self.session.tick(self.now);
            ticked.expect("the MTA keeps to the protocol");
        }
        true
    }

    /// Lets time pass until `done`.
    fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) {
        let begin = self.now;
        for _ in 0..MOVES_MAX {
            self.settle();
            if done(self) {
                return;
            }
            assert!(self.pass_time(), "{what}: nobody is waited for");
            assert!(self.now - begin <= limit, "{what}: not within {limit:?}");
        }
        panic!("{what}: never");
    }

    /// Whether the connection that a filter knows of is the one that the session has.
    fn is_connected(&self, index: usize) -> bool {
        self.session.children().get(index).is_some_and(|child| {
            let up = matches!(
                child.link,
                Link::Negotiating(..) | Link::Up(_) | Link::Leaving
            );
            up && child.generation == self.filters[index].generation
        })
    }

    fn connect(&mut self, index: usize) -> bool {
        let Some(child) = self.session.children().get(index) else {
            return false;
        };
        let generation = child.generation;
        let filter = &mut self.filters[index];
        match child.link {
            Link::Dialling(_)
                if filter.generation != generation
                    && child.may_resume
                    && self.kept[index].is_some() =>
            {
                self.resume(index, generation)
            }
            Link::Dialling(_) if filter.generation != generation => {
                filter.connect(generation);
                if !self.dice.once_in(self.faults) {
                    self.session.connected(index, self.now);
                    return true;
                }
                filter.failed = true;
                if self.dice.once_in(2) {
                    let refused = std::io::ErrorKind::ConnectionRefused.into();
                    let error = ChildError::Connect(refused);
                    self.session.lost(index, &error, self.now);
                }
                true
            }
            Link::Leaving if child.out.is_empty() => {
                let side = self.session.left(index);
                let offer = self.session.offer();
                self.kept[index] = side.filter(|_| filter.is_quiet()).map(|side| (side, offer));
                filter.hang_up();
                true
            }
            _ => false,
        }
    }

    /// Takes the connection that was kept, unless something else was offered on it. It may have
    /// been closed in the meantime, which is nobody's fault.
    fn resume(&mut self, index: usize, generation: u32) -> bool {
        let Some((side, offered)) = self.kept[index].take() else {
            return false;
        };
        if offered != self.session.offer() {
            // Dialled in the next round.
            return true;
        }
        let closed = self.dice.once_in(8);
        self.tell_story(|| format!("    {index} goes on, closed: {closed}"));
        self.filters[index].resume(generation, closed.then_some(self.now));
        self.session.resumed(index, side, self.now);
        true
    }

    /// The next client, on a connection of its own.
    fn next_client(&mut self) {
        self.session = Session::new(Arc::clone(&self.shared), self.now);
        self.said.clear();
        self.gone = false;
        self.filters.iter_mut().for_each(Filter::forget_client);
    }

    fn tell(&mut self, index: usize) -> bool {
        let mut moved = false;
        while self.is_connected(index)
            && let Some(command) = self.session.next_command(index, self.now)
        {
            let waiting = self.session.children()[index].out.len();
            assert!(waiting <= QUEUE_MAX, "{waiting} commands wait for a filter");
            moved = true;
            self.tell_story(|| format!("    {index} <- {command:?}"));
            self.filters[index].hear(command, self.now, &mut self.dice, self.faults);
        }
        moved
    }

    /// Takes the next piece of what a filter says, as the connection does.
    fn hear(&mut self, index: usize) -> bool {
        if !self.is_connected(index) {
            let had = !self.filters[index].says.is_empty();
            self.filters[index].hang_up();
            return had;
        }
        let filter = &mut self.filters[index];
        let Some(piece) = filter.due(self.now) else {
            return false;
        };
        let failed = filter.failed;
        self.tell_story(|| format!("    {index} -> {piece:?} failed: {failed}"));
        let filter = &mut self.filters[index];
        let Some(piece) = piece else {
            let stage = self.session.children()[index].stage();
            let error = ChildError::Closed(stage);
            self.session.lost(index, &error, self.now);
            return true;
        };
        filter.arrived.extend_from_slice(&piece);
        let mut replies = Vec::new();
        let broken = loop {
            match Decoder::default().decode(&mut filter.arrived) {
                Ok(Some(frame)) => match Reply::parse(frame) {
                    Ok(reply) => replies.push(reply),
                    Err(error) => break Some(error),
                },
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let more = !filter.arrived.is_empty();
        match broken {
            Some(error) => self.session.untold(index, error, self.now),
            None => self.session.replies(index, replies, more, self.now),
        }
        true
    }

    /// The end: everybody is let go within the time that a filter is given to take its leave.
    fn finish(&mut self) {
        assert!(self.session.is_over(), "the connection goes on");
        let gone = |world: &Self| {
            world.session.children().iter().all(|child| {
                matches!(child.link, Link::Idle | Link::Failed) && child.out.is_empty()
            })
        };
        self.until("the end", Duration::from_secs(10), gone);
        let silent = self.gone || self.said.is_empty();
        assert!(silent, "said at the end: {:?}", self.said);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut out = std::io::stderr().lock();
            for line in self.story.iter().flatten() {
                let _ = writeln!(out, "{}", line.get(..300).unwrap_or(line));
            }
        }
    }
}

fn policy(roll: u8) -> OnFailure {
    match roll {
        0 => OnFailure::TempFail,
        1 => OnFailure::Accept,
        2 => OnFailure::Reject,
        _ => OnFailure::Quarantine,
    }
}

fn run(bytes: &[u8]) {
    let begin = Instant::now();
    let mut world = World::new(bytes);
    for number in 0..=world.dice.roll(3) {
        if number > 0 {
            world.next_client();
        }
        Client::new(&mut world, number).run(&mut world);
        world.finish();
    }
    assert!(begin.elapsed() < TIME_MAX, "took {:?}", begin.elapsed());
}

#[test]
fn fuzz_whole_session() {
    bolero::check!()
        .with_generator(produce::<Vec<u8>>().with().len(0..3000_usize))
        .with_iterations(1000)
        .with_shrink_time(Duration::from_secs(1))
        .for_each(|bytes| run(bytes));
}
