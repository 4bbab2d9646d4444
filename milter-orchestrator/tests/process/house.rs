//! An orchestrator in a folder of its own, and everything that it starts, all gone at the end.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::status::{Kind, MilterStatus, Snapshot};
use milter_orchestrator::supervisor::child::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Every process of a house has this variable, with the house's folder as its value.
const MARK: &str = "ORCHESTRATOR_TEST_HOUSE";

/// A comment that asks for a log in JSON.
pub(crate) const JSON_LOG: &str = "# the log is JSON\n";

/// A running orchestrator.
pub(crate) struct House {
    process: Child,
    directory: TempDir,
}

impl House {
    /// Starts it with a listener, a control socket, and these sections, in which `{dir}` is its
    /// folder.
    pub(crate) fn start(sections: &str) -> Self {
        Self::start_with("", sections)
    }

    /// The same with further keys of the section `[supervisor]`.
    pub(crate) fn start_with(supervisor: &str, sections: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), supervisor, sections)
    }

    /// The same in a folder that was furnished before.
    pub(crate) fn start_in(directory: TempDir, supervisor: &str, sections: &str) -> Self {
        let sections = &format!("{supervisor}\n{sections}");
        fs::write(
            config(directory.path()),
            configuration(directory.path(), sections),
        )
        .unwrap();
        let process = launch(directory.path(), None);
        let house = Self { process, directory };
        house.wait_for("control", || house.ask(&Question::Status).is_some());
        house
    }

    /// The same with a socket for the listener `inbound` that somebody else holds, as systemd does.
    pub(crate) fn start_holding(directory: TempDir, socket: &UnixListener, sections: &str) -> Self {
        let config = config(directory.path());
        fs::write(config, configuration(directory.path(), sections)).unwrap();
        let process = launch(directory.path(), Some(socket));
        let house = Self { process, directory };
        house.wait_for("control", || house.ask(&Question::Status).is_some());
        house
    }

    /// Starts it again after its end, with the socket that somebody holds.
    pub(crate) fn start_again(&mut self, socket: &UnixListener) {
        self.process.wait().unwrap();
        self.process = launch(self.path(), Some(socket));
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// Waits until its log has `words` in one line.
    pub(crate) fn wait_for_log(&self, words: &[&str]) {
        self.wait_for(&format!("{words:?} in the log"), || {
            let log = self.log();
            let mut lines = log.lines();
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    /// Asks over its control socket.
    pub(crate) fn ask(&self, question: &Question) -> Option<Answer> {
        control::ask(&self.path().join("control.sock"), question).ok()
    }

    /// Its status.
    pub(crate) fn status(&self) -> Snapshot {
        match self.ask(&Question::Status) {
            Some(Answer::Status(snapshot)) => snapshot,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// The status of one milter.
    pub(crate) fn milter(&self, name: &str) -> MilterStatus {
        let milters = self.status().milters;
        let mut milters = milters.into_iter();
        milters.find(|milter| milter.name == name).unwrap()
    }

    /// Waits until a milter is up, and says which process it is.
    pub(crate) fn wait_until_up(&self, name: &str) -> Option<i32> {
        let mut pid = None;
        self.wait_for(&format!("{name} up"), || {
            let milter = self.milter(name);
            pid = milter.pid;
            // It may answer before its nursery has told which process it is.
            milter.state == State::Up && (pid.is_some() || milter.kind == Kind::Foreign)
        });
        pid
    }

    /// Waits until `done`, or fails with the log.
    pub(crate) fn wait_for(&self, what: &str, done: impl FnMut() -> bool) {
        assert!(within_patience(done), "no {what}:\n{}", self.log());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Runs a sub-command with its configuration.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        command(self.path()).args(arguments).output().unwrap()
    }

    /// Writes another configuration.
    pub(crate) fn rewrite(&self, sections: &str) {
        fs::write(config(self.path()), configuration(self.path(), sections)).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Those processes of this house that are orchestrators: after an upgrade there may be several.
    pub(crate) fn orchestrators(&self) -> Vec<i32> {
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.ends_with(b"\0run\0") && !line.windows(12).any(|word| word == b"\0child-exec\0")
        };
        self.inhabitants().into_iter().filter(is_one).collect()
    }

    /// All processes of this house that still run, the orchestrator included.
    pub(crate) fn inhabitants(&self) -> Vec<i32> {
        inhabitants(self.path())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for successor in self.orchestrators() {
            send(successor, Signal::SIGKILL);
        }
        let path = self.directory.path();
        let gone = within_patience(|| inhabitants(path).is_empty());
        for left in inhabitants(path) {
            send(left, Signal::SIGKILL);
        }
        assert!(gone || thread::panicking(), "processes were left behind");
    }
}

/// Sends a signal to a process that this test's orchestrator started.
pub(crate) fn send(pid: i32, signal: Signal) {
    // It may have ended in between.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether `done` comes true before long.
pub(crate) fn within_patience(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

fn config(directory: &Path) -> PathBuf {
    directory.join("orchestrator.toml")
}

/// A configuration in `directory`, complete but for milters and routes.
pub(crate) fn configuration(directory: &Path, sections: &str) -> String {
    // The last section stays open for further keys.
    let frame = "\
[listen.inbound]
socket = \"unix:{dir}/inbound.sock\"

[control]
socket = \"unix:{dir}/control.sock\"

[log]
format = \"text\"

[supervisor]
directory = \"{dir}/children\"
probe_interval = \"100ms\"
";
    let frame = match sections.contains(JSON_LOG) {
        true => frame.replace("\"text\"", "\"json\""),
        false => frame.to_owned(),
    };
    format!("{frame}{sections}").replace("{dir}", &directory.display().to_string())
}

/// Runs the orchestrator; its log goes to a file there.
fn launch(directory: &Path, socket: Option<&UnixListener>) -> Child {
    let log = directory.join("log");
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = command(directory);
    command
        .arg("run")
        .env("NOTIFY_SOCKET", "/nowhere")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    if let Some(socket) = socket {
        let mapping = FdMapping {
            parent_fd: OwnedFd::from(socket.try_clone().unwrap()),
            child_fd: 3,
        };
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "inbound")
            .fd_mappings(vec![mapping])
            .unwrap();
    }
    command.spawn().unwrap()
}

/// The orchestrator with the configuration in `directory`.
pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milter-orchestrator"));
    command
        .arg("--config")
        .arg(config(directory))
        .env(MARK, directory);
    command
}

fn inhabitants(directory: &Path) -> Vec<i32> {
    let mark = format!("{MARK}={}", directory.display());
    let has_mark = |pid: &i32| {
        // Empty for zombies.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == mark.as_bytes())
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(has_mark)
        .collect()
}
