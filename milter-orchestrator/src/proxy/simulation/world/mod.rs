//! Everything together: sessions, MTAs and filters on one clock, which jumps to whatever comes
//! next. Who moves first when several could is chance.

mod messages;
mod wires;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;

use crate::counters::Crash;
use crate::member::{Chain, Member, OnFailure};
use crate::proxy::child::Link;
use crate::proxy::session::Session;
use crate::proxy::simulation::chance::Chance;
use crate::proxy::simulation::check::{Result, Violation, require};
use crate::proxy::simulation::filter::{Attempt, Line, Process};
use crate::proxy::simulation::letter::Letter;
use crate::proxy::simulation::mta::Mta;
use crate::proxy::simulation::plan::{Plan, Sabotage};
use crate::proxy::tests::harness::unreachable_member;
use crate::proxy::{Limits, Proxy, Shared, SpoolBudget, SpoolLimits};
use crate::route::{Condition, Route, Routes};

/// Things that may happen before somebody has to wait.
const MOVES_MAX: usize = 20_000;

/// A connection of an MTA, with the connections to filters behind it.
struct Lane {
    session: Session,
    mta: Mta,
    /// Messages that it may still begin.
    left: u64,
    lines: Vec<Option<Line>>,
    /// What the filters were told of the message in hand, on connections that are gone.
    attempts: Vec<Option<Attempt>>,
    /// When the MTA took its leave.
    ended: Option<Instant>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) messages: u64,
    pub(super) passed: u64,
    pub(super) refused: u64,
    pub(super) aborted: u64,
    pub(super) lapses: u64,
    pub(super) replays: u64,
    pub(super) fallbacks: u64,
    pub(super) poison: u64,
    pub(super) excused: u64,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.passed += other.passed;
        self.refused += other.refused;
        self.aborted += other.aborted;
        self.lapses += other.lapses;
        self.replays += other.replays;
        self.fallbacks += other.fallbacks;
        self.poison += other.poison;
        self.excused += other.excused;
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its last word; none when it was given up.
    pub(super) word: Option<Verdict>,
    /// The filters whose edits came.
    pub(super) marks: Vec<usize>,
    /// It was put into quarantine.
    pub(super) held: bool,
}

/// The world of one seed.
pub(super) struct World {
    plan: Plan,
    chance: Chance,
    shared: Arc<Shared>,
    members: Vec<Arc<Member>>,
    processes: Vec<Process>,
    lanes: Vec<Lane>,
    letters: BTreeMap<String, Rc<Letter>>,
    /// Messages that clients send once more.
    again: Vec<(Instant, Rc<Letter>, u8)>,
    tries: BTreeMap<String, u8>,
    /// How often each poisonous message has killed its filter.
    kills: BTreeMap<String, u64>,
    begun: u64,
    sessions: u64,
    begin: Instant,
    now: Instant,
    /// What a faulty double remembers.
    last_edit: Option<Edit>,
    unseen: Vec<u64>,
    figures: Figures,
    /// What became of each message, in order.
    pub(super) outcomes: Vec<Outcome>,
    /// What the script says has happened.
    scripted: bool,
    story: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(mut plan: Plan, mut chance: Chance, tell: bool) -> Self {
        let members: Vec<Arc<Member>> = plan
            .policies
            .iter()
            .enumerate()
            .map(|(number, policy)| unreachable_member(number, *policy, 0))
            .collect();
        let mut segments: Vec<Vec<Arc<Member>>> = Vec::new();
        for (member, group) in members.iter().zip(&plan.groups) {
            if !chance.once_in(4) {
                member.health.show_step();
            }
            if *group == segments.len() {
                segments.push(Vec::new());
            }
            segments[*group].push(Arc::clone(member));
        }
        let processes = std::mem::take(&mut plan.processes);
        let chain = Arc::new(Chain {
            name: "simulation".to_owned(),
            segments,
            strict: plan.strict,
        });
        let condition = Condition::default();
        let routes = vec![Route { condition, chain }];
        let limits = Limits {
            lag: 8 * 1024,
            spool: Arc::new(SpoolLimits {
                memory: 16 * 1024,
                budget: Arc::new(SpoolBudget::new(crate::proxy::simulation::BUDGET)),
                ..SpoolLimits::default()
            }),
            ..Limits::default()
        };
        let proxy = Proxy::new("simulation", Arc::new(Routes { routes }), limits);
        let now = Instant::now();
        Self {
            unseen: vec![0; members.len()],
            shared: proxy.shared,
            members,
            processes,
            lanes: Vec::new(),
            letters: BTreeMap::new(),
            again: Vec::new(),
            tries: BTreeMap::new(),
            kills: BTreeMap::new(),
            begun: 0,
            sessions: 0,
            begin: now,
            now,
            last_edit: None,
            figures: Figures::default(),
            outcomes: Vec::new(),
            scripted: false,
            story: tell.then(Vec::new),
            plan,
            chance,
        }
    }

