//! Scores mail by a table of checks and acts by thresholds.
//!
//! A message's way: `filter` takes it in from the MTA, `facts` learns everything about it once
//! (with `header`, `mailbox`, `date`, `encoded_word`, `mime`, `html`, `links`, `authentication`),
//! `rules` look at the facts, `score` adds up their hits and chooses an action, `report` turns that
//! into header fields and edits. `scan` is facts, rules and score in one step, without a clock or a
//! socket; `command` does it to files. `config` is the file, `limits` how much of a message is
//! looked at.
//!
//! To add a check, see [`rules`].

pub mod authentication;
mod charset;
pub mod command;
pub mod config;
pub mod date;
pub mod encoded_word;
pub mod envelope;
pub mod facts;
pub mod filter;
pub mod header;
pub mod html;
pub mod limits;
pub mod links;
pub mod mailbox;
pub mod mime;
pub mod report;
pub mod rules;
pub mod scan;
pub mod score;
mod script;
pub mod transfer;

use std::process::ExitCode;

use milter_proto::daemon::config::Common;
use milter_proto::daemon::{CommandContext, ConfigError, Failure, Host, Program};

use self::command::Command;
use self::config::{Meaning, Settings};
use self::filter::SpamFilter;

/// The program.
#[derive(Debug)]
pub struct Spam {
    meaning: Meaning,
}

impl Spam {
    /// What its settings mean.
    #[must_use]
    pub fn meaning(&self) -> &Meaning {
        &self.meaning
    }
}

impl From<Spam> for SpamFilter {
    fn from(program: Spam) -> Self {
        Self::new(program.meaning)
    }
}

impl Program for Spam {
    const NAME: &'static str = "milter-spam";
    const ABOUT: &'static str = "Scores mail by a table of checks and acts by thresholds";
    const CONFIG: &'static str = "/etc/milter/spam.toml";
    type Settings = Settings;
    type Command = Command;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &settings.log).watched(&settings.metrics)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        settings.mean().map(|meaning| Self { meaning })
    }

    async fn run(self, host: Host<Self>) -> Result<(), Failure> {
        host.serve(SpamFilter::from(self)).await
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
        let result = milter_proto::daemon::config::round_trip_of_defaults::<Spam>();
        assert!(result.is_ok(), "{result:?}");
    }
}
