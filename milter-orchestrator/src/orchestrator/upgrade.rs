//! An upgrade as the old orchestrator sees it: a step at a time, and undone if any of them fails.
//!
//! The new binary checks the configuration; it is started beside us and given everything; it gets
//! ready; it serves; we stop accepting. Until the last step we are the one that counts: whatever
//! goes wrong, the new process is killed and we go on as if nothing had been.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use milter_proto::daemon::exit::{EX_OSERR, EX_UNAVAILABLE};
use milter_proto::daemon::{Failure, Host, PREDECESSOR};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot};

use super::Orchestrator;
use super::desk::Wish;
use super::handover::{Parcel, ToHeir, ToPredecessor};
use super::house::House;
use crate::control::Answer;
use crate::member::Readiness;
use crate::supervisor::nursery::channel::Channel;
use crate::supervisor::nursery::message::{End, Identity, Role, Start};
use crate::supervisor::spawn::{self, Report, Running};

/// How long the new binary may take to check the configuration.
const CHECK_MAX: Duration = Duration::from_secs(30);

/// How long it may take to be ready, and to serve.
const START_MAX: Duration = Duration::from_secs(60);

/// Bytes of what it complains about that are passed on.
const COMPLAINT_MAX: u64 = 16 << 10;

/// How long its complaint may take after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An upgrade on its way.
#[derive(Debug)]
pub(super) struct Upgrade {
    program: String,
    step: Step,
    until: Instant,
    reports: mpsc::UnboundedReceiver<Report>,
    running: Option<Running>,
    /// Nobody looks after filters until it is over.
    paused: bool,
    wish: Wish,
}

#[derive(Debug)]
enum Step {
    /// It reads the configuration, and complains if it has to.
    Checking {
        complaint: Option<oneshot::Receiver<String>>,
        ended: Option<(End, Instant)>,
    },
    /// It makes itself ready.
    Preparing(Channel),
    /// It was told to serve.
    Going(Channel),
}

/// The process that has taken our place.
#[derive(Debug)]
pub(super) struct Heir {
    /// Kept until our last connection has ended, which tells it so.
    pub(super) channel: Channel,
    pub(super) pid: i32,
}

/// How an upgrade stands.
pub(super) enum Standing {
    UnderWay(Upgrade),
    Failed,
    Done(Heir, Wish),
}

impl Upgrade {
    /// What went wrong, where the process has ended.
    fn ended(&self, end: End) -> Failure {
        let message = format!("{}: it {}", self.program, spawn::describe(end));
        Failure::new(EX_UNAVAILABLE, message)
    }

    fn late(&self, what: &str) -> Option<Failure> {
        let message = format!("{}: it has not {what} in time", self.program);
        (Instant::now() > self.until).then(|| Failure::new(EX_UNAVAILABLE, message))
    }
}

impl House {
    /// Has the new binary check the configuration.
    pub(super) fn begin_upgrade(
        &mut self,
        binary: Option<&Path>,
        wish: Wish,
        host: &Host<Orchestrator>,
    ) -> Result<Upgrade, (Failure, Wish)> {
        let program = match binary
            .map_or_else(|| Ok(ourselves()), absolute)
            .and_then(as_text)
        {
            Ok(program) => program,
            Err(failure) => return Err((failure, wish)),
        };
        let config = host.config_path().display().to_string();
        let words = [&*program, "--config", &config, "check"];
        let start = Start {
            name: "check before an upgrade".to_owned(),
            command: words.map(str::to_owned).to_vec(),
            ..Start::default()
        };
        let (sender, reports) = mpsc::unbounded_channel();
        let nurseries = self.supervisor.nurseries();
        nurseries.start(&Identity::default(), start, &[], sender);
        tracing::info!(program, "upgrade: the new binary checks the configuration");
        Ok(Upgrade {
            program,
            step: Step::Checking {
                complaint: None,
                ended: None,
            },
            until: Instant::now() + CHECK_MAX,
            reports,
            running: None,
            paused: false,
            wish,
        })
    }

