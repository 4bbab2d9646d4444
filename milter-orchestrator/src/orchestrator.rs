//! The daemon: binds what its children need, looks after them, lets MTAs in, and ends in order.
//!
//! Start: children's sockets → children → control socket → wait until each child has had its
//! chance → let MTAs in → ready. End: accept no more → finish the messages in hand, with a deadline
//! → end the children, with theirs. What goes wrong before children run ends the program with a
//! [`Failure`]; nothing after that does.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use milter_proto::daemon::config::{Common, ConfigError, Listener};
use milter_proto::daemon::exit::EX_OSERR;
use milter_proto::daemon::{Bound, CommandContext, Failure, Host, Program, Signal, SocketFile};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use crate::blueprint::{self, Blueprint, Known};
use crate::commands::Command;
use crate::config::Settings;
use crate::control::{self, Answer, Question};
use crate::entrance::{Current, Entrance, Rules};
use crate::reload;
use crate::sockets;
use crate::status::{self, ListenerStatus, MilterStatus, Snapshot};
use crate::supervisor::nursery::message::Identity;
use crate::supervisor::nursery::{Cradle, Nurseries, OURSELVES};
use crate::supervisor::{Kept, Supervisor};

/// MTAs are let in when every child has had its chance, or after this time.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How often the nurseries are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The orchestrator, ready to run.
#[derive(Debug)]
pub struct Orchestrator {
    settings: Settings,
    blueprint: Blueprint,
    /// The nurseries for other users, which cannot be started later.
    cradles: Vec<Cradle>,
}

impl Orchestrator {
    /// The configuration as written.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it means.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }
}

impl Program for Orchestrator {
    const NAME: &'static str = "milter-orchestrator";
    const ABOUT: &'static str = "Runs filters as children and proxies the milter protocol through \
                                 them";
    const CONFIG: &'static str = "/etc/milter/orchestrator.toml";
    type Settings = Settings;
    type Command = Command;

    fn common(settings: &Settings) -> Common {
        let listeners = settings.listen.iter().map(|(name, listen)| Listener {
            name: name.clone(),
            section: format!("listen.{name}"),
            socket: listen.socket.clone(),
            mode: listen.mode,
            group: listen.group.clone(),
        });
        Common::process(listeners.collect(), &settings.process, &settings.log)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        let blueprint = blueprint::draw(&settings)?;
        for warning in &blueprint.warnings {
            tracing::warn!("{}", warning.message);
        }
        Ok(Self {
            settings,
            blueprint,
            cradles: Vec::new(),
        })
    }

    fn furnish(&mut self) -> Result<(), Failure> {
        self.cradles = cradles(&self.blueprint)?;
        Ok(())
    }

    async fn run(self, mut host: Host<Self>) -> Result<(), Failure> {
        let mut house = House::open(self, host.take_sockets())?;
        house.serve(&mut host).await;
        host.stopping();
        house.close(&mut host).await;
        Ok(())
    }

    fn command(command: Command, context: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        command.run(&context)
    }
}

/// Everything that runs.
struct House {
    settings: Settings,
    supervisor: Supervisor,
    rules: Arc<Current>,
    entrances: Vec<Entrance>,
    serving: JoinSet<()>,
    stop: watch::Sender<bool>,
    desk: Arc<Desk>,
    /// Removed when dropped.
    files: Vec<SocketFile>,
}

impl House {
    /// Binds and starts everything but the entrances.
    fn open(orchestrator: Orchestrator, bound: Vec<Bound>) -> Result<Self, Failure> {
        let Orchestrator {
            settings,
            blueprint,
            cradles,
        } = orchestrator;
        let mut files = Vec::new();
        let (charges, control) = sockets::bind(&blueprint, &mut files)?;
        let rules = Arc::new(Current::new(rules(&blueprint)));
        let entrances = entrances(&settings, bound, &rules, &mut files)?;
        let mut supervisor = Supervisor::new(nurseries(cradles)?, blueprint.pace);
        for charge in charges {
            supervisor.keep(charge);
        }
        let desk = Arc::new(Desk {
            since: SystemTime::now(),
            kept: supervisor.kept().to_vec(),
            listeners: gauges(&settings, &entrances),
            rules: Arc::clone(&rules),
        });
        let clerk = Arc::clone(&desk);
        tokio::spawn(control::serve(control, move |question| {
            clerk.answer(question)
        }));
        Ok(Self {
            settings,
            supervisor,
            rules,
            entrances,
            serving: JoinSet::new(),
            stop: watch::Sender::new(false),
            desk,
            files,
        })
    }

    /// Lets MTAs in and does as signals say, until told to stop.
    async fn serve(&mut self, host: &mut Host<Orchestrator>) {
        let settled = time::timeout(SETTLE_MAX, self.supervisor.settled());
        tokio::pin!(settled);
        let mut let_in = false;
        let mut check_tick = time::interval(CHECK_EVERY);
        let mut alive_tick = time::interval(host.watchdog().unwrap_or(CHECK_EVERY));
        loop {
            tokio::select! {
                signal = host.next_signal() => match signal {
                    Signal::Stop => return,
                    Signal::Reload => self.reload(host).await,
                    Signal::Report => self.report(),
                },
                _ = &mut settled, if !let_in => {
                    let_in = true;
                    for entrance in self.entrances.drain(..) {
                        self.serving.spawn(entrance.serve(self.stop.subscribe()));
                    }
                    host.ready();
                }
                _ = check_tick.tick() => self.supervisor.nurseries().check(),
                _ = alive_tick.tick() => host.alive(),
            }
        }
    }

