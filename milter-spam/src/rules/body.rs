//! Checks on the text of a message, and on its size.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::links::Origin;
use crate::score::Action;
use crate::script;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::body(
        "GTUBE",
        "Test pattern for unsolicited bulk mail",
        Group::Other,
        0.0,
        gtube,
    ),
    Rule::body(
        "COMPLETELY_EMPTY",
        "Message has neither header nor body",
        Group::Other,
        15.0,
        completely_empty,
    ),
    Rule::body(
        "EMPTY_BODY",
        "Message shows nothing and has no attachment",
        Group::Body,
        0.5,
        empty_body,
    ),
    Rule::body(
        "R_PARTS_DIFFER",
        "Text and HTML of a message say different things",
        Group::Body,
        1.0,
        parts_differ,
    ),
    Rule::body(
        "R_MIXED_CHARSET",
        "Words that mix Latin letters with look-alikes",
        Group::Headers,
        5.0,
        mixed_charset,
    ),
    Rule::body(
        "INTRODUCTION",
        "Sender introduces themselves",
        Group::Scams,
        2.0,
        introduction,
    ),
    Rule::body(
        "LEAKED_PASSWORD_SCAM",
        "A password, a wallet and the address of one",
        Group::Scams,
        7.0,
        leaked_password,
    ),
    Rule::body(
        "HFILTER_URL_ONLY",
        "Nothing but links",
        Group::Hfilter,
        2.2,
        links_only,
    ),
    Rule::body(
        "HFILTER_URL_ONELINE",
        "One line, and nothing but a link",
        Group::Hfilter,
        2.5,
        one_line_link,
    ),
];

/// The GTUBE of SpamAssassin begins with `X`; rspamd has others for the milder actions.
fn gtube(facts: &Facts) -> Option<Hit> {
    const PATTERN: &str = "JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
    const ACTIONS: [(char, Action); 4] = [
        ('X', Action::Reject),
        ('Y', Action::AddHeader),
        ('Z', Action::RewriteSubject),
        ('A', Action::NoAction),
    ];
    let found = facts.texts().flat_map(|text| {
        text.match_indices(PATTERN)
            .filter_map(|(at, _)| text.get(..at)?.chars().next_back())
    });
    let actions = found.filter_map(|first| ACTIONS.iter().find(|(known, _)| *known == first));
    let (_, action) = actions.max_by_key(|(_, action)| *action)?;
    Some(Hit::new().at_least(*action).with(action.name()))
}

fn completely_empty(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.headers.fields().is_empty() && facts.body_bytes == 0)
}

fn empty_body(facts: &Facts) -> Option<Hit> {
    let shows_nothing = facts.texts().all(|text| text.trim().is_empty());
    let carries_nothing = facts
        .parts
        .iter()
        .all(|part| part.is_multipart() || part.text().is_some());
    let pictures = facts.pages.iter().any(|page| !page.html.images.is_empty());
    Hit::when(shows_nothing && carries_nothing && !pictures && !facts.headers.fields().is_empty())
}

/// Words that are compared of each text.
const WORDS_MAX: usize = 10_000;

/// The different words of a text, without punctuation and case. Addresses of links are no words:
/// HTML does not show them.
fn words(text: &str) -> HashSet<String> {
    text.split_whitespace()
        .filter(|word| !word.contains("://"))
        .flat_map(|word| word.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| word.len() > 2)
        .take(WORDS_MAX)
        .map(str::to_lowercase)
        .collect()
}

/// How many of the words of either text the other has not. Full weight where nothing is in common.
fn parts_differ(facts: &Facts) -> Option<Hit> {
    let alternative = facts
        .parts
        .iter()
        .position(|part| part.content_type.is("multipart", "alternative"))?;
    let child = |subtype: &str| {
        facts.parts.iter().position(|part| {
            part.parent == Some(alternative) && part.content_type.is("text", subtype)
        })
    };
    let plain = facts.parts.get(child("plain")?)?.text()?;
    let html = child("html")?;
    let page = facts.pages.iter().find(|page| page.part == html)?;
    let (plain, html) = (words(&plain.text), words(&page.html.text));
    // A plain part that just says that there is HTML has a handful of words.
    if plain.is_empty() || html.is_empty() {
        return None;
    }
    let common = plain.intersection(&html).count();
    let all = plain.len() + html.len() - common;
    let differ = 1.0 - common as f64 / all as f64;
    let sure = if all > 30 {
        (differ - 0.5) * 2.0
    } else {
        differ - 0.5
    };
    (differ >= 0.5).then(|| {
        Hit::new()
            .times(sure)
            .with(format!("{:.1}%", differ * 100.0))
    })
}

