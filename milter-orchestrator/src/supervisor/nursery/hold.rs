//! An orchestrator's hold on its nurseries.
//!
//! For each [`Identity`] there is a nursery that tends the children and a spare one, started by the
//! first, that takes its place when it ends: by then the orchestrator may have no rights left to
//! start one for another user, or, in its sandbox, any at all. Children of a nursery that has ended
//! are reported as [`End::Lost`]. Nothing here waits for a nursery; one that cannot be had fails
//! the starts of its children, and is tried for again for ever where that can help.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child as Process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::unistd::Uid;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use super::channel::{Channel, Watched};
use super::message::{ChildId, End, Identity, Report, Request, Role, Start};
use super::serve;
use crate::supervisor::spawn::{self, Group, Running, StartError};

/// How long nurseries may take to end their children at the very end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a nursery could not be replaced that is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// So many times, then we end, since a fresh start is all that helps: in our sandbox, or without
/// root, nobody can be started any more once the spare one has gone as well.
const TRIES_MAX: u32 = 5;

/// A nursery that nobody talks to yet.
#[derive(Debug)]
pub struct Cradle {
    identity: Identity,
    channel: Channel,
    spare: Option<Channel>,
    /// Ours to reap.
    process: Option<Process>,
    /// So is one in whose place this one came; it ends, since nobody holds it.
    superfluous: Option<Process>,
}

/// The sockets by which another orchestrator becomes a holder of the same nurseries.
#[derive(Debug)]
pub struct Share {
    /// Whose nursery.
    pub identity: Identity,
    /// To the one that tends the children.
    pub active: OwnedFd,
    /// To the spare one.
    pub spare: Option<OwnedFd>,
}

impl Cradle {
    /// Starts a nursery; `program` is this binary. For another user this needs root, which that
    /// nursery gives up first thing.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(program: &Path, identity: Identity) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let process = serve::command_for(program, theirs.into(), &identity).spawn()?;
        Ok(Self {
            identity,
            channel,
            spare: None,
            process: Some(process),
            superfluous: None,
        })
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// One that another orchestrator shares with us.
    #[must_use]
    pub fn shared(share: Share) -> Self {
        Self {
            identity: share.identity,
            channel: share.active.into(),
            spare: share.spare.map(Channel::from),
            process: None,
            superfluous: None,
        }
    }
}

/// A child that ran when we became a holder, and that nobody keeps yet.
#[derive(Debug)]
struct Foundling {
    start: Start,
    running: Running,
}

/// All nurseries.
#[derive(Debug)]
pub struct Nurseries {
    homes: BTreeMap<Identity, Arc<Home>>,
    tasks: Mutex<JoinSet<()>>,
    /// What makes the next [`ChildId`]: two orchestrators never make up the same.
    next: AtomicU64,
}

/// A nursery, whichever it is at the moment.
#[derive(Debug)]
pub struct Home {
    identity: Identity,
    program: PathBuf,
    /// Whether all children that ran when we came are known.
    told: watch::Sender<bool>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    active: Option<Arc<Watched>>,
    spare: Option<Channel>,
    processes: Vec<Process>,
    children: BTreeMap<ChildId, Kin>,
    foundlings: BTreeMap<ChildId, Foundling>,
    /// Process groups of children whose nursery has ended.
    left: Vec<i32>,
    closing: bool,
    /// There is none, and none can be had.
    lost: bool,
}

/// A child of ours.
#[derive(Debug)]
struct Kin {
    reports: UnboundedSender<spawn::Report>,
    program: String,
    pid: Option<i32>,
}

impl Nurseries {
    /// Whether one of them has ended and cannot be replaced, so that only a new start helps.
    #[must_use]
    pub fn are_lost(&self) -> bool {
        self.homes.values().any(|home| home.lock().lost)
    }

