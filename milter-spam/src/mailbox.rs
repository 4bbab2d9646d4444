//! Address lists of header fields (RFC 5322 section 3.4), read as tolerantly as mail readers show
//! them.
//!
//! Comments, quoted strings, groups and encoded words are understood, in one pass. What is no
//! address is kept as one that is not [`Mailbox::valid`]; a list longer than the limit is cut.

use crate::encoded_word;
use crate::limits::{Limits, Reached};

/// One address with its display name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name, decoded, without quotes; empty for none.
    pub name: String,
    /// What stands before the last `@`; the whole where there is none.
    pub local: String,
    /// What stands behind the last `@`, in lower case; empty where there is none.
    pub domain: String,
    /// Whether it is an `addr-spec`.
    pub valid: bool,
    /// Whether the address has bytes over 127.
    pub raw_8bit: bool,
}

impl Mailbox {
    /// From an address without display name or brackets.
    #[must_use]
    pub fn address_only(address: &[u8]) -> Self {
        let address = address.trim_ascii();
        let at = address.iter().rposition(|byte| *byte == b'@');
        let (local, domain) = match at {
            Some(at) => (
                address.get(..at).unwrap_or_default(),
                address.get(at + 1..).unwrap_or_default(),
            ),
            None => (address, &[][..]),
        };
        Self {
            name: String::new(),
            local: String::from_utf8_lossy(local).into_owned(),
            domain: String::from_utf8_lossy(domain).to_lowercase(),
            valid: is_local_part(local) && is_domain(domain),
            raw_8bit: !address.is_ascii(),
        }
    }

    /// Local part and domain with an `@` between.
    #[must_use]
    pub fn address(&self) -> String {
        if self.domain.is_empty() {
            return self.local.clone();
        }
        format!("{}@{}", self.local, self.domain)
    }

    /// Whether both are the same address, ASCII case aside.
    #[must_use]
    pub fn same_address(&self, other: &Self) -> bool {
        self.domain == other.domain && self.local.eq_ignore_ascii_case(&other.local)
    }
}

/// What an address field holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressList {
    /// The addresses in order, those of groups included.
    pub mailboxes: Vec<Mailbox>,
    /// Names of groups (`undisclosed-recipients:;`).
    pub groups: Vec<String>,
}

/// What has been read of the address at hand.
#[derive(Default)]
struct Pieces {
    phrase: Vec<u8>,
    angle: Option<Vec<u8>>,
    comment: Vec<u8>,
}

/// Where the reader stands.
#[derive(PartialEq, Eq)]
enum In {
    Phrase,
    Quotes,
    Angle,
    Comment(usize),
}

/// Reads the value of a field such as From or To.
#[must_use]
pub fn parse(value: &[u8], limits: &Limits, reached: &mut Reached) -> AddressList {
    let mut list = AddressList::default();
    let mut pieces = Pieces::default();
    let mut state = In::Phrase;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        if list.mailboxes.len() >= limits.addresses || list.groups.len() >= limits.addresses {
            reached.note("addresses");
            return list;
        }
        state = match (state, byte) {
            (In::Quotes, b'"') => In::Phrase,
            (In::Quotes, b'\\') => {
                pieces.phrase.extend(bytes.next());
                In::Quotes
            }
            (In::Comment(depth), _) => in_comment(depth, byte, &mut pieces.comment),
            (In::Angle, b'>') => In::Phrase,
            (In::Phrase, b'"') => In::Quotes,
            (In::Phrase, b'(') => In::Comment(0),
            (In::Phrase, b'<') => {
                pieces.angle = Some(Vec::new());
                In::Angle
            }
            (In::Phrase, b',' | b';') => {
                list.mailboxes.extend(std::mem::take(&mut pieces).finish());
                In::Phrase
            }
            (In::Phrase, b':') if pieces.angle.is_none() => {
                let name = encoded_word::decode(&std::mem::take(&mut pieces).phrase);
                list.groups.push(name.text.trim().to_owned());
                In::Phrase
            }
            (In::Angle, _) => {
                pieces.angle.get_or_insert_default().push(byte);
                In::Angle
            }
            (state @ (In::Quotes | In::Phrase), _) => {
                pieces.phrase.push(byte);
                state
            }
        };
    }
    list.mailboxes.extend(pieces.finish());
    list
}

