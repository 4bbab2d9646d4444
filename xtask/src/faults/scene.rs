//! One fault's orchestrator with its filters, where Postfix looks for a milter.
//!
//! It ends with the scene, and its filters with it. How it is started can be wrapped into other
//! programs, which must become it (`exec`), so that its process is the one that is signalled.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cpu;
use super::ledger::Mark;
use super::office::Office;
use crate::child::Child;
use crate::stack::{Filter, read_status};
use crate::workspace;

/// How long an orchestrator may take to begin.
const START: Duration = Duration::from_secs(60);
/// Where the first descriptor is that is handed over (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: i32 = 3;
/// The name of the listener in the configuration.
const LISTENER: &str = "inbound";
/// Bytes of an answer over HTTP at most.
const ANSWER_MAX: u64 = 1 << 20;
/// The offer of an MTA: version 6, everything.
pub(super) const OFFER: [u8; 17] = [
    0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff,
];

/// A filter of a scene.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) role: Role,
    /// Further lines of its section.
    pub(super) settings: String,
}

/// What a filter is.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// Ours that signs and verifies.
    Dkim,
    /// Ours that looks for spam.
    Spam,
    /// Marks what it has seen, and what its arguments say.
    Scripted(Vec<String>),
    /// Somebody else's, at this socket.
    Foreign(String),
}

impl Cast {
    /// A filter that marks what it sees.
    pub(super) fn marker(name: &'static str) -> Self {
        Self::scripted(name, &[])
    }

    /// The same with arguments.
    pub(super) fn scripted(name: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|one| (*one).to_owned());
        Self {
            name,
            role: Role::Scripted(arguments.collect()),
            settings: String::new(),
        }
    }

    /// One of ours.
    pub(super) fn ours(name: &'static str, role: Role) -> Self {
        Self {
            name,
            role,
            settings: String::new(),
        }
    }

    /// The same with a further line in its section.
    pub(super) fn with(mut self, line: &str) -> Self {
        self.settings += line;
        self.settings.push('\n');
        self
    }

    /// What shows that it has seen a letter.
    fn mark(&self) -> Option<Mark> {
        match self.role {
            Role::Dkim => Some(Mark::Authenticated),
            Role::Spam => Some(Mark::Scanned),
            Role::Scripted(_) | Role::Foreign(_) => Some(Mark::Digest(self.name)),
        }
    }
}

/// What is to be played.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Names the folder.
    pub(super) name: &'static str,
    /// The chain, in its order.
    pub(super) cast: Vec<Cast>,
    /// Filters that are started and that no mail goes to.
    pub(super) spare: Vec<Cast>,
    /// Where the orchestrator listens; where Postfix looks for it without this.
    pub(super) listen: Option<String>,
    /// Sections added to the configuration.
    pub(super) sections: String,
    /// What is run in front of the orchestrator and becomes it.
    pub(super) wrapper: Vec<String>,
}

impl Plan {
    /// The usual: our own filters, and three that mark, of which the middle one is to be harmed.
    pub(super) fn usual(name: &'static str) -> Self {
        Self::of(
            name,
            vec![
                Cast::ours("dkim", Role::Dkim),
                Cast::marker("first"),
                Cast::marker("victim"),
                Cast::marker("last"),
                Cast::ours("spam", Role::Spam),
            ],
        )
    }

    /// With these filters.
    pub(super) fn of(name: &'static str, cast: Vec<Cast>) -> Self {
        Self {
            name,
            cast,
            spare: Vec::new(),
            listen: None,
            sections: String::new(),
            wrapper: Vec::new(),
        }
    }

    /// What every delivered letter must bear, filters of these names aside.
    pub(super) fn marks(&self, without: &[&str]) -> Vec<Mark> {
        self.cast
            .iter()
            .filter(|cast| !without.contains(&cast.name))
            .filter_map(Cast::mark)
            .collect()
    }

