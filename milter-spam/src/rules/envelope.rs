//! Checks on the sender and the recipients of the envelope, against those that the header names.

use std::collections::HashSet;

use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::links::registered_domain;
use crate::mailbox::Mailbox;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::envelope(
        "ENVFROM_INVALID",
        "Envelope sender is not a valid address",
        Group::Headers,
        2.0,
        sender_invalid,
    ),
    Rule::envelope(
        "FROM_EQ_ENVFROM",
        "From is the envelope sender",
        Group::Headers,
        0.0,
        from_is_sender,
    ),
    Rule::envelope(
        "FROM_NEQ_ENVFROM",
        "From is not the envelope sender",
        Group::Headers,
        0.0,
        from_is_not_sender,
    ),
    Rule::envelope(
        "FORGED_SENDER",
        "Sender is of another domain than From, without the marks of lists and forwarders",
        Group::Headers,
        0.3,
        forged_sender,
    ),
    Rule::envelope(
        "FORGED_RECIPIENTS",
        "None of the recipients is in the header",
        Group::Headers,
        2.0,
        forged_recipients,
    ),
    Rule::envelope(
        "TAGGED_RCPT",
        "Recipient has a tag",
        Group::Headers,
        0.0,
        tagged_recipient,
    ),
    Rule::envelope(
        "HFILTER_RCPT_BOUNCEMOREONE",
        "Bounce to several recipients",
        Group::Hfilter,
        1.5,
        bounce_to_many,
    ),
];

fn sender_invalid(facts: &Facts) -> Option<Hit> {
    let sender = facts.envelope.sender.as_ref()?;
    Hit::when(!facts.envelope.is_bounce() && !sender.valid)
}

fn from_is_sender(facts: &Facts) -> Option<Hit> {
    Hit::when(
        facts
            .envelope
            .sender
            .as_ref()?
            .same_address(facts.author()?),
    )
}

fn from_is_not_sender(facts: &Facts) -> Option<Hit> {
    let (sender, author) = (facts.envelope.sender.as_ref()?, facts.author()?);
    (!facts.envelope.is_bounce() && !sender.same_address(author))
        .then(|| Hit::new().with(author.address()).with(sender.address()))
}

fn forged_sender(facts: &Facts) -> Option<Hit> {
    let (sender, author) = (facts.envelope.sender.as_ref()?, facts.author()?);
    let related = registered_domain(&sender.domain) == registered_domain(&author.domain);
    let local = sender.local.to_lowercase();
    let rewritten = ["srs0", "srs1", "prvs=", "btv1==", "msprvs1="]
        .iter()
        .any(|mark| local.starts_with(mark));
    let returns = facts
        .headers
        .first("Sender")
        .is_some_and(|value| String::from_utf8_lossy(value).contains(&sender.address()));
    let list = facts.headers.has("List-Id") || facts.headers.has("List-Unsubscribe");
    Hit::when(!facts.envelope.is_bounce() && !related && !rewritten && !returns && !list)
}

/// Mail by a list or in blind copy is as usual, so just what names others and not one of ours
/// counts.
fn forged_recipients(facts: &Facts) -> Option<Hit> {
    let recipients = &facts.envelope.recipients;
    let named: Vec<&Mailbox> = facts
        .to
        .mailboxes
        .iter()
        .chain(&facts.cc.mailboxes)
        .collect();
    let list = [
        "List-Id",
        "List-Unsubscribe",
        "Mailing-List",
        "X-BeenThere",
        "Resent-To",
    ]
    .iter()
    .any(|name| facts.headers.has(name));
    if recipients.is_empty() || named.is_empty() || list || facts.envelope.is_bounce() {
        return None;
    }
    // The limit on addresses bounds both lists; a set keeps their product from mattering.
    let known: HashSet<(String, &str)> = named
        .iter()
        .map(|mailbox| (plain_local(mailbox), &mailbox.domain[..]))
        .collect();
    let met = recipients
        .iter()
        .any(|mailbox| known.contains(&(plain_local(mailbox), &mailbox.domain[..])));
    Hit::when(!met)
}

/// The local part in lower case, without its tag.
fn plain_local(mailbox: &Mailbox) -> String {
    let local = mailbox.local.to_lowercase();
    match local.split_once('+') {
        Some((plain, _)) if !plain.is_empty() => plain.to_owned(),
        _ => local,
    }
}

fn tagged_recipient(facts: &Facts) -> Option<Hit> {
    let tag = facts
        .envelope
        .recipients
        .iter()
        .find_map(|recipient| recipient.local.split_once('+'))
        .filter(|(plain, tag)| !plain.is_empty() && !tag.is_empty())?;
    Some(Hit::new().with(tag.1))
}

fn bounce_to_many(facts: &Facts) -> Option<Hit> {
    let number = facts.envelope.recipients.len();
    (facts.envelope.is_bounce() && number > 1).then(|| Hit::new().with(number.to_string()))
}