/// A byte of a comment with `depth` further ones around it.
fn in_comment(depth: usize, byte: u8, comment: &mut Vec<u8>) -> In {
    match (byte, depth) {
        (b'(', _) => In::Comment(depth + 1),
        (b')', 0) => In::Phrase,
        (b')', _) => In::Comment(depth - 1),
        _ => {
            comment.push(byte);
            In::Comment(depth)
        }
    }
}

impl Pieces {
    /// The address that was read; none where there was nothing but white space.
    fn finish(self) -> Option<Mailbox> {
        let phrase = self.phrase.trim_ascii();
        let (address, name) = match &self.angle {
            Some(angle) => (&angle[..], phrase),
            None => (phrase, &self.comment[..]),
        };
        if address.trim_ascii().is_empty() && name.is_empty() && self.angle.is_none() {
            return None;
        }
        let name = encoded_word::decode(name).text.trim().to_owned();
        Some(Mailbox {
            name,
            ..Mailbox::address_only(address)
        })
    }
}

/// Whether this is a dot-atom or a quoted string (RFC 5321 section 4.1.2), UTF-8 allowed (RFC
/// 6531).
fn is_local_part(local: &[u8]) -> bool {
    if let [b'"', .., b'"'] = local {
        return local.len() > 2;
    }
    let atext = |byte: &u8| !byte.is_ascii_control() && !b" ()<>[]:;@\\,\"".contains(byte);
    !local.is_empty() && local.len() <= 256 && local.iter().all(atext)
}

/// Whether this is a domain name or an address literal.
pub(crate) fn is_domain(domain: &[u8]) -> bool {
    if let [b'[', literal @ .., b']'] = domain {
        return !literal.is_empty();
    }
    let letters = |label: &[u8]| {
        label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | 128..))
    };
    domain.len() <= 253
        && domain
            .split(|byte| *byte == b'.')
            .all(|label| !label.is_empty() && label.len() <= 63 && letters(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(value: &str) -> AddressList {
        parse(
            value.as_bytes(),
            &Limits::default(),
            &mut Reached::default(),
        )
    }

    fn check(value: &str, expected: &[(&str, &str, bool)]) {
        let list = list(value);
        let got: Vec<(&str, String, bool)> = list
            .mailboxes
            .iter()
            .map(|mailbox| (&mailbox.name[..], mailbox.address(), mailbox.valid))
            .collect();
        let expected: Vec<(&str, String, bool)> = expected
            .iter()
            .map(|(name, address, valid)| (*name, (*address).to_owned(), *valid))
            .collect();
        assert_eq!(got, expected, "{value}");
    }

    #[test]
    fn reads_mailboxes() {
        check("a@B.example", &[("", "a@b.example", true)]);
        check("<a@b.example>", &[("", "a@b.example", true)]);
        check("Ann Lee <a@b>", &[("Ann Lee", "a@b", true)]);
        check(
            r#""Lee, Ann \"x\"" <a@b>"#,
            &[("Lee, Ann \"x\"", "a@b", true)],
        );
        check("=?utf-8?q?Ann=C3=A9?= <a@b>", &[("Anné", "a@b", true)]);
        check("a@b (Ann (really) Lee)", &[("Ann really Lee", "a@b", true)]);
        check("a@b,, c@d", &[("", "a@b", true), ("", "c@d", true)]);
        check("nonsense", &[("", "nonsense", false)]);
        check("Ann <>", &[("Ann", "", false)]);
        check("a b@c d", &[("", "a b@c d", false)]);
        check("a@[192.0.2.1]", &[("", "a@[192.0.2.1]", true)]);
        check("a@b..c", &[("", "a@b..c", false)]);
        check("", &[]);
    }

    #[test]
    fn reads_groups() {
        let found = list("Friends: a@b, C <c@d>; undisclosed-recipients:;");
        assert_eq!(found.groups, ["Friends", "undisclosed-recipients"]);
        assert_eq!(found.mailboxes.len(), 2);
    }

    #[test]
    fn stops_at_the_limit() {
        let mut reached = Reached::default();
        let limits = Limits::default();
        let many = "a@b,".repeat(limits.addresses * 2);
        let found = parse(many.as_bytes(), &limits, &mut reached);
        assert_eq!(found.mailboxes.len(), limits.addresses);
        assert_eq!(reached.names(), ["addresses"]);
    }
}
