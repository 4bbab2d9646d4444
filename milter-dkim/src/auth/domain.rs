//! Domain names as mail authentication compares them: ASCII, lower case, A-labels.
//!
//! A [`Domain`] is valid by construction, so it can be put into a DNS question, a header field or a
//! log line as it is. U-labels (RFC 8616) are turned into A-labels on the way in. What may own a
//! name (public suffixes, organizational domains) is not decided here. A text that is no domain
//! name gives [`InvalidDomain`], and nothing else.

use std::fmt;

use thiserror::Error;

/// A domain name, or a selector: 1 to 253 bytes of letters, digits, hyphens, underscores and dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

/// The text is no domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidDomain {
    /// Nothing, an empty label, or two dots in a row.
    #[error("a label of the domain name is empty")]
    Empty,
    /// More than 253 bytes, or a label of more than 63.
    #[error("the domain name is too long")]
    TooLong,
    /// A character that no host name has, or a hyphen at the edge of a label.
    #[error("the domain name holds a character that it may not")]
    Character,
}

impl Domain {
    /// Bytes in a name at most, as text without the final dot (RFC 1035 §2.3.4).
    pub const LENGTH_MAX: usize = 253;
    /// Bytes in a label at most.
    pub const LABEL_MAX: usize = 63;

    /// Reads a name; one final dot is dropped, upper case is lowered, U-labels become A-labels.
    ///
    /// # Errors
    /// When it is no name that DNS could hold.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidDomain> {
        let bytes = text.as_ref();
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidDomain::Character)?;
        // Before any conversion, so that a long hostile text costs nothing: a U-label has at most
        // four bytes a letter.
        if bytes.len() > 4 * Self::LENGTH_MAX {
            return Err(InvalidDomain::TooLong);
        }
        let name = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| InvalidDomain::Character)?
        };
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.len() > Self::LENGTH_MAX {
            return Err(InvalidDomain::TooLong);
        }
        name.split('.').try_for_each(check_label)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text, without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of labels: 2 for `example.org`.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }

    /// Whether this is `other` or a name below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.0.strip_suffix(&other.0) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }

    /// The name one label up, `None` for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_once('.')?;
        Some(Self(rest.to_owned()))
    }

    /// `prefix.self`.
    ///
    /// # Errors
    /// When the result is too long.
    pub fn below(&self, prefix: &Self) -> Result<Self, InvalidDomain> {
        Self::parse(format!("{prefix}.{self}"))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A label: 1 to 63 letters, digits, hyphens inside, and underscores, which selectors in the wild
/// have.
fn check_label(label: &str) -> Result<(), InvalidDomain> {
    if label.is_empty() {
        return Err(InvalidDomain::Empty);
    }
    if label.len() > Domain::LABEL_MAX {
        return Err(InvalidDomain::TooLong);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !label.bytes().all(plain) || label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidDomain::Character);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_normalised() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}.org", ["a".repeat(63).as_str(); 4].join("."));
        let cases: &[(&[u8], Result<&str, InvalidDomain>)] = &[
            (b"Example.ORG", Ok("example.org")),
            (b"example.org.", Ok("example.org")),
            (
                b"s_1._domainkey.example.org",
                Ok("s_1._domainkey.example.org"),
            ),
            ("bücher.example".as_bytes(), Ok("xn--bcher-kva.example")),
            (b"", Err(InvalidDomain::Empty)),
            (b".", Err(InvalidDomain::Empty)),
            (b"a..b", Err(InvalidDomain::Empty)),
            (b".a", Err(InvalidDomain::Empty)),
            (b"-a.b", Err(InvalidDomain::Character)),
            (b"a b", Err(InvalidDomain::Character)),
            (b"a;b", Err(InvalidDomain::Character)),
            (b"a\r\nb", Err(InvalidDomain::Character)),
            (b"a\xffb", Err(InvalidDomain::Character)),
            (long_label.as_bytes(), Err(InvalidDomain::TooLong)),
            (long_name.as_bytes(), Err(InvalidDomain::TooLong)),
        ];
        for (text, expected) in cases {
            let got = Domain::parse(text);
            let got = got.as_ref().map(Domain::as_str).map_err(|error| *error);
            assert_eq!(got, *expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn being_within_respects_labels() {
        let cases = [
            ("example.org", "example.org", true),
            ("mail.example.org", "example.org", true),
            ("badexample.org", "example.org", false),
            ("example.org", "mail.example.org", false),
            ("org", "example.org", false),
        ];
        for (inner, outer, expected) in cases {
            let (a, b) = (Domain::parse(inner).unwrap(), Domain::parse(outer).unwrap());
            assert_eq!(a.is_within(&b), expected, "{inner} in {outer}");
        }
    }

    #[test]
    fn going_up_and_down() {
        let domain = Domain::parse("a.example.org").unwrap();
        assert_eq!(domain.labels(), 3);
        assert_eq!(domain.parent().unwrap().as_str(), "example.org");
        assert_eq!(Domain::parse("org").unwrap().parent(), None);
        let selector = Domain::parse("s1._domainkey").unwrap();
        assert_eq!(
            domain.below(&selector).unwrap().as_str(),
            "s1._domainkey.a.example.org"
        );
    }
}
