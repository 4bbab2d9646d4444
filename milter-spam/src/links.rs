//! Links of a message: where they lead, and what was shown for them.
//!
//! Taken from anchors and forms of HTML parts, from plain text and from the subject. Only addresses
//! with a host are kept (`http`, `https`, `ftp`); nothing is fetched or resolved. Text is looked
//! through word by word, so that no input makes the search go back and forth.

use std::collections::HashSet;
use std::net::IpAddr;

use linkify::{LinkFinder, LinkKind};
use url::{Host, Url, quirks};

use crate::charset::cut;
use crate::limits::{Limits, Reached};

/// Where a link was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The `href` of an anchor, or the target of a form.
    Html,
    /// Written out in the text.
    Text,
    /// In the subject.
    Subject,
}

/// One address.
#[derive(Debug, Clone)]
pub struct Link {
    /// As written, at most [`RAW_MAX`] bytes of it.
    pub raw: String,
    /// The parsed address; none where it is malformed.
    pub url: Option<Url>,
    /// The host in lower case, internationalized names as Unicode; empty where there is none.
    pub host: String,
    /// Where it was found.
    pub origin: Origin,
    /// What is shown for it, of an anchor.
    pub shown: String,
}

/// Bytes of an address that are kept; more is no address that a browser takes.
pub const RAW_MAX: usize = 8 << 10;

impl Link {
    /// From an address as written; `None` where it is none of the web.
    #[must_use]
    pub fn new(raw: &str, origin: Origin, shown: &str) -> Option<Self> {
        let raw = cut(raw, RAW_MAX);
        let scheme = raw
            .split_once(':')
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        let is_web = matches!(scheme.as_deref(), Some("http" | "https" | "ftp"));
        if !is_web && !raw.starts_with("//") {
            return None;
        }
        let absolute = if is_web {
            raw.to_owned()
        } else {
            format!("http:{raw}")
        };
        let url = Url::parse(&absolute).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let link = Self {
            raw: raw.to_owned(),
            host: quirks::domain_to_unicode(host).to_lowercase(),
            url,
            origin,
            shown: shown.trim().to_owned(),
        };
        Some(link.with_literal_host())
    }

    /// Keeps the host of an address literal, which is no domain.
    fn with_literal_host(mut self) -> Self {
        if let Some(address) = self.address() {
            self.host = address.to_string();
        }
        self
    }

    /// The host's name as it goes over the wire, in ASCII.
    #[must_use]
    pub fn ascii_host(&self) -> &str {
        self.url
            .as_ref()
            .and_then(Url::host_str)
            .unwrap_or_default()
    }

    /// The host, where it is an address instead of a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.url.as_ref()?.host()? {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        }
    }

    /// What stands between the slashes and the path, as written: user, host, port.
    #[must_use]
    pub fn raw_authority(&self) -> &str {
        let rest = self.raw.split_once("//").map_or("", |(_, rest)| rest);
        rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest)
    }

    /// The registered domain of the host.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        registered_domain(self.ascii_host())
    }
}

/// The registered domain of a host (public suffix list): `example.co.uk` of `www.example.co.uk`.
/// None for a suffix itself, for names below no known suffix, and for addresses.
#[must_use]
pub fn registered_domain(host: &str) -> Option<String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let domain = psl::domain(host.as_bytes())?;
    domain
        .suffix()
        .is_known()
        .then(|| String::from_utf8_lossy(domain.as_bytes()).into_owned())
}

/// The links of a message, each address once for each origin.
#[derive(Debug, Default)]
pub struct Links {
    links: Vec<Link>,
    seen: HashSet<(Origin, String)>,
}

impl Links {
    /// Adds one; gives back whether there is room for more.
    pub fn add(&mut self, link: Link, limits: &Limits, reached: &mut Reached) -> bool {
        if self.links.len() >= limits.links {
            reached.note("links");
            return false;
        }
        // The same address under another text may be a lure.
        let key = (link.origin, format!("{} {}", link.raw, link.shown));
        if self.seen.insert(key) {
            self.links.push(link);
        }
        true
    }

