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
use nix::sys::signal::Signal as NixSignal;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{self, MissedTickBehavior};

use super::Orchestrator;
use super::change::Change;
use super::desk::{Desk, Gauge, Roster, What, Wish};
use super::generation::{Generation, Retired};
use super::handover::{ToHeir, ToPredecessor};
use super::succession::{Predecessor, ending, hear};
use super::upgrade::{Heir, Standing, Upgrade};
use crate::blueprint::Blueprint;
use crate::config::{Listen, Settings};
use crate::control::{self, Answer, Peers};
use crate::entrance::{Current, Door, Entrance, Rules};
use crate::sockets;
use crate::status;
use crate::supervisor::Supervisor;
use crate::supervisor::nursery::channel::Watched;

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
    pub(super) draining: bool,
    pub(super) desk: Arc<Desk>,
    pub(super) wishes: mpsc::Receiver<Wish>,
    under_way: Option<UnderWay>,
    reload_again: bool,
    /// Removed with its file when dropped.
    pub(super) control: Bound,
    pub(super) clerk: Option<AbortHandle>,
    /// Who waits for an answer.
    pub(super) asking: Peers,
    pub(super) metrics: Option<Metrics>,
    /// The one whose place we take.
    pub(super) predecessor: Option<Predecessor>,
}

/// Where monitoring asks.
pub(super) struct Metrics {
    /// The socket and its file.
    pub(super) bound: Bound,
    pub(super) watching: Watching,
}

/// What takes its time.
enum UnderWay {
    Reload(Box<Change>),
    Upgrade(Upgrade),
}

/// How a house ends.
pub(super) enum Ending {
    /// Somebody wants that.
    Stopped,
    /// Another one has taken its place.
    Succeeded(Heir),
    /// It was to take the place of one that stays after all.
    Unwanted,
}

impl House {
    /// With no doors and no milters so far.
    pub(super) fn new(
        settings: Settings,
        supervisor: Supervisor,
        rules: Rules,
        control: Bound,
    ) -> Self {
        let rules = Arc::new(Current::new(rules));
        let (desk, wishes) = Desk::new(Arc::clone(&rules));
        Self {
            settings,
            supervisor,
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
            under_way: None,
            reload_again: false,
            control,
            clerk: None,
            asking: Peers::default(),
            metrics: None,
            predecessor: None,
        }
    }

    /// As another one has left it.
    pub(super) fn continue_at(&mut self, number: u32, draining: bool) {
        self.number = number;
        self.draining = draining;
        self.desk.show_draining(draining);
    }

    /// Takes the place of another one, when that says so.
    pub(super) fn succeed(&mut self, channel: Watched, metrics: Option<Bound>, ready: Vec<String>) {
        self.predecessor = Some(Predecessor {
            channel,
            metrics,
            ready,
            has_left: false,
            left: Vec::new(),
        });
    }

    /// Answers at the control socket from now on.
    pub(super) fn answer_questions(&mut self) -> Result<(), Failure> {
        let clerk = Arc::clone(&self.desk);
        let listener = sockets::listen(&self.control)?;
        let task = tokio::spawn(control::serve(
            listener,
            self.asking.clone(),
            move |question| {
                let clerk = Arc::clone(&clerk);
                async move { clerk.answer(question).await }
            },
        ));
        self.clerk = Some(task.abort_handle());
        Ok(())
    }

