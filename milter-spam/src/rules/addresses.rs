//! Checks on who a message says it is from and for: From, To and Cc.

use super::{Group, Hit, Rule};
use crate::encoded_word;
use crate::facts::Facts;
use crate::mailbox::Mailbox;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "MISSING_FROM",
        "From header is missing or empty",
        Group::Headers,
        2.0,
        missing_from,
    ),
    Rule::header(
        "MULTIPLE_FROM",
        "From has several addresses",
        Group::Headers,
        9.0,
        multiple_from,
    ),
    Rule::header(
        "FROM_INVALID",
        "From address is not valid",
        Group::Headers,
        2.0,
        from_invalid,
    ),
    Rule::header(
        "FROM_NO_DN",
        "From has no display name",
        Group::Headers,
        0.0,
        from_no_name,
    ),
    Rule::header(
        "FROM_HAS_DN",
        "From has a display name",
        Group::Headers,
        0.0,
        from_has_name,
    ),
    Rule::header(
        "FROM_DN_EQ_ADDR",
        "Display name of From is the address",
        Group::Headers,
        1.0,
        from_name_is_address,
    ),
    Rule::header(
        "FROM_NAME_EXCESS_SPACE",
        "Display name of From has repeated spaces",
        Group::Headers,
        1.0,
        from_name_spaces,
    ),
    Rule::header(
        "FROM_NAME_HAS_TITLE",
        "Display name of From has a title (Mr, Mrs, Dr)",
        Group::Headers,
        1.0,
        from_name_title,
    ),
    Rule::header(
        "FROM_NEQ_DISPLAY_NAME",
        "Display name of From has another address than From",
        Group::Headers,
        4.0,
        name_is_other_address,
    ),
    Rule::header(
        "SPOOF_DISPLAY_NAME",
        "Display name of From has an address of the recipient's domain, From has not",
        Group::Headers,
        8.0,
        name_is_recipient_domain,
    ),
    Rule::header(
        "R_NO_SPACE_IN_FROM",
        "No space before the address in From",
        Group::Headers,
        1.0,
        from_no_space,
    ),
    Rule::header(
        "INVALID_FROM_8BIT",
        "From address has 8-bit characters",
        Group::Headers,
        6.0,
        from_8bit,
    ),
    Rule::header(
        "INVALID_RCPT_8BIT",
        "Recipient address has 8-bit characters",
        Group::Headers,
        6.0,
        recipient_8bit,
    ),
    Rule::header(
        "FROM_NEEDS_ENCODING",
        "From header needs encoding",
        Group::Headers,
        1.0,
        |facts| needs_encoding(facts, "From"),
    ),
    Rule::header(
        "TO_NEEDS_ENCODING",
        "To header needs encoding",
        Group::Headers,
        1.0,
        |facts| needs_encoding(facts, "To"),
    ),
    Rule::header(
        "FROM_EXCESS_BASE64",
        "From is unnecessarily encoded in base64",
        Group::ExcessBase64,
        1.5,
        |facts| excess(facts, "From", true),
    ),
    Rule::header(
        "FROM_EXCESS_QP",
        "From is unnecessarily encoded in quoted-printable",
        Group::ExcessQp,
        1.2,
        |facts| excess(facts, "From", false),
    ),
    Rule::header(
        "TO_EXCESS_BASE64",
        "To is unnecessarily encoded in base64",
        Group::ExcessBase64,
        1.5,
        |facts| excess(facts, "To", true),
    ),
    Rule::header(
        "TO_EXCESS_QP",
        "To is unnecessarily encoded in quoted-printable",
        Group::ExcessQp,
        1.2,
        |facts| excess(facts, "To", false),
    ),
    Rule::header(
        "REPLYTO_EXCESS_BASE64",
        "Reply-To is unnecessarily encoded in base64",
        Group::ExcessBase64,
        1.5,
        |facts| excess(facts, "Reply-To", true),
    ),
    Rule::header(
        "REPLYTO_EXCESS_QP",
        "Reply-To is unnecessarily encoded in quoted-printable",
        Group::ExcessQp,
        1.2,
        |facts| excess(facts, "Reply-To", false),
    ),
    Rule::header(
        "MISSING_TO",
        "To header is missing",
        Group::Headers,
        2.0,
        missing_to,
    ),
    Rule::header(
        "R_UNDISC_RCPT",
        "Recipients are undisclosed",
        Group::Headers,
        3.0,
        undisclosed,
    ),
    Rule::header(
        "TO_EQ_FROM",
        "The only recipient in To is the author",
        Group::Headers,
        0.0,
        to_is_from,
    ),
    Rule::header(
        "TO_DN_RECIPIENTS",
        "Display name of To is \"Recipients\"",
        Group::Headers,
        2.0,
        to_is_recipients,
    ),
    Rule::header(
        "SORTED_RECIPS",
        "Recipients are sorted",
        Group::Headers,
        3.5,
        sorted_recipients,
    ),
];

fn missing_from(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.headers.first("From").is_none_or(<[u8]>::is_empty))
}

