//! Everything that runs, and the loop that holds it together.
//!
//! One thing is changed at a time; what is asked for meanwhile waits. Nothing here waits for a
//! filter: what takes time is looked at again at every tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::daemon::exit::EX_OSERR;
use milter_proto::daemon::watch::{Watching, start};
use milter_proto::daemon::{Bound, Failure, Host, Program, Signal};
use milter_proto::net::Admission;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time;

use super::Orchestrator;
use super::change::Change;
use super::desk::{Desk, Gauge, Roster, What, Wish};
use super::generation::{Generation, Prepared, Retired};
use crate::blueprint::Blueprint;
use crate::config::{Listen, Settings};
use crate::control::{self, Answer};
use crate::entrance::{Current, Door, Entrance, Rules};
use crate::list_watch;
use crate::sockets;
use crate::status;
use crate::supervisor::Supervisor;

/// MTAs are let in when every child has had its chance, or after this time.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How often the nurseries are looked at, and what is no longer wanted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a change that is under way is looked at.
const ADVANCE_EVERY: Duration = Duration::from_millis(20);

/// Everything that runs.
pub(super) struct House {
    pub(super) settings: Settings,
    pub(super) supervisor: Supervisor,
    pub(super) rules: Arc<Current>,
    pub(super) doors: BTreeMap<String, Door>,
    /// The tasks behind the doors, also of those that are closed.
    pub(super) serving: JoinSet<()>,
    pub(super) milters: BTreeMap<String, Generation>,
    /// Generations end with their last connection.
    pub(super) retired: Vec<Retired>,
    /// Likewise listeners; what is left at that time is told to stop.
    pub(super) closed: Vec<(watch::Sender<Admission>, Instant)>,
    /// Distinguishes the sockets of generations.
    pub(super) number: u32,
    /// The children have had their chance.
    settled: bool,
    /// No more mail is wanted.
    draining: bool,
    desk: Arc<Desk>,
    wishes: mpsc::Receiver<Wish>,
    change: Option<Change>,
    reload_again: bool,
    /// Removed with its file when dropped.
    _control: Bound,
}

impl House {
    /// Binds and starts everything; the doors stay closed for now.
    pub(super) fn open(orchestrator: Orchestrator, bound: Vec<Bound>) -> Result<Self, Failure> {
        let Orchestrator {
            settings,
            blueprint,
            cradles,
        } = orchestrator;
        sockets::prepare(&blueprint)?;
        let rules = Arc::new(Current::new(rules(&blueprint)));
        let Blueprint {
            routes,
            milters,
            control,
            pace,
            ..
        } = blueprint;
        let prepared = milters.into_iter().map(|plan| {
            let configured = plan.member.address.clone();
            Prepared::bind(plan, configured)
        });
        let prepared = prepared.collect::<Result<Vec<_>, Failure>>()?;
        let control = sockets::control(&control)?;
        let nurseries = super::nurseries(cradles)?;
        let (desk, wishes) = Desk::new(Arc::clone(&rules));
        let mut house = Self {
            settings,
            supervisor: Supervisor::new(nurseries, pace),
            rules,
            doors: BTreeMap::new(),
            serving: JoinSet::new(),
            milters: BTreeMap::new(),
            retired: Vec::new(),
            closed: Vec::new(),
            number: 1,
            settled: false,
            draining: false,
            desk: Arc::new(desk),
            wishes,
            change: None,
            reload_again: false,
            _control: control,
        };
        for bound in bound {
            if let Some(listen) = house.settings.listen.get(&bound.name).cloned() {
                let name = bound.name.clone();
                let door = house.hang_door(bound, &listen)?;
                house.doors.insert(name, door);
            }
        }
        for prepared in prepared {
            let mut generation = prepared.start(&mut house.supervisor)?;
            generation.is_named_by(&routes);
            house
                .milters
                .insert(generation.name().to_owned(), generation);
        }
        drop(routes);
        house.show();
        tokio::spawn(list_watch::watch(Arc::clone(&house.rules)));
        house.answer_questions()?;
        Ok(house)
    }

    fn answer_questions(&self) -> Result<(), Failure> {
        let clerk = Arc::clone(&self.desk);
        let listener = sockets::listen(&self._control)?;
        tokio::spawn(control::serve(listener, move |question| {
            let clerk = Arc::clone(&clerk);
            async move { clerk.answer(question).await }
        }));
        Ok(())
    }

    /// Answers on the socket of `[metrics]`, if there is one, until what is returned is dropped.
    pub(super) fn be_watched(
        &self,
        host: &mut Host<Orchestrator>,
    ) -> Result<Option<Watching>, Failure> {
        let Some(bound) = host.take_metrics() else {
            return Ok(None);
        };
        let desk: Arc<Desk> = Arc::clone(&self.desk);
        start(bound, Orchestrator::NAME, desk).map(Some)
    }

    /// A door for a bound socket, as closed as all of them are.
    pub(super) fn hang_door(&mut self, bound: Bound, listen: &Listen) -> Result<Door, Failure> {
        let address = bound.address.clone();
        let grace = self.settings.process.stop_timeout.get();
        let (entrance, door) = Entrance::new(bound, listen, grace, &self.rules, Admission::Paused)
            .map_err(|error| Failure::new(EX_OSERR, format!("{address}: {error}")))?;
        self.serving.spawn(entrance.serve());
        Ok(door)
    }