    /// Looks after an upgrade.
    pub(super) async fn go_on_upgrading(
        &mut self,
        mut upgrade: Upgrade,
        host: &Host<Orchestrator>,
    ) -> Standing {
        match self.next_step(&mut upgrade, host).await {
            Ok(false) => Standing::UnderWay(upgrade),
            Ok(true) => {
                let Step::Going(channel) = upgrade.step else {
                    return Standing::Failed;
                };
                let pid = upgrade.running.map_or(0, |running| running.group.id());
                Standing::Done(Heir { channel, pid }, upgrade.wish)
            }
            Err(failure) => {
                self.call_off(&upgrade).await;
                let what = format!("nothing has changed: {failure}");
                tracing::error!("upgrade: {what}");
                upgrade.wish.answer(Answer::Error(what));
                Standing::Failed
            }
        }
    }

    /// Does what can be done now; whether that was all.
    async fn next_step(
        &mut self,
        upgrade: &mut Upgrade,
        host: &Host<Orchestrator>,
    ) -> Result<bool, Failure> {
        while let Ok(report) = upgrade.reports.try_recv() {
            match (report, &mut upgrade.step) {
                (Report::Started(mut running), step) => {
                    if let Step::Checking { complaint, .. } = step {
                        *complaint = running.stderr.take().map(listen_to);
                    }
                    upgrade.running = Some(running);
                }
                (Report::NotStarted(error), _) => {
                    return Err(Failure::new(EX_UNAVAILABLE, error.to_string()));
                }
                (Report::Ended(end), Step::Checking { ended, .. }) => {
                    *ended = Some((end, Instant::now()));
                }
                (Report::Ended(end), Step::Preparing(channel) | Step::Going(channel)) => {
                    let said = channel.receive();
                    return Err(match said {
                        Ok(Some((ToPredecessor::Failed(why), _))) => {
                            Failure::new(EX_UNAVAILABLE, why)
                        }
                        _ => upgrade.ended(end),
                    });
                }
            }
        }
        match &mut upgrade.step {
            Step::Checking { complaint, ended } => {
                let Some((end, at)) = *ended else {
                    return upgrade
                        .late("checked the configuration")
                        .map_or(Ok(false), Err);
                };
                if end == End::Exited(0) {
                    upgrade.running = None;
                    self.start_heir(upgrade).await?;
                    return Ok(false);
                }
                let complaint = complaint.as_mut().map(oneshot::Receiver::try_recv);
                match complaint {
                    Some(Ok(said)) if !said.trim().is_empty() => {
                        Err(Failure::new(EX_UNAVAILABLE, said.trim().to_owned()))
                    }
                    Some(Err(oneshot::error::TryRecvError::Empty)) if at.elapsed() < LAST_WORDS => {
                        Ok(false)
                    }
                    _ => Err(upgrade.ended(end)),
                }
            }
            Step::Preparing(_) | Step::Going(_) => Self::hear(upgrade, host),
        }
    }

