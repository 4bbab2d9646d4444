//! Both ways side by side: filters listed in the mail server's own configuration, and the same
//! filters behind the orchestrator.
//!
//! Everything is started once. A *lane* is a set of sockets for one scenario at a time: for each
//! number of filters an entry of the server with the filters themselves, and one with the
//! orchestrator, whose route for that listener is a chain of them. Between scenarios nothing but
//! the scripts of the filters is exchanged.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use milter_proto::net::Address;
use milter_proto::testkit::{FilterScript, FilterServer, Scenario};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::converse;
use super::deviations;
use super::mta::{Entry, Mta, free_ports, private_address};
use super::outcome::{Difference, Outcome, Taken};
use super::sink::Sink;
use crate::process::{PATIENCE, Process};
use crate::programs::binary;

/// Filters in a chain at most.
pub const FILTERS_MAX: usize = 4;

/// The filters of one way of one lane.
struct Way {
    servers: Vec<FilterServer>,
    /// Number of the server's entry with one filter; those with more follow, then those that are
    /// strict.
    first_entry: usize,
}

/// A set of sockets for one scenario at a time.
pub struct Lane {
    direct: Way,
    proxied: Way,
}

/// The mail server, the orchestrator, and lanes of filters.
pub struct Rig {
    /// The mail server.
    pub mta: Arc<dyn Mta>,
    lanes: Vec<tokio::sync::Mutex<Lane>>,
    next: AtomicUsize,
    sink: Sink,
    orchestrator: Process,
    _folder: TempDir,
}

/// Starts a mail server with these entries that delivers to that address.
pub type StartMta = fn(&[Entry], SocketAddr) -> Result<Arc<dyn Mta>>;

impl Rig {
    /// Starts everything, with so many lanes.
    ///
    /// # Errors
    /// When something does not come up; with its log.
    pub async fn start(lanes: usize, start_mta: StartMta) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let sink = Sink::start().await?;
        let mut ways = Vec::new();
        for _ in 0..lanes {
            ways.push((Way::start().await?, Way::start().await?));
        }
        // All at once, when everything else has its port: what is free now is free until it is
        // used.
        let ip = private_address();
        let mut ports = free_ports(ip, lanes * 2 * FILTERS_MAX)?.into_iter();
        let mut entries = Vec::new();
        let mut listeners = Vec::new();
        let mut configuration = frame(&folder);
        let mut built = Vec::new();
        for (lane, (mut direct, mut proxied)) in ways.into_iter().enumerate() {
            direct.first_entry = entries.len();
            entries.extend((1..=FILTERS_MAX).map(|count| Entry {
                name: format!("direct{lane}x{count}"),
                milters: direct.addresses().take(count).collect(),
            }));
            proxied.first_entry = entries.len();
            configuration.push_str(&milters(lane, &proxied)?);
            for strict in [false, true] {
                let ports: Vec<u16> = ports.by_ref().take(FILTERS_MAX).collect();
                configuration.push_str(&routes(lane, &ports, strict)?);
                for (count, port) in (1..).zip(ports) {
                    let listener = SocketAddr::from((ip, port));
                    listeners.push(listener);
                    let kind = if strict { "strict" } else { "proxied" };
                    entries.push(Entry {
                        name: format!("{kind}{lane}x{count}"),
                        milters: vec![listener],
                    });
                }
            }
            built.push(tokio::sync::Mutex::new(Lane { direct, proxied }));
        }
        let orchestrator = start_orchestrator(&folder, &configuration, &listeners).await?;
        let address = sink.address();
        let mta = tokio::task::spawn_blocking(move || start_mta(&entries, address)).await??;
        for lane in &mut built {
            let lane = lane.get_mut();
            for server in lane.direct.servers.iter().chain(&lane.proxied.servers) {
                timeout(PATIENCE, server.idle()).await?;
            }
        }
        Ok(Self {
            mta,
            lanes: built,
            next: AtomicUsize::new(0),
            sink,
            orchestrator,
            _folder: folder,
        })
    }

    /// How many scenarios can run at the same time.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// What the orchestrator has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.orchestrator.output()
    }

    /// Runs a scenario on both ways at the same time and compares; `None` when they are equal.
    ///
    /// # Errors
    /// When something else fails than what is compared.
    pub async fn compare(&self, scenario: &Scenario) -> Result<Option<Difference>> {
        let count = scenario.filters.len();
        ensure!(
            (1..=FILTERS_MAX).contains(&count),
            "a chain of {count} filters"
        );
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        let lane = self.lanes[lane].lock().await;
        let in_order = deviations::in_order(scenario);
        let (direct, proxied) = tokio::try_join!(
            async {
                self.run(&lane.direct, 0, &in_order)
                    .await
                    .with_context(|| format!("direct:\n{}", self.mta.log()))
            },
            async {
                let further = if scenario.chain.strict {
                    FILTERS_MAX
                } else {
                    0
                };
                let run = self.run(&lane.proxied, further, scenario).await;
                run.with_context(|| format!("proxied:\n{}", self.log()))
            }
        )?;
        let ids = [&direct.1[..], &proxied.1[..]];
        let what = direct.0.difference(&proxied.0, scenario, ids);
        Ok(what.map(|what| Difference {
            what,
            direct: direct.0,
            proxied: proxied.0,
        }))
    }

    /// What comes of a scenario on one way, and the queue ids of the messages.
    async fn run(
        &self,
        way: &Way,
        further: usize,
        scenario: &Scenario,
    ) -> Result<(Outcome, Vec<String>)> {
        for (server, script) in way.servers.iter().zip(&scenario.filters) {
            server.set_script(script.clone());
        }
        let address = self
            .mta
            .address(way.first_entry + further + scenario.filters.len() - 1);
        let mut outcome = Outcome::default();
        for dialogue in &scenario.smtp {
            outcome.dialogues.push(converse(address, dialogue).await?);
        }
        let replies = outcome.dialogues.iter().flatten();
        let ids: Vec<String> = replies
            .filter(|spoken| spoken.message)
            .filter_map(|spoken| self.mta.queue_id(spoken.reply.as_deref()?))
            .collect();
        for id in &ids {
            let (mta, id) = (Arc::clone(&self.mta), id.clone());
            let mta_id = id.clone();
            let fate = tokio::task::spawn_blocking(move || mta.fate(&mta_id)).await??;
            let deliveries = self.sink.take(&id);
            outcome.messages.push(Taken { fate, deliveries });
        }
        for server in way.servers.iter().take(scenario.filters.len()) {
            timeout(PATIENCE, server.idle())
                .await
                .context("a filter's connection stays open after the client's")?;
            outcome.told.push(server.take_transcript());
        }
        outcome.normalise(&ids);
        if self.mta.name() == "sendmail" {
            outcome.without_new_addresses(&deviations::new_addresses(scenario));
        }
        Ok((outcome, ids))
    }
}