/// Full weight where a tenth of the words or more are mixed.
fn mixed_charset(facts: &Facts) -> Option<Hit> {
    let (all, mixed) = facts
        .texts()
        .map(script::mixed_words)
        .fold((0, 0), |(all, mixed), (a, m)| (all + a, mixed + m));
    let rate = mixed as f64 / all.max(1) as f64;
    (mixed > 1).then(|| {
        Hit::new()
            .times((rate * 10.0).min(1.0))
            .with(mixed.to_string())
    })
}

fn introduction(facts: &Facts) -> Option<Hit> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let titles = "mr|mrs|ms|miss|master|sir|prof(?:essor)?|d(?:octo)?r|rev(?:erend)?";
        Regex::new(&format!(
            r"(?i)\b(?:my\s+name\s+is\b|(?:i\s+am|this\s+is)\s+(?:{titles})(?:\.|\b))"
        ))
        .ok()
    });
    let pattern = PATTERN.as_ref()?;
    Hit::when(facts.texts().any(|text| pattern.is_match(text)))
}

fn leaked_password(facts: &Facts) -> Option<Hit> {
    static PASSWORD: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i)\bpass\s*words?\b").ok());
    let password = PASSWORD.as_ref()?;
    let has = |what: &dyn Fn(&str) -> bool| facts.texts().any(what);
    let subject = facts.subject.as_ref().map_or("", |subject| &subject.text);
    let names_password = password.is_match(subject) || has(&|text| password.is_match(text));
    let names_wallet = has(&|text| text.to_lowercase().contains("wallet"));
    let address = has(&|text| {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .any(is_wallet)
    });
    Hit::when(names_password && names_wallet && address)
}

/// Whether a word has the form of a Bitcoin address, of the old kind or the new.
fn is_wallet(word: &str) -> bool {
    let old = (26..=35).contains(&word.len())
        && word.starts_with(['1', '3'])
        && !word.contains(['0', 'O', 'I', 'l'])
        && word.bytes().any(|byte| byte.is_ascii_uppercase())
        && word.bytes().any(|byte| byte.is_ascii_lowercase());
    let new = word.starts_with("bc1") && (42..=62).contains(&word.len());
    old || new
}

/// What is shown: characters in all, and characters of them that are links.
fn shown_and_links(facts: &Facts) -> (usize, usize) {
    let pages: Vec<_> = facts.shown_pages().collect();
    if pages.is_empty() {
        let all = facts.texts().map(|text| text.trim().len()).sum();
        let links = facts
            .links
            .iter()
            .filter(|link| link.origin == Origin::Text);
        return (all, links.map(|link| link.raw.len()).sum());
    }
    let all = pages.iter().map(|page| page.html.text.trim().len()).sum();
    let anchors = pages.iter().flat_map(|page| &page.html.anchors);
    (all, anchors.map(|anchor| anchor.text.trim().len()).sum())
}

/// Grows to the full weight where all of the text is links; four fifths are no sign.
fn links_only(facts: &Facts) -> Option<Hit> {
    let (all, links) = shown_and_links(facts);
    let rate = links as f64 / all.max(1) as f64;
    (all > 0 && rate > 0.8).then(|| {
        let factor = ((rate - 0.8) * 5.0).min(1.0);
        Hit::new().times(factor).with(format!("{factor:.2}"))
    })
}

fn one_line_link(facts: &Facts) -> Option<Hit> {
    let (all, links) = shown_and_links(facts);
    let lines = facts
        .texts()
        .flat_map(str::lines)
        .filter(|line| !line.trim().is_empty());
    let one = lines.take(2).count() == 1;
    Hit::when(one && links * 5 > all * 4)
}

#[cfg(test)]
mod tests {
    use super::is_wallet;

    #[test]
    fn knows_wallets() {
        assert!(is_wallet("1BoatSLRHtKNngkdXEeobR76b53LETtpyT"));
        assert!(is_wallet("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"));
        assert!(!is_wallet("1234567890123456789012345678"));
        assert!(!is_wallet("wallet"));
    }
}