    /// A new configuration: what can count at once does, the rest is named.
    async fn reload(&mut self, host: &mut Host<Orchestrator>) {
        let Some(new) = host.reload().await else {
            return;
        };
        let kept = self.supervisor.kept();
        let running: Vec<&str> = kept.iter().map(|kept| &*kept.member.name).collect();
        let (merged, waiting) = reload::merge(&self.settings, new.settings, &running);
        for what in waiting {
            tracing::warn!("{what}: this counts after a restart");
        }
        let known: Known = kept
            .iter()
            .map(|kept| (kept.member.name.clone(), Arc::clone(&kept.member.health)))
            .collect();
        match blueprint::redraw(&merged, &known) {
            Ok(blueprint) => {
                self.rules.replace(rules(&blueprint));
                self.settings = merged;
            }
            Err(error) => tracing::error!(
                "the old routes stay: {}: {} {}",
                error.path,
                error.message,
                error.help
            ),
        }
    }

    fn report(&self) {
        for line in status::render(&self.desk.snapshot()).lines() {
            tracing::info!("{line}");
        }
    }

    /// Finishes messages, then children, each with its deadline; another stop signal shortens both.
    async fn close(mut self, host: &mut Host<Orchestrator>) {
        // Sockets that were never served are closed, so that nobody waits in their queues.
        self.entrances.clear();
        self.stop.send_replace(true);
        tokio::select! {
            () = async { while self.serving.join_next().await.is_some() {} } => {}
            () = another_stop(host) => {
                tracing::warn!("told to stop again: messages in hand are cut off");
                self.serving.shutdown().await;
            }
        }
        self.supervisor.stop().await;
        drop(self.files);
    }
}

async fn another_stop(host: &mut Host<Orchestrator>) {
    while host.next_signal().await != Signal::Stop {}
}

/// A nursery for each user among the children that is not our own.
fn cradles(blueprint: &Blueprint) -> Result<Vec<Cradle>, Failure> {
    let plans = blueprint
        .milters
        .iter()
        .filter_map(|milter| milter.source.plan());
    let identities: BTreeSet<&Identity> = plans
        .map(|plan| &plan.identity)
        .filter(|identity| identity.user.is_some())
        .collect();
    identities
        .into_iter()
        .map(|identity| Cradle::start(Path::new(OURSELVES), identity.clone()).map_err(no_nursery))
        .collect()
}

/// All nurseries, with one for our own user.
fn nurseries(mut cradles: Vec<Cradle>) -> Result<Nurseries, Failure> {
    let program = Path::new(OURSELVES);
    cradles.push(Cradle::start(program, Identity::default()).map_err(no_nursery)?);
    Nurseries::open(program, cradles).map_err(no_nursery)
}

fn no_nursery(error: io::Error) -> Failure {
    let message = format!("a nursery for the children cannot be started: {error}");
    Failure::new(EX_OSERR, message)
}

fn rules(blueprint: &Blueprint) -> Rules {
    Rules {
        routes: Arc::clone(&blueprint.routes),
        limits: blueprint.limits.clone(),
    }
}

/// The listeners, with the sockets that were bound for them.
fn entrances(
    settings: &Settings,
    bound: Vec<Bound>,
    rules: &Arc<Current>,
    files: &mut Vec<SocketFile>,
) -> Result<Vec<Entrance>, Failure> {
    bound
        .into_iter()
        .map(|bound| {
            files.extend(bound.file);
            let listen = settings.listen.get(&bound.name);
            let limit = listen.map_or(1, |listen| listen.max_connections);
            let grace = settings.process.stop_timeout.get();
            let rules = Arc::clone(rules);
            let entrance = Entrance::new(&bound.name, bound.socket, limit, grace, rules);
            entrance.map_err(|error: io::Error| {
                Failure::new(EX_OSERR, format!("{}: {error}", bound.address))
            })
        })
        .collect()
}

/// What `status` needs of the listeners.
fn gauges(settings: &Settings, entrances: &[Entrance]) -> Vec<Gauge> {
    entrances
        .iter()
        .map(|entrance| Gauge {
            name: entrance.name().to_owned(),
            socket: settings
                .listen
                .get(entrance.name())
                .map_or_else(String::new, |listen| listen.socket.to_string()),
            connections: entrance.connections(),
        })
        .collect()
}

/// A listener as `status` sees it.
struct Gauge {
    name: String,
    socket: String,
    connections: Arc<AtomicU64>,
}

/// Where questions are answered.
struct Desk {
    since: SystemTime,
    kept: Vec<Kept>,
    listeners: Vec<Gauge>,
    rules: Arc<Current>,
}

impl Desk {
    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(self.snapshot()),
            Question::Restart { milter } => self.restart(&milter),
        }
    }

    fn restart(&self, name: &str) -> Answer {
        let Some(kept) = self.kept.iter().find(|kept| kept.member.name == name) else {
            let names: Vec<&str> = self.kept.iter().map(|kept| &*kept.member.name).collect();
            let names = names.join(", ");
            return Answer::Error(format!("there is no milter {name:?}; there are: {names}"));
        };
        match kept.restart() {
            Ok(()) => Answer::Done(format!("{name} is being restarted; see `status`")),
            Err(error) => Answer::Error(error.to_string()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let routes = self.rules.read().routes;
        let milters = self.kept.iter().map(|kept| {
            // A reload may have changed its policies; its process and counters are the same.
            let current = routes.member(&kept.member.name);
            MilterStatus::of(kept, current.as_deref().unwrap_or(&kept.member))
        });
        let listeners = self.listeners.iter().map(|gauge| ListenerStatus {
            name: gauge.name.clone(),
            socket: gauge.socket.clone(),
            connections: gauge.connections.load(Ordering::Relaxed),
        });
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: status::seconds(self.since),
            now: status::seconds(SystemTime::now()),
            listeners: listeners.collect(),
            milters: milters.collect(),
        }
    }
}
