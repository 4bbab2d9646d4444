//! The children of a nursery: started, signalled, reaped, and all ended at the end.
//!
//! A child leads a process group of its own. When it ends, what is left of its group is killed
//! while the number still belongs to it; then it is reaped. Descendants that have left their group
//! become ours when their parents end, and end with us at the latest. What happens comes out as
//! [`Report`]s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::exec::{self, LISTEN_FDS_START};
use super::message::{ChildId, End, Report, Role, Start, Step};
use super::{OURSELVES, serve};

/// How long a new process may take from fork to exec.
const EXEC_TIMEOUT: Duration = Duration::from_secs(20);

/// What is meant for the orchestrator alone and would mislead a child.
const NOT_INHERITED: [&str; 6] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// All children.
#[derive(Debug, Default)]
pub(super) struct Brood {
    children: BTreeMap<ChildId, Child>,
    /// Other nurseries that were started here. They end by themselves.
    bred: BTreeSet<i32>,
    /// Variables that tell a child who it is, where that is not whom we were started as.
    profile: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Child {
    start: Start,
    pid: Pid,
    process: Process,
    starting: Option<Starting>,
}

/// A child between fork and exec.
#[derive(Debug)]
struct Starting {
    control: UnixStream,
    since: Instant,
    /// Why there will be no exec.
    failed: Option<(Step, i32)>,
}

/// A report with the pipes that go with it.
#[derive(Debug)]
pub(super) struct News {
    /// What is told.
    pub(super) report: Report,
    /// Standard output and error, where the report is of a child that runs.
    pub(super) pipes: Vec<OwnedFd>,
}

impl From<Report> for News {
    fn from(report: Report) -> Self {
        Self {
            report,
            pipes: Vec::new(),
        }
    }
}

impl Brood {
    pub(super) fn new(profile: Vec<(&'static str, String)>) -> Self {
        Self {
            profile,
            ..Self::default()
        }
    }

    /// Starts a program; the news when that fails at once.
    pub(super) fn start(
        &mut self,
        id: ChildId,
        start: Start,
        sockets: Vec<OwnedFd>,
    ) -> Option<News> {
        let failed = |error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(Errno::EINVAL as i32);
            Some(Report::NotStarted(id, Step::Process, errno).into())
        };
        if self.children.contains_key(&id) {
            return failed(&Errno::EEXIST.into());
        }
        if sockets.len() < start.sockets.len() {
            return failed(&Errno::EMFILE.into());
        }
        match self.fork(&start, sockets) {
            Ok((process, control)) => {
                let starting = Starting {
                    control,
                    since: Instant::now(),
                    failed: None,
                };
                let child = Child {
                    pid: pid(&process),
                    start,
                    process,
                    starting: Some(starting),
                };
                self.children.insert(id, child);
                None
            }
            Err(error) => failed(&error),
        }
    }

    fn fork(&self, start: &Start, sockets: Vec<OwnedFd>) -> io::Result<(Process, UnixStream)> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let mut command = Command::new(OURSELVES);
        command
            .arg(exec::NAME)
            .args(arguments(start, sockets.len()));
        command.arg("--").args(&start.command);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command
            .envs(self.profile.iter().map(|(name, value)| (name, value)))
            .envs(&start.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0);
        if start.role == Role::Filter {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        if !sockets.is_empty() {
            command
                .env("LISTEN_FDS", sockets.len().to_string())
                .env("LISTEN_FDNAMES", start.sockets.join(":"));
            let mappings = sockets.into_iter().zip(LISTEN_FDS_START..);
            let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
            command
                .fd_mappings(mappings.collect())
                .map_err(io::Error::other)?;
        }
        Ok((command.spawn()?, control))
    }

    /// Starts another nursery with this socket.
    pub(super) fn breed(&mut self, socket: OwnedFd) -> io::Result<()> {
        let nursery = serve::command(Path::new(OURSELVES), socket)
            .envs(self.profile.iter().map(|(name, value)| (name, value)))
            .spawn()?;
        self.bred.insert(pid(&nursery).as_raw());
        Ok(())
    }

    /// Sends a signal to the process group of a child.
    pub(super) fn signal(&self, id: ChildId, number: i32) {
        if let Some(child) = self.children.get(&id)
            && let Ok(signal) = Signal::try_from(number)
        {
            // It fails only when every process of the group has just ended, which is as good.
            let _ = killpg(child.pid, signal);
        }
    }

