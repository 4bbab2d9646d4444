//! One spawned child and the task that keeps it running: turns what happens into events of the
//! table, and obeys it.
//!
//! It decides nothing itself: [`child::step`](super::child::step) says what to do, [`Backoff`] how
//! long to wait, [`Streak`] whether silence counts. What it does shows in the log (one line a
//! change, with the reason), in [`Vitals`], and in the member's health.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};

use super::backoff::Backoff;
use super::capture::Output;
use super::child::{Action, Event, State, step};
use super::nursery::Nurseries;
use super::nursery::message::{End, Identity, Limits, Role, Start};
use super::probe::{self, Judgement, ProbeError, Pulse, Sessions, Streak};
use super::spawn::{self, Group, Report, Running};
use super::vitals::{Cause, Vitals};
use super::{Order, Pace};
use crate::member::{Member, OnFailure};

/// How long a group that was sent SIGKILL may take to be gone before it is sent again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// Least time between two probes that the proxy's suspicion brings about.
const SUSPICION_EVERY: Duration = Duration::from_millis(500);

/// How a child is started, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables on top of our own environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory.
    pub directory: Option<PathBuf>,
    /// Whom it runs as.
    pub identity: Identity,
    /// How much of everything it may have.
    pub limits: Limits,
    /// How long it may take to answer its first negotiation.
    pub start_timeout: Duration,
    /// How long it may take to end after SIGTERM.
    pub stop_timeout: Duration,
}

impl Plan {
    /// What a nursery is asked for. Whoever takes over finds the child by its name and place: for a
    /// while there may be two of one name.
    fn start(&self, member: &Member, with_socket: bool) -> Start {
        let socket = with_socket.then(|| spawn::LISTEN_FDNAME.to_owned());
        Start {
            name: format!("{} at {}", member.name, member.address),
            role: Role::Filter,
            command: self.command.clone(),
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            sockets: socket.into_iter().collect(),
            limits: self.limits,
        }
    }
}

/// How a pause ends.
enum Paused {
    GoOn,
    Stop,
    LetGo,
}

type Probing = Pin<Box<dyn Future<Output = Result<(), ProbeError>> + Send>>;

/// The task's state.
pub struct Keeper {
    member: Arc<Member>,
    plan: Plan,
    pace: Pace,
    nurseries: Arc<Nurseries>,
    /// The listening socket, ours for as long as we live; `None` when the child binds its own.
    listener: Option<OwnedFd>,
    vitals: Arc<Vitals>,
    reports: mpsc::UnboundedSender<Report>,
    first_word: Option<oneshot::Sender<()>>,

    state: State,
    backoff: Backoff,
    streak: Streak,
    group: Option<Arc<Group>>,
    output: Output,
    deadline: Option<Instant>,
    probing: Option<Probing>,
    probed_at: Option<Instant>,
    /// Why it has to be started again, for the one line about that.
    trouble: String,
    /// Its signs of life.
    pulse: Pulse,
    /// What became of real messages since it was started.
    sessions: Sessions,
    /// How many of its own words there were when messages last failed one after the other.
    fell_at_words: Option<u64>,
    /// Its process has been ready.
    was_ready: bool,
}

/// What a keeper is made of.
pub struct Parts {
    /// The member it keeps.
    pub member: Arc<Member>,
    /// How it is started.
    pub plan: Plan,
    /// How often it is looked at.
    pub pace: Pace,
    /// Who starts it.
    pub nurseries: Arc<Nurseries>,
    /// Its listening socket.
    pub listener: Option<OwnedFd>,
    /// Where its state is shown.
    pub vitals: Arc<Vitals>,
    /// Told when it is ready, or has failed for the first time.
    pub first_word: oneshot::Sender<()>,
}