fn multiple_from(facts: &Facts) -> Option<Hit> {
    let authors = &facts.from.mailboxes;
    let several = authors
        .iter()
        .filter(|author| author.valid)
        .nth(1)
        .is_some();
    several.then(|| {
        authors
            .iter()
            .fold(Hit::new(), |hit, author| hit.with(author.address()))
    })
}

fn from_invalid(facts: &Facts) -> Option<Hit> {
    Hit::when(!facts.author()?.valid)
}

/// The display name of From, where there is one.
fn name(facts: &Facts) -> Option<&str> {
    let author = facts.author()?;
    (!author.name.is_empty()).then_some(&author.name[..])
}

fn from_no_name(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.author()?.name.is_empty())
}

fn name_is_address(facts: &Facts) -> bool {
    match (name(facts), facts.author()) {
        (Some(name), Some(author)) => name.eq_ignore_ascii_case(&author.address()),
        _ => false,
    }
}

fn from_has_name(facts: &Facts) -> Option<Hit> {
    Hit::when(name(facts).is_some() && !name_is_address(facts))
}

fn from_name_is_address(facts: &Facts) -> Option<Hit> {
    Hit::when(name_is_address(facts))
}

fn from_name_spaces(facts: &Facts) -> Option<Hit> {
    Hit::when(name(facts)?.contains("  "))
}

/// The title that the display name begins with.
pub(super) fn title(facts: &Facts) -> Option<&'static str> {
    let name = name(facts)?.to_lowercase();
    ["mrs", "mr", "dr"].into_iter().find(|title| {
        name.strip_prefix(title)
            .is_some_and(|rest| rest.starts_with(['.', ' ']))
    })
}

fn from_name_title(facts: &Facts) -> Option<Hit> {
    title(facts).map(|title| Hit::new().with(title))
}

/// An address within the display name whose domain is not that of From.
fn other_address_in_name(facts: &Facts) -> Option<Mailbox> {
    let found = name(facts)?
        .split(|c: char| c.is_whitespace() || "<>()[]\"',;:".contains(c))
        .map(|word| Mailbox::address_only(word.as_bytes()))
        .find(|mailbox| mailbox.valid && mailbox.domain.contains('.'))?;
    (found.domain != facts.author()?.domain).then_some(found)
}

/// Whether a recipient, in the header or the envelope, is of this domain.
fn is_recipient_domain(facts: &Facts, domain: &str) -> bool {
    let named = facts.to.mailboxes.iter();
    named
        .chain(&facts.envelope.recipients)
        .any(|recipient| recipient.domain == domain)
}

fn name_is_other_address(facts: &Facts) -> Option<Hit> {
    let found = other_address_in_name(facts)?;
    (!is_recipient_domain(facts, &found.domain)).then(|| Hit::new().with(found.address()))
}

fn name_is_recipient_domain(facts: &Facts) -> Option<Hit> {
    let found = other_address_in_name(facts)?;
    is_recipient_domain(facts, &found.domain).then(|| Hit::new().with(found.address()))
}

fn from_no_space(facts: &Facts) -> Option<Hit> {
    let value = facts.headers.first("From")?;
    let angle = value.iter().position(|byte| *byte == b'<')?;
    let before = angle.checked_sub(1).and_then(|before| value.get(before))?;
    Hit::when(!before.is_ascii_whitespace() && facts.author()?.valid)
}

fn from_8bit(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.author()?.raw_8bit)
}

fn recipient_8bit(facts: &Facts) -> Option<Hit> {
    let mut recipients = facts.to.mailboxes.iter().chain(&facts.cc.mailboxes);
    Hit::when(recipients.any(|recipient| recipient.raw_8bit))
}

fn needs_encoding(facts: &Facts, field: &str) -> Option<Hit> {
    Hit::when(!facts.headers.first(field)?.is_ascii())
}

fn excess(facts: &Facts, field: &str, base64: bool) -> Option<Hit> {
    let text = encoded_word::decode(facts.headers.first(field)?);
    let words = if base64 { text.base64 } else { text.quoted };
    Hit::when(words > 0 && text.needless())
}

fn missing_to(facts: &Facts) -> Option<Hit> {
    Hit::when(!facts.headers.has("To"))
}

fn undisclosed(facts: &Facts) -> Option<Hit> {
    let mut groups = facts.to.groups.iter();
    Hit::when(groups.any(|group| {
        let group = group.to_lowercase().replace('-', " ");
        group.starts_with("undisclosed recipient")
    }))
}

fn to_is_from(facts: &Facts) -> Option<Hit> {
    let [only] = &facts.to.mailboxes[..] else {
        return None;
    };
    Hit::when(only.same_address(facts.author()?))
}

fn to_is_recipients(facts: &Facts) -> Option<Hit> {
    let mut names = facts.to.mailboxes.iter().map(|to| to.name.to_lowercase());
    Hit::when(names.any(|name| matches!(&name[..], "recipient" | "recipients")))
}

/// Seven or more in alphabetical order are no accident.
fn sorted_recipients(facts: &Facts) -> Option<Hit> {
    const MANY: usize = 7;
    let recipients: Vec<String> = facts.to.mailboxes.iter().map(Mailbox::address).collect();
    let sorted = recipients.is_sorted() && recipients.first() != recipients.last();
    Hit::when(recipients.len() >= MANY && sorted)
}
