//! Where questions of the control socket are answered.
//!
//! What can be read or ordered at once is; what changes the house is passed on to its loop, and
//! answered when that is done.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use milter_proto::daemon::Failure;
use milter_proto::daemon::watch::{Exposition, Health, Watched};
use tokio::sync::{mpsc, oneshot};

use crate::control::{Answer, Question};
use crate::entrance::{Current, Rules};
use crate::metrics;
use crate::status::{self, ListenerStatus, MilterStatus, ReloadStatus, Snapshot, SpoolStatus};
use crate::supervisor::Kept;

/// Wishes that may wait at most.
pub(super) const WISHES_MAX: usize = 8;

/// What somebody wants of the house.
#[derive(Debug)]
pub(super) struct Wish {
    /// What.
    pub(super) what: What,
    /// Where the answer goes; `None` when nobody waits for it.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

/// The kinds of it.
#[derive(Debug)]
pub(super) enum What {
    /// Read the configuration again.
    Reload,
    /// Take no more mail, or, to undo that, take it again.
    Drain { undo: bool },
    /// Let another binary take our place.
    Upgrade { binary: Option<PathBuf> },
}

impl Wish {
    /// Nobody waits for an answer.
    pub(super) fn of(what: What) -> Self {
        Self { what, answer: None }
    }

    /// Says what came of it.
    pub(super) fn answer(self, answer: Answer) {
        if let Some(waiting) = self.answer {
            // Whoever asked may have lost patience.
            let _ = waiting.send(answer);
        }
    }
}

/// A listener as `status` sees it.
#[derive(Debug)]
pub(super) struct Gauge {
    pub(super) name: String,
    pub(super) socket: String,
    pub(super) connections: Arc<AtomicU64>,
}

/// What there is to see; changed by a reload.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) kept: Vec<Kept>,
    pub(super) gauges: Vec<Gauge>,
}

/// Where questions are answered.
#[derive(Debug)]
pub(super) struct Desk {
    since: SystemTime,
    roster: RwLock<Roster>,
    rules: Arc<Current>,
    draining: AtomicBool,
    reloads: Mutex<ReloadStatus>,
    wishes: mpsc::Sender<Wish>,
}

impl Desk {
    /// With wishes for the house to fulfil.
    pub(super) fn new(rules: Arc<Current>) -> (Self, mpsc::Receiver<Wish>) {
        let (sender, wishes) = mpsc::channel(WISHES_MAX);
        let desk = Self {
            since: SystemTime::now(),
            roster: RwLock::default(),
            rules,
            draining: AtomicBool::new(false),
            reloads: Mutex::default(),
            wishes: sender,
        };
        (desk, wishes)
    }

    /// What there is to see from now on.
    pub(super) fn show(&self, roster: Roster) {
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = roster;
    }

    /// Whether mail is taken.
    pub(super) fn show_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// What came of a reload.
    pub(super) fn show_reload(&self, outcome: Result<(), &Failure>) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.at = status::seconds(SystemTime::now());
        reloads.error = outcome.err().map(ToString::to_string);
        match &reloads.error {
            None => reloads.succeeded += 1,
            Some(_) => reloads.failed += 1,
        }
    }

    fn roster(&self) -> RwLockReadGuard<'_, Roster> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a question.
    pub(super) async fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(self.snapshot()),
            Question::Restart { milter } => self.restart(&milter),
            Question::Reload => self.wish(What::Reload).await,
            Question::Drain { undo } => self.wish(What::Drain { undo }).await,
            Question::Upgrade { binary } => self.wish(What::Upgrade { binary }).await,
        }
    }

    async fn wish(&self, what: What) -> Answer {
        let (answer, answered) = oneshot::channel();
        let wish = Wish {
            what,
            answer: Some(answer),
        };
        if self.wishes.try_send(wish).is_err() {
            return Answer::Error("too much is asked for at once; try again later".to_owned());
        }
        answered
            .await
            .unwrap_or_else(|_| Answer::Error("the orchestrator is being stopped".to_owned()))
    }

    fn restart(&self, name: &str) -> Answer {
        let roster = self.roster();
        let Some(kept) = roster.kept.iter().find(|kept| kept.member.name == name) else {
            let names: Vec<&str> = roster.kept.iter().map(|kept| &*kept.member.name).collect();
            let names = names.join(", ");
            return Answer::Error(format!("there is no milter {name:?}; there are: {names}"));
        };
        match kept.restart() {
            Ok(()) => Answer::Done(format!("{name} is being restarted; see `status`")),
            Err(error) => Answer::Error(error.to_string()),
        }
    }

    /// Everything that there is to see.
    pub(super) fn snapshot(&self) -> Snapshot {
        let Rules { routes, limits } = self.rules.read();
        let roster = self.roster();
        let milters = roster.kept.iter().map(|kept| {
            // A reload may have changed its policies; its process and counters are the same.
            let current = routes.member(&kept.member.name);
            MilterStatus::of(kept, current.as_deref().unwrap_or(&kept.member))
        });
        let listeners = roster.gauges.iter().map(|gauge| ListenerStatus {
            name: gauge.name.clone(),
            socket: gauge.socket.clone(),
            connections: gauge.connections.load(Ordering::Relaxed),
            traffic: self.rules.traffic(&gauge.name).read(),
        });
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            draining: self.draining.load(Ordering::Relaxed),
            since: status::seconds(self.since),
            now: status::seconds(SystemTime::now()),
            listeners: listeners.collect(),
            milters: milters.collect(),
            spool: SpoolStatus::from(&*limits.spool.budget),
            reload: self
                .reloads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

impl Watched for Desk {
    fn measure(&self, page: &mut Exposition) {
        metrics::write(&self.snapshot(), page);
    }

    fn health(&self) -> Health {
        metrics::health(&self.snapshot())
    }
}