impl Keeper {
    /// Keeps a child until told to stop, and the child has ended.
    pub async fn run(parts: Parts, mut orders: mpsc::Receiver<Order>) {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut keeper = Self::new(parts, sender);
        keeper.begin();
        let mut stopping = false;
        while !(stopping && keeper.state == State::Down) {
            keeper.ensure_probe();
            tokio::select! {
                Some(report) = reports.recv() => keeper.report(report),
                order = orders.recv(), if !(stopping && orders.is_closed()) => match order {
                    Some(Order::Pause) => match keeper.pause(&mut orders).await {
                        Paused::GoOn => {}
                        Paused::Stop => {
                            stopping = true;
                            keeper.order(Order::Stop);
                        }
                        Paused::LetGo => return,
                    },
                    Some(Order::Release) => return keeper.output.leave(),
                    // A supervisor that is gone wants nothing running either.
                    order => {
                        stopping |= !matches!(order, Some(Order::Restart | Order::Resume));
                        keeper.order(order.unwrap_or(Order::Stop));
                    }
                },
                outcome = optional(&mut keeper.probing) => keeper.probed(&outcome),
                () = until(keeper.deadline) => keeper.overdue(),
                () = keeper.member.health.suspected() => keeper.suspect(),
            }
        }
    }

    fn new(parts: Parts, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            pulse: Pulse::new(Instant::now(), parts.member.health.messages()),
            member: parts.member,
            plan: parts.plan,
            pace: parts.pace,
            nurseries: parts.nurseries,
            listener: parts.listener,
            vitals: parts.vitals,
            reports,
            first_word: Some(parts.first_word),
            state: State::Down,
            backoff: Backoff::default(),
            streak: Streak::default(),
            group: None,
            output: Output::default(),
            deadline: None,
            probing: None,
            probed_at: None,
            trouble: String::new(),
            sessions: Sessions::default(),
            fell_at_words: None,
            was_ready: false,
        }
    }

    /// Starts the child, or goes on with the one that an orchestrator before us has left.
    fn begin(&mut self) {
        let wanted = self.plan.start(&self.member, self.listener.is_some());
        let (identity, reports) = (&self.plan.identity, self.reports.clone());
        let adopted = self.nurseries.adopt(identity, &wanted.name, reports);
        let Some((start, running)) = adopted else {
            self.happen(Event::Start);
            return;
        };
        self.started(running, "taken over");
        self.happen(Event::Adopted);
        if start != wanted {
            tracing::info!(milter = self.member.name, "its configuration has changed");
            self.happen(Event::Restart);
        }
    }

    /// Does nothing at all until told what is next.
    async fn pause(&mut self, orders: &mut mpsc::Receiver<Order>) -> Paused {
        self.output.leave();
        loop {
            match orders.recv().await {
                Some(Order::Resume) => {
                    self.output.listen();
                    return Paused::GoOn;
                }
                Some(Order::Release) => return Paused::LetGo,
                Some(Order::Stop) | None => return Paused::Stop,
                Some(Order::Pause | Order::Restart) => {}
            }
        }
    }

    /// One event: asks the table, moves, acts.
    fn happen(&mut self, event: Event) {
        let (next, action) = step(self.state, event);
        let moved = next != self.state;
        if moved {
            self.state = next;
            self.streak = Streak::default();
            self.sessions = self.present_sessions();
            self.probing = None;
        }
        if moved || action != Action::Nothing {
            self.deadline = self.time_allowed().map(|time| Instant::now() + time);
        }
        self.act(action);
        self.vitals.show_breaker(self.backoff.is_open());
        let readiness = self.state.readiness(self.backoff.is_open());
        self.member.health.set_readiness(readiness);
        if moved {
            let pid = self.group.as_ref().map(|group| group.id());
            self.vitals.moved(self.state, pid);
        }
        if !matches!(self.state, State::Down | State::Starting) {
            // Nobody may wait for it any more; that is no failure.
            let _ = self.first_word.take().map(|waiting| waiting.send(()));
        }
    }

    /// How long the present state may last; `None` for ever. Backoff is given its time by
    /// [`Action::Delay`].
    fn time_allowed(&self) -> Option<Duration> {
        match self.state {
            State::Down | State::Up | State::Backoff => None,
            State::Starting => Some(self.plan.start_timeout),
            State::Sick => Some(
                self.pace
                    .hang_timeout
                    .saturating_sub(self.pulse.alive_at().elapsed()),
            ),
            State::Killed => Some(KILL_AGAIN),
            State::Replacing | State::Stopping => Some(self.plan.stop_timeout),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Spawn => self.spawn(),
            Action::Terminate => self.signal(Signal::SIGTERM),
            Action::Kill => self.signal(Signal::SIGKILL),
            Action::Delay => self.delay(),
        }
    }

    fn spawn(&mut self) {
        self.vitals.count_start();
        let start = self.plan.start(&self.member, self.listener.is_some());
        self.nurseries.start(
            &self.plan.identity,
            start,
            self.listener.as_slice(),
            self.reports.clone(),
        );
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = &self.group {
            group.signal(signal);
            if signal == Signal::SIGTERM {
                // A stopped process would not see it.
                group.signal(Signal::SIGCONT);
            }
        }
    }

    fn delay(&mut self) {
        let now = Instant::now();
        let was_open = self.backoff.is_open();
        let delay = self.backoff.crashed(now, RandomState::new().hash_one(now));
        self.deadline = Some(now + delay);
        self.vitals.show_backoff(delay);
        let milter = &self.member.name;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let trouble = std::mem::take(&mut self.trouble);
        tracing::warn!(milter, delay_ms, "{trouble}; starting it again");
        if self.backoff.is_open() && !was_open {
            tracing::error!(
                milter,
                "it crashes again and again; until it answers, {} (on_failure), and it goes on \
                 being started",
                consequence(self.member.on_failure)
            );
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Started(running) => self.started(running, "started"),
            Report::NotStarted(error) => {
                self.vitals.count_end(Cause::NotStarted);
                self.note(error.to_string());
                self.group = None;
                self.happen(Event::Failed);
            }
            Report::Ended(status) => {
                if self.state != State::Stopping {
                    self.vitals.count_end(self.cause(status));
                }
                let how = spawn::describe(status);
                match self.state {
                    State::Stopping | State::Replacing => {
                        tracing::info!(milter = self.member.name, "{how}");
                    }
                    State::Starting => self.note(format!(
                        "{how} before it answered a negotiation; see its own lines in this log"
                    )),
                    // Why we killed it is worth remembering, not that it worked.
                    State::Killed => self.trouble = how,
                    State::Down | State::Up | State::Sick | State::Backoff => self.note(how),
                }
                self.group = None;
                self.happen(Event::Exited);
            }
        }
    }

    fn started(&mut self, running: Running, how: &str) {
        let pid = running.group.id();
        tracing::info!(milter = self.member.name, pid, "{how}");
        self.group = Some(running.group);
        self.was_ready = false;
        self.fell_at_words = None;
        self.vitals.moved(self.state, Some(pid));
        self.output = Output::new(&self.member.name, running.stdout, running.stderr);
        self.output.listen();
        // Orders may have come before there was anybody to signal.
        match self.state {
            State::Replacing | State::Stopping => self.signal(Signal::SIGTERM),
            State::Killed => self.signal(Signal::SIGKILL),
            State::Down | State::Starting | State::Up | State::Sick | State::Backoff => {}
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Restart => {
                tracing::info!(milter = self.member.name, "restart asked for");
                self.backoff.forget();
                self.member.health.isolation().forget();
                self.happen(Event::Restart);
            }
            Order::Stop => self.happen(Event::Stop),
            Order::Pause | Order::Resume | Order::Release => {}
        }
    }

    /// Why it has ended.
    fn cause(&self, end: End) -> Cause {
        match (self.state, end) {
            (State::Replacing, _) => Cause::Asked,
            (State::Killed, _) if self.was_ready => Cause::Hung,
            (State::Killed, _) => Cause::Late,
            (_, End::Lost) => Cause::Lost,
            (_, End::Exited(_)) => Cause::Exited,
            (_, End::Killed { signal, .. }) => Cause::Signal(signal),
        }
    }

    fn overdue(&mut self) {
        match self.state {
            State::Starting => self.complain(&format!(
                "has not answered a negotiation at {} within {:?}; killed. Does it listen on the \
                 socket that it is handed (LISTEN_FDS)? A program that binds a socket itself needs \
                 `binds_itself = true`",
                self.member.address, self.plan.start_timeout
            )),
            State::Sick => self.complain("runs without answering; killed"),
            State::Replacing | State::Stopping => {
                tracing::warn!(milter = self.member.name, "has not ended in time; killed");
            }
            State::Down | State::Up | State::Killed | State::Backoff => {}
        }
        self.deadline = None;
        self.happen(Event::Overdue);
    }

    fn probed(&mut self, outcome: &Result<(), ProbeError>) {
        self.probing = None;
        if let Err(error) = outcome
            && error.is_ours()
        {
            tracing::warn!(milter = self.member.name, "cannot be probed: {error}");
            self.deadline = self.time_allowed().map(|time| Instant::now() + time);
            return;
        }
        let messages = self.member.health.messages();
        self.pulse.look(Instant::now(), outcome.is_ok(), messages);
        if let (Ok(()), Some(begun)) = (outcome, self.probed_at) {
            self.vitals.show_probe(begun.elapsed());
        }
        let judgement = self.streak.record(outcome.is_ok());
        match (self.state, outcome, judgement) {
            (State::Starting, Ok(()), _) | (State::Sick, Ok(()), Judgement::Risen) => {
                self.backoff.ready(Instant::now());
                self.was_ready = true;
                tracing::info!(milter = self.member.name, "ready");
                self.happen(Event::Answered);
            }
            (State::Up, Err(error), Judgement::Fallen) => {
                self.complain(&format!(
                    "does not answer negotiations any more: {error}; until it does, {} \
                     (on_failure)",
                    consequence(self.member.on_failure)
                ));
                self.happen(Event::Unanswered);
            }
            // A long message is a sign of life as well.
            (State::Sick, _, _) => {
                self.deadline = Some(self.pulse.alive_at() + self.pace.hang_timeout)
            }
            _ => {}
        }
    }

    fn present_sessions(&self) -> Sessions {
        let health = &self.member.health;
        Sessions::from(health.messages(), health.counters().failed())
    }

    /// The proxy had trouble with it: look at once, but do not let every message cause a probe.
    /// Where it does nothing but fail it is down, although it may answer probes; when that goes on,
    /// it hangs.
    fn suspect(&mut self) {
        let health = &self.member.health;
        let (words, failures) = (health.messages(), health.counters().failed());
        if self.state == State::Up && self.sessions.record(words, failures) == Judgement::Fallen {
            let again = self.fell_at_words == Some(words);
            self.fell_at_words = Some(words);
            self.complain(&format!(
                "messages fail one after the other; until it answers probes again, {} (on_failure)",
                consequence(self.member.on_failure)
            ));
            self.happen(Event::Unanswered);
            if again {
                self.complain("has not done its work for a single message since; killed");
                self.happen(Event::Overdue);
            }
            return;
        }
        let recently = self
            .probed_at
            .is_some_and(|at| at.elapsed() < SUSPICION_EVERY);
        if self.state == State::Up && !recently {
            self.probing = Some(self.probe_after(Duration::ZERO));
        }
    }

    /// Has a probe under way whenever the state calls for it.
    fn ensure_probe(&mut self) {
        if self.probing.is_none() && self.state.is_probed() {
            let interval = match self.state {
                State::Starting => self.pace.starting_interval,
                _ => self.pace.probe_interval,
            };
            // From start to start, so that probes that time out do not make us look less often.
            let passed = self.probed_at.map_or(Duration::ZERO, |at| at.elapsed());
            self.probing = Some(self.probe_after(interval.saturating_sub(passed)));
        }
    }

    fn probe_after(&mut self, pause: Duration) -> Probing {
        self.probed_at = Some(Instant::now() + pause);
        let member = Arc::clone(&self.member);
        let timeout = self.pace.probe_timeout;
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            let negotiated = probe::negotiate(&member.address, timeout).await?;
            member.health.note_negotiated(negotiated);
            Ok(())
        })
    }

    /// Remembers what goes into the line about the next start.
    fn note(&mut self, what: String) {
        self.member.health.note_error(&what);
        self.trouble = what;
    }

    /// Says at once what is wrong.
    fn complain(&self, what: &str) {
        tracing::warn!(milter = self.member.name, "{what}");
        self.member.health.note_error(what);
    }
}

/// What a failure policy means for mail, as the middle of a sentence.
#[must_use]
pub fn consequence(policy: OnFailure) -> &'static str {
    match policy {
        OnFailure::Accept => "mail passes without it",
        OnFailure::TempFail => "mail is refused for now",
        OnFailure::Reject => "mail is refused for good",
        OnFailure::Quarantine => "mail is held in quarantine",
    }
}

/// The probe under way; for ever when there is none.
async fn optional(probing: &mut Option<Probing>) -> Result<(), ProbeError> {
    match probing {
        Some(probing) => probing.await,
        None => std::future::pending().await,
    }
}

/// Waits until `deadline`; for ever when there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
