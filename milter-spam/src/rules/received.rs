//! Checks on Received fields (RFC 5321 section 4.4): how many hops there were, and which of them
//! nobody writes but spam programs.
//!
//! The field of the MTA that asks is not among them: a filter sees the message before it is added.

use std::net::Ipv4Addr;

use super::{Group, Hit, Rule};
use crate::facts::Facts;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "RCVD_COUNT_ZERO",
        "Message has no Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 0, 0),
    ),
    Rule::header(
        "RCVD_COUNT_ONE",
        "Message has one Received header",
        Group::Headers,
        0.0,
        |facts| count(facts, 1, 1),
    ),
    Rule::header(
        "RCVD_COUNT_TWO",
        "Message has two Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 2, 2),
    ),
    Rule::header(
        "RCVD_COUNT_THREE",
        "Message has 3-4 Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 3, 4),
    ),
    Rule::header(
        "RCVD_COUNT_FIVE",
        "Message has 5-6 Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 5, 6),
    ),
    Rule::header(
        "RCVD_COUNT_SEVEN",
        "Message has 7-11 Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 7, 11),
    ),
    Rule::header(
        "RCVD_COUNT_TWELVE",
        "Message has 12 or more Received headers",
        Group::Headers,
        0.0,
        |facts| count(facts, 12, usize::MAX),
    ),
    Rule::client(
        "ONCE_RECEIVED",
        "Message came from the client that made it",
        Group::Headers,
        0.1,
        once_received,
    ),
    Rule::header(
        "RCVD_ILLEGAL_CHARS",
        "Received header has raw 8-bit characters",
        Group::Headers,
        4.0,
        illegal_characters,
    ),
    Rule::header(
        "R_RCVD_SPAMBOTS",
        "Received header as spambots write it",
        Group::Headers,
        3.0,
        spambots,
    ),
    Rule::header(
        "RCVD_DOUBLE_IP_SPAM",
        "Received header with addresses in place of both names",
        Group::Headers,
        2.0,
        double_ip,
    ),
    Rule::header(
        "RCVD_HELO_USER",
        "A hop called itself \"User\"",
        Group::Headers,
        3.0,
        helo_user,
    ),
    Rule::header(
        "RCVD_VIA_SMTP_AUTH",
        "A hop was authenticated",
        Group::Headers,
        0.0,
        via_auth,
    ),
    Rule::header(
        "PREVIOUSLY_DELIVERED",
        "Message was delivered to its recipient before",
        Group::Headers,
        0.0,
        previously_delivered,
    ),
];

/// The fields with folds made spaces, top to bottom. Their number and size are bounded by the
/// limits on the header.
fn fields(facts: &Facts) -> impl Iterator<Item = String> {
    facts.headers.all("Received").map(|value| {
        let text = String::from_utf8_lossy(value);
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    })
}

fn number(facts: &Facts) -> usize {
    facts.headers.all("Received").count()
}

fn count(facts: &Facts, least: usize, most: usize) -> Option<Hit> {
    let number = number(facts);
    (least..=most)
        .contains(&number)
        .then(|| Hit::new().with(number.to_string()))
}

fn once_received(facts: &Facts) -> Option<Hit> {
    Hit::when(number(facts) == 0)
}

fn illegal_characters(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.headers.all("Received").any(|value| !value.is_ascii()))
}

fn is_bracketed_ip(word: Option<&str>) -> bool {
    word.and_then(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .is_some_and(is_ip)
}

fn is_ip(word: &str) -> bool {
    word.parse::<Ipv4Addr>().is_ok()
}

/// `from [192.0.2.1] by name; date`: no protocol, no id.
fn spambots(facts: &Facts) -> Option<Hit> {
    Hit::when(fields(facts).any(|field| {
        let Some((hop, _)) = field.split_once(';') else {
            return false;
        };
        let mut words = hop.split(' ');
        let from = words.next() == Some("from") && is_bracketed_ip(words.next());
        let by = words.next() == Some("by") && words.next().is_some_and(|name| name.len() >= 5);
        from && by && words.next().is_none()
    }))
}

/// `from [192.0.2.1] by 192.0.2.2 with …` or `from 192.0.2.1 by 192.0.2.2;`.
fn double_ip(facts: &Facts) -> Option<Hit> {
    Hit::when(fields(facts).any(|field| {
        let hop = field.replace(';', " ;");
        let words: Vec<&str> = hop.split_ascii_whitespace().take(5).collect();
        match words[..] {
            ["from", client, "by", host, "with"] => is_bracketed_ip(Some(client)) && is_ip(host),
            ["from", client, "by", host, ";"] => is_ip(client) && is_ip(host),
            _ => false,
        }
    }))
}

fn helo_user(facts: &Facts) -> Option<Hit> {
    let called = |helo: &str| helo.eq_ignore_ascii_case("user");
    let client = facts.envelope.helo.as_deref().is_some_and(called);
    let hop = fields(facts).any(|field| {
        let field = field.to_ascii_lowercase();
        field.starts_with("from user ")
            || ["helo=user)", "helo=user ", "helo user)", "helo user "]
                .iter()
                .any(|form| field.contains(form))
    });
    Hit::when(client || hop)
}

/// RFC 3848: the protocol has an `A` for an authenticated hop.
fn via_auth(facts: &Facts) -> Option<Hit> {
    Hit::when(fields(facts).any(|field| {
        field.contains(" with ESMTPA ")
            || field.contains(" with ESMTPSA ")
            || field.contains("(Authenticated sender:")
    }))
}

fn previously_delivered(facts: &Facts) -> Option<Hit> {
    let recipient = fields(facts).find_map(|field| {
        let (_, after) = field.split_once(" for <")?;
        let (address, _) = after.split_once('>')?;
        Some(address.to_lowercase())
    })?;
    facts
        .to
        .mailboxes
        .iter()
        .any(|to| to.valid && to.address().to_lowercase() == recipient)
        .then(|| Hit::new().with(recipient))
}
