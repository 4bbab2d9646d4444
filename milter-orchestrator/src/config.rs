//! The configuration file as written. What it means, and every mistake beyond types, is the
//! business of [`crate::blueprint`].
//!
//! Nothing here opens a file or a port. The doc comments become the commented default file and the
//! man page.

mod routing;

use std::collections::BTreeMap;
use std::path::PathBuf;

use milter_proto::daemon::config::{FileMode, Log, Metrics, Process, Seconds, Size};
use milter_proto::net::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::member::OnFailure;

pub use routing::{Inner, Match, Names, Number, Route};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Sockets that MTAs connect to, each with a name of your choice that routes can ask for.
    pub listen: BTreeMap<String, Listen>,
    /// Filters, each with a name of your choice.
    pub milter: BTreeMap<String, Milter>,
    /// Which filters a message goes through: the first route that matches. Mail that no route
    /// matches is refused for now.
    pub route: Vec<Route>,
    /// The socket of `status`, `restart`, `reload`, `drain` and `upgrade`.
    pub control: Control,
    /// How filters are looked after.
    pub supervisor: Supervisor,
    /// How much of everything a message may have on its way through.
    pub limits: Limits,
    /// What a Sendmail in front of us does not tell of itself.
    pub sendmail: Sendmail,
    /// What the orchestrator gives up for itself once it runs.
    pub sandbox: Sandbox,
    /// User, group, and the time to stop.
    pub process: Process,
    /// Where monitoring asks: `/metrics` for Prometheus, `/livez`, `/readyz`.
    pub metrics: Metrics,
    /// What is logged, and how.
    pub log: Log,
}

/// A socket that MTAs connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// `inet:port@host` or `unix:/path`.
    pub socket: Address,
    /// File mode of a `unix:` socket.
    #[serde(default = "Listen::mode")]
    pub mode: FileMode,
    /// Group of a `unix:` socket, the MTA's usually; without it the group of the process.
    #[serde(default)]
    pub group: Option<String>,
    /// Connections at the same time; further ones wait in the queue of the socket.
    #[serde(default = "Listen::max_connections")]
    pub max_connections: u32,
}

impl Listen {
    const fn mode() -> FileMode {
        FileMode::from_bits(0o660)
    }

    const fn max_connections() -> u32 {
        512
    }
}

/// A filter: one of ours to run (`command`), or somebody else's to connect to (`socket` alone).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Milter {
    /// Program and arguments. It is started, watched and started again, and ends with us.
    pub command: Vec<String>,
    /// Where the filter is found. With `command` and without this, a private socket is made for
    /// it.
    pub socket: Option<Address>,
    /// The command binds `socket` by itself. Otherwise its socket is bound here and handed over
    /// (`LISTEN_FDS`), so that connections wait while it restarts.
    pub binds_itself: bool,
    /// What its failure means for a message.
    pub on_failure: OnFailure,
    /// It sees the mail, is logged and counted, and changes nothing.
    pub shadow: bool,
    /// Which messages of its chains it sees; the keys are those of `[route.match]`. It may also ask
    /// what a filter before it in the chain said: `{ verdict = { dkim = "accept" } }`. Without it,
    /// all.
    #[serde(rename = "match")]
    pub condition: Option<Inner>,
    /// Which messages it does not see, whatever `match` says; in the same form.
    pub unless: Option<Inner>,
    /// Connections to it that are kept open for the next client when one has gone, so that short
    /// sessions need not connect and negotiate anew. Only for filters that know the command for it
    /// (`SMFIC_QUIT_NC`), and not for shadows. 0: none; 256 at most.
    pub pool: u32,
    /// Environment variables for the command, on top of ours.
    pub environment: BTreeMap<String, String>,
    /// Working directory of the command.
    pub directory: Option<PathBuf>,
    /// User that the command runs as. Only when we are started as root; without it, ours. What this
    /// user may do is given to nobody else: the process that starts its commands is this user from
    /// the beginning.
    pub user: Option<String>,
    /// Group of that user, by name or number; without it the user's own.
    pub group: Option<String>,
    /// Memory that each process of the command may write to and shares with none, `"512MB"` say; a
    /// process that wants more is refused it, and usually ends. Programs and libraries themselves,
    /// and what is only reserved, do not count (`RLIMIT_DATA`). Without it as much as we.
    pub memory: Option<Size>,
    /// Files and connections that each process of the command may have open; at most as many as
    /// we.
    pub open_files: Option<u64>,
    /// How far the command stands back for others when the processor is busy: from 0, as we, to 19.
    pub nice: u8,
    /// How long a connection, and the answer to the negotiation, may take.
    pub connect_timeout: Seconds,
    /// How long the answer to anything before the end of the message may take. MTAs give up after
    /// 10 s (Sendmail) or 30 s (Postfix).
    pub command_timeout: Seconds,
    /// How long the answer to the end of the message may take; a sign of progress starts it anew.
    pub end_of_message_timeout: Seconds,
    /// How long the command may take to answer its first negotiation before it is killed and
    /// started again.
    pub start_timeout: Seconds,
    /// How long the command may take to end after SIGTERM before it is killed.
    pub stop_timeout: Seconds,
}