    /// Adds all that are written out in `text`.
    pub fn add_text(&mut self, text: &str, origin: Origin, limits: &Limits, reached: &mut Reached) {
        /// Bytes of one word that are looked at; what follows is taken for another word.
        const WORD_MAX: usize = 2 << 10;
        let mut finder = LinkFinder::new();
        finder.kinds(&[LinkKind::Url]);
        for word in text.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"')) {
            if !word.contains("://") && !starts_with_www(word) {
                continue;
            }
            let mut rest = word;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cut(rest, WORD_MAX).len());
                rest = after;
                if !self.add_word(&finder, piece, origin, limits, reached) {
                    return;
                }
            }
        }
    }

    fn add_word(
        &mut self,
        finder: &LinkFinder,
        word: &str,
        origin: Origin,
        limits: &Limits,
        reached: &mut Reached,
    ) -> bool {
        if starts_with_www(word) {
            let address = word.trim_end_matches(['.', ',', ')', ';', ':', '!', '?']);
            let link = Link::new(&format!("http://{address}"), origin, "");
            return link.is_none_or(|link| self.add(link, limits, reached));
        }
        finder.links(word).all(|found| {
            Link::new(found.as_str(), origin, "").is_none_or(|link| self.add(link, limits, reached))
        })
    }

    /// All of them, in the order in which they were found.
    #[must_use]
    pub fn into_vec(self) -> Vec<Link> {
        self.links
    }
}

fn starts_with_www(word: &str) -> bool {
    word.get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("www."))
        && word.get(4..).is_some_and(|rest| rest.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Vec<String> {
        let mut links = Links::default();
        links.add_text(
            text,
            Origin::Text,
            &Limits::default(),
            &mut Reached::default(),
        );
        links.into_vec().into_iter().map(|link| link.host).collect()
    }

    #[test]
    fn finds_addresses_in_text() {
        assert_eq!(
            hosts(
                "see http://A.example/x?y, (https://b.example) <ftp://c.example/> WWW.d.example."
            ),
            ["a.example", "b.example", "c.example", "www.d.example"]
        );
        assert_eq!(hosts("http://a.example http://a.example"), ["a.example"]);
        assert_eq!(hosts("www. www.x mailto:a@b a.b:c //x"), [""; 0]);
    }

    #[test]
    fn reads_hosts() {
        for (raw, host, domain) in [
            (
                "http://www.Example.co.uk/",
                "www.example.co.uk",
                Some("example.co.uk"),
            ),
            (
                "http://xn--mnchen-3ya.de",
                "münchen.de",
                Some("xn--mnchen-3ya.de"),
            ),
            ("http://192.0.2.1/", "192.0.2.1", None),
            ("http://3221225985/", "192.0.2.1", None),
            ("//x.example.org/", "x.example.org", Some("example.org")),
            ("http://host.internal/", "host.internal", None),
            ("http://", "", None),
        ] {
            let link = Link::new(raw, Origin::Html, "");
            let link = link.unwrap_or_else(|| panic!("{raw}"));
            assert_eq!(
                (&link.host[..], link.domain().as_deref()),
                (host, domain),
                "{raw}"
            );
        }
        assert!(Link::new("mailto:a@b", Origin::Html, "").is_none());
        assert!(Link::new("x.html", Origin::Html, "").is_none());
    }

    #[test]
    fn number_has_a_limit() {
        let limits = Limits::default();
        let mut reached = Reached::default();
        let mut links = Links::default();
        let many: String = (0..5000).map(|n| format!("http://h{n}.example ")).collect();
        links.add_text(&many, Origin::Text, &limits, &mut reached);
        assert_eq!(links.into_vec().len(), limits.links);
        assert_eq!(reached.names(), ["links"]);
    }
}