    /// Kills process groups that a nursery before us has left: the kernel has ended their leaders.
    pub(super) fn sweep(&self, groups: &[i32]) {
        let ours = |group: i32| {
            self.children
                .values()
                .any(|child| child.pid.as_raw() == group)
        };
        // 0 and 1 would mean our own group and every process.
        for group in groups
            .iter()
            .copied()
            .filter(|group| *group > 1 && !ours(*group))
        {
            // One that is empty is as good.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }

    /// What is to be watched: who is between fork and exec, and their control sockets.
    pub(super) fn starting(&self) -> impl Iterator<Item = (ChildId, BorrowedFd<'_>)> {
        self.children.iter().filter_map(|(id, child)| {
            let starting = child.starting.as_ref()?;
            let open = starting.failed.is_none();
            open.then(|| (*id, starting.control.as_fd()))
        })
    }

    /// Something has happened on a control socket; the news when it was the exec.
    pub(super) fn heard(&mut self, id: ChildId) -> Option<News> {
        let child = self.children.get_mut(&id)?;
        let starting = child.starting.as_mut()?;
        if starting.failed.is_some() {
            return None;
        }
        let mut word = [0; exec::WORD];
        match starting.control.read(&mut word) {
            Ok(0) => {
                child.starting = None;
                Some(child.started(id))
            }
            Ok(_) => {
                starting.failed = Some(exec::read_word(word));
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                starting.failed = Some((Step::Process, error.raw_os_error().unwrap_or(0)));
                let _ = killpg(child.pid, Signal::SIGKILL);
                None
            }
        }
    }

    /// Kills those that take too long to their exec.
    pub(super) fn hurry(&mut self) {
        for child in self.children.values_mut() {
            if let Some(starting) = &mut child.starting
                && starting.since.elapsed() > EXEC_TIMEOUT
            {
                starting
                    .failed
                    .get_or_insert((Step::Process, Errno::ETIMEDOUT as i32));
                let _ = killpg(child.pid, Signal::SIGKILL);
            }
        }
    }

    /// Takes leave of everybody who has ended.
    pub(super) fn reap(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let mut ended: Vec<ChildId> = self.children.keys().copied().collect();
        ended.retain(|id| self.has_ended(*id));
        for id in ended {
            // Its last word may not have been heard yet.
            news.extend(self.heard(id));
            news.extend(self.bury(id));
        }
        let ours = |pid: &Pid| self.children.values().any(|child| child.pid == *pid);
        let strays: Vec<Pid> = our_children().filter(|pid| !ours(pid)).collect();
        for stray in strays {
            // One that lives stays; how one has ended does not matter.
            let ended = waitpid(stray, Some(WaitPidFlag::WNOHANG));
            if !matches!(ended, Ok(WaitStatus::StillAlive)) {
                self.bred.remove(&stray.as_raw());
            }
        }
        news
    }

    /// Whether a child has ended; it keeps its number.
    fn has_ended(&self, id: ChildId) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.children.get(&id).is_some_and(|child| {
            // An error as well: of a signal that has no name, say.
            !matches!(
                waitid(Id::Pid(child.pid), flags),
                Ok(WaitStatus::StillAlive)
            )
        })
    }

    /// Ends what is left of the group of a child that has ended, and gives up its number.
    fn bury(&mut self, id: ChildId) -> Vec<News> {
        let Some(mut child) = self.children.remove(&id) else {
            return Vec::new();
        };
        let _ = killpg(child.pid, Signal::SIGKILL);
        let ended = Report::Ended(id, child.process.wait().map_or(End::Lost, end)).into();
        match &child.starting {
            None => vec![ended],
            Some(Starting {
                failed: Some((step, errno)),
                ..
            }) => vec![Report::NotStarted(id, *step, *errno).into()],
            // Killed before it could say anything.
            Some(_) => vec![child.started(id), ended],
        }
    }

    /// All that run, for a further holder.
    pub(super) fn all(&self) -> Vec<News> {
        let running = self
            .children
            .iter()
            .filter(|(_, child)| child.starting.is_none());
        running.map(|(id, child)| child.started(*id)).collect()
    }

    /// Kills everybody and waits for them.
    pub(super) fn end(mut self) {
        let children = std::mem::take(&mut self.children).into_iter();
        let (heirs, children): (Vec<_>, Vec<_>) =
            children.partition(|(_, child)| child.start.role == Role::Heir);
        self.children = children.into_iter().collect();
        let heirs = heirs.iter().map(|(_, heir)| heir.pid.as_raw());
        let spared: BTreeSet<i32> = heirs.chain(self.bred.iter().copied()).collect();
        for child in self.children.values() {
            let _ = killpg(child.pid, Signal::SIGKILL);
        }
        for child in self.children.values_mut() {
            let _ = child.process.wait();
        }
        // Those who had left their group are ours by now, and their children will be.
        loop {
            let strays: Vec<Pid> = our_children()
                .filter(|pid| !spared.contains(&pid.as_raw()))
                .collect();
            if strays.is_empty() {
                return;
            }
            for stray in strays {
                let _ = kill(stray, Signal::SIGKILL);
                let _ = waitpid(stray, None);
            }
        }
    }
}

impl Child {
    /// What is told of a child that runs. The pipes stay here as well: whoever takes over later
    /// gets them too, and the child never writes into the void.
    fn started(&self, id: ChildId) -> News {
        let streams = [
            self.process.stdout.as_ref().map(AsFd::as_fd),
            self.process.stderr.as_ref().map(AsFd::as_fd),
        ];
        let pipes = streams.into_iter().flatten();
        News {
            report: Report::Started(id, self.start.clone(), self.pid.as_raw()),
            pipes: pipes
                .filter_map(|pipe| pipe.try_clone_to_owned().ok())
                .collect(),
        }
    }
}

/// The arguments of `child-exec` before the program.
fn arguments(start: &Start, sockets: usize) -> Vec<String> {
    let mut arguments = vec![format!("--sockets={sockets}")];
    if start.role == Role::Filter {
        arguments.push(format!("--parent={}", std::process::id()));
    }
    if let Some(directory) = &start.directory {
        arguments.push(format!("--directory={}", directory.display()));
    }
    let limits = start.limits;
    for (name, value) in [
        ("memory", limits.memory),
        ("open-files", limits.open_files),
        ("nice", limits.nice.map(u64::from)),
    ] {
        arguments.extend(value.map(|value| format!("--{name}={value}")));
    }
    arguments
}

/// Our children, also those that have come to us.
fn our_children() -> impl Iterator<Item = Pid> {
    // Where the kernel does not tell, there is nothing to be done.
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let children = fs::read_to_string(path).unwrap_or_default();
    let pids: Vec<Pid> = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect();
    pids.into_iter()
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => End::Killed {
            signal,
            dumped: status.core_dumped(),
        },
        (None, None) => End::Lost,
    }
}

fn pid(process: &Process) -> Pid {
    // Process ids are positive and far below 2³¹.
    Pid::from_raw(i32::try_from(process.id()).unwrap_or(i32::MAX))
}