    /// Answers what monitoring asks, at this socket.
    pub(super) fn be_watched(&mut self, bound: Option<Bound>) -> Result<(), Failure> {
        let Some(bound) = bound else {
            return Ok(());
        };
        let served = Bound {
            name: bound.name.clone(),
            socket: bound.socket.try_clone().map_err(|error| {
                Failure::new(EX_OSERR, format!("[metrics] {}: {error}", bound.address))
            })?,
            address: bound.address.clone(),
            file: None,
        };
        let desk: Arc<Desk> = Arc::clone(&self.desk);
        let metrics = Metrics {
            watching: start(served, Orchestrator::NAME, desk)?,
            bound,
        };
        self.metrics = Some(metrics);
        Ok(())
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

    /// Lets MTAs in and does as signals and wishes say, until told to stop or replaced.
    pub(super) async fn serve(&mut self, host: &mut Host<Orchestrator>) -> Ending {
        let settled = time::timeout(SETTLE_MAX, self.supervisor.settled());
        tokio::pin!(settled);
        let mut look = time::interval(LOOK_EVERY);
        let mut advance = time::interval(ADVANCE_EVERY);
        // It is looked at only while there is something to do.
        advance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = time::interval(host.watchdog().unwrap_or(LOOK_EVERY));
        loop {
            let busy = self.under_way.is_some();
            tokio::select! {
                signal = host.next_signal() => match signal {
                    Signal::Stop => return self.stopped(),
                    Signal::Reload if busy => self.reload_again = true,
                    Signal::Reload => self.fulfil(Wish::of(What::Reload), host).await,
                    Signal::Report => self.report(),
                },
                Some(wish) = self.wishes.recv(), if !busy => self.fulfil(wish, host).await,
                _ = &mut settled, if !self.settled => {
                    self.settled = true;
                    self.ready(host);
                }
                said = hear(self.predecessor.as_ref()) => match said {
                    Some(ToHeir::Go) => self.take_over(host),
                    Some(ToHeir::Manifest(_)) => {}
                    None if self.is_unwanted() => return Ending::Unwanted,
                    None => self.inherit_all(),
                },
                _ = advance.tick(), if busy => if let Some(heir) = self.advance(host).await {
                    return Ending::Succeeded(heir);
                },
                _ = look.tick() => {
                    self.supervisor.nurseries().check();
                    self.tidy();
                }
                _ = alive.tick() => host.alive(),
            }
        }
    }

    /// Whether the end is for want of what starts filters.
    pub(super) fn has_lost_nurseries(&self) -> bool {
        self.supervisor.nurseries().are_lost()
    }

    fn stopped(&self) -> Ending {
        match self.is_unwanted() {
            true => Ending::Unwanted,
            false => Ending::Stopped,
        }
    }

    /// Whether somebody else still counts.
    fn is_unwanted(&self) -> bool {
        let predecessor = self.predecessor.as_ref();
        predecessor.is_some_and(|predecessor| !predecessor.has_left)
    }

    /// The children have had their chance: lets MTAs in, or says that this could be done.
    fn ready(&self, host: &Host<Orchestrator>) {
        match &self.predecessor {
            None => {
                self.admit(self.admission());
                host.ready();
            }
            Some(predecessor) => {
                let said = match self.worse_than(&predecessor.ready) {
                    None => ToPredecessor::Ready,
                    Some(why) => ToPredecessor::Failed(why),
                };
                tracing::info!(?said, "upgrade: the filters have had their chance");
                // If it does not hear us it ends us.
                let _ = predecessor.channel.send(&said, &[]);
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
    pub(super) fn admit(&self, admission: Admission) {
        for door in self.doors.values() {
            door.say(admission);
        }
    }

    async fn fulfil(&mut self, wish: Wish, host: &mut Host<Orchestrator>) {
        match &wish.what {
            What::Reload => match self.begin_reload(host).await {
                Ok(change) => {
                    self.under_way = Some(UnderWay::Reload(Box::new(change.asked_by(wish))))
                }
                Err(error) => {
                    let what = format!("the old configuration stays: {error}");
                    tracing::error!("{what}");
                    self.desk.show_reload(Err(&error));
                    host.reloaded();
                    wish.answer(Answer::Error(what));
                }
            },
            What::Drain { undo } => {
                let said = self.drain(*undo);
                tracing::info!("{said}");
                wish.answer(Answer::Done(said));
            }
            What::Upgrade { binary } => {
                let binary = binary.clone();
                match self.begin_upgrade(binary.as_deref(), wish, host) {
                    Ok(upgrade) => self.under_way = Some(UnderWay::Upgrade(upgrade)),
                    Err((error, wish)) => {
                        wish.answer(Answer::Error(format!("nothing has changed: {error}")));
                    }
                }
            }
        }
    }

    /// Looks after what is under way; who has taken our place, if somebody has.
    async fn advance(&mut self, host: &mut Host<Orchestrator>) -> Option<Heir> {
        self.under_way = match self.under_way.take()? {
            UnderWay::Reload(change) => {
                let change = self.go_on(*change, host).map(Box::new);
                change.map(UnderWay::Reload)
            }
            UnderWay::Upgrade(upgrade) => match self.go_on_upgrading(upgrade, host).await {
                Standing::UnderWay(upgrade) => Some(UnderWay::Upgrade(upgrade)),
                Standing::Failed => None,
                Standing::Done(heir, wish) => {
                    // Before anybody can ask again: it is not ours to answer any more.
                    if let Some(clerk) = &self.clerk {
                        clerk.abort();
                    }
                    let said = format!("process {} has taken over", heir.pid);
                    wish.answer(Answer::Done(said));
                    return Some(heir);
                }
            },
        };
        if self.under_way.is_none() && std::mem::take(&mut self.reload_again) {
            self.fulfil(Wish::of(What::Reload), host).await;
        }
        None
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
        let predecessor = self.predecessor.is_some();
        self.retired.retain(|retired| {
            let milter = retired.generation.name();
            // What the connections of the one before us go on with is not known here.
            let used = retired.generation.is_used() || predecessor;
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
        if self.under_way.is_none() && self.predecessor.is_none() {
            // What somebody has started who was to take over and did not.
            for (_, stray) in self.supervisor.nurseries().unclaimed() {
                stray.group.signal(NixSignal::SIGKILL);
            }
        }
    }

    fn report(&self) {
        for line in status::render(&self.desk.snapshot()).lines() {
            tracing::info!("{line}");
        }
    }

    /// Finishes messages, then children, each with its deadline; another stop signal shortens both.
    pub(super) async fn close(mut self, host: &mut Host<Orchestrator>) {
        match self.under_way.take() {
            Some(UnderWay::Reload(change)) => self.take_back(*change),
            Some(UnderWay::Upgrade(upgrade)) => self.call_off(&upgrade).await,
            None => {}
        }
        self.stop_connections();
        let grace = self.settings.process.stop_timeout.get();
        let predecessor = self.predecessor.take();
        // It uses the same filters, and finishes as well.
        let others = time::timeout(grace, ending(predecessor.as_ref()));
        tokio::select! {
            () = async {
                while self.serving.join_next().await.is_some() {}
                let _ = others.await;
            } => {}
            () = another_stop(host) => {
                tracing::warn!("told to stop again: messages in hand are cut off");
                self.serving.shutdown().await;
            }
        }
        self.supervisor.stop().await;
    }

    fn stop_connections(&self) {
        self.admit(Admission::Stopping);
        for (order, _) in &self.closed {
            order.send_replace(Admission::Stopping);
        }
    }
}

pub(super) async fn another_stop(host: &mut Host<Orchestrator>) {
    while host.next_signal().await != Signal::Stop {}
}

pub(super) fn rules(blueprint: &Blueprint) -> Rules {
    Rules {
        routes: Arc::clone(&blueprint.routes),
        limits: blueprint.limits.clone(),
    }
}
