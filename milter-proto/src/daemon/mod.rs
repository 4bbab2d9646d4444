//! What all four programs need alike, in one place: arguments, configuration, logging, listening,
//! privileges, signals, readiness.
//!
//! Start-up order, known here alone: arguments → configuration (read, checked, nothing opened) →
//! logging → sockets → privileges dropped → runtime → ready → serve → stop.

pub mod config;

use std::future::Future;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use config::{Common, ConfigError};

/// A program of the workspace. `main` of each is `milter_proto::daemon::main::<ItsProgram>()`.
pub trait Program: Sized + Send + Sync + 'static {
    /// Name of the binary, of the syslog identity and of the man page.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Where the configuration is looked for without `--config`.
    const CONFIG: &'static str;
    /// The configuration file as written: `deny_unknown_fields`, `default`, and a doc comment on
    /// every field, from which the commented default file and the man page are generated.
    type Settings: DeserializeOwned + Serialize + JsonSchema + Default + Send + Sync;
    /// Sub-commands of its own, beside `run` (the default), `check` and `default-config`.
    /// `NoCommand` for none.
    type Command: clap::Subcommand;

    /// What the start-up needs of the settings: [`Common::filter`] or [`Common::process`].
    fn common(settings: &Self::Settings) -> Common;

    /// Turns settings into the program: checks what the types cannot, reads keys and tables, opens
    /// no port.
    ///
    /// # Errors
    /// The first mistake, with the dotted path of the key so that file and line can be named.
    fn prepare(settings: Self::Settings) -> Result<Self, ConfigError>;

    /// Runs until the host says stop. A filter calls [`Host::serve`].
    fn run(self, host: Host<Self>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does a sub-command.
    fn command(
        command: Self::Command,
        context: CommandContext<'_, Self>,
    ) -> Result<ExitCode, Failure>;
}

/// For [`Program::Command`] where there are no further sub-commands.
#[derive(Debug, clap::Subcommand)]
pub enum NoCommand {}

/// What a sub-command can ask for.
pub struct CommandContext<'a, P: Program> {
    program: std::marker::PhantomData<&'a P>,
}

impl<P: Program> CommandContext<'_, P> {
    /// The settings of the configuration file; the defaults when the file does not exist and
    /// `--config` was not given.
    ///
    /// # Errors
    /// When the file cannot be read or holds a mistake; already worded for the operator.
    pub fn settings(&self) -> Result<P::Settings, Failure> {
        Ok(P::Settings::default())
    }
}

/// A running program's view of its surroundings: bound sockets, signals, readiness.
pub struct Host<P: Program> {
    program: std::marker::PhantomData<P>,
}

/// Why a program or sub-command ended: an exit code of sysexits(3) and a message that tells the
/// operator what to do.
#[derive(Debug)]
pub struct Failure {
    /// `EX_CONFIG` (78), `EX_NOINPUT` (66), `EX_UNAVAILABLE` (69), `EX_USAGE` (64) …
    pub code: u8,
    /// Lower-case, no full stop.
    pub message: String,
}

/// The whole life of a daemon or of one of its sub-commands.
pub fn main<P: Program>() -> ExitCode {
    ExitCode::SUCCESS
}
