//! The sections that the programs share: `[server]`, `[process]`, `[metrics]`, `[log]`.
//!
//! A filter has [`Server`]; a program that listens on several sockets (the orchestrator) has
//! sections of its own for them and [`Process`]. Both are described to the start-up by one
//! [`Common`], which is all that it sees of a program's settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FileMode, Seconds};
use crate::net::Address;

/// Where a filter listens, as whom it runs, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where the MTA connects: `inet:port@host`, `inet6:port@host` or `unix:/path`. A socket that
    /// systemd or the orchestrator hands over goes before it.
    pub socket: Address,
    /// File mode of a `unix:` socket.
    pub mode: FileMode,
    /// Group of a `unix:` socket, the MTA's usually; without it the group of the process.
    pub group: Option<String>,
    /// User to become after the socket is bound, when started as root.
    pub user: Option<String>,
    /// Connections at the same time; further ones wait in the queue of the socket.
    pub max_connections: u32,
    /// How long the MTA may be silent between two commands before its connection is closed.
    pub idle_timeout: Seconds,
    /// How long the MTA may take from the first byte of a command to its last, however slowly they
    /// come, and for taking what is written to it, before its connection is closed.
    pub stall_timeout: Seconds,
    /// How long a decision may take before the end of the message; then it is a temporary failure.
    /// Sendmail waits 10 seconds, Postfix 30.
    pub stage_timeout: Seconds,
    /// How long the decision at the end of the message may take; then it is a temporary failure.
    /// Sendmail and Postfix wait 300 seconds.
    pub finish_timeout: Seconds,
    /// How long messages in hand may take to finish when the program is told to stop.
    pub stop_timeout: Seconds,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            socket: Address::Inet {
                host: "127.0.0.1".to_owned(),
                port: 10025,
            },
            mode: FileMode::from_bits(0o660),
            group: None,
            user: None,
            max_connections: 512,
            idle_timeout: Seconds::from_secs(7210),
            stall_timeout: Seconds::from_secs(60),
            stage_timeout: Seconds::from_secs(8),
            finish_timeout: Seconds::from_secs(240),
            stop_timeout: Seconds::from_secs(30),
        }
    }
}

impl Server {
    /// The defaults with another port of the loopback interface, for the default settings of a
    /// program.
    #[must_use]
    pub fn on_port(port: u16) -> Self {
        Self {
            socket: Address::Inet {
                host: "127.0.0.1".to_owned(),
                port,
            },
            ..Self::default()
        }
    }
}

/// As whom a program with several sockets runs, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Process {
    /// User to become after the sockets are bound, when started as root.
    pub user: Option<String>,
    /// Group to become; without it the user's own.
    pub group: Option<String>,
    /// How long messages in hand may take to finish when the program is told to stop.
    pub stop_timeout: Seconds,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            user: None,
            group: None,
            stop_timeout: Seconds::from_secs(30),
        }
    }
}

/// Where monitoring asks: `/metrics` for Prometheus, `/livez`, `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where HTTP is answered: `inet:9187@127.0.0.1`, say, or `unix:/path`; without it nobody is.
    /// There is no password: only those who may know how much mail there is should reach it.
    pub socket: Option<Address>,
    /// File mode of a `unix:` socket.
    pub mode: FileMode,
    /// Group of a `unix:` socket; without it the group of the process.
    pub group: Option<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            socket: None,
            mode: FileMode::from_bits(0o660),
            group: None,
        }
    }
}

impl Metrics {
    /// Its socket, to be bound with the others.
    fn listener(&self) -> Option<Listener> {
        Some(Listener {
            name: "metrics".to_owned(),
            section: "metrics".to_owned(),
            socket: self.socket.clone()?,
            mode: self.mode,
            group: self.group.clone(),
        })
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least important level that is still logged; `info` has one line for each message.
    pub level: Level,
    /// `text` for people, `json` for machines (one object a line), `auto` for text on a terminal
    /// and JSON elsewhere.
    pub format: Format,
}

/// How important a line of the log is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something needs an operator.
    Error,
    /// Something is not as it should be, and mail still flows.
    Warn,
    /// Start, stop, reload, and one line for each message.
    #[default]
    Info,
    /// Decisions on the way.
    Debug,
    /// Everything, the protocol included.
    Trace,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What the start-up needs of a program's settings.
#[derive(Debug, Clone)]
pub struct Common {
    /// Sockets to bind, before privileges are dropped.
    pub listeners: Vec<Listener>,
    /// The socket of `[metrics]`, bound with them and taken apart.
    pub metrics: Option<Listener>,
    /// User to become.
    pub user: Option<String>,
    /// Group to become beside the user's own.
    pub group: Option<String>,
    /// Time to finish the messages in hand.
    pub stop_timeout: Seconds,
    /// The `[server]` section with the limits of [`crate::daemon::Host::serve`]; `None` where the
    /// program serves by itself.
    pub server: Option<Server>,
    /// What to log.
    pub log: Log,
}

/// A socket to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// How the program asks for it, and how it is matched to an inherited socket
    /// (`FileDescriptorName=` of systemd).
    pub name: String,
    /// Dotted path of the section with the key `socket`, for messages.
    pub section: String,
    /// Where.
    pub socket: Address,
    /// File mode of a `unix:` socket.
    pub mode: FileMode,
    /// Group of a `unix:` socket.
    pub group: Option<String>,
}

impl Common {
    /// Of a filter: one socket, named `milter`.
    #[must_use]
    pub fn filter(server: &Server, log: &Log) -> Self {
        let listener = Listener {
            name: "milter".to_owned(),
            section: "server".to_owned(),
            socket: server.socket.clone(),
            mode: server.mode,
            group: server.group.clone(),
        };
        Self {
            listeners: vec![listener],
            metrics: None,
            user: server.user.clone(),
            group: None,
            stop_timeout: server.stop_timeout,
            server: Some(server.clone()),
            log: log.clone(),
        }
    }

    /// Of a program with any number of sockets.
    #[must_use]
    pub fn process(listeners: Vec<Listener>, process: &Process, log: &Log) -> Self {
        Self {
            listeners,
            metrics: None,
            user: process.user.clone(),
            group: process.group.clone(),
            stop_timeout: process.stop_timeout,
            server: None,
            log: log.clone(),
        }
    }

    /// With the socket of a `[metrics]` section.
    #[must_use]
    pub fn watched(self, metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.listener(),
            ..self
        }
    }
}
