//! What the installation of packages started and left running, ended when the installation is over.
//!
//! Services are forbidden by a policy; this is for the rest, as the `gpg-agent` of SpamAssassin,
//! which would stay for ever. While [`Leftovers`] lives, processes whose parents have ended come to
//! this one. Those and no others are ended, by their numbers; what the system's own service manager
//! starts never comes here. Nothing fails when one cannot be ended: that is said.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};

use crate::terminal::say;

/// How often to look, and how many times with each signal: five seconds.
const STEP: Duration = Duration::from_millis(50);
const STEPS: u32 = 100;

/// Ends what is left when it is dropped.
pub(super) struct Leftovers {
    /// Children that were there before: somebody waits for them.
    others: BTreeSet<Pid>,
}

impl Leftovers {
    /// From now on orphans come to this process.
    pub(super) fn begin() -> Result<Self> {
        prctl::set_child_subreaper(true).context("orphans cannot be taken in")?;
        Ok(Self { others: children() })
    }

    fn left(&self) -> Vec<Pid> {
        let left = children().into_iter();
        left.filter(|pid| !self.others.contains(pid)).collect()
    }

    /// Sends `signal` until nobody is left; whether that came to pass.
    fn end(&self, signal: Signal) -> bool {
        for step in 0..STEPS {
            let left = self.left();
            if left.is_empty() {
                return true;
            }
            for pid in left {
                if step == 0 {
                    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    say(format_args!(
                        "setup: {signal} for {}, which a package left running",
                        name.trim_end()
                    ));
                }
                // A child of ours that nobody has waited for: its number is its own.
                let _ = kill(pid, signal);
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
            thread::sleep(STEP);
        }
        false
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let _ = self.end(Signal::SIGTERM) || self.end(Signal::SIGKILL);
        let _ = prctl::set_child_subreaper(false);
    }
}

/// The children of this process.
fn children() -> BTreeSet<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent_of = |pid: Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): number, name in brackets, state, parent.
        let (_, behind_name) = status.rsplit_once(')')?;
        behind_name.split_whitespace().nth(1)?.parse().ok()
    };
    let own = getpid().as_raw();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| parent_of(*pid) == Some(own))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What makes the first test below more than nothing: it needs a process without other tests.
    const ALONE: &str = "XTASK_TEST_LEFTOVERS";

    fn runs(pid: Pid) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/stat"));
        status.is_ok_and(|status| !status.contains(") Z "))
    }

    #[test]
    fn alone() {
        let Some(folder) = std::env::var_os(ALONE) else {
            return;
        };
        let folder = std::path::PathBuf::from(folder);
        let mut before = Command::new("sleep").arg("60").spawn().unwrap();
        let leftovers = Leftovers::begin().unwrap();
        // The first ends at a word, the second does not, and has a child of its own.
        let script = "sleep 60 & echo $! >one; \
                      sh -c 'trap \"\" TERM; echo $$ >two; sleep 61; sleep 62' & \
                      while ! [ -s two ]; do sleep 0.01; done";
        let mut package = Command::new("sh");
        let package = package.args(["-c", script]).current_dir(&folder);
        assert!(package.status().unwrap().success());
        drop(leftovers);
        for name in ["one", "two"] {
            let pid = fs::read_to_string(folder.join(name)).unwrap();
            let pid = Pid::from_raw(pid.trim().parse().unwrap());
            assert!(!runs(pid), "{name}");
        }
        assert!(before.try_wait().unwrap().is_none(), "was here before");
        before.kill().unwrap();
        before.wait().unwrap();
        assert_eq!(children(), BTreeSet::new());
    }

    #[test]
    fn what_a_package_leaves_running_is_ended_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "setup::leftovers::tests::alone", "--nocapture"]);
        let output = test.env(ALONE, folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(folder.path().join("two").exists(), "{output:?}");
    }
}
