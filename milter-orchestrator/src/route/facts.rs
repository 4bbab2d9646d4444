//! What is known of a client and a message so far.
//!
//! A fact that is known does not change while more becomes known, so that what was decided by it
//! stays. Nothing here looks anything up; whoever has the facts puts them here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::clock::Moment;

/// What is known about a message so far, and about one recipient of it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Name of the listener it came in by.
    pub listen: &'a str,
    /// The client; known from CONNECT on, as the four after it.
    pub client: Fact<Client>,
    /// Its name, as the MTA tells it.
    pub host: Fact<&'a [u8]>,
    /// Clients in hand when it came, this one among them.
    pub load: Fact<u64>,
    /// When it came.
    pub time: Fact<Moment>,
    /// The name that it gave; known from HELO on.
    pub helo: Fact<&'a [u8]>,
    /// Whether the client logged in; known from MAIL on, by `{auth_type}` or `{auth_authen}`.
    pub authenticated: Fact<bool>,
    /// The name that it logged in by, empty without one; known from MAIL on.
    pub login: Fact<&'a [u8]>,
    /// Whether the client's connection is encrypted; known from MAIL on, by `{tls_version}`.
    pub tls: Fact<bool>,
    /// The sender; known from MAIL on.
    pub sender: Fact<&'a [u8]>,
    /// Bytes of the message: as the client says at MAIL (`SIZE=`), or counted at its end.
    pub size: Fact<u64>,
    /// The recipient; known from RCPT on.
    pub recipient: Fact<&'a [u8]>,
    /// What has to be looked up.
    pub lookup: &'a dyn Lookup,
}

/// Facts with names.
pub trait Lookup: fmt::Debug {
    /// A macro, by its name without braces; a known `None` when it will not come any more.
    fn macro_value(&self, name: &str) -> Fact<Option<&[u8]>>;

    /// What a filter has said about the message.
    fn word(&self, milter: &str) -> Fact<Said>;
}

/// Nothing is known of anything.
#[derive(Debug, Clone, Copy)]
pub struct Unknown;

impl Lookup for Unknown {
    fn macro_value(&self, _: &str) -> Fact<Option<&[u8]>> {
        Fact::NotYet
    }

    fn word(&self, _: &str) -> Fact<Said> {
        Fact::NotYet
    }
}

/// Facts with names that are given.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Macros, by their names without braces.
    pub macros: BTreeMap<String, Vec<u8>>,
    /// What filters say.
    pub words: BTreeMap<String, Said>,
    /// There is nothing beside what is given.
    pub complete: bool,
}

impl Lookup for Given {
    fn macro_value(&self, name: &str) -> Fact<Option<&[u8]>> {
        match self.macros.get(name) {
            None if !self.complete => Fact::NotYet,
            value => Fact::Known(value.map(Vec::as_slice)),
        }
    }

    fn word(&self, milter: &str) -> Fact<Said> {
        let word = self.words.get(milter).copied();
        word.map_or(Fact::NotYet, Fact::Known)
    }
}

impl<'a> Facts<'a> {
    /// Nothing but the listener.
    #[must_use]
    pub fn at(listen: &'a str) -> Self {
        Self {
            listen,
            client: Fact::NotYet,
            host: Fact::NotYet,
            load: Fact::NotYet,
            time: Fact::NotYet,
            helo: Fact::NotYet,
            authenticated: Fact::NotYet,
            login: Fact::NotYet,
            tls: Fact::NotYet,
            sender: Fact::NotYet,
            size: Fact::NotYet,
            recipient: Fact::NotYet,
            lookup: &Unknown,
        }
    }
}

/// Something that becomes known in the course of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact<T> {
    /// The MTA has not told it yet.
    NotYet,
    /// Told.
    Known(T),
}

impl<T> Fact<T> {
    /// The same of something else.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::NotYet => Fact::NotYet,
            Self::Known(known) => Fact::Known(change(known)),
        }
    }

    /// Whether it is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

/// The client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// Local, or unknown: it is in no network.
    NoIp,
}

/// What a filter said about a message, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// It lets it pass.
    Continue,
    /// It lets it pass, and that was all it wanted.
    Accept,
    /// Refused for good.
    Reject,
    /// Refused for now.
    TempFail,
    /// Taken and thrown away.
    Discard,
    /// It failed, and its policy lets the message pass.
    Failed,
    /// It was not asked.
    Absent,
}

impl Said {
    /// Every word, as it is written.
    pub const WORDS: [(&'static str, Self); 7] = [
        ("continue", Self::Continue),
        ("accept", Self::Accept),
        ("reject", Self::Reject),
        ("tempfail", Self::TempFail),
        ("discard", Self::Discard),
        ("failed", Self::Failed),
        ("absent", Self::Absent),
    ];
}

/// It is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that a filter says")]
pub struct NoWord(String);

impl FromStr for Said {
    type Err = NoWord;

    fn from_str(written: &str) -> Result<Self, NoWord> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == written);
        found
            .map(|(_, said)| *said)
            .ok_or_else(|| NoWord(written.to_owned()))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Self::WORDS.iter();
        let word = words.find_map(|(word, said)| (said == self).then_some(*word));
        f.write_str(word.unwrap_or("-"))
    }
}
