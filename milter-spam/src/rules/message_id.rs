//! Checks on the Message-ID (RFC 5322 section 3.6.4).

use std::net::Ipv4Addr;

use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::links::registered_domain;
use crate::mailbox::Mailbox;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "MISSING_MID",
        "Message-ID header is missing",
        Group::Headers,
        2.5,
        missing,
    ),
    Rule::header(
        "INVALID_MSGID",
        "Message-ID header is incorrect",
        Group::Headers,
        1.7,
        invalid,
    ),
    Rule::header(
        "MID_BARE_IP",
        "Message-ID RHS is a bare IP address",
        Group::MessageId,
        2.0,
        bare_ip,
    ),
    Rule::header(
        "MID_RHS_NOT_FQDN",
        "Message-ID RHS is not a fully-qualified domain name",
        Group::MessageId,
        0.5,
        not_fqdn,
    ),
    Rule::header(
        "MID_MISSING_BRACKETS",
        "Message-ID is missing its angle brackets",
        Group::MessageId,
        0.5,
        no_brackets,
    ),
    Rule::header(
        "MID_RHS_IP_LITERAL",
        "Message-ID RHS is an IP literal",
        Group::MessageId,
        0.5,
        ip_literal,
    ),
    Rule::header(
        "MID_CONTAINS_FROM",
        "Message-ID contains the From address",
        Group::MessageId,
        1.0,
        contains_from,
    ),
    Rule::header(
        "MID_RHS_MATCH_FROM",
        "Message-ID RHS is the From domain",
        Group::MessageId,
        0.0,
        match_from,
    ),
    Rule::header(
        "MID_RHS_MATCH_FROMTLD",
        "Message-ID RHS is in the registered domain of From",
        Group::MessageId,
        0.0,
        match_from_registered,
    ),
    Rule::header(
        "MID_CONTAINS_TO",
        "Message-ID contains the To address",
        Group::MessageId,
        1.0,
        contains_to,
    ),
    Rule::header(
        "MID_RHS_MATCH_TO",
        "Message-ID RHS is the To domain",
        Group::MessageId,
        1.0,
        match_to,
    ),
    Rule::header(
        "MID_END_EQ_FROM_USER_PART",
        "Message-ID RHS is the local part of From",
        Group::MessageId,
        4.0,
        end_is_from_user,
    ),
    Rule::header(
        "GOOGLE_FORWARDING_MID_MISSING",
        "Message had no Message-ID before Google forwarded it",
        Group::Headers,
        2.5,
        google_missing,
    ),
    Rule::header(
        "GOOGLE_FORWARDING_MID_BROKEN",
        "Message had an invalid Message-ID before Google forwarded it",
        Group::Headers,
        1.7,
        google_broken,
    ),
];

/// What stands behind the last `@`, without the bracket, in lower case.
fn right_hand_side(facts: &Facts) -> Option<String> {
    let id = facts.message_id()?;
    let (_, right) = id.rsplit_once('@')?;
    Some(right.trim_end_matches('>').to_lowercase())
}

fn missing(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.message_id().is_none_or(|id| id.is_empty()))
}

fn invalid(facts: &Facts) -> Option<Hit> {
    let id = facts.message_id().filter(|id| !id.is_empty())?;
    let bare = id.strip_prefix('<').unwrap_or(&id);
    let bare = bare.strip_suffix('>').unwrap_or(bare);
    let fits = |half: &str| {
        !half.is_empty()
            && half.bytes().all(|byte| matches!(byte, b'!'..=b'~'))
            && !half.contains(['<', '>', '\\'])
    };
    let halves = bare
        .rsplit_once('@')
        .is_some_and(|(left, right)| fits(left) && fits(right));
    // A comment is allowed, and old mail programs write one.
    let comment = id.contains('(') && id.contains(')');
    Hit::when(!halves && !comment)
}

fn bare_ip(facts: &Facts) -> Option<Hit> {
    Hit::when(right_hand_side(facts)?.parse::<Ipv4Addr>().is_ok())
}

fn not_fqdn(facts: &Facts) -> Option<Hit> {
    let right = right_hand_side(facts)?;
    Hit::when(!right.contains(['.', ':']))
}

fn no_brackets(facts: &Facts) -> Option<Hit> {
    let id = facts.message_id().filter(|id| !id.is_empty())?;
    Hit::when(!(id.starts_with('<') && id.ends_with('>')))
}

fn ip_literal(facts: &Facts) -> Option<Hit> {
    let right = right_hand_side(facts)?;
    Hit::when(right.starts_with('[') && right.ends_with(']'))
}

/// Whether the address occurs in the Message-ID.
fn contains(facts: &Facts, mailbox: &Mailbox) -> bool {
    mailbox.valid
        && facts.message_id().is_some_and(|id| {
            id.to_lowercase()
                .contains(&mailbox.address().to_lowercase())
        })
}

fn contains_from(facts: &Facts) -> Option<Hit> {
    Hit::when(contains(facts, facts.author()?))
}

fn match_from(facts: &Facts) -> Option<Hit> {
    let author = facts.author()?;
    Hit::when(right_hand_side(facts)? == author.domain && !contains(facts, author))
}

fn match_from_registered(facts: &Facts) -> Option<Hit> {
    let author = facts.author()?;
    let right = right_hand_side(facts)?;
    let same = registered_domain(&right)? == registered_domain(&author.domain)?;
    Hit::when(same && right != author.domain)
}

/// The first recipient in To, where it is of another domain than the author.
fn stranger(facts: &Facts) -> Option<&Mailbox> {
    let author = facts.author().map(|author| &author.domain);
    facts
        .to
        .mailboxes
        .first()
        .filter(|to| to.valid && Some(&to.domain) != author)
}

fn contains_to(facts: &Facts) -> Option<Hit> {
    Hit::when(contains(facts, stranger(facts)?))
}

fn match_to(facts: &Facts) -> Option<Hit> {
    let to = stranger(facts)?;
    Hit::when(right_hand_side(facts)? == to.domain && !contains(facts, to))
}

fn end_is_from_user(facts: &Facts) -> Option<Hit> {
    let right = right_hand_side(facts)?;
    let letters = right.bytes().all(|byte| byte.is_ascii_lowercase());
    Hit::when(letters && !right.is_empty() && right == facts.author()?.local)
}

fn google_missing(facts: &Facts) -> Option<Hit> {
    Hit::when(
        facts
            .message_id()?
            .ends_with("SMTPIN_ADDED_MISSING@mx.google.com>"),
    )
}

fn google_broken(facts: &Facts) -> Option<Hit> {
    Hit::when(
        facts
            .message_id()?
            .ends_with("SMTPIN_ADDED_BROKEN@mx.google.com>"),
    )
}
