//! Checks on the client: what it calls itself, and what the DNS calls it. Not run for clients that
//! are one of us.
//!
//! Of the two heuristics on names the stronger counts, as with rspamd: `HFILTER_HELO_n` or
//! `HFILTER_HOSTNAME_n`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Group, Hit, Rule};
use crate::envelope::Reverse;
use crate::facts::Facts;
use crate::mailbox::is_domain;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::client(
        "RDNS_NONE",
        "Client has no name in the DNS",
        Group::Hfilter,
        2.0,
        rdns_none,
    ),
    Rule::client(
        "HFILTER_HOSTNAME_UNKNOWN",
        "Client's name is missing or does not lead back to it",
        Group::Hfilter,
        2.5,
        hostname_unknown,
    ),
    Rule::client(
        "HFILTER_HELO_BADIP",
        "HELO is an address that cannot be the client's",
        Group::Hfilter,
        4.5,
        helo_bad_ip,
    ),
    Rule::client(
        "HFILTER_HELO_BAREIP",
        "HELO is a bare address",
        Group::Hfilter,
        3.0,
        helo_bare_ip,
    ),
    Rule::client(
        "HFILTER_HELO_NOT_FQDN",
        "HELO is no domain name",
        Group::Hfilter,
        2.0,
        helo_not_fqdn,
    ),
    Rule::client(
        "HFILTER_HELO_1",
        "HELO looks like a customer's line (very low)",
        Group::Hfilter,
        0.5,
        |facts| helo_level(facts, 1),
    ),
    Rule::client(
        "HFILTER_HELO_2",
        "HELO looks like a customer's line (low)",
        Group::Hfilter,
        1.0,
        |facts| helo_level(facts, 2),
    ),
    Rule::client(
        "HFILTER_HELO_3",
        "HELO looks like a customer's line (medium)",
        Group::Hfilter,
        2.0,
        |facts| helo_level(facts, 3),
    ),
    Rule::client(
        "HFILTER_HELO_4",
        "HELO looks like a customer's line (hard)",
        Group::Hfilter,
        2.5,
        |facts| helo_level(facts, 4),
    ),
    Rule::client(
        "HFILTER_HELO_5",
        "HELO looks like a customer's line (very hard)",
        Group::Hfilter,
        3.0,
        |facts| helo_level(facts, 5),
    ),
    Rule::client(
        "HFILTER_HOSTNAME_1",
        "Client's name looks like a customer's line (very low)",
        Group::Hfilter,
        0.5,
        |facts| hostname_level(facts, 1),
    ),
    Rule::client(
        "HFILTER_HOSTNAME_2",
        "Client's name looks like a customer's line (low)",
        Group::Hfilter,
        1.0,
        |facts| hostname_level(facts, 2),
    ),
    Rule::client(
        "HFILTER_HOSTNAME_3",
        "Client's name looks like a customer's line (medium)",
        Group::Hfilter,
        2.0,
        |facts| hostname_level(facts, 3),
    ),
    Rule::client(
        "HFILTER_HOSTNAME_4",
        "Client's name looks like a customer's line (hard)",
        Group::Hfilter,
        2.5,
        |facts| hostname_level(facts, 4),
    ),
    Rule::client(
        "HFILTER_HOSTNAME_5",
        "Client's name looks like a customer's line (very hard)",
        Group::Hfilter,
        3.0,
        |facts| hostname_level(facts, 5),
    ),
    Rule::client(
        "HFILTER_FROMHOST_NOT_FQDN",
        "Domain of the envelope sender is no domain name",
        Group::Hfilter,
        3.0,
        sender_not_fqdn,
    ),
    Rule::client(
        "HFILTER_FROM_BOUNCE",
        "Envelope sender is empty",
        Group::Hfilter,
        0.0,
        bounce,
    ),
];

fn rdns_none(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.envelope.reverse == Reverse::Missing)
}

fn hostname_unknown(facts: &Facts) -> Option<Hit> {
    Hit::when(matches!(
        facts.envelope.reverse,
        Reverse::Missing | Reverse::Unverified(_)
    ))
}

/// HELO in lower case, without the brackets of a literal.
fn helo(facts: &Facts) -> Option<String> {
    let helo = facts.envelope.helo.as_deref()?.trim().to_lowercase();
    let inner = helo
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    Some(
        inner
            .unwrap_or(&helo)
            .trim_start_matches("ipv6:")
            .to_owned(),
    )
}

/// The address in HELO, also with dashes for dots.
fn helo_address(facts: &Facts) -> Option<IpAddr> {
    let helo = helo(facts)?;
    helo.parse()
        .or_else(|_| helo.replace(['-', 'x'], ".").parse().map(IpAddr::V4))
        .ok()
}

