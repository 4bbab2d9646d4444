//! Signs and verifies mail (DKIM), and the sender-authentication library of the workspace.
//!
//! `auth` is the library: it knows neither milters nor configuration, and other crates may use it.
//! The rest is this milter: `config` the file, `keys` which key signs for whom, `decide` whether to
//! sign or to verify, `filter` the milter, `command` what can be asked on the command line.

pub mod auth;
pub mod command;
pub mod config;
pub mod decide;
pub mod filter;
pub mod keys;

use std::process::ExitCode;

use milter_proto::daemon::config::Common;
use milter_proto::daemon::{CommandContext, ConfigError, Failure, Host, Program};

use self::command::Command;
use self::config::{Meaning, Settings};
use self::filter::DkimFilter;

/// The program.
pub struct Dkim {
    meaning: Meaning,
}

impl Dkim {
    /// What its settings mean.
    #[must_use]
    pub fn meaning(&self) -> &Meaning {
        &self.meaning
    }
}

impl From<Dkim> for DkimFilter {
    fn from(program: Dkim) -> Self {
        Self::new(program.meaning)
    }
}

impl Program for Dkim {
    const NAME: &'static str = "milter-dkim";
    const ABOUT: &'static str = "Signs our mail and verifies the mail of others (DKIM)";
    const CONFIG: &'static str = "/etc/milter/dkim.toml";
    type Settings = Settings;
    type Command = Command;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &settings.log).watched(&settings.metrics)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        settings.mean().map(|meaning| Self { meaning })
    }

    async fn run(self, host: Host<Self>) -> Result<(), Failure> {
        host.serve(DkimFilter::from(self)).await
    }

    fn command(command: Command, context: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        command.run(&context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_means_the_defaults() {
        let result = milter_proto::daemon::config::round_trip_of_defaults::<Dkim>();
        assert!(result.is_ok(), "{result:?}");
    }
}