    /// The configuration.
    pub(super) fn text(&self, office: &Office) -> Result<String> {
        let folder = office.folder(self.name)?;
        let at = folder.display();
        let mut text = String::new();
        if let Some(account) = office.site.account() {
            text += &format!("[process]\nuser = \"{account}\"\n");
        }
        text += &format!(
            "[control]\nsocket = \"unix:{at}/state/control\"\n\
             [metrics]\nsocket = \"unix:{at}/state/metrics\"\n\
             [supervisor]\ndirectory = \"{at}/state/children\"\n\
             [listen.inbound]\nsocket = \"{}\"\n",
            self.listen.as_ref().unwrap_or(&office.site.listen)
        );
        for cast in self.cast.iter().chain(&self.spare) {
            text += &format!("[milter.{}]\n{}\n", cast.name, self.command(cast, office));
            text += &cast.settings;
        }
        if !self.spare.is_empty() {
            // A chain of their own, for mail that never comes: what is in no chain is not started.
            let names: Vec<&str> = self.spare.iter().map(|cast| cast.name).collect();
            text += &format!(
                "[listen.side]\nsocket = \"unix:{at}/state/side\"\n\
                 [[route]]\nname = \"side\"\nchain = {names:?}\n\
                 [route.match]\nlisten = \"side\"\n"
            );
        }
        let chain: Vec<&str> = self.cast.iter().map(|cast| cast.name).collect();
        text += &format!("[[route]]\nname = \"all\"\nchain = {chain:?}\n");
        text += &self.sections;
        Ok(text)
    }

    /// Where it listens, as an address.
    fn port(&self, office: &Office) -> Result<SocketAddr> {
        let Some(listen) = &self.listen else {
            return Ok(office.milter);
        };
        let port = listen
            .strip_prefix("inet:")
            .and_then(|rest| rest.split('@').next());
        let port: u16 = port.context("no port")?.parse()?;
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn command(&self, cast: &Cast, office: &Office) -> String {
        let site = &office.site;
        let ours = |program: &str, file: &str| {
            vec![
                site.binary(program).display().to_string(),
                "--config".to_owned(),
                site.etc(file).display().to_string(),
            ]
        };
        let words = match &cast.role {
            Role::Dkim => ours("milter-dkim", "dkim.toml"),
            Role::Spam => ours("milter-spam", "spam.toml"),
            Role::Foreign(socket) => return format!("socket = \"{socket}\""),
            Role::Scripted(arguments) => {
                let program = site.binary("milter-fault").display().to_string();
                let mut words = vec![program];
                for word in ["--name", cast.name, "--key", &office.key] {
                    words.push(word.to_owned());
                }
                words.extend(arguments.iter().cloned());
                words
            }
        };
        format!("command = {words:?}")
    }
}

/// A running orchestrator.
pub(super) struct Scene<'a> {
    orchestrator: Child,
    program: PathBuf,
    /// Its configuration.
    pub(super) file: PathBuf,
    office: &'a Office,
    /// The process that was started, and those that took its place.
    lineage: Vec<Pid>,
}

impl<'a> Scene<'a> {
    /// Writes the configuration, starts, and waits until every filter is up.
    pub(super) fn start(office: &'a Office, plan: &Plan) -> Result<Self> {
        let scene = Self::start_anyhow(office, plan)?;
        scene.all_up()?;
        Ok(scene)
    }

    /// The same, waiting until mail can be let in, whatever the filters do.
    pub(super) fn start_anyhow(office: &'a Office, plan: &Plan) -> Result<Self> {
        let mut scene = Self::launch(office, plan, None)?;
        scene.listening(plan)?;
        Ok(scene)
    }

    /// Waits until mail is let in.
    pub(super) fn listening(&mut self, plan: &Plan) -> Result<()> {
        let listen = plan.port(self.office)?;
        let listens = "the orchestrator listens";
        self.office.interrupt.until(listens, START, || {
            self.orchestrator.must_run()?;
            Ok(TcpStream::connect(listen).is_ok())
        })
    }

