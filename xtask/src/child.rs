//! A process that this command started and must end: in a process group of its own, its output in a
//! file, stopped when dropped.
//!
//! Only processes started here are ever signalled, by their id.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process gets between SIGTERM and SIGKILL: longer than the daemons give themselves.
const GRACE: Duration = Duration::from_secs(45);

/// A running process and where its output goes.
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    log: PathBuf,
    /// Where its part of the log begins.
    log_start: u64,
}

impl Child {
    /// Starts `command` with both outputs appended to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{} cannot be written", log.display()))?;
        let log_start = out.metadata()?.len();
        let process = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} cannot be started ({command:?})"))?;
        let log = log.to_owned();
        Ok(Self {
            name,
            process,
            log,
            log_start,
        })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The exit status, once there is one.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// An error with the end of the log when the process is gone.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            let tail = tail(&self.log, self.log_start, 15);
            bail!(
                "{} ended ({status}); the end of {}:\n{tail}",
                self.name,
                self.log.display()
            );
        }
        Ok(())
    }

    /// SIGTERM, a while, SIGKILL; returns the exit status.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM);
        let step = Duration::from_millis(20);
        let mut waited = Duration::ZERO;
        while waited < GRACE {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            thread::sleep(step);
            waited += step;
        }
        self.signal(Signal::SIGKILL);
        Ok(self.process.wait()?)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            // It has not been waited for, so the id is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The last `count` lines of a text file from an octet on, for an error message.
pub(crate) fn tail(path: &Path, start: u64, count: usize) -> String {
    let mut text = std::fs::read(path).unwrap_or_default();
    let start = usize::try_from(start).unwrap_or(0).min(text.len());
    text.drain(..start);
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(count);
    lines[start..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_gone_after_drop_and_its_log_explains_an_early_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut sleeper = Command::new("sleep");
        let child = Child::start("sleep", sleeper.arg("600"), &log).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.process.id()).unwrap());
        assert!(kill(pid, None).is_ok());
        drop(child);
        assert!(kill(pid, None).is_err());

        std::fs::write(&log, "of an earlier run\n").unwrap();
        let mut brief = Command::new("sh");
        brief.args(["-c", "echo the reason >&2; exit 3"]);
        let mut child = Child::start("brief", &mut brief, &log).unwrap();
        child.process.wait().unwrap();
        let error = child.must_run().unwrap_err().to_string();
        assert!(error.contains("the reason"), "{error}");
        assert!(!error.contains("earlier run"), "{error}");
    }
}
