//! The author's address in a From field (RFC 5322 §3.4), as far as it takes to find the domain.
//!
//! Only the first mailbox is read. Comments, quoted strings, display names, groups and obsolete
//! routes are understood; display names are not decoded. A field without a usable address gives
//! `None`.

use super::domain::Domain;

/// A mailbox: `local@domain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Before the at sign, as written, quotes included.
    pub local: Vec<u8>,
    /// After it.
    pub domain: Domain,
}

impl Mailbox {
    /// The first mailbox in the value of a From field.
    #[must_use]
    pub fn first(value: &[u8]) -> Option<Self> {
        Self::parse(&first_address(value)?)
    }

    /// An address without angle brackets, comments or white space.
    #[must_use]
    pub fn parse(address: &[u8]) -> Option<Self> {
        let at = address.iter().rposition(|&byte| byte == b'@')?;
        let (local, domain) = (&address[..at], &address[at + 1..]);
        if local.is_empty() {
            return None;
        }
        Some(Self {
            local: local.to_vec(),
            domain: Domain::parse(domain).ok()?,
        })
    }
}

/// The text of the first address: what stands in angle brackets, or else everything up to the first
/// comma.
fn first_address(value: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut bracketed = false;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => read_quoted(&mut bytes, &mut text)?,
            b'(' => skip_comment(&mut bytes)?,
            b'<' if !bracketed => {
                bracketed = true;
                text.clear();
            }
            b'>' => break,
            // An obsolete route, `<@a,@b:user@c>`, or the name of a group.
            b':' => text.clear(),
            b',' | b';' if !bracketed && text.contains(&b'@') => break,
            b',' if !bracketed => text.clear(),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => text.push(byte),
        }
    }
    Some(text).filter(|text| !text.is_empty())
}

/// Copies a quoted string whose first quote is read already, quotes and escapes as they are; `None`
/// if it never ends.
fn read_quoted(bytes: &mut impl Iterator<Item = u8>, text: &mut Vec<u8>) -> Option<()> {
    text.push(b'"');
    while let Some(byte) = bytes.next() {
        text.push(byte);
        match byte {
            b'"' => return Some(()),
            b'\\' => text.extend(bytes.next()),
            _ => {}
        }
    }
    None
}

/// Goes past a comment whose parenthesis is read already; `None` if it never ends.
fn skip_comment(bytes: &mut impl Iterator<Item = u8>) -> Option<()> {
    let mut depth = 1usize;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(()),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mailbox_is_found() {
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            (" joe@example.org", Some(("joe", "example.org"))),
            (" Joe <joe@Example.ORG>", Some(("joe", "example.org"))),
            (
                " \"Joe, the <x@evil.example>\" <joe@example.org>",
                Some(("joe", "example.org")),
            ),
            (" \"a@b\"@example.org", Some(("\"a@b\"", "example.org"))),
            (
                " joe@example.org (x@evil.example)",
                Some(("joe", "example.org")),
            ),
            (
                " (x\\)y@evil.example) joe @ example.org",
                Some(("joe", "example.org")),
            ),
            (" a@example.org, b@example.com", Some(("a", "example.org"))),
            (
                " A <a@example.org>, B <b@example.com>",
                Some(("a", "example.org")),
            ),
            (" Doe, Joe <joe@example.org>", Some(("joe", "example.org"))),
            (
                " <@r1.example,@r2.example:joe@example.org>",
                Some(("joe", "example.org")),
            ),
            (
                " friends: a@example.org, b@example.com;",
                Some(("a", "example.org")),
            ),
            (" Joe\r\n\t<joe@example.org>", Some(("joe", "example.org"))),
            (
                " x@evil.example <joe@example.org>",
                Some(("joe", "example.org")),
            ),
            (" joe@[192.0.2.1]", None),
            (" undisclosed-recipients:;", None),
            (" @example.org", None),
            (" joe", None),
            (" <>", None),
            ("", None),
            (" \"unclosed@example.org", None),
            (" (unclosed@example.org", None),
        ];
        for (value, expected) in cases {
            let expected = expected.map(|(local, domain)| Mailbox {
                local: local.into(),
                domain: Domain::parse(domain).unwrap(),
            });
            assert_eq!(Mailbox::first(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn nothing_makes_the_reader_panic() {
        bolero::check!()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|input: &[u8]| drop(Mailbox::first(input)));
    }
}