    /// Takes hold of these nurseries. Needs the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch a socket.
    pub fn open(program: &Path, cradles: Vec<Cradle>) -> io::Result<Self> {
        // One that is shared with us comes later, and before one of our own.
        let mut best: BTreeMap<Identity, Cradle> = BTreeMap::new();
        for mut cradle in cradles {
            let identity = cradle.identity.clone();
            if let Some(second) = best.remove(&identity) {
                cradle.superfluous = second.process;
            }
            best.insert(identity, cradle);
        }
        let mut homes = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for cradle in best.into_values() {
            let identity = cradle.identity.clone();
            let home = Arc::new(Home::open(program, cradle)?);
            tasks.spawn(Home::attend(Arc::clone(&home)));
            homes.insert(identity, home);
        }
        Ok(Self {
            homes,
            tasks: Mutex::new(tasks),
            next: AtomicU64::new(u64::from(std::process::id()) << 32),
        })
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program; what becomes of it arrives at `reports`.
    pub fn start(
        &self,
        identity: &Identity,
        start: Start,
        sockets: &[OwnedFd],
        reports: UnboundedSender<spawn::Report>,
    ) {
        let id = ChildId(self.next.fetch_add(1, Ordering::Relaxed));
        let outcome = match self.homes.get(identity) {
            Some(home) => home.start(id, start, sockets, &reports),
            None => Err(StartError::NoNursery(whose(identity))),
        };
        if let Err(error) = outcome {
            // Nobody listens any more when the orchestrator is at its end.
            let _ = reports.send(spawn::Report::NotStarted(error));
        }
    }

    /// Becomes the keeper of the child of that name which ran when we became a holder, and runs
    /// still: what was asked of it, and the process.
    #[must_use]
    pub fn adopt(
        &self,
        identity: &Identity,
        name: &str,
        reports: UnboundedSender<spawn::Report>,
    ) -> Option<(Start, Running)> {
        let mut inner = self.homes.get(identity)?.lock();
        let mut found = inner.foundlings.iter();
        let id = found.find_map(|(id, found)| (found.start.name == name).then_some(*id))?;
        let Foundling { start, running } = inner.foundlings.remove(&id)?;
        let kin = Kin {
            reports,
            program: start.command.first().cloned().unwrap_or_default(),
            pid: Some(running.group.id()),
        };
        inner.children.insert(id, kin);
        Some((start, running))
    }

    /// Waits until all nurseries that another orchestrator shares with us have told of their
    /// children.
    pub async fn introduced(&self) {
        for home in self.homes.values() {
            // It ends with the home only, which is ours.
            let _ = home.told.subscribe().wait_for(|told| *told).await;
        }
    }

    /// Those that ran when we became a holder and that nobody has adopted; they are nobody's now.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<(Start, Running)> {
        let homes = self.homes.values();
        let found =
            homes.flat_map(|home| std::mem::take(&mut home.lock().foundlings).into_values());
        found.map(|found| (found.start, found.running)).collect()
    }

    /// New sockets for another holder, which hears at once of all that runs.
    ///
    /// # Errors
    /// When there are no descriptors left, or a nursery does not listen.
    pub fn share(&self) -> io::Result<Vec<Share>> {
        self.homes.values().map(|home| home.share()).collect()
    }

    /// Sees to it that each nursery has its spare. To be called now and then.
    pub fn check(&self) {
        for home in self.homes.values() {
            home.check();
        }
    }

    /// Lets go of all nurseries and leaves them, and all children, to another holder.
    pub fn let_go(&self) {
        self.tasks().abort_all();
        for home in self.homes.values() {
            home.let_go();
        }
    }

    /// Lets go of all nurseries, whose children end when nobody else holds them, and waits for
    /// that.
    pub async fn finish(&self) {
        for home in self.homes.values() {
            home.hang_up();
        }
        let mut tasks = std::mem::take(&mut *self.tasks());
        let ended = async { while tasks.join_next().await.is_some() {} };
        if time::timeout(END_TIMEOUT, ended).await.is_err() {
            tracing::warn!("a nursery has not ended in time");
        }
        for home in self.homes.values() {
            home.reap();
        }
    }
}

