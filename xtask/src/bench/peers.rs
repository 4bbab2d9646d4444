//! Filters, relays and orchestrators as processes in one folder, what they use up, and the MTA that
//! sends through them.
//!
//! All of them end with [`Peers`], however that ends.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::child::{Child, tail};
use crate::interrupt::Interrupt;
use crate::postfix::free_port;

/// How long a process may take to listen.
const START: Duration = Duration::from_secs(30);
/// How long one measurement may take.
const RUN: Duration = Duration::from_secs(180);

/// Which kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Unix,
    Tcp,
}

/// Where something listens, and its process.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) pid: u32,
}

/// One way into the orchestrator.
pub(crate) struct Entrance<'a> {
    pub(crate) name: &'a str,
    pub(crate) over: Over,
    /// Segments of filters.
    pub(crate) chain: &'a [&'a [&'a Peer]],
}

/// Processes.
pub(crate) struct Peers<'a> {
    /// Before the folder, so that they end before it is removed.
    children: Vec<Child>,
    folder: TempDir,
    binaries: &'a Path,
    interrupt: &'a Interrupt,
    /// Names logs.
    loads: usize,
}

impl<'a> Peers<'a> {
    pub(crate) fn new(binaries: &'a Path, interrupt: &'a Interrupt) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir()?;
        Ok(Self {
            children: Vec::new(),
            folder,
            binaries,
            interrupt,
            loads: 0,
        })
    }

    /// A filter that lets everything pass; `manners` are arguments of it.
    pub(crate) fn filter(&mut self, name: &str, over: Over, manners: &[&str]) -> Result<Peer> {
        let address = self.address(name, over)?;
        let mut command = self.bench("filter");
        command.arg(&address).args(manners);
        self.start("the filter", command, name, address)
    }

    /// A relay to `target`, on a socket of the same kind.
    pub(crate) fn relay(&mut self, name: &str, over: Over, target: &Peer) -> Result<Peer> {
        let address = self.address(name, over)?;
        let mut command = self.bench("relay");
        command.arg(&address).arg(&target.address);
        self.start("the relay", command, name, address)
    }

    /// An orchestrator with these entrances: where they are, in their order.
    pub(crate) fn orchestrator(
        &mut self,
        name: &str,
        entrances: &[Entrance<'_>],
    ) -> Result<Vec<Peer>> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(folder.join("spool"))?;
        let (text, addresses) = self.configuration(&folder, entrances)?;
        let file = folder.join("orchestrator.toml");
        fs::write(&file, text)?;
        let mut command = Command::new(self.binaries.join("milter-orchestrator"));
        command.arg("--config").arg(&file);
        let last = addresses.last().context("no entrance")?.clone();
        let Peer { pid, .. } = self.start("milter-orchestrator", command, name, last)?;
        let peers = addresses.into_iter().map(|address| Peer { address, pid });
        Ok(peers.collect())
    }

    fn configuration(
        &self,
        folder: &Path,
        entrances: &[Entrance<'_>],
    ) -> Result<(String, Vec<String>)> {
        let at = folder.display();
        let mut text = format!(
            "[control]\nsocket = \"unix:{at}/control\"\n\
             [supervisor]\ndirectory = \"{at}/children\"\n\
             [limits]\nspool_directory = \"{at}/spool\"\n"
        );
        let mut addresses = Vec::new();
        for Entrance { name, over, chain } in entrances {
            let address = self.address(&format!("in-{name}"), *over)?;
            text += &format!("[listen.{name}]\nsocket = \"{address}\"\nmax_connections = 10000\n");
            addresses.push(address);
            let mut names = Vec::new();
            for (segment, filters) in chain.iter().enumerate() {
                let mut parallel = Vec::new();
                for (place, filter) in filters.iter().enumerate() {
                    let milter = format!("{name}-{segment}-{place}");
                    text += &format!("[milter.{milter}]\nsocket = \"{}\"\n", filter.address);
                    parallel.push(format!("\"{milter}\""));
                }
                names.push(format!("[{}]", parallel.join(", ")));
            }
            text += &format!(
                "[[route]]\nchain = [{}]\n[route.match]\nlisten = \"{name}\"\n",
                names.join(", ")
            );
        }
        Ok((text, addresses))
    }

    /// Sends messages to `to` and returns what the MTA reports.
    pub(crate) fn load(&mut self, to: &Peer, work: &[&str]) -> Result<Value> {
        self.load_while(to, work, || Ok(()))
    }

    /// The same, calling `meanwhile` every now and then.
    pub(crate) fn load_while(
        &mut self,
        to: &Peer,
        work: &[&str],
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Value> {
        let mut load = self.begin("load", to, work)?;
        self.interrupt.until("the messages", RUN, || {
            meanwhile()?;
            load.is_done()
        })?;
        load.result()
    }

    /// Opens idle sessions to `to`, calls `meanwhile` once they are open, and sees that each of
    /// them is still good for a message.
    pub(crate) fn idle<T>(
        &mut self,
        to: &Peer,
        work: &[&str],
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut load = self.begin("idle", to, work)?;
        self.interrupt.until("the sessions", RUN, || {
            Ok(load.is_done()? || load.said().contains("open"))
        })?;
        let seen = meanwhile()?;
        self.interrupt
            .until("the sessions' messages", RUN, || load.is_done())?;
        load.result()?;
        Ok(seen)
    }

    fn begin(&mut self, what: &str, to: &Peer, work: &[&str]) -> Result<Load> {
        self.interrupt.check()?;
        for child in &mut self.children {
            child.must_run()?;
        }
        self.loads += 1;
        let log = self.folder.path().join(format!("load-{}.log", self.loads));
        let mut command = self.bench(what);
        command.arg(&to.address).args(work);
        let child = Child::start("the MTA", &mut command, &log)?;
        Ok(Load { child, log })
    }

    fn bench(&self, what: &str) -> Command {
        let mut command = Command::new(self.binaries.join("milter-bench"));
        command.arg(what);
        command
    }

    fn address(&self, name: &str, over: Over) -> Result<String> {
        Ok(match over {
            Over::Unix => format!("unix:{}/{name}", self.folder.path().display()),
            Over::Tcp => format!("inet:{}@127.0.0.1", free_port()?),
        })
    }

    /// Starts a process and waits until it listens.
    fn start(
        &mut self,
        what: &'static str,
        mut command: Command,
        name: &str,
        address: String,
    ) -> Result<Peer> {
        let log = self.folder.path().join(format!("{name}.log"));
        let mut child = Child::start(what, &mut command, &log)?;
        self.interrupt.until("listening", START, || {
            child.must_run()?;
            Ok(listens(&address))
        })?;
        let pid = child.id();
        self.children.push(child);
        Ok(Peer { address, pid })
    }
}

/// An MTA at work.
struct Load {
    child: Child,
    log: PathBuf,
}

impl Load {
    fn is_done(&mut self) -> Result<bool> {
        Ok(self.child.ended()?.is_some())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn result(&mut self) -> Result<Value> {
        let status = self.child.stop()?;
        let words = tail(&self.log, 0, 15);
        ensure!(status.success(), "the MTA ended ({status}):\n{words}");
        let last = words.lines().last().context("the MTA said nothing")?;
        serde_json::from_str(last).with_context(|| format!("the MTA said {last}"))
    }
}

fn listens(address: &str) -> bool {
    if let Some(path) = address.strip_prefix("unix:") {
        return UnixStream::connect(path).is_ok();
    }
    let port = address
        .strip_prefix("inet:")
        .and_then(|rest| rest.split_once('@'));
    port.and_then(|(port, host)| Some((host, port.parse::<u16>().ok()?)))
        .is_some_and(|to| TcpStream::connect(to).is_ok())
}

/// A line of `/proc/PID/status` in megabytes: `VmRSS`, or `VmHWM` for the most there ever was.
pub(crate) fn memory(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let kilobytes = value.with_context(|| format!("no {line} of process {pid}"))?;
    Ok(kilobytes / 1024.0)
}

/// Megabytes in the nameless files that a process has open.
pub(crate) fn spooled(pid: u32) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let nameless =
            fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().ends_with("(deleted)"));
        // Some are closed meanwhile.
        if nameless && let Ok(file) = fs::metadata(&path) {
            bytes += file.len();
        }
    }
    Ok(bytes as f64 / 1024.0 / 1024.0)
}

/// Processor time of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Seconds in the program itself.
    pub(crate) user: f64,
    /// Seconds in the system on its behalf.
    pub(crate) system: f64,
}

impl Spent {
    /// Since the process began.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold anything; times are the 14th and 15th field, in
        // hundredths.
        let (_, rest) = stat.rsplit_once(')').context("no /proc stat")?;
        let field = |number: usize| {
            let text = rest.split_ascii_whitespace().nth(number - 3);
            text.and_then(|text| text.parse::<f64>().ok())
                .context("no times in /proc stat")
        };
        Ok(Self {
            user: field(14)? / 100.0,
            system: field(15)? / 100.0,
        })
    }

    /// What came on top of `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}
