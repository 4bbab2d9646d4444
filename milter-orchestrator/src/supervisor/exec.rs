//! The child's side of a start: between our `fork` and the filter's `exec`.
//!
//! The orchestrator starts itself again as `child-exec`, because what must happen in the new
//! process before the filter takes over needs code there: asking the kernel to end it with its
//! parent, waiting until the guard knows its process group, and naming its own process id in
//! `LISTEN_PID`. It reads no configuration and logs nothing; why the filter could not be started
//! goes back over the control socket (its standard input) as an errno, and a successful `exec`
//! closes that socket.
//!
//! The kernel's signal comes when the *thread* that forked ends, so [`spawn`](super::spawn) forks
//! in a thread that stays.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd;

/// Name of the sub-command.
pub const NAME: &str = "child-exec";

/// What the orchestrator writes when the guard knows the process group.
pub const GO: u8 = b'g';

/// The last descriptor that a child inherits: its listening socket, where it has one.
const LISTEN_FD: RawFd = 3;

/// Arguments of the hidden sub-command.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Process id of the orchestrator.
    #[arg(long)]
    parent: i32,
    /// The filter and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Becomes the filter.
///
/// # Errors
/// When the orchestrator is gone, or the filter cannot be started; the latter has been told to the
/// orchestrator.
pub fn run(arguments: &Arguments) -> io::Result<Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The orchestrator may have ended before the line above took effect.
    if unistd::getppid().as_raw() != arguments.parent {
        return Err(io::Error::other("the orchestrator has ended"));
    }
    // The clone is closed by exec, which is how the orchestrator learns of it.
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut word = [0];
    control.read_exact(&mut word)?;
    close_all_but(control.as_raw_fd())?;
    let error = become_filter(&arguments.command);
    let errno = error.raw_os_error().unwrap_or(0);
    control.write_all(&errno.to_be_bytes())?;
    Err(error)
}

/// Closes what the orchestrator was given by whoever started it: a child has its socket and nothing
/// else. `kept` closes itself.
fn close_all_but(kept: RawFd) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if fd > LISTEN_FD && fd != kept {
            // The one that listed them is closed already.
            let _ = unistd::close(fd);
        }
    }
    Ok(())
}

/// Replaces this process by the filter; returns only when that fails.
fn become_filter(command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    Command::new(program)
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .stdin(Stdio::null())
        .exec()
}
