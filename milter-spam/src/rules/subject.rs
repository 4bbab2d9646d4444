//! Checks on the subject.

use super::{Group, Hit, Rule};
use crate::encoded_word::Text;
use crate::facts::Facts;
use crate::links::Origin;
use crate::script;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::header(
        "MISSING_SUBJECT",
        "Subject header is missing",
        Group::Headers,
        2.0,
        missing,
    ),
    Rule::header(
        "EMPTY_SUBJECT",
        "Subject header is empty",
        Group::Headers,
        1.0,
        empty,
    ),
    Rule::header(
        "SUBJ_ALL_CAPS",
        "Subject is all capital letters",
        Group::Subject,
        3.0,
        all_caps,
    ),
    Rule::header(
        "LONG_SUBJ",
        "Subject is very long",
        Group::Subject,
        3.0,
        long,
    ),
    Rule::header(
        "SUBJECT_ENDS_QUESTION",
        "Subject ends with a question mark",
        Group::Headers,
        1.0,
        ends_question,
    ),
    Rule::header(
        "SUBJECT_HAS_QUESTION",
        "Subject contains a question mark",
        Group::Headers,
        0.0,
        has_question,
    ),
    Rule::header(
        "SUBJECT_ENDS_EXCLAIM",
        "Subject ends with an exclamation mark",
        Group::Headers,
        0.0,
        ends_exclaim,
    ),
    Rule::header(
        "SUBJECT_HAS_EXCLAIM",
        "Subject contains an exclamation mark",
        Group::Headers,
        0.0,
        has_exclaim,
    ),
    Rule::header(
        "SUBJECT_HAS_CURRENCY",
        "Subject contains a currency sign",
        Group::Headers,
        1.0,
        currency,
    ),
    Rule::header(
        "SUBJECT_ENDS_SPACES",
        "Subject ends with space characters",
        Group::Headers,
        0.5,
        ends_spaces,
    ),
    Rule::header(
        "SUBJECT_NEEDS_ENCODING",
        "Subject needs encoding",
        Group::Headers,
        1.0,
        needs_encoding,
    ),
    Rule::header(
        "SUBJ_EXCESS_BASE64",
        "Subject is unnecessarily encoded in base64",
        Group::ExcessBase64,
        1.5,
        excess_base64,
    ),
    Rule::header(
        "SUBJ_EXCESS_QP",
        "Subject is unnecessarily encoded in quoted-printable",
        Group::ExcessQp,
        1.2,
        excess_qp,
    ),
    Rule::header(
        "URL_IN_SUBJECT",
        "Subject contains a URL",
        Group::Subject,
        4.0,
        url,
    ),
    Rule::header(
        "SUBJECT_HIDDEN_CHARS",
        "Subject has invisible or direction-changing characters between letters",
        Group::Subject,
        2.0,
        hidden_characters,
    ),
    Rule::header(
        "SUBJECT_MIXED_SCRIPTS",
        "Subject has words that mix Latin letters with look-alikes",
        Group::Subject,
        2.0,
        mixed_scripts,
    ),
    Rule::header(
        "FAKE_REPLY",
        "Subject says that it is a reply, but nothing else does",
        Group::Headers,
        1.0,
        fake_reply,
    ),
];

fn subject(facts: &Facts) -> Option<&str> {
    facts.subject.as_ref().map(|subject| subject.text.trim())
}

