//! Checks on header fields that have no file of their own: presence, number, form, date, mail
//! programs, lists.

use super::{Group, Hit, Rule};
use crate::date::Date;
use crate::facts::Facts;
use crate::limits::{Limits, Reached};
use crate::mailbox;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "MISSING_DATE",
        "Date header is missing",
        Group::Headers,
        1.0,
        missing_date,
    ),
    Rule::header(
        "INVALID_DATE",
        "Date header is malformed",
        Group::Headers,
        1.5,
        invalid_date,
    ),
    Rule::header(
        "DATE_IN_FUTURE",
        "Message date is more than two hours in the future",
        Group::Headers,
        4.0,
        date_in_future,
    ),
    Rule::header(
        "DATE_IN_PAST",
        "Message date is more than a day in the past",
        Group::Headers,
        1.0,
        date_in_past,
    ),
    Rule::header(
        "MULTIPLE_UNIQUE_HEADERS",
        "Headers that may occur once are repeated",
        Group::Headers,
        7.0,
        repeated,
    ),
    Rule::header(
        "BROKEN_HEADERS",
        "Header structure is broken",
        Group::Headers,
        10.0,
        broken,
    ),
    Rule::header(
        "MV_CASE",
        "MIME-Version is spelled Mime-Version",
        Group::Headers,
        0.5,
        mime_version_case,
    ),
    Rule::header(
        "XM_CASE",
        "X-Mailer is spelled X-mailer",
        Group::Headers,
        0.5,
        mailer_case,
    ),
    Rule::header(
        "X_PHP_EVAL",
        "Message was sent by evaluated PHP code",
        Group::Headers,
        4.0,
        php_eval,
    ),
    Rule::header(
        "HEADER_RCONFIRM_MISMATCH",
        "Read confirmation goes to another address than From",
        Group::Headers,
        2.0,
        confirmation_elsewhere,
    ),
    Rule::header(
        "HEADER_FORGED_MDN",
        "Disposition notification goes to another address than the sender",
        Group::Headers,
        2.0,
        notification_elsewhere,
    ),
    Rule::header(
        "MISSING_MIMEOLE",
        "X-MSMail-Priority without the X-MimeOLE of the program that writes it",
        Group::Headers,
        2.0,
        missing_mimeole,
    ),
    Rule::header(
        "STOX_REPLY_TYPE",
        "Content-Type has reply-type=original",
        Group::Headers,
        1.0,
        reply_type,
    ),
    Rule::header(
        "HAS_X_PRIO_ONE",
        "Message has the highest priority",
        Group::Headers,
        0.0,
        highest_priority,
    ),
    Rule::header(
        "PRECEDENCE_BULK",
        "Message says that it is bulk mail",
        Group::Headers,
        0.0,
        bulk,
    ),
    Rule::header(
        "HAS_LIST_UNSUB",
        "Message has a List-Unsubscribe header",
        Group::Headers,
        -0.01,
        list_unsubscribe,
    ),
    Rule::header(
        "MAILLIST",
        "Message comes from a mailing list",
        Group::Headers,
        -0.2,
        mailing_list,
    ),
    Rule::header(
        "BOUNCE",
        "Message is a delivery status notification",
        Group::Headers,
        -0.1,
        bounce,
    ),
    Rule::header(
        "SUSPICIOUS_BOUNDARY",
        "Boundary of a known mass mailer",
        Group::Mua,
        5.0,
        known_boundary,
    ),
    Rule::header(
        "SCAN_LIMIT_REACHED",
        "Message is larger or more intricate than what is looked at",
        Group::Other,
        0.0,
        limit_reached,
    ),
];

fn text(facts: &Facts, name: &str) -> Option<String> {
    let value = facts.headers.first(name)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn missing_date(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.date == Date::Missing)
}

fn invalid_date(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.date == Date::Invalid)
}

/// How far the Date is behind the clock, in seconds.
fn age(facts: &Facts) -> Option<i64> {
    match facts.date {
        Date::At(date) => Some(facts.now.saturating_sub(date)),
        Date::Missing | Date::Invalid => None,
    }
}

fn date_in_future(facts: &Facts) -> Option<Hit> {
    let ahead = age(facts)?.saturating_neg();
    (ahead > 2 * 3600).then(|| Hit::new().with((ahead / 3600).to_string()))
}

fn date_in_past(facts: &Facts) -> Option<Hit> {
    let age = age(facts)?;
    (age > 24 * 3600).then(|| Hit::new().with((age / 3600).to_string()))
}

/// As sure as the most telling of the repeated fields.
fn repeated(facts: &Facts) -> Option<Hit> {
    /// RFC 5322 section 3.6 and RFC 2045 section 5: at most once.
    const ONCE: [(&str, f64); 13] = [
        ("Content-Type", 1.0),
        ("Content-Transfer-Encoding", 1.0),
        ("Date", 0.1),
        ("From", 1.0),
        ("Sender", 1.0),
        ("Reply-To", 1.0),
        ("To", 0.2),
        ("Cc", 0.1),
        ("Bcc", 0.1),
        ("Message-ID", 0.7),
        ("In-Reply-To", 0.7),
        ("References", 0.3),
        ("Subject", 0.7),
    ];
    let found = ONCE
        .iter()
        .filter(|(name, _)| facts.headers.all(name).nth(1).is_some());
    found.fold(None, |hit: Option<Hit>, (name, factor)| {
        let hit = hit.unwrap_or_else(|| Hit::new().times(0.0));
        let factor = hit.factor.max(*factor);
        Some(hit.times(factor).with(*name))
    })
}

