//! Runs `.milter` scripts against the orchestrator: its proxy in memory, or the whole daemon.
//!
//! The filters of a script stand on sockets of their own in either case, and the orchestrator's
//! configuration is written from the script's chain. What does not come as the script expects is an
//! error that says which connection, what was expected, and what every filter was told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use milter_orchestrator::blueprint;
use milter_orchestrator::config::Settings;
use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::member::Readiness;
use milter_orchestrator::proxy::Proxy;
use milter_orchestrator::status::MilterStatus;
use milter_proto::net::{Address, Peer, Stop, Stream};
use milter_proto::testkit::{
    Chain, FilterScript, FilterServer, Mismatch, MtaScript, Scenario, Text, Told, converse,
};
use milter_proto::wire::Command as Frame;
use tempfile::TempDir;

use crate::process::Process;
use crate::programs::binary;

/// No script waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the scripts are.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// Names of all scripts, in order.
///
/// # Errors
/// When the folder cannot be read.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "milter")
        {
            let stem = path.file_stem().unwrap_or_default();
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What stands before the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The proxy, in this process.
    Memory,
    /// The daemon, over its socket.
    Daemon,
}

/// Runs the script of that name.
///
/// # Errors
/// When it cannot be read or run, or something else happens than it says.
pub async fn run(name: &str, through: Through) -> Result<()> {
    let path = directory().join(format!("{name}.milter"));
    let file = format!("tests/scripts/{name}.milter");
    let source = std::fs::read_to_string(&path).with_context(|| file.clone())?;
    let scenario = Scenario::parse(&file, &source)?;
    let stage = Stage::new(scenario).await?;
    let outcome = match through {
        Through::Memory => stage.in_memory().await,
        Through::Daemon => stage.through_daemon().await,
    };
    outcome.context(file)
}

/// The filters of a scenario, running.
#[derive(Debug)]
pub struct Stage {
    /// What was asked for.
    pub scenario: Scenario,
    /// The filters, in the scenario's order.
    pub servers: Vec<FilterServer>,
    directory: TempDir,
}

