//! What a fact is held against: networks, names, addresses and texts, written in the configuration
//! or read from a list, looked up without going through all of them.
//!
//! Letters count without regard to case. Nothing here opens a file. What cannot be read as an entry
//! is an [`EntryError`] that says what to write.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::bounds::Bounds;

/// Bytes of an entry at most: the longest address of RFC 5321 §4.5.3.1 and some more.
const ENTRY_MAX: usize = 512;

/// What entries are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Networks and addresses of clients.
    Network,
    /// Names of hosts.
    Host,
    /// Addresses of mail.
    Mailbox,
    /// Any text: login names, values of macros.
    Text,
}

/// Why something is no entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct EntryError {
    /// What is wrong.
    pub what: String,
    /// What to write.
    pub help: &'static str,
}

/// A set of entries.
#[derive(Debug, Default)]
pub struct Entries {
    /// Network addresses by the length of their prefix.
    networks: BTreeMap<(bool, u8), HashSet<IpAddr>>,
    /// Whole texts.
    exact: HashSet<Box<[u8]>>,
    /// Domains of addresses.
    domains: HashSet<Box<[u8]>>,
    /// Domains, for every name below them.
    below: HashSet<Box<[u8]>>,
    /// Patterns for whole texts.
    patterns: Vec<Pattern>,
    /// Patterns for domains of addresses.
    domain_patterns: Vec<Pattern>,
    /// Numbers that a text may stand for.
    numbers: Vec<Bounds>,
}

/// A text in which `*` stands for anything.
#[derive(Debug, PartialEq, Eq)]
struct Pattern(Box<[u8]>);

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Host => "hosts",
            Self::Mailbox => "addresses",
            Self::Text => "texts",
        }
    }

    /// What to write.
    fn help(self) -> &'static str {
        match self {
            Self::Network => {
                "write \"192.0.2.0/24\", \"2001:db8::/32\", \"192.0.2.1\", or the path of a list"
            }
            Self::Host => {
                "write \"mail.example.com\", \".example.com\" for all names below it, \
                 \"mx*.example.com\", or the path of a list"
            }
            Self::Mailbox => {
                "write \"user@example.com\", \"example.com\" for all of its addresses, \
                 \".example.com\" for those of domains below it, \"list-*@example.com\", \"<>\" \
                 for the empty sender, or the path of a list"
            }
            Self::Text => "write the text, a pattern with *, or the path of a list",
        }
    }
}

impl Entries {
    /// Adds what is written.
    ///
    /// # Errors
    /// When it is no entry of that kind.
    pub fn add(&mut self, kind: Kind, written: &str) -> Result<(), EntryError> {
        let wrong = |what: String| EntryError {
            what,
            help: kind.help(),
        };
        if written.is_empty() {
            return Err(wrong("an empty text matches nothing".to_owned()));
        }
        if written.len() > ENTRY_MAX {
            return Err(wrong(format!("longer than {ENTRY_MAX} bytes")));
        }
        let unprintable = |letter: char| letter.is_control();
        let spaced = |letter: char| letter.is_whitespace() && kind != Kind::Text;
        if let Some(letter) = written
            .chars()
            .find(|one| unprintable(*one) || spaced(*one))
        {
            return Err(wrong(format!("{written:?} holds {letter:?}")));
        }
        let lower = written.to_ascii_lowercase();
        match kind {
            Kind::Network => self
                .add_network(&lower)
                .ok_or_else(|| wrong(format!("{written:?} is neither a network nor an address")))?,
            Kind::Host => self
                .add_host(&lower)
                .map_err(|()| wrong(format!("{written:?} is no name of a host")))?,
            Kind::Mailbox => self
                .add_mailbox(&lower)
                .map_err(|()| wrong(format!("{written:?} is no address and no domain")))?,
            Kind::Text => self.add_text(&lower, written).map_err(wrong)?,
        }
        Ok(())
    }

