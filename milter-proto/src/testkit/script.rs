//! A filter's script as data: what it negotiates, and cues.
//!
//! A script can say what no correct filter says. It is not checked: whoever runs it sees.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::edit::Edit;
use crate::wire::{Actions, Command, Offer, Reply, Steps, VERSION, WireError};

/// What a filter negotiates, and where it does something else than to let everything pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterScript {
    /// How it is called in a chain and in messages.
    pub name: String,
    /// What it wants. Bits that the MTA does not offer are left out of the answer, and the version
    /// is the lower one; a cue at [`At::Negotiate`] can answer anything.
    pub offer: Offer,
    /// Where two fit, the later one counts.
    pub cues: Vec<Cue>,
}

/// One line of a script: when, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// At which command.
    pub at: At,
    /// Which one of that kind; every one without it.
    pub nth: Option<Nth>,
    /// Only in the message of that number on a connection, from 1.
    pub message: Option<u32>,
    /// Only on the connection of that number, from 1.
    pub connection: Option<u32>,
    /// What the filter does instead of what would be right; nothing at all when empty.
    pub acts: Vec<Act>,
}

/// Which one of several commands of a kind, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nth {
    /// Counted anew in every message (and before the first).
    OfMessage(u32),
    /// Counted from the beginning of the connection.
    OfConnection(u32),
}

/// Where a cue stands: a command, or the moment in which a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// The connection was accepted; nothing has been said.
    Open,
    /// `O`
    Negotiate,
    /// `D`, for whatever command.
    Macros,
    /// `C`
    Connect,
    /// `H`
    Helo,
    /// `M`
    Mail,
    /// `R`
    Rcpt,
    /// `T`
    Data,
    /// `L`
    Header,
    /// `N`
    EndOfHeaders,
    /// `B`
    Body,
    /// `E`
    EndOfMessage,
    /// `A`
    Abort,
    /// `U`
    Unknown,
    /// `Q`
    Quit,
    /// `K`
    QuitReuse,
}

/// One thing that a filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Sends a reply, whether or not one is owed.
    Say(Reply),
    /// Writes these bytes as they are.
    Raw(Bytes),
    /// Waits. Kept in whole milliseconds by the text form.
    Wait(Duration),
    /// Closes the connection; what follows is not done.
    Close,
    /// Keeps the connection open and neither reads nor writes any more.
    Hang,
}

impl FilterScript {
    /// A filter that speaks the newest version, asks for nothing and lets everything pass.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            offer: Offer {
                version: VERSION,
                actions: Actions::empty(),
                steps: Steps::empty(),
                macros: Vec::new(),
            },
            cues: Vec::new(),
        }
    }

    /// The same with these actions.
    #[must_use]
    pub fn actions(mut self, actions: Actions) -> Self {
        self.offer.actions = actions;
        self
    }

    /// The same with these steps.
    #[must_use]
    pub fn steps(mut self, steps: Steps) -> Self {
        self.offer.steps = steps;
        self
    }

    /// The same with one more cue.
    #[must_use]
    pub fn cue(mut self, cue: Cue) -> Self {
        self.cues.push(cue);
        self
    }

    /// The same, doing this at every command of that kind.
    #[must_use]
    pub fn at(self, at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        self.cue(Cue::new(at, acts))
    }
}

impl Cue {
    /// At every command of that kind.
    pub fn new(at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        Self {
            at,
            nth: None,
            message: None,
            connection: None,
            acts: acts.into_iter().collect(),
        }
    }

    /// Only at the one of that number in each message, from 1.
    #[must_use]
    pub const fn nth(mut self, nth: u32) -> Self {
        self.nth = Some(Nth::OfMessage(nth));
        self
    }

    /// Only at the one of that number on each connection, from 1.
    #[must_use]
    pub const fn nth_of_connection(mut self, nth: u32) -> Self {
        self.nth = Some(Nth::OfConnection(nth));
        self
    }

    /// Only in the message of that number, from 1.
    #[must_use]
    pub const fn message(mut self, number: u32) -> Self {
        self.message = Some(number);
        self
    }

    /// Only on the connection of that number, from 1.
    #[must_use]
    pub const fn connection(mut self, number: u32) -> Self {
        self.connection = Some(number);
        self
    }
}

impl At {
    /// All of them, in the order of a conversation.
    pub const ALL: [Self; 16] = [
        Self::Open,
        Self::Negotiate,
        Self::Macros,
        Self::Connect,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Header,
        Self::EndOfHeaders,
        Self::Body,
        Self::EndOfMessage,
        Self::Abort,
        Self::Unknown,
        Self::Quit,
        Self::QuitReuse,
    ];

    /// Where a command belongs.
    #[must_use]
    pub const fn of(command: &Command) -> Self {
        match command {
            Command::Negotiate(_) => Self::Negotiate,
            Command::Macros(_) => Self::Macros,
            Command::Connect(_) => Self::Connect,
            Command::Helo(_) => Self::Helo,
            Command::Mail(_) => Self::Mail,
            Command::Rcpt(_) => Self::Rcpt,
            Command::Data => Self::Data,
            Command::Header(_) => Self::Header,
            Command::EndOfHeaders => Self::EndOfHeaders,
            Command::Body(_) => Self::Body,
            Command::EndOfMessage(_) => Self::EndOfMessage,
            Command::Abort => Self::Abort,
            Command::Unknown(_) => Self::Unknown,
            Command::Quit => Self::Quit,
            Command::QuitReuse => Self::QuitReuse,
        }
    }

    /// How it is written in a script.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Negotiate => "negotiate",
            Self::Macros => "macros",
            Self::Connect => "connect",
            Self::Helo => "helo",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Header => "header",
            Self::EndOfHeaders => "end-of-headers",
            Self::Body => "body",
            Self::EndOfMessage => "end",
            Self::Abort => "abort",
            Self::Unknown => "unknown",
            Self::Quit => "quit",
            Self::QuitReuse => "quit-reuse",
        }
    }

    /// The step under which no reply is owed; `None` where none is ever owed, empty where one
    /// always is.
    #[must_use]
    pub const fn silent_under(self) -> Option<Steps> {
        Some(match self {
            Self::Connect => Steps::NR_CONNECT,
            Self::Helo => Steps::NR_HELO,
            Self::Mail => Steps::NR_MAIL,
            Self::Rcpt => Steps::NR_RCPT,
            Self::Data => Steps::NR_DATA,
            Self::Header => Steps::NR_HEADER,
            Self::EndOfHeaders => Steps::NR_EOH,
            Self::Body => Steps::NR_BODY,
            Self::Unknown => Steps::NR_UNKNOWN,
            Self::Negotiate | Self::EndOfMessage => Steps::empty(),
            Self::Open | Self::Macros | Self::Abort | Self::Quit | Self::QuitReuse => return None,
        })
    }

    /// Whether a reply is owed there once these steps are agreed on.
    #[must_use]
    pub fn owes(self, agreed: Steps) -> bool {
        self.silent_under()
            .is_some_and(|silent| silent.is_empty() || !agreed.contains(silent))
    }
}

impl Act {
    /// Edits, then a verdict.
    pub fn edits(edits: impl IntoIterator<Item = Edit>, verdict: Reply) -> Vec<Self> {
        let edits = edits.into_iter().map(Reply::Edit);
        edits.chain([verdict]).map(Self::Say).collect()
    }

    /// What it writes; nothing for what is no writing.
    ///
    /// # Errors
    /// When a string of the reply holds a NUL.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::Say(reply) => reply.encode(out)?,
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Wait(_) | Self::Close | Self::Hang => {}
        }
        Ok(())
    }
}
