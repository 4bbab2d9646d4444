//! A process that a test started: in a process group of its own, its output kept, and gone with
//! everything that it started when it is dropped, or when the test is killed.
//!
//! Nothing is ever signalled that was not started here: the group is that of a child that has not
//! been waited for, so its number cannot have passed to anybody else.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long a test waits for something that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Ends a process group, and removes the folder of its output, when its own standard input ends:
/// with this process, however that ends.
const GUARD: &str = r#"read -r line; kill -s KILL -- "-$1"; rm -rf -- "$2""#;

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Child,
    output: PathBuf,
    _directory: TempDir,
}

impl Process {
    /// Starts `command`; stdout and stderr go to one file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("output");
        let file = File::create(&output)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let guard = match guard(child.id(), directory.path()) {
            Ok(guard) => guard,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error).context("cannot start the guard of a process");
            }
        };
        Ok(Self {
            child,
            guard,
            output,
            _directory: directory,
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(self.pid()?, signal)?;
        Ok(())
    }

    /// Waits until `done` says so.
    ///
    /// # Errors
    /// When the process ends before, or [`PATIENCE`] does; with its output.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended ({status}) before {what}:\n{}", self.output());
            }
            if Instant::now() > deadline {
                bail!("not {what} within {PATIENCE:?}:\n{}", self.output());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until it has written `text`.
    ///
    /// # Errors
    /// As [`Self::wait_until`].
    pub fn wait_until_said(&mut self, text: &str) -> Result<()> {
        let output = self.output.clone();
        let said = || std::fs::read_to_string(&output).is_ok_and(|output| output.contains(text));
        self.wait_until(text, said)
    }

    /// Waits for its end, which must come by itself.
    ///
    /// # Errors
    /// When it still runs after [`PATIENCE`].
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("still running after {PATIENCE:?}:\n{}", self.output());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

/// Starts what ends a process group after us.
fn guard(group: u32, directory: &Path) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .arg(group.to_string())
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, so that it cannot mean a group whose number has passed to somebody else.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        // The group outlives its leader while anything of it runs.
        if let Ok(pid) = self.pid() {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        status.is_ok_and(|status| !status.contains(") Z "))
    }

    #[test]
    fn nothing_outlives_the_guard() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]);
        let mut process = Process::start(&mut command).unwrap();
        let output = process.output.clone();
        let written = || std::fs::read_to_string(&output).unwrap_or_default();
        process
            .wait_until("talking", || written().ends_with('\n'))
            .unwrap();
        let grandchild = written().trim().to_owned();
        assert!(alive(&grandchild));
        drop(process);
        let deadline = Instant::now() + PATIENCE;
        while alive(&grandchild) {
            assert!(Instant::now() < deadline, "{grandchild} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where the test below is to write whom it has started; it is killed then.
    const KILLED: &str = "PROCESS_TEST_KILLED";

    /// Not a test of anything unless the variable is set.
    #[test]
    fn is_killed() {
        let Some(file) = std::env::var_os(KILLED) else {
            return;
        };
        let process = Process::start(Command::new("sleep").arg("60")).unwrap();
        std::fs::write(file, format!("{}\n", process.id())).unwrap();
        nix::sys::signal::raise(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn nothing_outlives_a_test_that_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("started");
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "process::tests::is_killed"]);
        test.env("TMPDIR", folder.path());
        let output = test.env(KILLED, &file).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        let started = std::fs::read_to_string(&file).unwrap();
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        let deadline = Instant::now() + PATIENCE;
        while alive(started.trim()) || left() > 1 {
            assert!(Instant::now() < deadline, "{started} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn an_early_end_is_told_with_its_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        let mut process = Process::start(&mut command).unwrap();
        let error = process.wait_until("ready", || false).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("why"), "{error}");
    }
}
