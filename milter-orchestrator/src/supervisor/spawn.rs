//! Starting a child, and being there when it ends: mechanism only, the supervisor decides when.
//!
//! Each child has a thread of ours for as long as it lives. That thread forks it, so that the
//! kernel's parent-death signal is tied to a thread that does not end first; tells the guard its
//! process group before the filter may run; and, when the child ends, kills what is left of its
//! group while the number still belongs to it, and reaps it. What happens is reported over a
//! channel.
//!
//! The child gets its listening socket as descriptor 3 with `LISTEN_FDS`, `LISTEN_PID` and
//! `LISTEN_FDNAMES` (sd_listen_fds(3)), pipes as standard output and error, nothing on standard
//! input, and no other descriptor.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;

use super::exec;
use super::guard::Guard;

/// Where the first inherited descriptor is (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: i32 = 3;

/// The name under which filters look for their socket.
const LISTEN_FDNAME: &str = "milter";

/// How long the new process may take from fork to exec.
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

/// What to start.
#[derive(Debug)]
pub struct Order {
    /// Name of the milter.
    pub name: String,
    /// Program and arguments; the program is looked for in `PATH` when it has no slash.
    pub command: Vec<String>,
    /// Variables on top of our own environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory; ours when `None`.
    pub directory: Option<PathBuf>,
    /// The listening socket to hand over; `None` when the child binds its own.
    pub listener: Option<OwnedFd>,
}

/// What becomes of a start.
#[derive(Debug)]
pub enum Report {
    /// The filter runs.
    Started(Running),
    /// It does not; nothing is left of the attempt.
    NotStarted(StartError),
    /// It has ended, and its process group with it.
    Ended(ExitStatus),
}

/// A filter that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process group, which bears its process id.
    pub group: Arc<Group>,
    /// Where it writes.
    pub stdout: Option<OwnedFd>,
    /// Where it complains.
    pub stderr: Option<OwnedFd>,
}

/// Why a child could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The program is not there, or not executable.
    #[error("cannot run {program:?}: {source}{}", advice(.source))]
    Exec {
        /// The program as configured.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something on our side: descriptors, processes, the guard.
    #[error("cannot start a process: {0}")]
    Process(#[from] io::Error),
}

/// What the operator can do about a failed exec.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "; install it, or write its full path in `command` (of a script, the program after #! \
             must exist too)"
        }
        io::ErrorKind::PermissionDenied => "; make it executable for the user that we run as",
        _ => "",
    }
}

/// A process group that can be signalled for as long as it bears its number.
#[derive(Debug)]
pub struct Group {
    id: Pid,
    alive: Mutex<bool>,
}

impl Group {
    /// Process id of the child, which is that of its group.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id.as_raw()
    }

    /// Sends a signal to all of it; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if *alive {
            // It fails only when every process of the group has just ended, which is what we want.
            let _ = killpg(self.id, signal);
        }
    }

    /// Ends what is left, and the right to the number.
    fn close(&self) {
        self.signal(Signal::SIGKILL);
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Starts children.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: Arc<Path>,
    guard: Arc<Guard>,
}

impl Launcher {
    /// `program` is this binary, which has the sub-commands of [`exec`] and
    /// [`guard`](super::guard).
    ///
    /// # Errors
    /// When the guard cannot be started.
    pub fn new(program: &Path) -> io::Result<Self> {
        Ok(Self {
            program: program.into(),
            guard: Arc::new(Guard::start(program)?),
        })
    }

    /// The guard of all children.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Starts a child in a thread of its own; what happens arrives at `reports`.
    pub fn launch(&self, order: Order, reports: UnboundedSender<Report>) {
        let launcher = self.clone();
        let failed = reports.clone();
        let thread = std::thread::Builder::new().name(format!("child {}", order.name));
        let spawned = thread.spawn(move || {
            let last = match launcher.start(&order) {
                Ok(child) => launcher.attend(child, &reports),
                Err(error) => Report::NotStarted(error),
            };
            // Nobody listens any more when the orchestrator is at its end.
            let _ = reports.send(last);
        });
        if let Err(error) = spawned {
            let _ = failed.send(Report::NotStarted(error.into()));
        }
    }

