//! Conditions: tests of single facts, put together by all, any and not.
//!
//! A condition holds, does not hold, or is open, as in Kleene's logic: what is not known leaves it
//! open only where it could still make a difference. Pure, but for lists, which others read anew.

use std::fmt;
use std::sync::Arc;

use super::bounds::Bounds;
use super::clock::Window;
use super::entries::{Entries, Kind};
use super::facts::{Client, Fact, Facts, Said};
use super::lists::List;

/// What must hold.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Every one of them; without any, always.
    All(Vec<Self>),
    /// One of them at least.
    Any(Vec<Self>),
    /// It must not hold.
    Not(Box<Self>),
    /// A fact is such.
    Is(Arc<Test>),
}

impl Default for Condition {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

/// A fact and what it must be.
#[derive(Debug)]
pub enum Test {
    /// The listener is one of these.
    Listen(Vec<String>),
    /// The client is in one of these networks.
    Client(Set),
    /// The client's name.
    Host(Set),
    /// The client logged in.
    Authenticated,
    /// The name that it logged in by.
    Login(Set),
    /// The client's connection is encrypted.
    Tls,
    /// The name that the client gave.
    Helo(Set),
    /// The sender.
    Sender(Set),
    /// The recipient.
    Recipient(Set),
    /// A macro, by its name without braces.
    Macro(String, Set),
    /// Bytes of the message.
    Size(Bounds),
    /// Clients in hand when this one came.
    Load(Bounds),
    /// When the client came.
    Time(Vec<Window>),
    /// What another filter said.
    Verdict(String, Vec<Said>),
}

/// Entries that are written, and lists of more.
#[derive(Debug, Default)]
pub struct Set {
    /// As written, for people.
    pub written: Vec<String>,
    /// Those in the configuration itself.
    pub entries: Entries,
    /// Those in files.
    pub lists: Vec<Arc<List>>,
}

impl Set {
    fn hold(&self, kind: Kind, text: &[u8]) -> bool {
        self.entries.hold(kind, text)
            || self
                .lists
                .iter()
                .any(|list| list.entries().hold(kind, text))
    }

    fn hold_client(&self, client: Client) -> bool {
        let Client::Ip(ip) = client else {
            return false;
        };
        let mut lists = self.lists.iter();
        self.entries.hold_client(ip) || lists.any(|list| list.entries().hold_client(ip))
    }
}

impl Condition {
    /// Whether it holds whatever comes.
    #[must_use]
    pub fn is_always(&self) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(Self::is_always),
            Self::Any(parts) => parts.iter().any(Self::is_always),
            Self::Not(_) | Self::Is(_) => false,
        }
    }

    /// Whether it holds, as far as known.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>) -> Fact<bool> {
        match self {
            Self::All(parts) => combine(parts, facts, false),
            Self::Any(parts) => combine(parts, facts, true),
            Self::Not(part) => part.holds(facts).map(|holds| !holds),
            Self::Is(test) => test.holds(facts),
        }
    }

    /// The tests that make it what it is, each with what it comes to: for a condition that fails
    /// the first that fails, for one that is open those that are open.
    #[must_use]
    pub fn grounds(&self, facts: &Facts<'_>) -> Vec<(Arc<Test>, Fact<bool>)> {
        let outcome = self.holds(facts);
        match self {
            Self::Is(test) => vec![(Arc::clone(test), outcome)],
            Self::Not(part) => part.grounds(facts),
            Self::All(parts) | Self::Any(parts) => {
                let same = || parts.iter().filter(|part| part.holds(facts) == outcome);
                // One is enough to fail all, or to satisfy any; otherwise it takes everyone.
                let one = outcome == Fact::Known(matches!(self, Self::Any(_)));
                let enough = if one { 1 } else { usize::MAX };
                same()
                    .take(enough)
                    .flat_map(|part| part.grounds(facts))
                    .collect()
            }
        }
    }

    /// The filters whose word it asks for.
    pub fn asks_for(&self) -> impl Iterator<Item = &str> {
        self.tests().into_iter().filter_map(|test| match &**test {
            Test::Verdict(milter, _) => Some(milter.as_str()),
            _ => None,
        })
    }

    /// Every test in it.
    #[must_use]
    pub fn tests(&self) -> Vec<&Arc<Test>> {
        match self {
            Self::Is(test) => vec![test],
            Self::Not(part) => part.tests(),
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::tests).collect(),
        }
    }
}