    /// Starts on a socket that is held by us, as by systemd, and waits for nothing.
    pub(super) fn start_held(office: &'a Office, plan: &Plan, held: &TcpListener) -> Result<Self> {
        Self::launch(office, plan, Some(held.as_fd().try_clone_to_owned()?))
    }

    /// Starts it, on a socket where one is held for it, and waits for nothing.
    pub(super) fn launch(office: &'a Office, plan: &Plan, held: Option<OwnedFd>) -> Result<Self> {
        let file = write(office, plan)?;
        let program = office.site.binary("milter-orchestrator");
        let mut command = match plan.wrapper.split_first() {
            None => Command::new(&program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        command.arg("--config").arg(&file);
        if let Some(parent_fd) = held {
            let child_fd = LISTEN_FDS_START;
            command
                .env("LISTEN_FDS", "1")
                .env("LISTEN_FDNAMES", LISTENER);
            command.fd_mappings(vec![FdMapping {
                parent_fd,
                child_fd,
            }])?;
        }
        let log = office.folder(plan.name)?.join("log");
        let orchestrator = Child::start("milter-orchestrator", &mut command, &log)?;
        let first = Pid::from_raw(i32::try_from(orchestrator.id())?);
        Ok(Self {
            lineage: vec![first],
            orchestrator,
            program,
            file,
            office,
        })
    }

    /// Waits until every filter is up.
    pub(super) fn all_up(&self) -> Result<()> {
        self.office
            .interrupt
            .until("every filter is up", START, || {
                let filters = self.filters().unwrap_or_default();
                Ok(!filters.is_empty() && filters.iter().all(|filter| filter.up))
            })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.orchestrator.id())?))
    }

    /// Whether it is gone.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.orchestrator.ended()?.is_some())
    }

    /// How many lines of its log have this in them.
    pub(super) fn logged(&self, what: &str) -> Result<usize> {
        let log = fs::read(self.file.with_file_name("log"))?;
        let log = String::from_utf8_lossy(&log);
        Ok(log.lines().filter(|line| line.contains(what)).count())
    }

    /// Waits for the end of one that was killed.
    pub(super) fn must_have_ended(&mut self) -> Result<()> {
        let ended = || Ok(self.orchestrator.ended()?.is_some());
        self.office.interrupt.until("its end", START, ended)
    }

    /// What `status` says.
    pub(super) fn status(&self) -> Result<Value> {
        let text = self.tell(&["status", "--json"])?;
        serde_json::from_slice(&text).context("status --json is no JSON")
    }

    /// What a sub-command of a second process prints.
    pub(super) fn tell(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        workspace::output(command.arg("--config").arg(&self.file).args(words))
    }

    /// Has it read its configuration again; an error when it does not like it.
    pub(super) fn reload(&self) -> Result<()> {
        self.tell(&["reload"]).map(drop)
    }

    /// Has another process take its place.
    pub(super) fn upgrade(&mut self) -> Result<()> {
        self.tell(&["upgrade"])?;
        let heir = self.serving()?;
        if self.lineage.last() != Some(&heir) {
            self.lineage.push(heir);
        }
        Ok(())
    }

    /// How many of those whose place was taken still run.
    pub(super) fn predecessors(&self) -> usize {
        let before = self.lineage.iter().rev().skip(1);
        before.filter(|pid| cpu::is_alive(**pid)).count()
    }

    /// The process that answers.
    fn serving(&self) -> Result<Pid> {
        let pid = self.status()?["pid"]
            .as_i64()
            .context("status has no pid")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    /// The filters.
    pub(super) fn filters(&self) -> Result<Vec<Filter>> {
        read_status(&self.status()?).context("status --json is not as expected")
    }

    /// The process of a filter, waiting for one.
    pub(super) fn process(&self, name: &str) -> Result<Pid> {
        let mut pid = None;
        self.office.interrupt.until("a process", START, || {
            let filters = self.filters()?;
            let filter = filters.into_iter().find(|filter| filter.name == name);
            pid = filter.with_context(|| format!("no filter {name}"))?.pid;
            Ok(pid.is_some())
        })?;
        pid.map(Pid::from_raw).context("no process")
    }

    /// Signals a filter; the process that got it. It is a child of the orchestrator that we
    /// started, and its id is fresh.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<Pid> {
        let pid = self.process(name)?;
        kill(pid, signal).with_context(|| format!("{name} ({pid})"))?;
        Ok(pid)
    }

    /// How often a filter was started again.
    pub(super) fn restarts(&self, name: &str) -> Result<f64> {
        let status = self.status()?;
        let filters = status["milters"].as_array().context("no milters")?;
        let filter = filters.iter().find(|filter| filter["name"] == name);
        let restarts = filter.and_then(|filter| filter["restarts"].as_f64());
        restarts.with_context(|| format!("status says nothing of restarts of {name}"))
    }

    /// Asks for `/readyz`.
    pub(super) fn readyz(&self) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.file.with_file_name("state").join("metrics"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Where a filter listens.
    pub(super) fn socket(&self, name: &str) -> Result<PathBuf> {
        let status = self.status()?;
        let filters = status["milters"].as_array().context("no milters")?;
        let filter = filters.iter().find(|filter| filter["name"] == name);
        let socket = filter.and_then(|filter| filter["socket"].as_str());
        let path = socket.and_then(|socket| socket.strip_prefix("unix:"));
        path.map(PathBuf::from).context("no unix socket")
    }

    /// Ends it; an error when it does not end well.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end_heirs()?;
        let status = self.orchestrator.stop()?;
        ensure!(status.success(), "milter-orchestrator ended with {status}");
        Ok(())
    }

    /// Ends those that took the place of the process that we have started; they are nobody's
    /// children that we could wait for.
    fn end_heirs(&self) -> Result<()> {
        let heirs = || {
            self.lineage
                .iter()
                .skip(1)
                .filter(|pid| self.is_ours(**pid))
        };
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for pid in heirs() {
                // It may just have ended.
                let _ = kill(*pid, signal);
            }
            let begun = Instant::now();
            while begun.elapsed() < START {
                if heirs().count() == 0 {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        anyhow::bail!("milter-orchestrator does not end")
    }

    /// Whether a process runs the orchestrator of this scene, so that its number is not another's.
    fn is_ours(&self, pid: Pid) -> bool {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let file = self.file.as_os_str().as_encoded_bytes();
        cpu::is_alive(pid) && words.split(|byte| *byte == 0).any(|word| word == file)
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // The process that was started ends by itself, as any child of ours.
        let _ = self.end_heirs();
    }
}

/// Writes a plan's configuration; the folders are the account's.
fn write(office: &Office, plan: &Plan) -> Result<PathBuf> {
    let folder = office.folder(plan.name)?;
    let state = folder.join("state");
    fs::create_dir_all(&state)?;
    office.site.give(&state)?;
    let file = folder.join("orchestrator.toml");
    fs::write(&file, plan.text(office)?)?;
    Ok(file)
}

/// Connects to a milter and waits for its answer to the negotiation, as often as needed; how long
/// that took.
pub(super) fn negotiated(
    connect: impl Fn() -> std::io::Result<Talk>,
    limit: Duration,
) -> Result<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Ok(talk) = connect()
            && talk.negotiate(limit).is_ok()
        {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("no negotiation within {limit:?}")
}

/// A connection to a milter.
pub(super) enum Talk {
    /// To a filter.
    Unix(UnixStream),
    /// To the orchestrator.
    Tcp(TcpStream),
}

impl Talk {
    fn negotiate(self, limit: Duration) -> std::io::Result<()> {
        let mut answer = [0; 17];
        match self {
            Self::Unix(mut stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.write_all(&OFFER)?;
                stream.read_exact(&mut answer)
            }
            Self::Tcp(mut stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.write_all(&OFFER)?;
                stream.read_exact(&mut answer)
            }
        }
    }
}