impl Stage {
    /// Starts the filters.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub async fn new(scenario: Scenario) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut servers = Vec::new();
        for script in &scenario.filters {
            let address = Address::Unix(directory.path().join(format!("{}.sock", script.name)));
            servers.push(FilterServer::start(&address, script.clone()).await?);
        }
        Ok(Self {
            scenario,
            servers,
            directory,
        })
    }

    /// A proxy before the filters.
    ///
    /// # Errors
    /// When the scenario's chain is none that can be configured.
    pub fn proxy(&self) -> Result<Proxy> {
        let settings: Settings = toml::from_str(&self.configuration())?;
        let blueprint = blueprint::draw(&settings)
            .map_err(|error| anyhow::anyhow!("{}: {}", error.path, error.message))?;
        Ok(Proxy::new("inbound", blueprint.routes, blueprint.limits))
    }

    async fn in_memory(self) -> Result<()> {
        let proxy = self.proxy()?;
        for (number, mta) in self.scenario.mtas.iter().enumerate() {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let proxy = proxy.clone();
            let server = tokio::spawn(async move {
                let peer = Peer::from("script");
                proxy.serve(theirs, &peer, Stop::never()).await
            });
            let outcome = converse(mta, ours, PATIENCE).await.map(drop);
            self.judge(number, mta, outcome, "")?;
            // The MTA's stream is closed: whatever the proxy says to that, it ends.
            let _ = tokio::time::timeout(PATIENCE, server)
                .await
                .context("the proxy does not end with the MTA's connection")??;
        }
        self.claims("").await
    }

    async fn through_daemon(self) -> Result<()> {
        let daemon = self.start_daemon()?;
        for (number, mta) in self.scenario.mtas.iter().enumerate() {
            let stream = Stream::connect(&self.address()).await?;
            let outcome = converse(mta, stream, PATIENCE).await.map(drop);
            self.judge(number, mta, outcome, &daemon.output())?;
        }
        self.claims(&daemon.output()).await
    }

    /// Starts the daemon; the filters behave until it has probed them all.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_daemon(&self) -> Result<Process> {
        for (server, script) in self.servers.iter().zip(&self.scenario.filters) {
            server.set_script(FilterScript::new(&*script.name));
        }
        let file = self.directory.path().join("orchestrator.toml");
        self.configure(&self.scenario.chain)?;
        let mut command = Command::new(binary("milter-orchestrator")?);
        command.arg("--config").arg(file).arg("run");
        let mut daemon = Process::start(&mut command)?;
        daemon.wait_until("all filters probed", || {
            let milters = self.status().unwrap_or_default();
            let mut ready = milters
                .iter()
                .map(|milter| milter.readiness == Readiness::Ready);
            !milters.is_empty() && ready.all(|ready| ready)
        })?;
        for (server, script) in self.servers.iter().zip(&self.scenario.filters) {
            server.set_script(script.clone());
        }
        Ok(daemon)
    }

    /// Writes the daemon's configuration: the filters of the scenario, and this chain of them.
    ///
    /// # Errors
    /// What the system says.
    pub fn configure(&self, chain: &Chain) -> Result<()> {
        let text = self.frame() + &route(chain);
        std::fs::write(self.directory.path().join("orchestrator.toml"), text)?;
        Ok(())
    }

    /// What the daemon says of its filters.
    ///
    /// # Errors
    /// When it is not there.
    pub fn status(&self) -> Result<Vec<MilterStatus>> {
        let control = self.directory.path().join("control.sock");
        match control::ask(&control, &Question::Status)? {
            Answer::Status(status) => Ok(status.milters),
            other => bail!("no status: {other:?}"),
        }
    }

    /// What a sub-command of the running daemon prints.
    ///
    /// # Errors
    /// When it does not end well; with what it said.
    pub fn told_by(&self, arguments: &[&str]) -> Result<String> {
        let file = self.directory.path().join("orchestrator.toml");
        let mut command = Command::new(binary("milter-orchestrator")?);
        command.arg("--config").arg(file).args(arguments);
        let output = command.output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{arguments:?}: {}: {error}", output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Unix(self.directory.path().join("inbound.sock"))
    }

    /// What the orchestrator is told of the chain.
    fn configuration(&self) -> String {
        self.frame() + &route(&self.scenario.chain)
    }

    /// Listener, control socket, supervision and filters.
    fn frame(&self) -> String {
        let path = self.directory.path().display();
        let text = format!(
            "[listen.inbound]\nsocket = \"{}\"\n[control]\nsocket = \"unix:{path}/control.sock\"\n\
             [supervisor]\ndirectory = \"{path}/children\"\nprobe_interval = \"1h\"\n",
            self.address()
        );
        text + &milters(&self.scenario.chain, self.directory.path())
    }

    fn judge(
        &self,
        number: usize,
        mta: &MtaScript,
        outcome: Result<(), Mismatch>,
        log: &str,
    ) -> Result<()> {
        let Err(mismatch) = outcome else {
            return Ok(());
        };
        let number = number + 1;
        bail!("mta {number}: {mismatch}\n{mta}{}{log}", self.told())
    }

    /// Checks what the filters were told, once they are done.
    async fn claims(&self, log: &str) -> Result<()> {
        let mut wrong = String::new();
        for server in &self.servers {
            let idle = tokio::time::timeout(PATIENCE, server.idle()).await;
            idle.with_context(|| format!("a filter is still connected\n{}{log}", self.told()))?;
        }
        for claim in &self.scenario.claims {
            let mut servers = self.scenario.filters.iter().zip(&self.servers);
            let server = servers.find(|(script, _)| script.name == claim.filter());
            let told = server.map(|(_, server)| of_mail(server.transcript()));
            let told = told.unwrap_or_default();
            let connections = told.iter().map(|one| one.connection).max();
            if let Err(why) = claim.check(connections.unwrap_or_default(), &told) {
                writeln!(wrong, "{why}")?;
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        bail!("{wrong}{}{log}", self.told())
    }

    /// What every filter was told, for a message.
    fn told(&self) -> String {
        let mut text = String::new();
        for (script, server) in self.scenario.filters.iter().zip(&self.servers) {
            for told in server.transcript() {
                let what = match &told.command {
                    Ok(command) => Text(command).to_string(),
                    Err(error) => error.to_string(),
                };
                let what: String = what.chars().take(200).collect();
                // Writing into a string cannot fail.
                let _ = writeln!(text, "{} {}: {what}", script.name, told.connection);
            }
        }
        text
    }
}

/// Without the connections on which nothing but a negotiation took place: probes. The others are
/// numbered anew.
fn of_mail(told: Vec<Told>) -> Vec<Told> {
    let says_more = |one: &Told| !matches!(one.command, Ok(Frame::Negotiate(_) | Frame::Quit));
    let mut numbers: Vec<u32> = told
        .iter()
        .filter(|one| says_more(one))
        .map(|one| one.connection)
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let renumber = |mut one: Told| {
        let index = numbers.binary_search(&one.connection).ok()?;
        one.connection = u32::try_from(index + 1).ok()?;
        Some(one)
    };
    told.into_iter().filter_map(renumber).collect()
}

/// The sections of the filters.
fn milters(chain: &Chain, directory: &Path) -> String {
    let mut text = String::new();
    for place in chain.segments.iter().flatten() {
        let name = &place.filter;
        text += &format!(
            "[milter.{name}]\nsocket = \"unix:{}/{name}.sock\"\n",
            directory.display()
        );
        if let Some(policy) = place.on_failure {
            text += &format!("on_failure = \"{}\"\n", policy.name());
        }
        if let Some(time) = place.timeout {
            for key in [
                "connect_timeout",
                "command_timeout",
                "end_of_message_timeout",
            ] {
                text += &format!("{key} = \"{}ms\"\n", time.as_millis());
            }
        }
    }
    text
}

/// The section of the chain.
fn route(chain: &Chain) -> String {
    let segments = chain.segments.iter().map(|segment| {
        let names: Vec<String> = segment
            .iter()
            .map(|place| format!("\"{}\"", place.filter))
            .collect();
        match &names[..] {
            [alone] => alone.clone(),
            _ => format!("[{}]", names.join(", ")),
        }
    });
    let segments: Vec<String> = segments.collect();
    let mut text = format!("[[route]]\nchain = [{}]\n", segments.join(", "));
    if chain.strict {
        text += "strict = true\n";
    }
    text
}