impl Home {
    fn open(program: &Path, cradle: Cradle) -> io::Result<Self> {
        let home = Self {
            identity: cradle.identity,
            told: watch::Sender::new(cradle.process.is_some()),
            program: program.to_owned(),
            inner: Mutex::new(Inner {
                active: Some(Arc::new(cradle.channel.watched()?)),
                spare: cradle.spare,
                processes: [cradle.process, cradle.superfluous]
                    .into_iter()
                    .flatten()
                    .collect(),
                ..Inner::default()
            }),
        };
        home.check();
        Ok(home)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        self: &Arc<Self>,
        id: ChildId,
        start: Start,
        sockets: &[OwnedFd],
        reports: &UnboundedSender<spawn::Report>,
    ) -> Result<(), StartError> {
        let mut inner = self.lock();
        let Some(active) = &inner.active else {
            return Err(StartError::NoNursery(whose(&self.identity)));
        };
        let kin = Kin {
            reports: reports.clone(),
            program: start.command.first().cloned().unwrap_or_default(),
            pid: None,
        };
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let request = Request::Start(id, start);
        active.send(&request, &sockets)?;
        inner.children.insert(id, kin);
        Ok(())
    }

    /// Sends a signal to the process group of a child.
    fn signal(&self, id: ChildId, signal: Signal) {
        if let Some(active) = &self.lock().active {
            // A nursery that is gone has taken the child with it; one that does not listen is
            // asked again by whoever waits for the end.
            let _ = active.send(&Request::Signal(id, signal as i32), &[]);
        }
    }