impl Way {
    async fn start() -> Result<Self> {
        let mut servers = Vec::new();
        for number in 0..FILTERS_MAX {
            let address = Address::Inet {
                host: private_address().to_string(),
                port: 0,
            };
            let script = FilterScript::new(format!("idle{number}"));
            servers.push(FilterServer::start(&address, script).await?);
        }
        Ok(Self {
            servers,
            first_entry: 0,
        })
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers
            .iter()
            .filter_map(|server| match server.address() {
                Address::Inet { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
                Address::Unix(_) => None,
            })
    }
}

fn frame(folder: &TempDir) -> String {
    let path = folder.path().display();
    format!(
        "[control]\nsocket = \"unix:{path}/control.sock\"\n\
         [supervisor]\ndirectory = \"{path}/children\"\n\
         # A filter that is probed would count the probe as a connection.\n\
         probe_interval = \"1h\"\n"
    )
}

/// The filters of one lane.
fn milters(lane: usize, way: &Way) -> Result<String> {
    let mut text = String::new();
    for (number, server) in way.servers.iter().enumerate() {
        let address = server.address();
        // A busy machine can keep the filters, which live in this process, waiting for long.
        write!(
            text,
            "[milter.l{lane}f{number}]\nsocket = \"{address}\"\n\
             connect_timeout = \"25s\"\ncommand_timeout = \"25s\"\n"
        )?;
    }
    Ok(text)
}

/// Listeners of one lane, and a route for each: a chain of the first filters.
fn routes(lane: usize, ports: &[u16], strict: bool) -> Result<String> {
    let mut text = String::new();
    let ip = private_address();
    let kind = if strict { "s" } else { "n" };
    for (count, port) in (1..).zip(ports) {
        let chain: Vec<String> = (0..count)
            .map(|number| format!("\"l{lane}f{number}\""))
            .collect();
        write!(
            text,
            "[listen.l{lane}{kind}{count}]\nsocket = \"inet:{port}@{ip}\"\n\
             [[route]]\nchain = [{}]\nstrict = {strict}\n\
             match = {{ listen = \"l{lane}{kind}{count}\" }}\n",
            chain.join(", ")
        )?;
    }
    Ok(text)
}

async fn start_orchestrator(
    folder: &TempDir,
    configuration: &str,
    listeners: &[SocketAddr],
) -> Result<Process> {
    let file = folder.path().join("orchestrator.toml");
    std::fs::write(&file, configuration)?;
    let program = tokio::task::spawn_blocking(|| binary("milter-orchestrator")).await??;
    let mut command = Command::new(program);
    command.arg("--config").arg(&file).arg("run");
    let process = Process::start(&mut command)?;
    for listener in listeners {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while TcpStream::connect(listener).await.is_err() {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the orchestrator does not listen on {listener}:\n{}",
                process.output()
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    Ok(process)
}
