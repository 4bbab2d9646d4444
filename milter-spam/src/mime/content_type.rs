//! Content-Type and Content-Disposition with their parameters (RFC 2045 section 5, RFC 2183, RFC
//! 2231).
//!
//! Reads what senders write: missing quotes, stray semicolons, encoded words where RFC 2231 should
//! be. What has no type is [`ContentType::broken`] and counts as `text/plain`, as RFC 2045 section
//! 5.2 has it.

use std::collections::BTreeMap;

use crate::charset;
use crate::encoded_word;
use crate::transfer::hex;

/// A type with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType {
    /// `text` of `text/html`, in lower case.
    pub kind: String,
    /// `html` of `text/html`, in lower case.
    pub subtype: String,
    /// Names in lower case, values decoded.
    pub parameters: BTreeMap<String, String>,
    /// Whether the field is no valid type.
    pub broken: bool,
}

impl Default for ContentType {
    fn default() -> Self {
        Self {
            kind: "text".to_owned(),
            subtype: "plain".to_owned(),
            parameters: BTreeMap::new(),
            broken: false,
        }
    }
}

impl ContentType {
    /// Reads the value of a Content-Type field.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let (word, parameters) = word_and_parameters(value);
        let (kind, subtype) = word.split_once('/').unwrap_or((&word, ""));
        let (kind, subtype) = (kind.trim(), subtype.trim());
        if !is_token(kind) || !is_token(subtype) {
            return Self {
                parameters,
                broken: true,
                ..Self::default()
            };
        }
        Self {
            kind: kind.to_owned(),
            subtype: subtype.to_owned(),
            parameters,
            broken: false,
        }
    }

    /// Whether it is `kind/subtype`.
    #[must_use]
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }

    /// The value of a parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// `type/subtype`, for display.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.kind, self.subtype)
    }
}

/// The value of a Content-Disposition field: the first word and the parameters.
#[must_use]
pub fn disposition(value: &[u8]) -> (String, BTreeMap<String, String>) {
    word_and_parameters(value)
}

/// Whether `text` is a token (RFC 2045 section 5.1).
fn is_token(text: &str) -> bool {
    let special = |byte: u8| b"()<>@,;:\\\"/[]?=".contains(&byte);
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| matches!(byte, 33..=126) && !special(byte))
}

/// The lower-cased first word of a structured field, and its parameters.
fn word_and_parameters(value: &[u8]) -> (String, BTreeMap<String, String>) {
    let mut pieces = split(value);
    let word = pieces
        .next()
        .map(|piece| String::from_utf8_lossy(&piece).to_lowercase());
    let word = word.unwrap_or_default().trim().to_owned();
    (word, join(pieces.take(PARAMETERS_MAX)))
}

/// Parameters that are read at most.
const PARAMETERS_MAX: usize = 64;

/// The pieces between semicolons, comments left out; quoted strings keep their quotes.
fn split(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = value.iter().copied();
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let (mut piece, mut quoted, mut depth) = (Vec::new(), false, 0_usize);
        loop {
            let Some(byte) = rest.next() else {
                done = true;
                return Some(piece);
            };
            match byte {
                b'\\' if quoted => {
                    piece.push(byte);
                    piece.extend(rest.next());
                }
                b'"' if depth == 0 => {
                    quoted = !quoted;
                    piece.push(byte);
                }
                b'(' if !quoted => depth += 1,
                b')' if !quoted && depth > 0 => depth -= 1,
                b';' if !quoted && depth == 0 => return Some(piece),
                _ if depth == 0 => piece.push(byte),
                _ => {}
            }
        }
    })
}

/// One parameter's value, put together from its RFC 2231 pieces.
#[derive(Default)]
struct Joined {
    pieces: BTreeMap<u16, (Vec<u8>, bool)>,
}

