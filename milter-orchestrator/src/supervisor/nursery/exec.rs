//! The child's side of a start: between a nursery's `fork` and the program's `exec`.
//!
//! The nursery starts itself again as `child-exec`, because what must happen in the new process
//! before the program takes over needs code there: asking the kernel to end it with its parent,
//! closing what is not its own, its limits, and its own process id in `LISTEN_PID`. It reads no
//! configuration and logs nothing; why the program could not be started goes back over the control
//! socket (its standard input) as a step and an errno, and a successful `exec` closes that socket.

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd;

use super::message::{Limits, Step};

/// Name of the sub-command.
pub const NAME: &str = "child-exec";

/// Where the first inherited descriptor is (`SD_LISTEN_FDS_START`).
pub(super) const LISTEN_FDS_START: RawFd = 3;

/// Bytes of the word that a failed start sends back.
pub(super) const WORD: usize = 5;

/// Arguments of the hidden sub-command.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Process id of the nursery that the program must not outlive; none for an heir.
    #[arg(long)]
    parent: Option<i32>,
    /// Sockets that it is handed.
    #[arg(long, default_value_t = 0)]
    sockets: RawFd,
    /// Working directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Bytes of memory.
    #[arg(long)]
    memory: Option<u64>,
    /// Open files.
    #[arg(long)]
    open_files: Option<u64>,
    /// Niceness.
    #[arg(long)]
    nice: Option<u8>,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Becomes the program.
///
/// # Errors
/// When the nursery is gone, or the program cannot be started; the latter has been told.
pub fn run(arguments: &Arguments) -> io::Result<Infallible> {
    if let Some(parent) = arguments.parent {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The nursery may have ended before the line above took effect.
        if unistd::getppid().as_raw() != parent {
            return Err(io::Error::other("the nursery has ended"));
        }
    }
    // What the nursery has blocked is for the program to hear.
    SigSet::empty().thread_set_mask()?;
    // The clone is closed by exec, which is how the nursery learns of it.
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (step, error) = become_program(arguments, control.as_raw_fd());
    control.write_all(&word(step, error.raw_os_error().unwrap_or(0)))?;
    Err(error)
}

/// Does everything in order; returns only when something fails.
fn become_program(arguments: &Arguments, control: RawFd) -> (Step, io::Error) {
    if let Err(error) = close_all_but(arguments.sockets, control) {
        return (Step::Process, error);
    }
    if let Some(directory) = &arguments.directory
        && let Err(error) = env::set_current_dir(directory)
    {
        return (Step::Directory, error);
    }
    let limits = Limits {
        memory: arguments.memory,
        open_files: arguments.open_files,
        nice: arguments.nice,
    };
    if let Err(error) = restrict(limits) {
        return (Step::Limits, error);
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        return (Step::Exec, io::ErrorKind::InvalidInput.into());
    };
    let error = Command::new(program)
        .args(rest)
        .env("LISTEN_PID", std::process::id().to_string())
        .stdin(Stdio::null())
        .exec();
    (Step::Exec, error)
}

/// Closes what whoever started us has left open: a program has its sockets and nothing else.
/// `control` closes itself.
fn close_all_but(sockets: RawFd, control: RawFd) -> io::Result<()> {
    for fd in open_descriptors()? {
        if fd >= LISTEN_FDS_START + sockets && fd != control {
            // The one that listed them is closed already.
            let _ = unistd::close(fd);
        }
    }
    Ok(())
}

/// The numbers of all open descriptors, and that of the one which lists them.
pub(super) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

fn restrict(limits: Limits) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_DATA, limits.memory),
        (Resource::RLIMIT_NOFILE, limits.open_files),
    ] {
        if let Some(limit) = limit {
            // More than we may have ourselves is not ours to give.
            let (_, most) = getrlimit(resource)?;
            let limit = limit.min(most);
            setrlimit(resource, limit, limit)?;
        }
    }
    if let Some(nice) = limits.nice {
        // Nobody without rights may stand back less than before.
        let present = rustix::process::getpriority_process(None)?;
        rustix::process::setpriority_process(None, present.max(nice.into()))?;
    }
    Ok(())
}

fn word(step: Step, errno: i32) -> [u8; WORD] {
    let code = match step {
        Step::Process => b'p',
        Step::Directory => b'd',
        Step::Limits => b'l',
        Step::Exec => b'x',
    };
    let [a, b, c, d] = errno.to_be_bytes();
    [code, a, b, c, d]
}

/// What a word says.
pub(super) fn read_word([code, errno @ ..]: [u8; WORD]) -> (Step, i32) {
    let step = match code {
        b'd' => Step::Directory,
        b'l' => Step::Limits,
        b'x' => Step::Exec,
        _ => Step::Process,
    };
    (step, i32::from_be_bytes(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_failed_and_why() {
        for step in [Step::Process, Step::Directory, Step::Limits, Step::Exec] {
            for errno in [0, 2, 13, 4095] {
                assert_eq!(read_word(word(step, errno)), (step, errno));
            }
        }
    }
}
