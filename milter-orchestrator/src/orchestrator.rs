//! The daemon: binds what its children need, looks after them, lets MTAs in, and ends in order.
//!
//! Start: children's sockets → children → control socket → wait until each child has had its
//! chance → let MTAs in → ready. End: accept no more → finish the messages in hand, with a deadline
//! → end the children, with theirs. What goes wrong before children run ends the program with a
//! [`Failure`]; nothing after that does.

mod change;
mod desk;
mod generation;
mod handover;
mod house;
mod opening;
mod succession;
mod upgrade;

use std::process::ExitCode;

use milter_proto::daemon::config::{Common, ConfigError, Listener};
use milter_proto::daemon::exit::EX_OSERR;
use milter_proto::daemon::{CommandContext, Failure, Host, Program};

use self::handover::Heritage;
use self::house::{Ending, House};
use crate::blueprint::{self, Blueprint, Known, commands};
use crate::commands::Command;
use crate::config::Settings;
use crate::sandbox;
use crate::sockets;
use crate::supervisor::nursery::Cradle;

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

    fn survey(settings: &Settings) -> Vec<ConfigError> {
        let drawn = blueprint::survey(settings, &Known::new());
        drawn.err().unwrap_or_default()
    }

    fn obstacles(settings: &Settings) -> Vec<ConfigError> {
        commands::check(settings)
    }

    fn warnings(&self) -> Vec<ConfigError> {
        self.blueprint.warnings.clone()
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        let blueprint = blueprint::draw(&settings)?;
        Ok(Self {
            settings,
            blueprint,
            cradles: Vec::new(),
        })
    }

    fn furnish(&mut self, succeeds: bool) -> Result<(), Failure> {
        if !succeeds {
            self.cradles = opening::cradles(&self.blueprint)?;
        }
        Ok(())
    }

    fn confine(&mut self, succeeds: bool) -> Result<(), Failure> {
        // Whatever is started from now on is as confined as we.
        if !succeeds {
            self.cradles.push(opening::own_cradle()?);
        }
        sockets::prepare(&self.blueprint)?;
        sandbox::enter(&self.settings);
        Ok(())
    }

    async fn run(self, mut host: Host<Self>) -> Result<(), Failure> {
        let bound = host.take_sockets();
        let mut house = match host.take_predecessor() {
            None => {
                let mut house = House::open(self, bound, None).await?;
                house.answer_questions()?;
                house.be_watched(host.take_metrics())?;
                house
            }
            Some(socket) => {
                let mut heritage = Heritage::receive(socket).await?;
                let opened = House::open(self, bound, Some(&mut heritage)).await;
                let mut house = opened.inspect_err(|failure| heritage.fail(failure))?;
                let metrics = host.take_metrics().map(|bound| heritage.with_file(bound));
                let ready = heritage.ready();
                house.succeed(heritage.into_channel(), metrics, ready);
                house
            }
        };
        match house.serve(&mut host).await {
            Ending::Stopped => {
                host.stopping();
                let lost = house.has_lost_nurseries();
                house.close(&mut host).await;
                if lost {
                    let why = "ended because filters could not be started any more";
                    return Err(Failure::new(EX_OSERR, why));
                }
            }
            Ending::Succeeded(heir) => house.leave(heir, &mut host).await,
            Ending::Unwanted => house.give_up().await,
        }
        Ok(())
    }

    fn command(command: Command, context: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        command.run(&context)
    }
}