    /// Forks and waits until the filter has taken over.
    fn start(&self, order: &Order) -> Result<Child, StartError> {
        let (mut control, theirs) = UnixStream::pair()?;
        let mut child = self.command(order, theirs.into())?.spawn()?;
        match self.release(&child, &mut control) {
            Ok(0) => Ok(child),
            Ok(errno) => {
                self.bury(&mut child)?;
                Err(StartError::Exec {
                    program: order.command.first().cloned().unwrap_or_default(),
                    source: io::Error::from_raw_os_error(errno),
                })
            }
            Err(error) => {
                child.kill()?;
                self.bury(&mut child)?;
                Err(error.into())
            }
        }
    }

    fn command(&self, order: &Order, control: OwnedFd) -> io::Result<Command> {
        let mut command = Command::new(&*self.program);
        command
            .arg(exec::NAME)
            .args(["--parent", &std::process::id().to_string(), "--"])
            .args(&order.command);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command
            .envs(&order.environment)
            .stdin(Stdio::from(control))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(directory) = &order.directory {
            command.current_dir(directory);
        }
        if let Some(listener) = &order.listener {
            let mapping = FdMapping {
                parent_fd: listener.try_clone()?,
                child_fd: LISTEN_FDS_START,
            };
            command
                .env("LISTEN_FDS", "1")
                .env("LISTEN_FDNAMES", LISTEN_FDNAME)
                .fd_mappings(vec![mapping])
                .map_err(io::Error::other)?;
        }
        Ok(command)
    }

    /// Tells the guard, lets the child go on, and waits for its exec: 0, or the errno.
    fn release(&self, child: &Child, control: &mut UnixStream) -> io::Result<i32> {
        self.guard.watch(pid(child))?;
        control.set_read_timeout(Some(EXEC_TIMEOUT))?;
        let mut errno = Vec::new();
        // A child that is gone already shows by its exit status.
        if control.write_all(&[exec::GO]).is_ok() {
            control.take(4).read_to_end(&mut errno)?;
        }
        Ok(errno.try_into().map_or(0, i32::from_be_bytes))
    }

    /// Waits for the end of a running child and cleans up after it.
    fn attend(&self, mut child: Child, reports: &UnboundedSender<Report>) -> Report {
        let group = Arc::new(Group {
            id: pid(&child),
            alive: Mutex::new(true),
        });
        let running = Running {
            group: Arc::clone(&group),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
        };
        let _ = reports.send(Report::Started(running));
        await_end(group.id);
        group.close();
        match self.bury(&mut child) {
            Ok(status) => Report::Ended(status),
            Err(error) => Report::NotStarted(error.into()),
        }
    }

    /// Reaps a child, after the guard has been told.
    fn bury(&self, child: &mut Child) -> io::Result<ExitStatus> {
        await_end(pid(child));
        if let Err(error) = self.guard.forget(pid(child)) {
            Guard::complain(&error);
        }
        child.wait()
    }
}

/// Waits until a child of ours has ended, and leaves it to be reaped, so that its number stays
/// taken.
fn await_end(child: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(child), flags) {}
}

fn pid(child: &Child) -> Pid {
    // Process ids are positive and far below 2³¹.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// How a process ended, for people.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended by itself (status 0)".to_owned(),
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            let core = if status.core_dumped() {
                ", core dumped"
            } else {
                ""
            };
            format!("killed by {name}{core}")
        }
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        for (raw, words) in [
            (0, "ended by itself (status 0)"),
            (3 << 8, "ended with status 3"),
            (9, "killed by SIGKILL"),
            (11 | 0x80, "killed by SIGSEGV, core dumped"),
        ] {
            assert_eq!(describe(ExitStatus::from_raw(raw)), words);
        }
    }

    #[test]
    fn a_failed_exec_says_what_to_do() {
        let error = |errno| StartError::Exec {
            program: "milter-x".to_owned(),
            source: io::Error::from_raw_os_error(errno),
        };
        let missing = error(2).to_string();
        assert!(missing.contains("\"milter-x\""), "{missing}");
        assert!(missing.contains("install it"), "{missing}");
        assert!(error(13).to_string().contains("make it executable"));
    }
}