impl Default for Milter {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            socket: None,
            binds_itself: false,
            on_failure: OnFailure::TempFail,
            shadow: false,
            condition: None,
            unless: None,
            pool: 0,
            environment: BTreeMap::new(),
            directory: None,
            user: None,
            group: None,
            memory: None,
            open_files: None,
            nice: 0,
            connect_timeout: Seconds::from_secs(5),
            command_timeout: Seconds::from_secs(8),
            end_of_message_timeout: Seconds::from_secs(120),
            start_timeout: Seconds::from_secs(30),
            stop_timeout: Seconds::from_secs(10),
        }
    }
}

/// The socket of `status`, `restart`, `reload`, `drain` and `upgrade`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `unix:/path`; only the user that we run as and root are answered.
    pub socket: Address,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: Address::Unix(PathBuf::from("/run/milter-orchestrator/control.sock")),
        }
    }
}

/// How filters are looked after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Supervisor {
    /// Directory of the sockets that are made for commands; created with mode 0700.
    pub directory: PathBuf,
    /// From one probe of a filter to the next. Three failures make it down, two successes up again;
    /// three messages in a row on which it failed make it down as well.
    pub probe_interval: Seconds,
    /// How long a probe may take.
    pub probe_timeout: Seconds,
    /// A command that runs without a sign of life for so long is killed and started again. With the
    /// time that probes take to notice, a filter that hangs is replaced within ten seconds.
    pub hang_timeout: Seconds,
    /// How long connections of MTAs may go on with what a reload has removed or replaced, or in
    /// the old process after an upgrade.
    pub handover_timeout: Seconds,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/run/milter-orchestrator/children"),
            probe_interval: Seconds::from_secs(2),
            probe_timeout: Seconds::from_secs(2),
            hang_timeout: Seconds::from_secs(9),
            handover_timeout: Seconds::from_secs(3600),
        }
    }
}

/// What the orchestrator gives up for itself once it runs; filters are not concerned. What the
/// kernel does not offer is logged and is no failure. Counts after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// Landlock: nothing is executed, and nothing is written but sockets in their directories and
    /// spooled bodies in `spool_directory`. A reload cannot put sockets into directories that had
    /// none; that needs a restart.
    pub landlock: bool,
    /// seccomp: system calls that start processes, look into others, or change the machine are
    /// refused.
    pub seccomp: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            landlock: true,
            seccomp: true,
        }
    }
}

/// What a Sendmail in front of us does not tell of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sendmail {
    /// The fields of the `H` lines of its configuration, in their order: where a filter's new
    /// header field goes is counted from the first of them. To be changed with `sendmail.cf` only.
    pub headers: Vec<String>,
}

impl Default for Sendmail {
    fn default() -> Self {
        Self {
            headers: crate::proxy::stock_headers()
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
        }
    }
}

/// How much of everything a message may have on its way through, and how long a peer may take. A
/// message beyond a limit is refused for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Header fields.
    pub header_fields: u32,
    /// Names and values of all header fields together.
    pub header_size: Size,
    /// As much of any body is kept in memory, for filters that must see it again.
    pub spool_memory: Size,
    /// So much more is kept in memory of all bodies together, for whichever comes first.
    pub spool_memory_shared: Size,
    /// The rest goes to a file without a name in this directory.
    pub spool_directory: PathBuf,
    /// The largest body altogether.
    pub body_size: Size,
    /// How long the MTA may take from the first byte of a command to its last, however slowly they
    /// come, and how long it, or a filter, may take nothing of what is written to it, before its
    /// connection is closed.
    pub stall_timeout: Seconds,
    /// How long the answer to the end of the message may take: all filters together, whatever
    /// progress they report. A filter that is not done by then has failed. Sendmail and Postfix
    /// wait 300 seconds.
    pub finish_timeout: Seconds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_fields: 4096,
            header_size: Size::from_bytes(2 << 20),
            spool_memory: Size::from_bytes(256 << 10),
            spool_memory_shared: Size::from_bytes(64 << 20),
            spool_directory: PathBuf::from("/tmp"),
            body_size: Size::from_bytes(1 << 30),
            stall_timeout: Seconds::from_secs(60),
            finish_timeout: Seconds::from_secs(240),
        }
    }
}
