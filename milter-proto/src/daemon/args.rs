//! The command line, the same for every program: `--config`, `--log-level`, and the sub-commands
//! `run`, `check`, `default-config` beside the program's own.
//!
//! A wrong command line ends with [`EX_USAGE`] and clap's explanation on stderr; `--help` and
//! `--version` go to stdout and end well.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::Program;
use super::config::Level;
use super::exit::EX_USAGE;

/// What was given.
#[derive(Debug, Parser)]
pub(crate) struct Arguments<C: Subcommand> {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Least important level that is logged, whatever the configuration says
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<Level>,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb<C>>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb<C: Subcommand> {
    /// Serve until told to stop (the default)
    Run,
    /// Check the configuration without opening a socket
    Check {
        /// Print the effective configuration, with the origin of each value and secrets masked
        #[arg(long)]
        print: bool,
    },
    /// Print a configuration file with every key, its meaning and its default
    DefaultConfig,
    #[command(flatten)]
    Own(C),
}

/// The command line of a program, for parsing, man pages and completions.
pub fn command_line<P: Program>() -> clap::Command {
    Arguments::<P::Command>::command()
        .name(P::NAME)
        .bin_name(P::NAME)
        .about(P::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .mut_arg("config", |config| {
            config.help(format!("Configuration file [default: {}]", P::CONFIG))
        })
}

/// Reads the command line; when there is nothing to run, the exit code to end with.
pub(crate) fn parse<P: Program>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Arguments<P::Command>, ExitCode> {
    command_line::<P>()
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| {
            // Nobody is left to be told when stderr is closed.
            let _ = error.print();
            match error.use_stderr() {
                true => ExitCode::from(EX_USAGE),
                false => ExitCode::SUCCESS,
            }
        })
}
