//! Checks on links: addresses that hide where they lead, and links that show another place than
//! they lead to.

use std::net::IpAddr;

use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::links::{Link, Origin, registered_domain};
use crate::script;

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::body(
        "PHISHING",
        "Link shows another domain than it leads to",
        Group::Phishing,
        4.0,
        phishing,
    ),
    Rule::body(
        "HTTP_TO_HTTPS",
        "Link shows https: and leads to http:",
        Group::Html,
        0.5,
        http_shown_as_https,
    ),
    Rule::body(
        "HTTP_TO_IP",
        "Anchor leads to an IP address",
        Group::Html,
        1.0,
        anchor_to_address,
    ),
    Rule::body(
        "R_SUSPICIOUS_URL",
        "Host of a link is written so that it is not recognized",
        Group::Url,
        5.0,
        obscured,
    ),
    Rule::body(
        "URL_USER_PASSWORD",
        "Link has a user name",
        Group::Url,
        2.0,
        |facts| user(facts, 1, 128),
    ),
    Rule::body(
        "URL_USER_LONG",
        "Link has a long user name",
        Group::Url,
        3.0,
        |facts| user(facts, 129, 256),
    ),
    Rule::body(
        "URL_USER_VERY_LONG",
        "Link has a very long user name",
        Group::Url,
        5.0,
        |facts| user(facts, 257, usize::MAX),
    ),
    Rule::body(
        "URL_NUMERIC_IP",
        "Host of a link is an IP address",
        Group::Url,
        1.5,
        |facts| numeric(facts, false),
    ),
    Rule::body(
        "URL_NUMERIC_PRIVATE_IP",
        "Host of a link is a private IP address",
        Group::Url,
        0.5,
        |facts| numeric(facts, true),
    ),
    Rule::body(
        "URL_NO_TLD",
        "Host of a link is below no known suffix",
        Group::Url,
        2.0,
        no_suffix,
    ),
    Rule::body(
        "URL_SUSPICIOUS_TLD",
        "Host of a link is below a suffix that is free for all",
        Group::Url,
        3.0,
        suspicious_suffix,
    ),
    Rule::body(
        "URL_HOMOGRAPH_ATTACK",
        "Host of a link mixes Latin letters with look-alikes",
        Group::Url,
        5.0,
        homograph,
    ),
    Rule::body(
        "URL_RTL_OVERRIDE",
        "Link has characters that turn the direction of writing",
        Group::Url,
        6.0,
        |facts| with_character(facts, script::is_bidi_override),
    ),
    Rule::body(
        "URL_ZERO_WIDTH_SPACES",
        "Link has invisible characters",
        Group::Url,
        7.0,
        |facts| with_character(facts, script::is_zero_width),
    ),
    Rule::body(
        "URL_MULTIPLE_AT_SIGNS",
        "Link has several at signs before its path",
        Group::Url,
        3.0,
        at_signs,
    ),
    Rule::body(
        "URL_BACKSLASH_PATH",
        "Link has backslashes for slashes",
        Group::Url,
        2.0,
        backslash,
    ),
    Rule::body(
        "URL_EXCESSIVE_DOTS",
        "Host of a link has very many labels",
        Group::Url,
        2.0,
        dots,
    ),
    Rule::body(
        "URL_VERY_LONG",
        "Link is very long",
        Group::Url,
        1.5,
        very_long,
    ),
    Rule::body(
        "HAS_ONION_URI",
        "Link leads to a Tor hidden service",
        Group::Url,
        0.0,
        onion,
    ),
    Rule::body(
        "MANY_URLS",
        "Message leads to very many different domains",
        Group::Url,
        0.5,
        many_domains,
    ),
];

/// A hit that names the host of the first link for which `odd` holds.
fn first(facts: &Facts, odd: impl Fn(&Link) -> bool) -> Option<Hit> {
    facts
        .links
        .iter()
        .find(|link| odd(link))
        .map(|link| Hit::new().with(&link.host))
}

/// The host that the text of a link shows, where all that it shows is an address.
fn shown_host(link: &Link) -> Option<String> {
    let shown = link.shown.trim();
    if shown.is_empty() || shown.contains(char::is_whitespace) || shown.contains('@') {
        return None;
    }
    if shown.contains("://") {
        let shown = Link::new(shown, Origin::Html, "")?;
        return Some(shown.ascii_host().to_owned());
    }
    let host = shown.split(['/', '?', ':']).next()?;
    let named = host.contains('.') && !host.ends_with('.');
    (named
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)))
    .then(|| host.to_ascii_lowercase())
}

/// Both domains, where a link shows another one than it leads to. The same name below another
/// suffix is none, nor is a redirection that names the shown one.
fn lured(link: &Link) -> Option<(String, String)> {
    let shown = registered_domain(&shown_host(link)?)?;
    let real = match link.domain() {
        Some(domain) => domain,
        None => link.address()?.to_string(),
    };
    let name = |domain: &str| domain.split('.').next().map(str::to_owned);
    let query = link
        .url
        .as_ref()
        .and_then(|url| url.query())
        .unwrap_or_default();
    let names_it = query.to_ascii_lowercase().contains(&shown);
    (shown != real && name(&shown) != name(&real) && !names_it).then_some((shown, real))
}

