//! What a keeper hears of a start and of an end, in words for people.
//!
//! The child gets its listening socket as descriptor 3 with `LISTEN_FDS`, `LISTEN_PID` and
//! `LISTEN_FDNAMES` (sd_listen_fds(3)), pipes as standard output and error, nothing on standard
//! input, and no other descriptor. Who does that is the [`nursery`](super::nursery).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::signal::Signal;
use thiserror::Error;

use super::nursery::hold::Home;
use super::nursery::message::{ChildId, End, Step};

/// The name under which filters look for their socket.
pub const LISTEN_FDNAME: &str = "milter";

/// What becomes of a start.
#[derive(Debug)]
pub enum Report {
    /// The filter runs.
    Started(Running),
    /// It does not; nothing is left of the attempt.
    NotStarted(StartError),
    /// It has ended, and its process group with it.
    Ended(End),
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
    /// Its working directory is not there, or closed to its user.
    #[error("cannot go to its `directory`: {0}")]
    Directory(io::Error),
    /// The system refuses its limits.
    #[error("cannot set `memory`, `open_files` or `nice`: {0}")]
    Limits(io::Error),
    /// Something on our side: descriptors, processes, the nursery.
    #[error("cannot start a process: {0}")]
    Process(#[from] io::Error),
    /// There is no nursery for its user, and we may not start one.
    #[error(
        "there is no nursery {0} at the moment; one for a `user` that is new is started with us \
         only, as root"
    )]
    NoNursery(String),
}

impl StartError {
    /// What a nursery tells of a start that failed.
    #[must_use]
    pub fn of(program: String, step: Step, errno: i32) -> Self {
        let source = io::Error::from_raw_os_error(errno);
        match step {
            Step::Process => Self::Process(source),
            Step::Directory => Self::Directory(source),
            Step::Limits => Self::Limits(source),
            Step::Exec => Self::Exec { program, source },
        }
    }
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

/// The process group of a child, which its nursery can signal for as long as it lives.
#[derive(Debug)]
pub struct Group {
    pub(super) home: Arc<Home>,
    pub(super) child: ChildId,
    pid: i32,
}

impl Group {
    /// Child `child` of this nursery, which runs as process `pid`.
    pub(super) fn new(home: Arc<Home>, child: ChildId, pid: i32) -> Self {
        Self { home, child, pid }
    }

    /// Process id of the child, which is that of its group.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid
    }
}

/// How a process ended, for people.
#[must_use]
pub fn describe(end: End) -> String {
    match end {
        End::Exited(0) => "ended by itself (status 0)".to_owned(),
        End::Exited(code) => format!("ended with status {code}"),
        End::Killed { signal, dumped } => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            let core = if dumped { ", core dumped" } else { "" };
            format!("killed by {name}{core}")
        }
        End::Lost => "ended with its nursery, the process that started it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let killed = |signal, dumped| End::Killed { signal, dumped };
        for (end, words) in [
            (End::Exited(0), "ended by itself (status 0)"),
            (End::Exited(3), "ended with status 3"),
            (killed(9, false), "killed by SIGKILL"),
            (killed(11, true), "killed by SIGSEGV, core dumped"),
        ] {
            assert_eq!(describe(end), words);
        }
    }

    #[test]
    fn a_failed_exec_says_what_to_do() {
        let error = |errno| StartError::of("milter-x".to_owned(), Step::Exec, errno);
        let missing = error(2).to_string();
        assert!(missing.contains("\"milter-x\""), "{missing}");
        assert!(missing.contains("install it"), "{missing}");
        assert!(error(13).to_string().contains("make it executable"));
    }
}
