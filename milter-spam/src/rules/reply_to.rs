//! Checks on where answers go: Reply-To against From, and free mail services.

use super::addresses::title;
use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::mailbox::Mailbox;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "HAS_REPLYTO",
        "Message has a Reply-To header",
        Group::Headers,
        0.0,
        has_reply_to,
    ),
    Rule::header(
        "REPLYTO_UNPARSEABLE",
        "Reply-To has no address",
        Group::Headers,
        1.0,
        reply_to_unparseable,
    ),
    Rule::header(
        "REPLYTO_ADDR_EQ_FROM",
        "Reply-To address is the From address",
        Group::Headers,
        0.0,
        reply_to_is_from,
    ),
    Rule::header(
        "REPLYTO_DOM_EQ_FROM_DOM",
        "Reply-To domain is the From domain",
        Group::Headers,
        0.0,
        reply_to_domain_same,
    ),
    Rule::header(
        "REPLYTO_DOM_NEQ_FROM_DOM",
        "Reply-To domain is not the From domain",
        Group::Headers,
        0.0,
        reply_to_domain_other,
    ),
    Rule::header(
        "REPLYTO_EMAIL_HAS_TITLE",
        "From and Reply-To both have a title",
        Group::Headers,
        2.0,
        reply_to_title,
    ),
    Rule::header(
        "SPOOF_REPLYTO",
        "From is of the recipient's domain, Reply-To is not",
        Group::Headers,
        6.0,
        reply_to_spoofs,
    ),
    Rule::header(
        "FREEMAIL_FROM",
        "From is a free mail address",
        Group::Headers,
        0.0,
        freemail_from,
    ),
    Rule::header(
        "FREEMAIL_REPLYTO",
        "Reply-To is a free mail address",
        Group::Headers,
        0.0,
        freemail_reply_to,
    ),
    Rule::header(
        "FREEMAIL_REPLYTO_NEQ_FROM_DOM",
        "From and Reply-To are of different free mail services",
        Group::Headers,
        3.0,
        freemail_elsewhere,
    ),
];

fn has_reply_to(facts: &Facts) -> Option<Hit> {
    let reply = reply_to(facts)?;
    Some(Hit::new().with(reply.address()))
}

/// The first address of Reply-To, where it is one.
fn reply_to(facts: &Facts) -> Option<&Mailbox> {
    facts.reply_to.mailboxes.first().filter(|reply| reply.valid)
}

fn reply_to_unparseable(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.headers.has("Reply-To") && reply_to(facts).is_none())
}

fn reply_to_is_from(facts: &Facts) -> Option<Hit> {
    Hit::when(reply_to(facts)?.same_address(facts.author()?))
}

fn reply_to_domain_same(facts: &Facts) -> Option<Hit> {
    let (reply, author) = (reply_to(facts)?, facts.author()?);
    Hit::when(reply.domain == author.domain && !reply.same_address(author))
}

fn reply_to_domain_other(facts: &Facts) -> Option<Hit> {
    Hit::when(reply_to(facts)?.domain != facts.author()?.domain)
}

fn reply_to_title(facts: &Facts) -> Option<Hit> {
    let title = title(facts)?;
    Hit::when(reply_to(facts)?.local.to_lowercase().starts_with(title))
}

fn reply_to_spoofs(facts: &Facts) -> Option<Hit> {
    let (reply, author) = (reply_to(facts)?, facts.author()?);
    let recipients = &facts.envelope.recipients;
    // A form on a web page writes to its owner in the owner's name; a list writes to all.
    let to_itself = facts
        .to
        .mailboxes
        .first()
        .is_some_and(|to| to.same_address(author))
        || recipients
            .iter()
            .any(|recipient| recipient.same_address(author));
    let inside = recipients
        .iter()
        .any(|recipient| recipient.domain == author.domain);
    (inside && !to_itself && reply.domain != author.domain)
        .then(|| Hit::new().with(&author.domain).with(&reply.domain))
}

/// Services where everybody gets an address.
const FREEMAIL: [&str; 32] = [
    "aol.com",
    "free.fr",
    "gmail.com",
    "gmx.com",
    "gmx.de",
    "gmx.net",
    "googlemail.com",
    "hotmail.co.uk",
    "hotmail.com",
    "hotmail.fr",
    "icloud.com",
    "inbox.ru",
    "laposte.net",
    "libero.it",
    "live.com",
    "mail.com",
    "mail.ru",
    "me.com",
    "msn.com",
    "orange.fr",
    "outlook.com",
    "proton.me",
    "protonmail.com",
    "qq.com",
    "rediffmail.com",
    "t-online.de",
    "web.de",
    "yahoo.co.uk",
    "yahoo.com",
    "yahoo.fr",
    "yandex.ru",
    "ymail.com",
];

fn is_freemail(mailbox: &Mailbox) -> bool {
    FREEMAIL.contains(&&mailbox.domain[..])
}

fn freemail_from(facts: &Facts) -> Option<Hit> {
    let author = facts.author()?;
    is_freemail(author).then(|| Hit::new().with(&author.domain))
}

fn freemail_reply_to(facts: &Facts) -> Option<Hit> {
    let reply = reply_to(facts)?;
    is_freemail(reply).then(|| Hit::new().with(&reply.domain))
}

fn freemail_elsewhere(facts: &Facts) -> Option<Hit> {
    let (reply, author) = (reply_to(facts)?, facts.author()?);
    let both = is_freemail(reply) && is_freemail(author);
    Hit::when(both && reply.domain != author.domain)
}
