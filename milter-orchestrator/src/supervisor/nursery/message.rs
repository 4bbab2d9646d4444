//! What is said between a nursery and its holders: plain values, each one packet.
//!
//! Descriptors go with the packets that say so. A nursery may be older than its holder, since it
//! stays when an orchestrator is replaced: fields may be added with a default, none may change its
//! meaning.
//!
//! # Taking over
//!
//! A holder sends [`Request::Share`] with one end of a new socket pair: whoever has the other end
//! is a further holder. It is told of each child that runs ([`Report::Started`]), then
//! [`Report::Told`], then of everything that happens. A holder that hangs up is forgotten; children
//! are ended when the last one has gone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names a child between a nursery and all of its holders. The holder that starts it makes it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChildId(pub u64);

/// Whom a nursery and its children run as.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the user; `None` for the one that we run as.
    pub user: Option<String>,
    /// Name or number of the group; `None` for that of the user.
    pub group: Option<String>,
}

/// What a nursery is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start a program. Its sockets come along, in the order of [`Start::sockets`].
    Start(ChildId, Start),
    /// Send a signal, by its number, to the process group of a child. Nothing when it has ended.
    Signal(ChildId, i32),
    /// Take a further holder: the socket that comes along.
    Share,
    /// Kill these process groups, which children of a nursery before this one have left behind.
    Sweep(Vec<i32>),
    /// Start another nursery for the same user; its socket comes along.
    Breed,
}

/// A program to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Name of the milter, for whoever takes over.
    pub name: String,
    /// What it is to us.
    #[serde(default)]
    pub role: Role,
    /// Program and arguments; the program is looked for in `PATH` when it has no slash.
    pub command: Vec<String>,
    /// Variables on top of the nursery's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Working directory; the nursery's when `None`.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Names of the sockets that it is handed, from descriptor 3 on (`LISTEN_FDNAMES`).
    #[serde(default)]
    pub sockets: Vec<String>,
    /// How much of everything it may have.
    #[serde(default)]
    pub limits: Limits,
}

/// What a program is to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A filter: ends with the nursery at the latest, and writes into pipes.
    #[default]
    Filter,
    /// The next orchestrator: outlives the nursery if need be, and writes where the nursery does.
    Heir,
}

/// How much of everything a child may have; `None`: as much as we.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory that it may write to and shares with nobody (`RLIMIT_DATA`).
    #[serde(default)]
    pub memory: Option<u64>,
    /// Descriptors that it may have open (`RLIMIT_NOFILE`).
    #[serde(default)]
    pub open_files: Option<u64>,
    /// How far it stands back for others, from 0 to 19.
    #[serde(default)]
    pub nice: Option<u8>,
}

/// What a nursery tells all of its holders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A child runs as this process, which leads a process group. The reading ends of its standard
    /// output and error come along, unless it is an heir.
    Started(ChildId, Start, i32),
    /// It does not; nothing is left of the attempt.
    NotStarted(ChildId, Step, i32),
    /// It has ended, and its process group with it.
    Ended(ChildId, End),
    /// Every child that ran when this holder came has been told.
    Told,
}

/// What failed of a start, with an errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// To make a process.
    Process,
    /// To go to the working directory.
    Directory,
    /// To set the limits.
    Limits,
    /// To run the program.
    Exec,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether its memory was written to a file.
        dumped: bool,
    },
    /// With its nursery, which has ended.
    Lost,
}
