//! Children and foreign milters: started, watched, started again, ended.
//!
//! Mechanism and policy are apart. [`child`] is the table of a child's life and [`backoff`] the
//! rule of when to try again, both pure; [`nursery`] knows processes; [`probe`] knows whether a
//! filter answers; [`keeper`] and [`foreign`] are the tasks that bring them together, one for each
//! milter. A milter in trouble never stops the others, and nothing here ever gives up on one. What
//! goes wrong is logged once, where it is decided, and stays visible as the milter's last error.

pub mod backoff;
pub mod capture;
pub mod child;
pub mod foreign;
pub mod keeper;
pub mod nursery;
pub mod probe;
pub mod spawn;
pub mod vitals;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time;

use crate::member::Member;
use keeper::{Keeper, Parts, Plan};
use nursery::Nurseries;
use vitals::Vitals;

/// How long children that were killed may take to be gone, at the very end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Orders that may wait for a keeper at most.
const ORDERS_MAX: usize = 8;

/// How often milters are looked at, and how patiently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From probe to probe.
    pub probe_interval: Duration,
    /// How long one probe may take.
    pub probe_timeout: Duration,
    /// From probe to probe while a child starts.
    pub starting_interval: Duration,
    /// A child without a sign of life for so long is killed.
    pub hang_timeout: Duration,
}

/// What a keeper can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End the process and start a fresh one.
    Restart,
    /// End it for good.
    Stop,
    /// Neither start nor end nor read anything until told more: somebody else may.
    Pause,
    /// Go on after a pause; what has happened meanwhile counts now.
    Resume,
    /// Leave the child to somebody else.
    Release,
}

/// A milter to look after.
#[derive(Debug)]
pub struct Charge {
    /// The milter.
    pub member: Arc<Member>,
    /// Whether it is ours to run.
    pub kind: Kind,
}

/// Whose a milter is.
#[derive(Debug)]
pub enum Kind {
    /// Ours: started like this, with this socket, or none when it binds its own.
    Spawned(Plan, Option<OwnedFd>),
    /// Somebody else's.
    Foreign,
}

/// All milters that are looked after.
#[derive(Debug)]
pub struct Supervisor {
    nurseries: Arc<Nurseries>,
    pace: Pace,
    kept: Vec<Kept>,
    tasks: JoinSet<()>,
    first_words: Vec<oneshot::Receiver<()>>,
    /// The longest time that a child may take to end.
    longest_stop: Duration,
}

/// One milter and the way to its keeper.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The milter.
    pub member: Arc<Member>,
    /// What its keeper shows.
    pub vitals: Arc<Vitals>,
    /// Whether it is ours to run.
    pub spawned: bool,
    orders: mpsc::Sender<Order>,
}

/// Why a milter cannot be restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// It belongs to somebody else.
    #[error("milter {0:?} is not ours to restart: its configuration has a socket and no command")]
    Foreign(String),
    /// Its keeper does not listen, which happens only at the very end.
    #[error("milter {0:?} is being stopped")]
    Stopping(String),
}

impl Kept {
    /// Has the child ended and started afresh.
    ///
    /// # Errors
    /// When it is not ours, or we are about to end.
    pub fn restart(&self) -> Result<(), RestartError> {
        let name = || self.member.name.clone();
        if !self.spawned {
            return Err(RestartError::Foreign(name()));
        }
        self.orders
            .try_send(Order::Restart)
            .map_err(|_| RestartError::Stopping(name()))
    }
}

impl Supervisor {
    /// Nobody to look after yet.
    #[must_use]
    pub fn new(nurseries: Nurseries, pace: Pace) -> Self {
        Self {
            nurseries: Arc::new(nurseries),
            pace,
            kept: Vec::new(),
            tasks: JoinSet::new(),
            first_words: Vec::new(),
            longest_stop: Duration::ZERO,
        }
    }

    /// Looks after a milter from now on.
    pub fn keep(&mut self, charge: Charge) -> Kept {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let (first_word, spoken) = oneshot::channel();
        let vitals = Arc::new(Vitals::default());
        self.first_words.push(spoken);
        let kept = Kept {
            member: Arc::clone(&charge.member),
            vitals: Arc::clone(&vitals),
            spawned: matches!(charge.kind, Kind::Spawned(..)),
            orders,
        };
        self.kept.push(kept.clone());
        let (member, pace) = (charge.member, self.pace);
        match charge.kind {
            Kind::Foreign => {
                let task = foreign::watch(member, pace, vitals, first_word, receiver);
                self.tasks.spawn(task);
            }
            Kind::Spawned(plan, listener) => {
                self.longest_stop = self.longest_stop.max(plan.stop_timeout);
                let parts = Parts {
                    member,
                    plan,
                    pace,
                    nurseries: Arc::clone(&self.nurseries),
                    listener,
                    vitals,
                    first_word,
                };
                self.tasks.spawn(Keeper::run(parts, receiver));
            }
        }
        kept
    }

    /// Ends a milter, and looks after it no more; its keeper goes on until that is done.
    pub fn dismiss(&mut self, milter: &Kept) {
        self.kept
            .retain(|kept| !Arc::ptr_eq(&kept.vitals, &milter.vitals));
        // Where there is no room for an order, the end of the last `Kept` says the same.
        let _ = milter.orders.try_send(Order::Stop);
        // Tasks that have ended are not kept until the end of the program.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Those that are looked after, in the order in which they came.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Waits until each milter that is new has had its chance: it is ready, or has failed once.
    pub fn settled(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let first_words = std::mem::take(&mut self.first_words);
        async move {
            for spoken in first_words {
                // A keeper that has ended without a word has nothing to wait for either.
                let _ = spoken.await;
            }
        }
    }

    /// The parents of the children.
    #[must_use]
    pub fn nurseries(&self) -> &Arc<Nurseries> {
        &self.nurseries
    }

    /// Has all keepers hold still, while another orchestrator takes over.
    pub async fn pause(&self) {
        self.tell_spawned(Order::Pause).await;
    }

    /// Has all keepers go on, since nobody has taken over.
    pub async fn resume(&self) {
        // Whatever the other one has started is nobody's now.
        for (_, stray) in self.nurseries.unclaimed() {
            stray.group.signal(Signal::SIGKILL);
        }
        self.tell_spawned(Order::Resume).await;
    }

    async fn tell_spawned(&self, order: Order) {
        for kept in self.kept.iter().filter(|kept| kept.spawned) {
            // A keeper that cannot take an order is at its end.
            let _ = kept.orders.send(order).await;
        }
    }

    /// Leaves all children and their nurseries to another orchestrator.
    pub async fn release(mut self) {
        for kept in &self.kept {
            let order = if kept.spawned {
                Order::Release
            } else {
                Order::Stop
            };
            let _ = kept.orders.send(order).await;
        }
        while self.tasks.join_next().await.is_some() {}
        self.nurseries.let_go();
    }

    /// Ends all children, waits for that, and lets the nurseries go. Each child has its own time to
    /// end, then is killed.
    pub async fn stop(mut self) {
        for kept in &self.kept {
            // A keeper that cannot take an order is at its end.
            let _ = kept.orders.send(Order::Stop).await;
        }
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // One that not even SIGKILL ends (its file server does not answer) is left to the system.
        if time::timeout(self.longest_stop + STOP_GRACE, ended)
            .await
            .is_err()
        {
            tracing::error!("a filter does not end although it was killed; left behind");
        }
        self.nurseries.finish().await;
    }
}