    /// What the new process says.
    fn hear(upgrade: &mut Upgrade, host: &Host<Orchestrator>) -> Result<bool, Failure> {
        let (Step::Preparing(channel) | Step::Going(channel)) = &upgrade.step else {
            return Ok(false);
        };
        let said = match channel.receive() {
            Ok(Some((said, _))) => said,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                let message = format!("{}: what it says is not understood", upgrade.program);
                return Err(Failure::new(EX_UNAVAILABLE, message));
            }
            // Its end is reported by the nursery.
            Ok(None) | Err(_) => return upgrade.late("got ready").map_or(Ok(false), Err),
        };
        match said {
            ToPredecessor::Failed(why) => Err(Failure::new(EX_UNAVAILABLE, why)),
            ToPredecessor::Serving => {
                let pid = upgrade.running.as_ref().map(|running| running.group.id());
                if let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()) {
                    host.succeeded_by(pid);
                }
                Ok(matches!(upgrade.step, Step::Going(_)))
            }
            ToPredecessor::Ready => {
                channel.send(&ToHeir::Go, &[]).map_err(system)?;
                let gone = Step::Checking {
                    complaint: None,
                    ended: None,
                };
                if let Step::Preparing(channel) = std::mem::replace(&mut upgrade.step, gone) {
                    upgrade.step = Step::Going(channel);
                }
                Ok(false)
            }
        }
    }

    /// Starts the new process and gives it everything.
    async fn start_heir(&mut self, upgrade: &mut Upgrade) -> Result<(), Failure> {
        let (ours, theirs) = Channel::pair().map_err(system)?;
        let mut names = vec![PREDECESSOR.to_owned()];
        let mut sockets = vec![OwnedFd::from(theirs)];
        for (name, door) in &self.doors {
            names.push(name.clone());
            sockets.push(door.duplicate().map_err(system)?);
        }
        if let Some(metrics) = &self.metrics {
            names.push(metrics.bound.name.clone());
            sockets.push(metrics.bound.duplicate().map_err(system)?);
        }
        upgrade.paused = true;
        self.supervisor.pause().await;
        let parcel = self.parcel().map_err(system)?;
        let mut command = vec![upgrade.program.clone()];
        for word in env::args_os().skip(1) {
            command.push(as_text(word.into())?);
        }
        // The numbers of processes among what the service manager says are not the new one's.
        let of_manager = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];
        let environment = of_manager
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), env::var(name).ok()?)));
        let start = Start {
            name: "the next orchestrator".to_owned(),
            role: Role::Heir,
            command,
            environment: environment.collect(),
            sockets: names,
            ..Start::default()
        };
        parcel.send(&ours).map_err(system)?;
        let (sender, reports) = mpsc::unbounded_channel();
        let nurseries = self.supervisor.nurseries();
        nurseries.start(&Identity::default(), start, &sockets, sender);
        tracing::info!(program = upgrade.program, "upgrade: the new process starts");
        upgrade.reports = reports;
        upgrade.step = Step::Preparing(ours);
        upgrade.until = Instant::now() + START_MAX;
        Ok(())
    }

    /// Everything that the new process is given over the channel.
    fn parcel(&self) -> io::Result<Parcel> {
        let mut parcel = Parcel::new(self.number, self.draining);
        for (name, generation) in &self.milters {
            let address = &generation.kept.member.address;
            let ready = generation.kept.member.health.readiness() == Readiness::Ready;
            parcel.milter(name, address, generation.socket.as_ref(), ready)?;
        }
        for (name, door) in &self.doors {
            if door.has_file() {
                parcel.file(name, &door.listen.socket);
            }
        }
        let metrics = self.settings.metrics.socket.as_ref();
        if let (Some(metrics), Some(address)) = (&self.metrics, metrics)
            && metrics.bound.file.is_some()
        {
            parcel.file(&metrics.bound.name, address);
        }
        parcel.control(self.settings.control.socket.clone(), &self.control)?;
        parcel.nurseries(self.supervisor.nurseries().share()?);
        Ok(parcel)
    }

    /// Ends the new process, and goes on.
    pub(super) async fn call_off(&self, upgrade: &Upgrade) {
        if let Some(running) = &upgrade.running {
            running.group.signal(Signal::SIGKILL);
        }
        if upgrade.paused {
            self.supervisor.resume().await;
        }
    }
}

fn system(error: io::Error) -> Failure {
    Failure::new(EX_OSERR, error.to_string())
}

/// The beginning of what a process complains about, when it has ended.
fn listen_to(pipe: OwnedFd) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let mut said = Vec::new();
        if let Ok(pipe) = Receiver::from_owned_fd(pipe) {
            // What was read so far is good enough.
            let _ = pipe.take(COMPLAINT_MAX).read_to_end(&mut said).await;
        }
        let _ = sender.send(String::from_utf8_lossy(&said).into_owned());
    });
    receiver
}

fn as_text(path: PathBuf) -> Result<String, Failure> {
    let text = OsString::from(path).into_string();
    text.map_err(|path| {
        let message = format!("{}: it is not UTF-8", path.display());
        Failure::new(EX_UNAVAILABLE, message)
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let message = format!("{}: write the full path", path.display());
    Err(Failure::new(EX_UNAVAILABLE, message))
}

/// The path that we were started from, where the next version is by now.
fn ourselves() -> PathBuf {
    let name = PathBuf::from(env::args_os().next().unwrap_or_default());
    let full = match (name.components().count(), env::current_dir()) {
        (2.., Ok(directory)) => Some(directory.join(&name)),
        _ => search_path(&name),
    };
    // As a last resort where we were found then; the name is gone when it was replaced.
    let found = full.filter(|path| path.exists());
    found.or_else(|| env::current_exe().ok()).unwrap_or(name)
}

fn search_path(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).map(|directory| directory.join(name));
    places.find(|place| fs::metadata(place).is_ok_and(|meta| meta.is_file()))
}
