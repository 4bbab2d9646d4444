//! The guard: a small process that ends the children's process groups when the orchestrator is
//! killed.
//!
//! The kernel's parent-death signal reaches a child, not what the child started (the filter behind
//! a shell script, say). The guard is told each process group over a pipe whose other end only the
//! orchestrator holds; when the pipe closes, however that came about, it kills every group that is
//! left and ends. It ignores the signals that end the orchestrator, so as to outlive it by that
//! moment. A process that leaves its group (`setsid`) escapes it, and nobody without cgroups can
//! help that.
//!
//! A guard that was killed itself is replaced and told all groups again.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// Name of the sub-command.
pub const NAME: &str = "guard";

/// Longest line that the guard reads: a sign and a process id.
const LINE_MAX: u64 = 32;

/// The orchestrator's hold on its guard.
#[derive(Debug)]
pub struct Guard {
    program: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Child,
    pipe: Option<ChildStdin>,
    groups: BTreeSet<i32>,
}

impl Guard {
    /// Starts it. `program` is this binary.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (process, pipe) = launch(program)?;
        let inner = Inner {
            process,
            pipe,
            groups: BTreeSet::new(),
        };
        Ok(Self {
            program: program.to_owned(),
            inner: Mutex::new(inner),
        })
    }

    /// Tells it a process group that must not outlive us.
    ///
    /// # Errors
    /// When the guard is gone and cannot be replaced.
    pub fn watch(&self, group: Pid) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.groups.insert(group.as_raw());
        match inner.tell('+', group.as_raw()) {
            Ok(()) => Ok(()),
            Err(_) => self.replace(&mut inner),
        }
    }

    /// Tells it that a process group has ended, before its number can be given to another one.
    ///
    /// # Errors
    /// When the guard is gone and cannot be replaced.
    pub fn forget(&self, group: Pid) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.groups.remove(&group.as_raw());
        match inner.tell('-', group.as_raw()) {
            Ok(()) => Ok(()),
            Err(_) => self.replace(&mut inner),
        }
    }

    /// Replaces it when it has ended. To be called now and then.
    ///
    /// # Errors
    /// When it has ended and cannot be replaced.
    pub fn check(&self) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.process.try_wait()? {
            None => Ok(()),
            Some(_) if inner.pipe.is_none() => Ok(()),
            Some(status) => {
                tracing::warn!(%status, "the guard process has ended; starting another one");
                self.replace(&mut inner)
            }
        }
    }

    /// Logs that it could not be replaced, which mail does not notice yet.
    pub fn complain(error: &io::Error) {
        tracing::error!(%error, "the guard process cannot be replaced; children may outlive us");
    }

    /// Lets it end and waits for that; groups that are still known are killed by it.
    pub fn finish(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.pipe = None;
        if let Err(error) = inner.process.wait() {
            tracing::warn!(%error, "the guard process could not be waited for");
        }
    }

    fn replace(&self, inner: &mut Inner) -> io::Result<()> {
        // Closing the pipe of a guard that is not dead after all would have it kill every group.
        inner.process.kill()?;
        inner.process.wait()?;
        (inner.process, inner.pipe) = launch(&self.program)?;
        let groups: Vec<i32> = inner.groups.iter().copied().collect();
        groups
            .into_iter()
            .try_for_each(|group| inner.tell('+', group))
    }
}

impl Inner {
    fn tell(&mut self, sign: char, group: i32) -> io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(format!("{sign}{group}\n").as_bytes())
    }
}

fn launch(program: &Path) -> io::Result<(Child, Option<ChildStdin>)> {
    let mut process = Command::new(program)
        .arg(NAME)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pipe = process.stdin.take();
    Ok((process, pipe))
}

/// The guard itself: reads groups until the orchestrator is gone, then kills those that are left.
///
/// # Errors
/// When signals cannot be blocked. Whatever happens to the pipe counts as the end of the
/// orchestrator.
pub fn run() -> io::Result<()> {
    let mut ending = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        ending.add(signal);
    }
    ending.thread_block()?;

    for group in read_groups(io::stdin().lock()) {
        // A group that is gone already is as good.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    Ok(())
}

/// The groups that were told and not taken back when the pipe ends.
fn read_groups(mut pipe: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    let mut line = String::new();
    loop {
        line.clear();
        match pipe.by_ref().take(LINE_MAX).read_line(&mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return groups,
        }
        let line = line.trim_end();
        // 0 and 1 would mean our own group and every process.
        let group = |digits: &str| digits.parse::<i32>().ok().filter(|group| *group > 1);
        if let Some(group) = line.strip_prefix('+').and_then(group) {
            groups.insert(group);
        } else if let Some(group) = line.strip_prefix('-').and_then(group) {
            groups.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_kept_until_taken_back_and_nonsense_is_passed_over() {
        for (told, left) in [
            ("", vec![]),
            ("+100\n+200\n", vec![100, 200]),
            ("+100\n+200\n-100\n", vec![200]),
            ("-100\n+100\n", vec![100]),
            ("+100\n+200", vec![100, 200]),
            (
                "+0\n+1\n+-5\nrubbish\n\n+99999999999999999999\n+7\n",
                vec![7],
            ),
            (
                "+111111111111111111111111111111111111111111111111\n+9\n",
                vec![9],
            ),
            ("+12\n\u{fffd}\n+13\n", vec![12, 13]),
        ] {
            let groups: Vec<i32> = read_groups(told.as_bytes()).into_iter().collect();
            assert_eq!(groups, left, "{told:?}");
        }
        let broken: Vec<i32> = read_groups(&b"+5\n\xff\xff\n+6\n"[..])
            .into_iter()
            .collect();
        assert_eq!(broken, [5], "what is no text ends the talk");
    }
}