    /// Shows what there is now.
    pub(super) fn show(&self) {
        let gauges = self.doors.iter().map(|(name, door)| Gauge {
            name: name.clone(),
            socket: door.listen.socket.to_string(),
            connections: Arc::clone(&door.connections),
        });
        let kept = self
            .milters
            .values()
            .map(|generation| generation.kept.clone());
        self.desk.show(Roster {
            kept: kept.collect(),
            gauges: gauges.collect(),
        });
    }

    /// Lets MTAs in and does as signals and wishes say, until told to stop.
    pub(super) async fn serve(&mut self, host: &mut Host<Orchestrator>) {
        let settled = time::timeout(SETTLE_MAX, self.supervisor.settled());
        tokio::pin!(settled);
        let mut look = time::interval(LOOK_EVERY);
        let mut advance = time::interval(ADVANCE_EVERY);
        let mut alive = time::interval(host.watchdog().unwrap_or(LOOK_EVERY));
        loop {
            let busy = self.change.is_some();
            tokio::select! {
                signal = host.next_signal() => match signal {
                    Signal::Stop => return,
                    Signal::Reload if busy => self.reload_again = true,
                    Signal::Reload => self.fulfil(Wish::of(What::Reload), host).await,
                    Signal::Report => self.report(),
                },
                Some(wish) = self.wishes.recv(), if !busy => self.fulfil(wish, host).await,
                _ = &mut settled, if !self.settled => {
                    self.settled = true;
                    self.admit(self.admission());
                    host.ready();
                }
                _ = advance.tick(), if busy => self.advance(host).await,
                _ = look.tick() => {
                    self.supervisor.nurseries().check();
                    self.tidy();
                }
                _ = alive.tick() => host.alive(),
            }
        }
    }

    /// What doors are to do.
    pub(super) fn admission(&self) -> Admission {
        match self.settled && !self.draining {
            true => Admission::Open,
            false => Admission::Paused,
        }
    }

    /// What all doors do from now on.
    fn admit(&self, admission: Admission) {
        for door in self.doors.values() {
            door.say(admission);
        }
    }

    async fn fulfil(&mut self, wish: Wish, host: &mut Host<Orchestrator>) {
        match wish.what {
            What::Reload => match self.begin_reload(host).await {
                Ok(change) => self.change = Some(change.asked_by(wish)),
                Err(error) => {
                    tracing::error!("the old configuration stays: {error}");
                    host.reloaded();
                    wish.answer(Answer::Error(format!(
                        "the old configuration stays: {error}"
                    )));
                }
            },
            What::Drain { undo } => {
                let said = self.drain(undo);
                tracing::info!("{said}");
                wish.answer(Answer::Done(said));
            }
        }
    }

    /// Looks after what is under way.
    async fn advance(&mut self, host: &mut Host<Orchestrator>) {
        let Some(change) = self.change.take() else {
            return;
        };
        self.change = self.go_on(change, host);
        if self.change.is_none() && std::mem::take(&mut self.reload_again) {
            self.fulfil(Wish::of(What::Reload), host).await;
        }
    }

    fn drain(&mut self, undo: bool) -> String {
        let draining = std::mem::replace(&mut self.draining, !undo);
        self.desk.show_draining(!undo);
        self.admit(self.admission());
        match (undo, draining) {
            (false, false) => {
                "draining: no more connections are taken; messages in hand are finished, then \
                 their connections are closed"
            }
            (false, true) => "it is draining already",
            (true, true) => "connections are taken again",
            (true, false) => "it is not draining; connections are taken",
        }
        .to_owned()
    }

    /// Ends what nobody uses any more, or has used for too long.
    fn tidy(&mut self) {
        let now = Instant::now();
        let supervisor = &mut self.supervisor;
        self.retired.retain(|retired| {
            let milter = retired.generation.name();
            let used = retired.generation.is_used();
            if used && now < retired.until {
                return true;
            }
            if used {
                tracing::warn!(milter, "connections have used its old process for too long");
            }
            tracing::info!(milter, "its old process is not needed any more");
            supervisor.dismiss(&retired.generation.kept);
            false
        });
        self.closed.retain(|(order, until)| {
            if now >= *until {
                order.send_replace(Admission::Stopping);
            }
            !order.is_closed()
        });
        while self.serving.try_join_next().is_some() {}
    }

    fn report(&self) {
        for line in status::render(&self.desk.snapshot()).lines() {
            tracing::info!("{line}");
        }
    }

    /// Finishes messages, then children, each with its deadline; another stop signal shortens both.
    pub(super) async fn close(mut self, host: &mut Host<Orchestrator>) {
        self.admit(Admission::Stopping);
        for (order, _) in &self.closed {
            order.send_replace(Admission::Stopping);
        }
        tokio::select! {
            () = async { while self.serving.join_next().await.is_some() {} } => {}
            () = another_stop(host) => {
                tracing::warn!("told to stop again: messages in hand are cut off");
                self.serving.shutdown().await;
            }
        }
        self.supervisor.stop().await;
    }
}

async fn another_stop(host: &mut Host<Orchestrator>) {
    while host.next_signal().await != Signal::Stop {}
}

pub(super) fn rules(blueprint: &Blueprint) -> Rules {
    Rules {
        routes: Arc::clone(&blueprint.routes),
        limits: blueprint.limits.clone(),
    }
}
