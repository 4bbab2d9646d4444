//! The daemon: binds what its children need, looks after them, lets MTAs in, and ends in order.
//!
//! Start: children's sockets → children → control socket → wait until each child has had its
//! chance → let MTAs in → ready. End: accept no more → finish the messages in hand, with a deadline
//! → end the children, with theirs. What goes wrong before children run ends the program with a
//! [`Failure`]; nothing after that does.

mod change;
mod desk;
mod generation;
mod house;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use milter_proto::daemon::config::{Common, ConfigError, Listener};
use milter_proto::daemon::exit::{EX_NOPERM, EX_OSERR};
use milter_proto::daemon::{CommandContext, Failure, Host, Program};
use nix::unistd::Uid;

use self::house::House;
use crate::blueprint::{self, Blueprint};
use crate::commands::Command;
use crate::config::Settings;
use crate::supervisor::nursery::message::Identity;
use crate::supervisor::nursery::{Cradle, Nurseries, OURSELVES};

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
            .watched(&settings.metrics)
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
        let _watching = house.be_watched(&mut host)?;
        house.serve(&mut host).await;
        host.stopping();
        house.close(&mut host).await;
        Ok(())
    }

    fn command(command: Command, context: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        command.run(&context)
    }
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
        .map(|identity| {
            if !Uid::effective().is_root() {
                let message = format!(
                    "a [milter] section has user = {:?}, which needs a start as root: leave it \
                     out, or start as root with a `user` in [process]",
                    identity.user.as_deref().unwrap_or_default()
                );
                return Err(Failure::new(EX_NOPERM, message));
            }
            Cradle::start(Path::new(OURSELVES), identity.clone()).map_err(no_nursery)
        })
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