    /// What has happened.
    pub(super) fn story(&self) -> &[String] {
        self.story.as_deref().unwrap_or_default()
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let at = self.now - self.begin;
            let mut line = format!("{:>9.3} {}", at.as_secs_f64(), line());
            if let Some((cut, _)) = line.char_indices().nth(240) {
                line.truncate(cut);
            }
            story.push(line);
        }
    }

    /// All of it.
    pub(super) fn run(&mut self) -> Result<Figures> {
        self.tell(|| "begins".to_owned());
        let setting = self.story.is_some().then(|| format!("{:?}", self.plan));
        self.tell(|| setting.unwrap_or_default());
        loop {
            self.settle()?;
            if self.is_over() {
                break;
            }
            self.pass_time()?;
        }
        self.conclude()?;
        Ok(self.figures)
    }

    fn is_over(&self) -> bool {
        self.lanes.is_empty() && self.begun >= self.plan.messages && self.again.is_empty()
    }

    /// Lets everything happen that happens without time passing.
    fn settle(&mut self) -> Result<()> {
        for _ in 0..MOVES_MAX {
            let mut moved = self.open();
            moved |= self.live();
            for number in self.turns(self.lanes.len()) {
                moved |= self.move_lane(number)?;
            }
            let before = self.lanes.len();
            self.close()?;
            if !moved && before == self.lanes.len() {
                return Ok(());
            }
        }
        Err(Violation::new(8, "it never comes to rest"))
    }

    /// Numbers in an order that chance begins and directs.
    fn turns(&mut self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let begin = self.chance.place(count.max(1));
        let back = self.chance.once_in(2);
        (0..count).map(move |at| {
            let at = if back { count - 1 - at } else { at };
            (begin + at) % count
        })
    }

    /// Opens connections while there are messages to be sent.
    fn open(&mut self) -> bool {
        let waiting =
            self.begun < self.plan.messages || self.again.iter().any(|(at, ..)| *at <= self.now);
        let may = self.lanes.len() < self.plan.sessions && waiting;
        let free = self
            .lanes
            .iter()
            .any(|lane| lane.left > 0 && lane.mta.is_free());
        if !may || free {
            return false;
        }
        self.sessions += 1;
        let name = format!("client-{}.test", self.sessions);
        let mut session = Session::new(Arc::clone(&self.shared), self.now);
        let (mut mta, opening) = match self.plan.script {
            Some(_) => Mta::plain(name, self.now),
            None => Mta::new(name, self.now, &mut Chance::new(self.plan.server)),
        };
        mta.pause = self.plan.pause;
        // The first command of a session always has a place.
        let taken = session.command(opening, self.now).is_ok();
        let count = self.members.len();
        let lane = Lane {
            session,
            mta,
            left: match self.plan.script {
                Some(_) => self.plan.messages,
                None => 1 + self.chance.below(6),
            },
            lines: (0..count).map(|_| None).collect(),
            attempts: vec![None; count],
            ended: None,
        };
        self.lanes.push(lane);
        taken
    }

    /// Processes end, start and are found wanting.
    fn live(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.processes.len() {
            let due = self.processes[index]
                .next
                .is_some_and(|(at, _)| at <= self.now);
            if due {
                moved = true;
                let ran = self.processes[index].runs;
                let ended = self.processes[index].live(self.now, &mut self.chance);
                if ended || (ran && !self.processes[index].runs) {
                    self.cut(index);
                }
                self.tell_state(index);
            }
            let readiness = self.processes[index].readiness();
            self.members[index].health.set_readiness(readiness);
        }
        moved
    }

    fn tell_state(&mut self, index: usize) {
        let process = &self.processes[index];
        let (state, runs) = (process.state, process.runs);
        self.tell(|| format!("filter {index} is {state:?}, runs: {runs}"));
    }

    /// A process is gone, and with it all of its connections that it had accepted.
    fn cut(&mut self, index: usize) {
        let now = self.now;
        for lane in &mut self.lanes {
            if let Some(line) = &mut lane.lines[index]
                && line.accepted
            {
                line.from.cut(now);
                line.to.clear();
            }
        }
    }

    /// One connection of an MTA, and everything behind it.
    fn move_lane(&mut self, number: usize) -> Result<bool> {
        let wrong = |error| Violation::new(2, format!("the MTA is told off: {error}"));
        let lane = &mut self.lanes[number];
        if lane.session.deadline().is_some_and(|due| due <= self.now) {
            lane.session.tick(self.now).map_err(wrong)?;
        }
        lane.session.advance().map_err(wrong)?;
        let mut moved = false;
        for index in self.turns(self.members.len()) {
            moved |= self.dial(number, index);
            moved |= self.write(number, index)?;
            moved |= self.read(number, index)?;
            moved |= self.answer(number, index);
        }
        self.lanes[number].session.advance().map_err(wrong)?;
        moved |= self.hear(number)?;
        moved |= self.speak(number)?;
        Ok(moved)
    }

    /// Connections that are over, in good time.
    fn close(&mut self) -> Result<()> {
        let now = self.now;
        let mut broken = None;
        self.lanes.retain(|lane| {
            let Some(ended) = lane.ended else {
                return true;
            };
            let idle = lane.session.children().iter().all(|child| {
                matches!(child.link, Link::Idle | Link::Failed) && child.out.is_empty()
            });
            let over = lane.session.is_over();
            if now > ended + Duration::from_secs(10) {
                broken = Some(format!("over: {over}, filters let go: {idle}"));
            }
            !(over && idle)
        });
        match broken {
            Some(what) => Err(Violation::new(8, format!("a session does not end; {what}"))),
            None => Ok(()),
        }
    }

    /// Lets time pass until something happens.
    fn pass_time(&mut self) -> Result<()> {
        let lines = self
            .lanes
            .iter()
            .flat_map(|lane| lane.lines.iter().flatten());
        let lines = lines.flat_map(|line| {
            let works = self.processes[line.filter].works() && !line.from.is_cut();
            [line.to.wakes().filter(|_| works), line.from.wakes()]
        });
        let lanes = self.lanes.iter().flat_map(|lane| {
            let wakes = lane.mta.wakes().filter(|_| lane.session.wants_input());
            [lane.session.deadline(), wakes.filter(|at| *at > self.now)]
        });
        let lives = self
            .processes
            .iter()
            .map(|process| process.next.map(|(at, _)| at));
        let again = self
            .again
            .iter()
            .map(|(at, ..)| Some(*at))
            .filter(|_| self.lanes.len() < self.plan.sessions);
        let next = lines.chain(lanes).chain(lives).chain(again).flatten().min();
        let Some(next) = next else {
            let lanes = self.lanes.iter().map(|lane| {
                let over = lane.session.is_over();
                let links = lane.session.children().iter().map(|child| &child.link);
                format!(
                    "{:?}, over: {over}, {:?}",
                    lane.mta,
                    links.collect::<Vec<_>>()
                )
            });
            let lanes: Vec<String> = lanes.collect();
            let what = format!(
                "nobody is waited for, and it is not over: {lanes:#?} {} {:?}",
                self.begun, self.again
            );
            return Err(Violation::new(8, what));
        };
        self.now = next.max(self.now);
        let age = self.now - self.begin;
        require(8, age < Duration::from_secs(100_000), || {
            "it never ends".to_owned()
        })
    }

    /// What must hold in the end.
    fn conclude(&mut self) -> Result<()> {
        let left = self.shared.limits.spool.budget.taken();
        let left = left + usize::from(self.plan.sabotage == Some(Sabotage::Hoard));
        require(7, left == 0, || {
            format!("{left} bytes of bodies are never given back")
        })?;
        for (index, member) in self.members.iter().enumerate() {
            let counts = member.health.counters().read();
            let open = [OnFailure::Accept, OnFailure::Quarantine];
            let logged: u64 = open
                .iter()
                .filter_map(|policy| counts.fallback_total.get(policy))
                .sum();
            let unseen = self.unseen[index];
            require(3, unseen <= logged, || {
                format!("{unseen} messages passed without filter {index}, {logged} are counted")
            })?;
            self.figures.replays += counts.replays_total;
            self.figures.fallbacks += member.health.fallbacks();
            let of = |crash| counts.crashes_total.get(&crash).copied().unwrap_or(0);
            self.figures.poison += of(Crash::Poison);
            self.figures.excused += of(Crash::Excused);
        }
        Ok(())
    }
}