/// `decisive` from one part decides; otherwise whatever is open leaves it open.
fn combine(parts: &[Condition], facts: &Facts<'_>, decisive: bool) -> Fact<bool> {
    let mut open = false;
    for part in parts {
        match part.holds(facts) {
            Fact::Known(holds) if holds == decisive => return Fact::Known(decisive),
            Fact::Known(_) => {}
            Fact::NotYet => open = true,
        }
    }
    if open {
        Fact::NotYet
    } else {
        Fact::Known(!decisive)
    }
}

impl Test {
    /// Whether it holds, as far as known.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>) -> Fact<bool> {
        match self {
            Self::Listen(names) => Fact::Known(names.iter().any(|name| name == facts.listen)),
            Self::Client(set) => facts.client.map(|client| set.hold_client(client)),
            Self::Host(set) => facts.host.map(|host| set.hold(Kind::Host, host)),
            Self::Authenticated => facts.authenticated,
            Self::Login(set) => facts
                .login
                .map(|login| !login.is_empty() && set.hold(Kind::Text, login)),
            Self::Tls => facts.tls,
            Self::Helo(set) => facts.helo.map(|helo| set.hold(Kind::Host, helo)),
            Self::Sender(set) => facts.sender.map(|sender| set.hold(Kind::Mailbox, sender)),
            Self::Recipient(set) => facts
                .recipient
                .map(|recipient| set.hold(Kind::Mailbox, recipient)),
            Self::Macro(name, set) => facts.lookup.macro_value(name).map(|value| {
                value.is_some_and(|value| !value.is_empty() && set.hold(Kind::Text, value))
            }),
            Self::Size(bounds) => facts.size.map(|size| bounds.hold(size)),
            Self::Load(bounds) => facts.load.map(|load| bounds.hold(load)),
            Self::Time(windows) => facts
                .time
                .map(|now| windows.iter().any(|window| window.holds(now))),
            Self::Verdict(milter, words) => {
                facts.lookup.word(milter).map(|word| words.contains(&word))
            }
        }
    }

    /// The entries that it looks into.
    #[must_use]
    pub fn set(&self) -> Option<&Set> {
        match self {
            Self::Client(set)
            | Self::Host(set)
            | Self::Login(set)
            | Self::Helo(set)
            | Self::Sender(set)
            | Self::Recipient(set)
            | Self::Macro(_, set) => Some(set),
            Self::Listen(_)
            | Self::Authenticated
            | Self::Tls
            | Self::Size(_)
            | Self::Load(_)
            | Self::Time(_)
            | Self::Verdict(..) => None,
        }
    }

    /// What it comes to, in words: `the client is not in 192.0.2.0/24`.
    #[must_use]
    pub fn in_words(&self, outcome: Fact<bool>) -> String {
        let (yes, no, rest) = self.words();
        match outcome {
            Fact::Known(true) => format!("{yes}{rest}"),
            Fact::Known(false) => format!("{no}{rest}"),
            Fact::NotYet => format!("it is open whether {yes}{rest}"),
        }
    }

    /// The sentence that says so, the one that denies it, and what follows on both.
    fn words(&self) -> (String, String, String) {
        let is = |what: &str, of: String| (format!("{what} is "), format!("{what} is not "), of);
        match self {
            Self::Listen(names) => is("the listener", listed(names)),
            Self::Client(set) => is("the client", format!("in {}", listed(&set.written))),
            Self::Host(set) => is("the client's name", listed(&set.written)),
            Self::Authenticated => (
                "the client logged in".to_owned(),
                "the client did not log in".to_owned(),
                String::new(),
            ),
            Self::Login(set) => is("the login", listed(&set.written)),
            Self::Tls => is("the connection", "encrypted".to_owned()),
            Self::Helo(set) => is("the HELO name", listed(&set.written)),
            Self::Sender(set) => is("the sender", listed(&set.written)),
            Self::Recipient(set) => is("the recipient", listed(&set.written)),
            Self::Macro(name, set) => is(&format!("{{{name}}}"), listed(&set.written)),
            Self::Size(bounds) => is("the size", bounds.to_string()),
            Self::Load(bounds) => is("the number of clients", bounds.to_string()),
            Self::Time(windows) => {
                let windows: Vec<String> = windows.iter().map(Window::to_string).collect();
                is("the time", format!("within {}", listed(&windows)))
            }
            Self::Verdict(milter, words) => {
                let words: Vec<String> = words.iter().map(Said::to_string).collect();
                is(&format!("the word of {milter}"), listed(&words))
            }
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(Fact::Known(true)))
    }
}

/// The first few, with commas between.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