/// Full weight for domains that look alike or have nothing in common, as rspamd grades it; less in
/// between.
fn phishing(facts: &Facts) -> Option<Hit> {
    let (shown, real) = facts
        .links
        .iter()
        .filter(|link| link.origin == Origin::Html)
        .find_map(lured)?;
    let distance = 2.0 * distance(&shown, &real) as f64 / (shown.len() + real.len()) as f64;
    let factor = if distance > 0.3 && distance <= 1.0 {
        (3.0 * (1.1 - distance)).tanh()
    } else {
        1.0
    };
    Some(Hit::new().times(factor).with(format!("{shown}->{real}")))
}

/// Levenshtein's, of two domain names (at most 253 bytes each).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.bytes().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        if let Some(start) = row.first_mut() {
            *start = left;
        }
        for (b, cell) in other.bytes().zip(row.iter_mut().skip(1)) {
            let cost = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn scheme(link: &Link) -> &str {
    link.url.as_ref().map_or("", |url| url.scheme())
}

fn http_shown_as_https(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        let shown = link.shown.get(..8).unwrap_or_default();
        shown.eq_ignore_ascii_case("https://") && scheme(link) == "http"
    })
}

fn anchor_to_address(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        link.origin == Origin::Html && link.address().is_some()
    })
}

/// Numbers that browsers take for addresses (`0x7f.1`, `3221225985`), and escapes in the host.
fn obscured(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        let authority = link.raw_authority();
        let host = authority.rsplit('@').next().unwrap_or(authority);
        let escaped = host.contains('%');
        let plain = match link.address() {
            Some(IpAddr::V4(address)) => host.split(':').next() == Some(&address.to_string()[..]),
            Some(IpAddr::V6(_)) | None => true,
        };
        escaped || !plain
    })
}

fn user(facts: &Facts, least: usize, most: usize) -> Option<Hit> {
    first(facts, |link| {
        let user = link.url.as_ref().map_or("", |url| url.username());
        (least..=most).contains(&user.len())
    })
}

fn numeric(facts: &Facts, private: bool) -> Option<Hit> {
    first(facts, |link| {
        link.address()
            .is_some_and(|address| is_private(address) == private)
    })
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn is_onion(link: &Link) -> bool {
    link.ascii_host().ends_with(".onion")
}

fn no_suffix(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        let host = link.ascii_host().trim_end_matches('.');
        let known = psl::suffix(host.as_bytes()).is_some_and(|suffix| suffix.is_known());
        !host.is_empty() && link.address().is_none() && !known && !is_onion(link)
    })
}

/// Suffixes whose names cost nothing, or next to nothing, for long.
const FREE: [&str; 14] = [
    "bid", "cam", "cf", "click", "cyou", "ga", "gq", "icu", "loan", "ml", "rest", "sbs", "tk",
    "top",
];

fn suspicious_suffix(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        let host = link.ascii_host().trim_end_matches('.');
        host.rsplit_once('.')
            .is_some_and(|(_, suffix)| FREE.contains(&suffix))
    })
}

fn homograph(facts: &Facts) -> Option<Hit> {
    first(facts, |link| link.host.split('.').any(script::is_mixed))
}

/// In the part that decides where a link leads; in a query such characters are just text.
fn with_character(facts: &Facts, odd: fn(char) -> bool) -> Option<Hit> {
    first(facts, |link| link.raw_authority().chars().any(odd))
}

fn at_signs(facts: &Facts) -> Option<Hit> {
    first(facts, |link| link.raw_authority().matches('@').count() > 1)
}

fn backslash(facts: &Facts) -> Option<Hit> {
    first(facts, |link| {
        let path = link.raw.split(['?', '#']).next().unwrap_or_default();
        path.contains('\\')
    })
}

fn dots(facts: &Facts) -> Option<Hit> {
    const LABELS_MAX: usize = 7;
    first(facts, |link| {
        let labels = link.ascii_host().trim_end_matches('.').split('.').count();
        labels > LABELS_MAX && link.address().is_none()
    })
}

fn very_long(facts: &Facts) -> Option<Hit> {
    const LONG: usize = 2048;
    first(facts, |link| link.raw.len() > LONG)
}

fn onion(facts: &Facts) -> Option<Hit> {
    first(facts, is_onion)
}

fn many_domains(facts: &Facts) -> Option<Hit> {
    const MANY: usize = 50;
    let domains: std::collections::HashSet<String> =
        facts.links.iter().filter_map(Link::domain).collect();
    (domains.len() > MANY).then(|| Hit::new().with(domains.len().to_string()))
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn measures_distance() {
        for (one, other, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("paypal.com", "paypa1.com", 1),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }
}