    /// Hears what the nursery says, for ever, whichever it is.
    async fn attend(self: Arc<Self>) {
        let mut tries = 0;
        loop {
            let active = self.lock().active.clone();
            if let Some(active) = active {
                self.hear_out(&active).await;
                self.lost();
            }
            if self.lock().closing {
                return;
            }
            match self.replace() {
                Ok(()) => tries = 0,
                Err(error) => {
                    tries += 1;
                    let whose = whose(&self.identity);
                    tracing::error!(
                        %error,
                        "the nursery {whose} cannot be replaced; its filters cannot be started"
                    );
                    if tries == TRIES_MAX {
                        // Another one of us can do what we may not any more.
                        tracing::error!("ending in order, to be started again");
                        self.lock().lost = true;
                        let _ = raise(Signal::SIGTERM);
                    }
                    time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Hears one nursery until it ends.
    async fn hear_out(self: &Arc<Self>, active: &Watched) {
        loop {
            let report = active.receive().await;
            match report {
                Ok(Some((report, pipes))) => self.hear(report, pipes),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!("a nursery of another version says what we do not understand");
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn hear(self: &Arc<Self>, report: Report, pipes: Vec<OwnedFd>) {
        let mut inner = self.lock();
        match report {
            Report::Started(id, start, pid) => {
                let mut pipes = pipes.into_iter();
                let running = Running {
                    group: Arc::new(Group::new(Arc::clone(self), id, pid)),
                    stdout: pipes.next(),
                    stderr: pipes.next(),
                };
                if let Some(kin) = inner.children.get_mut(&id) {
                    kin.pid = Some(pid);
                    let _ = kin.reports.send(spawn::Report::Started(running));
                } else if start.role == Role::Filter {
                    // An orchestrator looks after itself: it may be us.
                    inner.foundlings.insert(id, Foundling { start, running });
                }
            }
            Report::NotStarted(id, step, errno) => {
                if let Some(kin) = inner.children.remove(&id) {
                    let error = StartError::of(kin.program, step, errno);
                    let _ = kin.reports.send(spawn::Report::NotStarted(error));
                }
            }
            Report::Ended(id, end) => {
                inner.foundlings.remove(&id);
                if let Some(kin) = inner.children.remove(&id) {
                    let _ = kin.reports.send(spawn::Report::Ended(end));
                }
            }
            Report::Told => {
                self.told.send_replace(true);
            }
        }
    }

    /// The nursery has ended, and the kernel ends its children; what is left of their groups is for
    /// the next nursery to kill, which has the right to.
    fn lost(&self) {
        self.told.send_replace(true);
        let mut inner = self.lock();
        inner.active = None;
        if inner.closing {
            return;
        }
        let whose = whose(&self.identity);
        tracing::error!("the nursery {whose} has ended, and its filters with it; replacing it");
        inner.foundlings.clear();
        for kin in std::mem::take(&mut inner.children).into_values() {
            inner.left.extend(kin.pid);
            let _ = kin.reports.send(spawn::Report::Ended(End::Lost));
        }
    }

    /// Puts the spare in its place, or a new one where there is none.
    fn replace(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let channel = match inner.spare.take() {
            Some(spare) => spare,
            None => {
                if self.identity.user.is_some() && !Uid::effective().is_root() {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                let cradle = Cradle::start(&self.program, self.identity.clone())?;
                inner.processes.extend(cradle.process);
                cradle.channel
            }
        };
        let active = Arc::new(channel.watched()?);
        active.send(&Request::Sweep(inner.left.clone()), &[])?;
        inner.left.clear();
        inner.active = Some(active);
        inner.check(&self.identity);
        Ok(())
    }

    fn check(&self) {
        self.lock().check(&self.identity);
    }

    fn share(&self) -> io::Result<Share> {
        let inner = self.lock();
        let pair = || -> io::Result<_> {
            let (ours, theirs) = Channel::pair()?;
            Ok((OwnedFd::from(ours), OwnedFd::from(theirs)))
        };
        let active = inner.active.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (ours, theirs) = pair()?;
        active.send(&Request::Share, &[theirs.as_fd()])?;
        // Without a spare one the other holder has its own made.
        let spare = inner.spare.as_ref().and_then(|spare| {
            let (ours, theirs) = pair().ok()?;
            spare.send(&Request::Share, &[theirs.as_fd()]).ok()?;
            Some(ours)
        });
        Ok(Share {
            identity: self.identity.clone(),
            active: ours,
            spare,
        })
    }

    fn let_go(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        inner.active = None;
        inner.spare = None;
    }

    fn hang_up(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        inner.spare = None;
        if let Some(active) = &inner.active {
            active.hang_up();
        }
    }

    /// Waits for those of our own processes that are at their end.
    fn reap(&self) {
        let mut inner = self.lock();
        inner
            .processes
            .retain_mut(|process| matches!(process.try_wait(), Ok(None)));
    }
}

impl Inner {
    /// Has a spare nursery started where there is none, and reaps those that have ended.
    fn check(&mut self, identity: &Identity) {
        self.processes
            .retain_mut(|process| matches!(process.try_wait(), Ok(None)));
        let Some(active) = &self.active else { return };
        if let Some(spare) = &self.spare {
            let silent = spare.receive::<Report>();
            let lives = silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if lives || self.closing {
                return;
            }
        }
        let bred = Channel::pair().and_then(|(ours, theirs)| {
            active.send(&Request::Breed, &[theirs.as_fd()])?;
            Ok(ours)
        });
        match bred {
            Ok(spare) => self.spare = Some(spare),
            Err(error) => {
                let whose = whose(identity);
                tracing::warn!(%error, "the nursery {whose} has no spare one beside it");
            }
        }
    }
}

impl Group {
    /// Sends a signal to all of it; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        self.home.signal(self.child, signal);
    }
}

/// Whose nursery it is, for people.
fn whose(identity: &Identity) -> String {
    match &identity.user {
        Some(user) => format!("of user {user:?}"),
        None => "of our own user".to_owned(),
    }
}