/// The subject without the marks of replies and forwards.
fn topic(facts: &Facts) -> Option<&str> {
    let mut topic = subject(facts)?;
    loop {
        let mark = ["re:", "fwd:", "fw:", "aw:", "antwort:", "sv:"]
            .into_iter()
            .find(|mark| has_prefix(topic, mark));
        match mark {
            Some(mark) => topic = topic.get(mark.len()..)?.trim_start(),
            None => return Some(topic),
        }
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn missing(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.subject.is_none())
}

fn empty(facts: &Facts) -> Option<Hit> {
    Hit::when(subject(facts)?.is_empty())
}

/// Grows to the full weight at forty characters.
fn all_caps(facts: &Facts) -> Option<Hit> {
    let topic = topic(facts)?;
    let letters = topic.chars().filter(|c| c.is_alphabetic()).count();
    let lower = topic.chars().any(char::is_lowercase);
    let upper = topic.chars().filter(|c| c.is_uppercase()).count();
    let length = topic.chars().count();
    // Scripts without case are not shouting, and a word or two of an abbreviation neither.
    (!lower && letters > 0 && upper == letters && length > 2).then(|| {
        let factor = (length as f64 / 40.0).min(1.0);
        Hit::new().times(factor).with(length.to_string())
    })
}

fn long(facts: &Facts) -> Option<Hit> {
    /// Characters from which on a subject is long.
    const LONG: usize = 200;
    let length = topic(facts)?.chars().count();
    (length > LONG).then(|| {
        let factor = (length as f64 / 400.0).min(1.0);
        Hit::new().times(factor).with(length.to_string())
    })
}

fn ends_question(facts: &Facts) -> Option<Hit> {
    Hit::when(subject(facts)?.ends_with('?'))
}

fn has_question(facts: &Facts) -> Option<Hit> {
    let subject = subject(facts)?;
    Hit::when(subject.contains('?') && !subject.ends_with('?'))
}

fn ends_exclaim(facts: &Facts) -> Option<Hit> {
    Hit::when(subject(facts)?.ends_with('!'))
}

fn has_exclaim(facts: &Facts) -> Option<Hit> {
    let subject = subject(facts)?;
    Hit::when(subject.contains('!') && !subject.ends_with('!'))
}

fn currency(facts: &Facts) -> Option<Hit> {
    Hit::when(subject(facts)?.contains(['$', '€', '£', '¥', '₽', '₿', '₹']))
}

/// White space at the end that can be seen only encoded: the MTA trims the rest.
fn ends_spaces(facts: &Facts) -> Option<Hit> {
    let text = &facts.subject.as_ref()?.text;
    Hit::when(!text.trim().is_empty() && text.ends_with(char::is_whitespace))
}

fn needs_encoding(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.subject.as_ref()?.raw_8bit)
}

fn needless(facts: &Facts) -> Option<&Text> {
    facts.subject.as_ref().filter(|subject| subject.needless())
}

fn excess_base64(facts: &Facts) -> Option<Hit> {
    Hit::when(needless(facts)?.base64 > 0)
}

fn excess_qp(facts: &Facts) -> Option<Hit> {
    Hit::when(needless(facts)?.quoted > 0)
}

/// A quarter of the weight, and the whole where there is nothing but the address; a bare `www.`
/// name a tenth.
fn url(facts: &Facts) -> Option<Hit> {
    let link = facts
        .links
        .iter()
        .find(|link| link.origin == Origin::Subject)?;
    let subject = subject(facts)?;
    let factor = match () {
        () if subject == link.raw => 1.0,
        () if !subject.contains("://") => 0.1,
        () => 0.25,
    };
    Some(Hit::new().times(factor).with(&link.host))
}

fn hidden_characters(facts: &Facts) -> Option<Hit> {
    let text = &facts.subject.as_ref()?.text;
    if let Some(turn) = text.chars().find(|c| script::is_bidi_override(*c)) {
        return Some(Hit::new().with(format!("U+{:04X}", u32::from(turn))));
    }
    // Joiners have their place in emoji and in scripts that join letters; between Latin letters
    // they hide words.
    let mut before = ' ';
    let mut within = None;
    for c in text.chars() {
        if script::is_zero_width(c) {
            within = before.is_ascii_alphanumeric().then_some(c).or(within);
            continue;
        }
        if let Some(hidden) = within.take().filter(|_| c.is_ascii_alphanumeric()) {
            return Some(Hit::new().with(format!("U+{:04X}", u32::from(hidden))));
        }
        before = c;
    }
    None
}

fn mixed_scripts(facts: &Facts) -> Option<Hit> {
    let (_, mixed) = script::mixed_words(&facts.subject.as_ref()?.text);
    (mixed > 0).then(|| Hit::new().with(mixed.to_string()))
}

fn fake_reply(facts: &Facts) -> Option<Hit> {
    let refers = facts.headers.has("References") || facts.headers.has("In-Reply-To");
    Hit::when(has_prefix(subject(facts)?, "re:") && !refers)
}
