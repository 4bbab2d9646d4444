//! What all four programs need alike, in one place: arguments, configuration, logging, listening,
//! privileges, signals, readiness.
//!
//! A program implements [`Program`]; its `main` is one call of [`main`]. The start-up order is
//! known here alone: arguments → configuration (read and checked, nothing opened) → log → signals →
//! sockets → what needs privileges → privileges given up → runtime → ready → serve → stop. Whatever
//! fails on the way ends the program with an exit code of sysexits(3) and one message on stderr
//! that says what to do.
//!
//! # Logging policy
//!
//! * `error`: something needs an operator, and a part of the program does not work until then.
//! * `warn`: not as it should be; mail still flows, perhaps under a failure policy.
//! * `info`: start, stop, reload, and *one* line for each message from each filter, with the fields
//!   `queue_id`, the decision and its reason.
//! * `debug`: decisions on the way. `trace`: the protocol.
//! * An error is logged once, where it is decided what it means; what only passes it on is silent.
//! * Whatever comes from outside (addresses, header values, replies of peers) is shown through
//!   [`escaped`]. Secrets and bodies are never logged.

mod args;
pub mod config;
pub mod exit;
mod host;
mod listen;
mod log;
mod privileges;
mod ready;
mod serve;
mod signals;
mod start;
pub mod watch;

use std::future::Future;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use args::command_line;
pub use config::{Common, ConfigError};
pub use exit::Failure;
pub use host::Host;
pub use listen::{Bound, PREDECESSOR, Socket, SocketFile, bind_one};
pub use log::{ESCAPED_MAX, Escaped, escaped};
pub use privileges::{become_user, current_user};
pub use signals::Signal;
pub use start::{CommandContext, main};

/// A program of the workspace. `main` of each is `milter_proto::daemon::main::<ItsProgram>()`.
pub trait Program: Sized + Send + Sync + 'static {
    /// Name of the binary, of the syslog identity and of the man page.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Where the configuration is looked for without `--config`.
    const CONFIG: &'static str;
    /// The configuration file as written: `deny_unknown_fields`, `default`, and a doc comment on
    /// every field, from which the commented default file and the man page are generated. A key
    /// that is not in the file has the value of `Settings::default()`, also inside a section.
    type Settings: DeserializeOwned + Serialize + JsonSchema + Default + Send + Sync;
    /// Sub-commands of its own, beside `run` (the default), `check` and `default-config`.
    /// `NoCommand` for none.
    type Command: clap::Subcommand;

    /// What the start-up needs of the settings: [`Common::filter`] or [`Common::process`].
    fn common(settings: &Self::Settings) -> Common;

    /// Everything that is wrong with settings, of which [`Self::prepare`] tells the first only;
    /// opens no port. A program with few settings leaves it to that.
    fn survey(_: &Self::Settings) -> Vec<ConfigError> {
        Vec::new()
    }

    /// What of this machine does not fit the settings at the moment: programs that are not there,
    /// say. `check` and a reload take it for mistakes; a start goes on without, and logs it.
    fn obstacles(_: &Self::Settings) -> Vec<ConfigError> {
        Vec::new()
    }

    /// What of the settings is legal and still odd, with the dotted path of the key.
    fn warnings(&self) -> Vec<ConfigError> {
        Vec::new()
    }

    /// Turns settings into the program: checks what the types cannot, reads keys and tables, opens
    /// no port. Called before root is given up, and again at each reload, then without root.
    ///
    /// # Errors
    /// The first mistake, with the dotted path of the key so that file and line can be named.
    fn prepare(settings: Self::Settings) -> Result<Self, ConfigError>;

    /// What must be done with the rights that we were started with: called once, when the sockets
    /// are bound, before root is given up and before there is a runtime. `succeeds`: another
    /// process of ours runs, whose place we take.
    ///
    /// # Errors
    /// Whatever should end the program.
    fn furnish(&mut self, succeeds: bool) -> Result<(), Failure> {
        let _ = succeeds;
        Ok(())
    }

    /// Gives up whatever else is not needed: called once, when root has been given up, and still
    /// before there is a runtime, whose threads then have no more either. `succeeds` as above.
    ///
    /// # Errors
    /// Whatever should end the program.
    fn confine(&mut self, succeeds: bool) -> Result<(), Failure> {
        let _ = succeeds;
        Ok(())
    }

    /// Runs until the host says stop. A filter calls [`Host::serve`].
    fn run(self, host: Host<Self>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does a sub-command.
    ///
    /// # Errors
    /// Whatever should end the process with another exit code than 0 and a message.
    fn command(
        command: Self::Command,
        context: CommandContext<'_, Self>,
    ) -> Result<ExitCode, Failure>;
}

/// For [`Program::Command`] where there are no further sub-commands.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum NoCommand {}
