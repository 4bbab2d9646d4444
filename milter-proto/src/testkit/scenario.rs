//! A whole test: filters, how they stand in a chain, conversations, and what the filters must have
//! been told. Its text form is the business of [`super::text`].

use std::time::Duration;

use bytes::Bytes;

use super::filter::Told;
use super::mta::MtaScript;
use super::script::{At, FilterScript};
use super::text::{self, ScriptError};
use crate::wire::Command;

/// What a `.milter` file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scenario {
    /// Every filter, by a name of its own.
    pub filters: Vec<FilterScript>,
    /// How they stand behind each other.
    pub chain: Chain,
    /// Conversations in frames, one connection after the other.
    pub mtas: Vec<MtaScript>,
    /// Conversations in SMTP, one connection after the other.
    pub smtp: Vec<Dialogue>,
    /// What must hold afterwards.
    pub claims: Vec<Claim>,
}

/// The filters in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// One segment after the other; the members of one run side by side.
    pub segments: Vec<Vec<Place>>,
    /// One filter at a time, as an MTA runs its own list.
    pub strict: bool,
}

/// A filter's place in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub filter: String,
    /// What its failure means; the default of whoever runs the chain without it.
    pub on_failure: Option<OnFailure>,
    /// How long it is waited for, at any command; the default without it.
    pub timeout: Option<Duration>,
}

/// What a filter's failure means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// Go on without it.
    Accept,
    /// Refuse for now (4xx).
    TempFail,
    /// Refuse for good (5xx).
    Reject,
    /// Take the message, hold it in the MTA's quarantine.
    Quarantine,
}

/// One connection of an SMTP client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialogue {
    /// In order; the client waits for the reply to each.
    pub steps: Vec<SmtpStep>,
}

/// What an SMTP client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmtpStep {
    /// A command line, without its end.
    Command(Bytes),
    /// A message: its lines without their ends. Whoever sends it doubles dots and adds the last
    /// one.
    Message(Vec<Bytes>),
}

/// Something that a filter must have been told, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Just these commands; the negotiation and macros are left out.
    Sequence {
        /// The filter.
        filter: String,
        /// On which of its connections, from 1; on all of them together without it.
        connection: Option<u32>,
        /// In order.
        commands: Vec<At>,
    },
    /// This command, at least once.
    Has {
        /// The filter.
        filter: String,
        /// Letter by letter.
        command: Command,
    },
    /// Never this command.
    HasNot {
        /// The filter.
        filter: String,
        /// Letter by letter.
        command: Command,
    },
    /// So many connections.
    Connections {
        /// The filter.
        filter: String,
        /// How many.
        count: u32,
    },
}

impl Scenario {
    /// Reads a `.milter` text. `file` is its name for messages.
    ///
    /// # Errors
    /// The first mistake, with its line and what to write instead.
    pub fn parse(file: &str, source: &str) -> Result<Self, ScriptError> {
        text::parse(file, source)
    }

    /// The filter of that name.
    #[must_use]
    pub fn filter(&self, name: &str) -> Option<&FilterScript> {
        self.filters.iter().find(|filter| filter.name == name)
    }
}

impl Place {
    /// A filter by its name, with the defaults.
    pub fn new(filter: impl Into<String>) -> Self {
        Self {
            filter: filter.into(),
            on_failure: None,
            timeout: None,
        }
    }
}

impl Chain {
    /// These filters, one after the other.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let alone = |name| vec![Place::new(name)];
        Self {
            segments: names.into_iter().map(alone).collect(),
            strict: false,
        }
    }
}

impl OnFailure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Accept, Self::TempFail, Self::Reject, Self::Quarantine];

    /// How it is written in scripts and configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::TempFail => "tempfail",
            Self::Reject => "reject",
            Self::Quarantine => "quarantine",
        }
    }
}

impl Claim {
    /// The filter that it is about.
    #[must_use]
    pub fn filter(&self) -> &str {
        match self {
            Self::Sequence { filter, .. }
            | Self::Has { filter, .. }
            | Self::HasNot { filter, .. }
            | Self::Connections { filter, .. } => filter,
        }
    }

    /// Whether it holds for what that filter was told on `connections` connections.
    ///
    /// # Errors
    /// What is told instead, in words.
    pub fn check(&self, connections: u32, told: &[Told]) -> Result<(), String> {
        let heard = |wanted: &Command| told.iter().any(|one| one.command.as_ref() == Ok(wanted));
        let failed = match self {
            Self::Sequence {
                connection,
                commands,
                ..
            } => {
                let of_connection =
                    |one: &&Told| connection.is_none_or(|wanted| wanted == one.connection);
                let came: Vec<At> = told
                    .iter()
                    .filter(of_connection)
                    .filter_map(Told::at)
                    .filter(|at| !matches!(at, At::Negotiate | At::Macros))
                    .collect();
                (came != *commands).then(|| names(&came))
            }
            Self::Has { command, .. } => (!heard(command)).then(|| "it did not".to_owned()),
            Self::HasNot { command, .. } => heard(command).then(|| "it was".to_owned()),
            Self::Connections { count, .. } => {
                (connections != *count).then(|| format!("there were {connections}"))
            }
        };
        failed.map_or(Ok(()), |why| Err(format!("{}: {why}", text::Text(self))))
    }
}

fn names(commands: &[At]) -> String {
    let names: Vec<&str> = commands.iter().map(|at| at.name()).collect();
    format!("it was told: {}", names.join(" "))
}