fn broken(facts: &Facts) -> Option<Hit> {
    let lines = facts.headers.broken_lines();
    (lines > 0).then(|| Hit::new().with(lines.to_string()))
}

/// Whether a field has exactly this spelling.
fn spelled(facts: &Facts, name: &str) -> bool {
    facts
        .headers
        .fields()
        .iter()
        .any(|field| field.name == name.as_bytes())
}

fn mime_version_case(facts: &Facts) -> Option<Hit> {
    Hit::when(spelled(facts, "Mime-Version"))
}

fn mailer_case(facts: &Facts) -> Option<Hit> {
    Hit::when(spelled(facts, "X-mailer"))
}

fn php_eval(facts: &Facts) -> Option<Hit> {
    let script = text(facts, "X-PHP-Originating-Script")?;
    Hit::when(script.contains("eval()'d code"))
}

/// The addresses of a field that is not read for other checks.
fn addresses(facts: &Facts, name: &str) -> Option<mailbox::AddressList> {
    let value = facts.headers.first(name)?;
    Some(mailbox::parse(
        value,
        &Limits::default(),
        &mut Reached::default(),
    ))
}

fn confirmation_elsewhere(facts: &Facts) -> Option<Hit> {
    let list = addresses(facts, "X-Confirm-Reading-To")?;
    let reader = list.mailboxes.first()?;
    Hit::when(!reader.same_address(facts.author()?))
}

fn notification_elsewhere(facts: &Facts) -> Option<Hit> {
    let list = addresses(facts, "Disposition-Notification-To")?;
    let sender = facts.envelope.sender.as_ref()?;
    let goes_back = list
        .mailboxes
        .iter()
        .any(|reader| reader.same_address(sender));
    Hit::when(!list.mailboxes.is_empty() && !goes_back)
}

fn missing_mimeole(facts: &Facts) -> Option<Hit> {
    let mailer = text(facts, "X-Mailer").unwrap_or_default();
    let writes_none = mailer.contains("SquirrelMail")
        || ["Microsoft Outlook 1", "Microsoft Office Outlook 1"]
            .iter()
            .any(|known| mailer.starts_with(known));
    let has = |name| facts.headers.has(name);
    Hit::when(has("X-MSMail-Priority") && !has("X-MimeOLE") && !writes_none)
}

fn reply_type(facts: &Facts) -> Option<Hit> {
    let kind = &facts.parts.first()?.content_type;
    let original = kind.parameter("reply-type") == Some("original");
    Hit::when(original && kind.is("text", "plain"))
}

fn highest_priority(facts: &Facts) -> Option<Hit> {
    Hit::when(text(facts, "X-Priority")?.trim_start().starts_with('1'))
}

fn bulk(facts: &Facts) -> Option<Hit> {
    Hit::when(
        text(facts, "Precedence")?
            .trim()
            .eq_ignore_ascii_case("bulk"),
    )
}

fn list_unsubscribe(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.headers.has("List-Unsubscribe"))
}

/// Signs that only the software of a discussion list leaves together; newsletters have just one of
/// them.
fn mailing_list(facts: &Facts) -> Option<Hit> {
    let has = |name| facts.headers.has(name);
    let listed = has("List-Id") && has("List-Post");
    let software = [
        ("mailman", has("X-Mailman-Version") && has("X-BeenThere")),
        ("ezmlm", has("Mailing-List") && has("Delivered-To")),
        ("majordomo", has("X-Mailing-List") && bulk(facts).is_some()),
        ("generic", listed),
    ];
    software
        .iter()
        .find(|(_, found)| *found)
        .map(|(name, _)| Hit::new().with(*name))
}

/// RFC 3464: a report of the mail system to the sender of a message, from nobody.
fn bounce(facts: &Facts) -> Option<Hit> {
    let kind = &facts.parts.first()?.content_type;
    let report =
        kind.is("multipart", "report") && kind.parameter("report-type") == Some("delivery-status");
    let by_nobody = facts.envelope.sender.is_none() || facts.envelope.is_bounce();
    Hit::when(report && by_nobody)
}

/// Boundaries that look like those of Outlook Express, with a time stamp that never changes.
fn known_boundary(facts: &Facts) -> Option<Hit> {
    let boundary = facts.parts.first()?.content_type.parameter("boundary")?;
    let stamp = boundary.strip_prefix("----=_NextPart_000_")?;
    let stamp = stamp.split('_').nth(1)?.split('.').next()?;
    let frozen = ["00EBFFA4", "0102FFA4", "32C6FFA4", "3302FFA4", "01C6527E"];
    Hit::when(frozen.contains(&stamp))
}

fn limit_reached(facts: &Facts) -> Option<Hit> {
    let names = facts.reached.names();
    let hit = names.iter().fold(Hit::new(), |hit, name| hit.with(*name));
    (!names.is_empty()).then_some(hit)
}