/// Reads `name=value` pieces; of several with the same name the first counts.
fn join(pieces: impl Iterator<Item = Vec<u8>>) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, Joined> = BTreeMap::new();
    for piece in pieces {
        let Some(equals) = piece.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = piece.split_at(equals);
        let name = String::from_utf8_lossy(name).trim().to_lowercase();
        let value = unquote(value.get(1..).unwrap_or_default().trim_ascii());
        let (name, extended) = match name.strip_suffix('*') {
            Some(name) => (name, true),
            None => (&name[..], false),
        };
        let (name, section) = match name.split_once('*') {
            Some((name, section)) => (name, section.parse().unwrap_or(0)),
            None => (name, 0),
        };
        let entry = joined.entry(name.to_owned()).or_default();
        entry.pieces.entry(section).or_insert((value, extended));
    }
    joined
        .into_iter()
        .map(|(name, value)| (name, value.text()))
        .collect()
}

impl Joined {
    fn text(self) -> String {
        let extended = self.pieces.values().any(|(_, extended)| *extended);
        let mut charset = Vec::new();
        let mut bytes = Vec::new();
        for (section, (value, extended)) in self.pieces {
            let mut value = &value[..];
            if section == 0 && extended {
                let mut quotes = value.splitn(3, |byte| *byte == b'\'');
                if let (Some(set), Some(_), Some(text)) =
                    (quotes.next(), quotes.next(), quotes.next())
                {
                    charset = set.to_vec();
                    value = text;
                }
            }
            if extended {
                percent_decode(value, &mut bytes);
            } else {
                bytes.extend_from_slice(value);
            }
        }
        if extended {
            return charset::decode(&bytes, &charset);
        }
        encoded_word::decode(&bytes).text
    }
}

fn unquote(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"") else {
        return value.to_vec();
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}

/// Undoes `%XX`; what is no such escape stays.
fn percent_decode(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let [first, after @ ..] = rest {
        rest = match after {
            [high, low, tail @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    tail
                }
                _ => {
                    out.push(*first);
                    after
                }
            },
            _ => {
                out.push(*first);
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, name: &str, broken: bool, parameters: &[(&str, &str)]) {
        let parsed = ContentType::parse(value.as_bytes());
        assert_eq!(
            (parsed.name(), parsed.broken),
            (name.to_owned(), broken),
            "{value}"
        );
        for (name, expected) in parameters {
            assert_eq!(parsed.parameter(name), Some(*expected), "{value}");
        }
        assert_eq!(parsed.parameters.len(), parameters.len(), "{value}");
    }

    #[test]
    fn reads_types() {
        check("Text/HTML", "text/html", false, &[]);
        check(
            "text/plain; charset=UTF-8;",
            "text/plain",
            false,
            &[("charset", "UTF-8")],
        );
        check(
            "multipart/mixed (comment; x=y); boundary=\"a; \\\"b\"",
            "multipart/mixed",
            false,
            &[("boundary", "a; \"b")],
        );
        check("text", "text/plain", true, &[]);
        check("", "text/plain", true, &[]);
        check("text/; name=x", "text/plain", true, &[("name", "x")]);
        check("a b/c", "text/plain", true, &[]);
    }

    #[test]
    fn reads_names() {
        for value in [
            "x/y; name=\"=?utf-8?q?r=C3=A9sum=C3=A9.pdf?=\"",
            "x/y; name*=utf-8''r%C3%A9sum%C3%A9.pdf",
            "x/y; name*1=m%C3%A9.pdf; name*0*=utf-8'en'r%C3%A9su; name*1*=m%C3%A9.pdf",
            "x/y; name*0=\"résu\"; name*1=mé.pdf",
        ] {
            let parsed = ContentType::parse(value.as_bytes());
            let name = parsed.parameter("name").unwrap_or_default();
            assert!(name.starts_with("résu"), "{value}: {name}");
        }
        let (word, parameters) = disposition(b"Attachment; filename=a.txt");
        assert_eq!(word, "attachment");
        assert_eq!(
            parameters.get("filename").map(String::as_str),
            Some("a.txt")
        );
    }

    #[test]
    fn many_parameters_are_cut() {
        let many = format!("a/b{}", "; x=y; z=1".repeat(10_000));
        assert_eq!(ContentType::parse(many.as_bytes()).parameters.len(), 2);
    }
}