/// Addresses that are never seen on the Internet: private, loopback, link-local, documentation.
fn is_impossible(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || a == 0
                || v4 == Ipv4Addr::BROADCAST
                || shared
        }
        IpAddr::V6(v6) => {
            let documentation = v6.segments().starts_with(&[0x2001, 0xdb8]);
            v6 == Ipv6Addr::LOCALHOST
                || v6.is_unicast_link_local()
                || v6.is_unique_local()
                || documentation
        }
    }
}

fn helo_bad_ip(facts: &Facts) -> Option<Hit> {
    let address = helo_address(facts)?;
    // Where the client really has that address, it is the network that is odd, not the client.
    let own = facts.envelope.address == Some(address);
    (is_impossible(address) && !own).then(|| Hit::new().with(address.to_string()))
}

fn helo_bare_ip(facts: &Facts) -> Option<Hit> {
    let address = helo_address(facts)?;
    helo_bad_ip(facts)
        .is_none()
        .then(|| Hit::new().with(address.to_string()))
}

/// Names that fit no better class: with characters or a last label that no domain has.
fn helo_not_fqdn(facts: &Facts) -> Option<Hit> {
    let helo = helo(facts)?;
    let named = helo_address(facts).is_none() && level_of_helo(facts) == 0;
    (named && !is_fqdn(&helo)).then(|| Hit::new().with(helo))
}

fn is_fqdn(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    is_domain(name.as_bytes())
        && name.contains('.')
        && last.len() >= 2
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Words in names of customers' lines, and how sure they are.
const LINES: [(&str, u8); 33] = [
    ("gprs", 5),
    ("cdma", 5),
    ("homeuser", 5),
    ("dhcp", 5),
    ("catv", 5),
    ("wifi", 5),
    ("dialup", 5),
    ("dial-up", 5),
    ("dynamic", 5),
    ("dyn", 5),
    ("dynip", 5),
    ("broadband", 5),
    ("bredband", 5),
    ("nat", 5),
    ("pptp", 5),
    ("pppoe", 5),
    ("ppp", 5),
    ("modem", 5),
    ("cablemodem", 5),
    ("dsl", 4),
    ("adsl", 4),
    ("xdsl", 4),
    ("in-addr", 4),
    ("inaddr", 4),
    ("pool", 4),
    ("fbx", 4),
    ("cable", 3),
    ("kabel", 3),
    ("host", 2),
    ("customer", 1),
    ("customers", 1),
    ("user", 1),
    ("peer", 1),
];

/// How much a host name looks like that of a customer's line: one of [`LINES`] between dots, dashes
/// and digits.
fn level(name: &str) -> u8 {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b'.' | b'-'));
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let bytes = name.as_bytes();
    let found = LINES.iter().filter(|(word, _)| {
        name.match_indices(word).any(|(at, _)| {
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            let after = bytes.get(at + word.len());
            let further = bytes.get(at + word.len() + 1);
            let apart = edge(before) && edge(after);
            let numbered = edge(after) && digit(further) && (before.is_none() || edge(before));
            apart || numbered || digit(before) && (edge(after) || after.is_none())
        })
    });
    found.map(|(_, level)| *level).max().unwrap_or(0)
}

/// Of HELO; names without a dot and of private networks are as bad as any.
fn level_of_helo(facts: &Facts) -> u8 {
    let Some(helo) = helo(facts).filter(|_| helo_address(facts).is_none()) else {
        return 0;
    };
    let private = [
        "lan",
        "local",
        "home",
        "localdomain",
        "intra",
        "in-addr.arpa",
        "priv",
    ]
    .iter()
    .any(|suffix| {
        helo.strip_suffix(suffix)
            .is_some_and(|rest| rest.ends_with('.'))
    });
    match () {
        () if helo.is_empty() => 0,
        () if !helo.contains('.') && is_domain(helo.as_bytes()) || private => 5,
        () => level(&helo),
    }
}

fn level_of_hostname(facts: &Facts) -> u8 {
    let name = facts.envelope.reverse.name().unwrap_or_default();
    level(&name.to_lowercase())
}

fn helo_level(facts: &Facts, wanted: u8) -> Option<Hit> {
    let level = level_of_helo(facts);
    (level == wanted && level >= level_of_hostname(facts))
        .then(|| helo(facts).map(|helo| Hit::new().with(helo)))
        .flatten()
}

fn hostname_level(facts: &Facts, wanted: u8) -> Option<Hit> {
    let level = level_of_hostname(facts);
    let name = facts.envelope.reverse.name()?;
    (level == wanted && level > level_of_helo(facts)).then(|| Hit::new().with(name))
}

fn sender_not_fqdn(facts: &Facts) -> Option<Hit> {
    let sender = facts.envelope.sender.as_ref()?;
    let domain = &sender.domain;
    (!facts.envelope.is_bounce() && !is_fqdn(domain)).then(|| Hit::new().with(domain))
}

fn bounce(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.envelope.is_bounce())
}