    fn add_network(&mut self, text: &str) -> Option<()> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let network: IpNet = text.parse().ok().or_else(address)?;
        let place = (network.addr().is_ipv6(), network.prefix_len());
        let networks = self.networks.entry(place).or_default();
        networks.insert(network.network());
        Some(())
    }

    fn add_host(&mut self, text: &str) -> Result<(), ()> {
        let name = text.strip_suffix('.').unwrap_or(text);
        match name.strip_prefix('.') {
            Some(domain) if is_domain(domain) => {
                self.below.insert(boxed(domain));
            }
            None if name.contains('*') => self.patterns.push(Pattern(boxed(name))),
            // An address in brackets is a name for HELO.
            None if is_domain(name) || name.starts_with('[') => {
                self.exact.insert(boxed(name));
            }
            _ => return Err(()),
        }
        Ok(())
    }

    fn add_mailbox(&mut self, text: &str) -> Result<(), ()> {
        if text == "<>" {
            self.exact.insert(boxed(""));
            return Ok(());
        }
        let domain = text.strip_prefix('@').unwrap_or(text);
        if let Some((local, domain)) = domain.rsplit_once('@') {
            let pattern = text.contains('*');
            if local.is_empty() || (!is_domain(domain) && !domain.contains('*')) {
                return Err(());
            }
            if pattern {
                self.patterns.push(Pattern(boxed(text)));
            } else {
                self.exact.insert(boxed(text));
            }
            return Ok(());
        }
        match domain.strip_prefix('.') {
            Some(parent) if is_domain(parent) => {
                self.below.insert(boxed(parent));
            }
            None if domain.contains('*') => self.domain_patterns.push(Pattern(boxed(domain))),
            None if is_domain(domain) => {
                self.domains.insert(boxed(domain));
            }
            _ => return Err(()),
        }
        Ok(())
    }

    fn add_text(&mut self, lower: &str, written: &str) -> Result<(), String> {
        if written.starts_with(['<', '>']) {
            let number = written
                .parse::<Bounds>()
                .map_err(|error| error.to_string())?;
            self.numbers.push(number);
        } else if lower.contains('*') {
            self.patterns.push(Pattern(boxed(lower)));
        } else {
            self.exact.insert(boxed(lower));
        }
        Ok(())
    }

    /// Whether a client is in one of the networks.
    #[must_use]
    pub fn hold_client(&self, client: IpAddr) -> bool {
        // A client of an IPv4 network may be told as ::ffff:192.0.2.1.
        let client = client.to_canonical();
        self.networks.iter().any(|((is_v6, length), networks)| {
            *is_v6 == client.is_ipv6()
                && IpNet::new(client, *length)
                    .is_ok_and(|network| networks.contains(&network.network()))
        })
    }

    /// Whether a text of that kind is among them.
    #[must_use]
    pub fn hold(&self, kind: Kind, text: &[u8]) -> bool {
        match kind {
            Kind::Network => str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .is_some_and(|client| self.hold_client(client)),
            Kind::Host => {
                let name = without_dot(text).to_ascii_lowercase();
                self.exact.contains(&*name) || self.is_below(&name) || self.fits(&name)
            }
            Kind::Mailbox => self.hold_mailbox(&bare_address(text).to_ascii_lowercase()),
            Kind::Text => {
                let lower = text.to_ascii_lowercase();
                self.exact.contains(&*lower)
                    || self.fits(&lower)
                    || number(&lower)
                        .is_some_and(|number| self.numbers.iter().any(|bounds| bounds.hold(number)))
            }
        }
    }

    fn hold_mailbox(&self, address: &[u8]) -> bool {
        let at = address.iter().rposition(|byte| *byte == b'@');
        let domain = at.and_then(|at| address.get(at + 1..)).unwrap_or_default();
        let domain = without_dot(domain);
        self.exact.contains(address)
            || self.domains.contains(domain)
            || self.is_below(domain)
            || self.fits(address)
            || self.domain_patterns.iter().any(|one| one.fits(domain))
    }

    /// Whether a name is below one of the domains.
    fn is_below(&self, name: &[u8]) -> bool {
        let mut rest = name;
        while let Some(dot) = rest.iter().position(|byte| *byte == b'.') {
            rest = rest.get(dot + 1..).unwrap_or_default();
            if self.below.contains(rest) {
                return true;
            }
        }
        false
    }

    fn fits(&self, text: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.fits(text))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.networks.values().map(HashSet::len).sum::<usize>()
            + self.exact.len()
            + self.domains.len()
            + self.below.len()
            + self.patterns.len()
            + self.domain_patterns.len()
            + self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Pattern {
    /// Whether the whole of `text` fits, going back to the last star only.
    fn fits(&self, text: &[u8]) -> bool {
        let (mut at, mut from) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while from < text.len() {
            match self.0.get(at) {
                Some(b'*') => {
                    star = Some((at, from));
                    at += 1;
                }
                Some(byte) if Some(byte) == text.get(from) => {
                    at += 1;
                    from += 1;
                }
                _ => {
                    let Some((pattern, begun)) = star else {
                        return false;
                    };
                    star = Some((pattern, begun + 1));
                    at = pattern + 1;
                    from = begun + 1;
                }
            }
        }
        let rest = self.0.get(at..).unwrap_or_default();
        rest.iter().all(|byte| *byte == b'*')
    }
}

/// An address without its brackets, a source route (RFC 5321 §4.1.1.3) and a dot at its end.
fn bare_address(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    let bare = text
        .strip_prefix(b"<")
        .and_then(|text| text.strip_suffix(b">"))
        .unwrap_or(text);
    let routed = bare.starts_with(b"@").then(|| {
        let colon = bare.iter().position(|byte| *byte == b':')?;
        bare.get(colon + 1..)
    });
    without_dot(routed.flatten().unwrap_or(bare))
}

fn without_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

fn boxed(text: &str) -> Box<[u8]> {
    text.as_bytes().into()
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// Labels with dots between, or an address in brackets.
fn is_domain(text: &str) -> bool {
    let literal = text.starts_with('[') && text.ends_with(']');
    let is_label = |label: &str| {
        let legal = |letter: char| {
            letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_') || !letter.is_ascii()
        };
        !label.is_empty() && label.chars().all(legal)
    };
    literal || text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(kind: Kind, written: &[&str]) -> Entries {
        let mut entries = Entries::default();
        for one in written {
            entries.add(kind, one).unwrap();
        }
        entries
    }

    /// Each text is among the entries, or not.
    fn check(kind: Kind, written: &[&str], inside: &[&str], outside: &[&str]) {
        let entries = entries(kind, written);
        assert_eq!(entries.len(), written.len());
        for (texts, expected) in [(inside, true), (outside, false)] {
            for text in texts {
                let held = entries.hold(kind, text.as_bytes());
                assert_eq!(held, expected, "{text:?} in {written:?}");
            }
        }
    }

    #[test]
    fn networks_hold_their_clients() {
        check(
            Kind::Network,
            &[
                "192.0.2.0/24",
                "198.51.100.7",
                "2001:db8::/32",
                "10.1.2.3/8",
            ],
            &[
                "192.0.2.255",
                "::ffff:192.0.2.1",
                "198.51.100.7",
                "2001:db8:1::1",
                "10.9.9.9",
            ],
            &["192.0.3.0", "198.51.100.8", "2001:db9::", "::1", "unknown"],
        );
    }

    #[test]
    fn hosts_by_name_by_domain_and_by_pattern() {
        check(
            Kind::Host,
            &[
                "mail.example.com",
                ".example.net",
                "mx*.Example.ORG",
                "[192.0.2.1]",
            ],
            &[
                "MAIL.example.com.",
                "a.example.net",
                "a.b.example.net",
                "mx12.example.org",
                "[192.0.2.1]",
            ],
            &[
                "example.com",
                "example.net",
                "badexample.net",
                "mx.example.org.evil.test",
                "",
            ],
        );
    }

    #[test]
    fn addresses_by_address_by_domain_and_by_pattern() {
        check(
            Kind::Mailbox,
            &[
                "user@example.com",
                "@example.net",
                "example.edu",
                ".example.org",
                "list-*@lists.test",
                "*.wild.test",
                "<>",
            ],
            &[
                "<User@Example.com>",
                "a@example.net",
                "b@EXAMPLE.edu.",
                "c@sub.example.org",
                "list-announce@lists.test",
                "x@a.wild.test",
                "<>",
                "",
                "<@relay.test,@b.test:user@example.com>",
                "\"a@b\"@example.net",
            ],
            &[
                "other@example.com",
                "example.net",
                "a@example.org",
                "list@lists.test",
                "x@wild.test",
                "a@notexample.net",
                "user@example.com@evil.test",
            ],
        );
    }

    #[test]
    fn texts_by_pattern_and_by_number() {
        check(
            Kind::Text,
            &["PLAIN", "TLSv1.*", ">=128"],
            &["plain", "TLSv1.3", "128", "256"],
            &["", "login", "SSLv3", "127", "12a"],
        );
    }

    #[test]
    fn what_is_no_entry_is_told_with_advice() {
        for (kind, written, words) in [
            (Kind::Network, "192.0.2.0/33", "neither a network"),
            (Kind::Network, "example.com", "neither a network"),
            (Kind::Host, ".", "no name of a host"),
            (Kind::Host, "a b", "holds ' '"),
            (Kind::Host, "a..b", "no name of a host"),
            (Kind::Mailbox, "a@b@", "no address"),
            (Kind::Mailbox, "@", "no address"),
            (Kind::Mailbox, "a\u{0}@b", "holds '\\0'"),
            (Kind::Text, "", "matches nothing"),
            (Kind::Text, ">=many", "no number"),
        ] {
            let error = Entries::default().add(kind, written).unwrap_err();
            assert!(error.what.contains(words), "{written:?}: {error}");
            assert!(error.help.contains("write"), "{written:?}");
        }
        let long = "x".repeat(ENTRY_MAX + 1);
        assert!(Entries::default().add(Kind::Text, &long).is_err());
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern(boxed(&"*a".repeat(200)));
        assert!(pattern.fits("a".repeat(400).as_bytes()));
        assert!(!pattern.fits("b".repeat(20_000).as_bytes()));
    }
}
