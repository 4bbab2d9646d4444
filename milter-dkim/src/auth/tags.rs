//! Tag=value lists (RFC 6376 §3.2), the form of DKIM signatures, key records and DMARC policies.
//!
//! Reads names and raw values, strips folding white space at the edges, refuses duplicates. What a
//! tag means, and which are needed, is the caller's. UTF-8 in values is let through (RFC 8616);
//! control characters are not.

use std::ops::Range;

use thiserror::Error;

/// A list of tags, borrowed from its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagList<'a> {
    tags: Vec<Tag<'a>>,
}

/// One `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The name; case counts.
    pub name: &'a str,
    /// The value without white space at its edges; folds inside are kept.
    pub value: &'a [u8],
    /// Where the value stands in the text, white space around it included.
    pub span: Range<usize>,
}

/// Why a text is no tag list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TagError {
    /// There is no tag in it.
    #[error("the tag list is empty")]
    Empty,
    /// Nothing between two semicolons, no equals sign, or a name that is none.
    #[error("tag {0} is not of the form name=value")]
    Form(usize),
    /// A control character or a byte that is not UTF-8 in a value.
    #[error("the value of {0}= holds a character that it may not")]
    Value(String),
    /// The same name twice (RFC 6376 §3.2 refuses the whole list).
    #[error("{0}= occurs twice")]
    Duplicate(String),
    /// More tags than anybody needs.
    #[error("more than {max} tags", max = TagList::TAGS_MAX)]
    TooMany,
}

impl<'a> TagList<'a> {
    /// Tags in a list at most; keeps the search for duplicates cheap.
    pub const TAGS_MAX: usize = 64;

    /// Reads a whole list; one final semicolon is allowed.
    ///
    /// # Errors
    /// The first departure from RFC 6376 §3.2.
    pub fn parse(text: &'a [u8]) -> Result<Self, TagError> {
        let mut tags: Vec<Tag<'a>> = Vec::new();
        let mut start = 0;
        for (number, piece) in text.split(|&byte| byte == b';').enumerate() {
            let end = start + piece.len();
            if end == text.len() && trim(piece).is_empty() && number > 0 {
                break;
            }
            if tags.len() == Self::TAGS_MAX {
                return Err(TagError::TooMany);
            }
            let tag = parse_tag(piece, start, number + 1)?;
            if tags.iter().any(|other| other.name == tag.name) {
                return Err(TagError::Duplicate(tag.name.to_owned()));
            }
            tags.push(tag);
            start = end + 1;
        }
        if tags.is_empty() {
            return Err(TagError::Empty);
        }
        Ok(Self { tags })
    }

    /// The tag of that name.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&Tag<'a>> {
        self.tags.iter().find(|tag| tag.name == name)
    }

    /// The value of the tag of that name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.tag(name).map(|tag| tag.value)
    }

    /// The name of the first tag.
    #[must_use]
    pub fn first(&self) -> Option<&'a str> {
        self.tags.first().map(|tag| tag.name)
    }
}

/// One tag-spec, which starts at `offset` in the text and is the `number`-th.
fn parse_tag(piece: &[u8], offset: usize, number: usize) -> Result<Tag<'_>, TagError> {
    if number == 1 && trim(piece).is_empty() {
        return Err(TagError::Empty);
    }
    let form = || TagError::Form(number);
    let equals = piece
        .iter()
        .position(|&byte| byte == b'=')
        .ok_or_else(form)?;
    let (name, value) = (trim(&piece[..equals]), &piece[equals + 1..]);
    let legal = name.first().is_some_and(u8::is_ascii_alphabetic)
        && name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let name = std::str::from_utf8(name).map_err(|_| form())?;
    if !legal {
        return Err(form());
    }
    let control = |byte: &u8| byte.is_ascii_control() && !is_space(*byte);
    if value.iter().any(control) || std::str::from_utf8(value).is_err() {
        return Err(TagError::Value(name.to_owned()));
    }
    Ok(Tag {
        name,
        value: trim(value),
        span: offset + equals + 1..offset + piece.len(),
    })
}

/// Folding white space. MTAs hand folds over as LF alone, files as CR LF; both are taken.
#[must_use]
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without white space at both ends.
#[must_use]
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// Without any white space, as base64 values and DKIM-quoted-printable are read.
#[must_use]
pub fn squeeze(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&byte| !is_space(byte))
        .collect()
}

/// The parts of a colon-separated value, each trimmed.
pub fn colon_list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b':').map(trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let duplicate = |name: &str| Err(TagError::Duplicate(name.to_owned()));
        let value = |name: &str| Err(TagError::Value(name.to_owned()));
        type Pairs = &'static [(&'static str, &'static [u8])];
        let cases: &[(&[u8], Result<Pairs, TagError>)] = &[
            (b"a=b", Ok(&[("a", b"b")])),
            (b" a = b ; c=d ;", Ok(&[("a", b"b"), ("c", b"d")])),
            (b"a=;b=c=d", Ok(&[("a", b""), ("b", b"c=d")])),
            (
                b"a=x\r\n\ty; \r\n b=\n\tz\n ",
                Ok(&[("a", b"x\r\n\ty"), ("b", b"z")]),
            ),
            (b"a=b; A=c", Ok(&[("a", b"b"), ("A", b"c")])),
            (b"a_1=b;\r\n ", Ok(&[("a_1", b"b")])),
            ("a=ü".as_bytes(), Ok(&[("a", b"\xc3\xbc")])),
            (b"", Err(TagError::Empty)),
            (b" \r\n ", Err(TagError::Empty)),
            (b";", Err(TagError::Empty)),
            (b"a=b;;c=d", Err(TagError::Form(2))),
            (b"a=b;c", Err(TagError::Form(2))),
            (b"a=b;=c", Err(TagError::Form(2))),
            (b"1a=b", Err(TagError::Form(1))),
            (b"a b=c", Err(TagError::Form(1))),
            (b"a=b; a=c", duplicate("a")),
            (b"a=b; b=c; a =b", duplicate("a")),
            (b"a=b\0c", value("a")),
            (b"a=\x7f", value("a")),
            (b"a=\xff", value("a")),
        ];
        for (text, expected) in cases {
            let got = TagList::parse(text).map(|list| {
                let pairs = list.tags.iter().map(|tag| (tag.name, tag.value));
                pairs.collect::<Vec<_>>()
            });
            let expected = expected.clone().map(<[_]>::to_vec);
            assert_eq!(got, expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn too_many_tags_are_refused() {
        let list = |count: usize| (0..count).map(|n| format!("t{n}=x;")).collect::<String>();
        assert!(TagList::parse(list(TagList::TAGS_MAX).as_bytes()).is_ok());
        let over = list(TagList::TAGS_MAX + 1);
        assert_eq!(TagList::parse(over.as_bytes()), Err(TagError::TooMany));
    }

    #[test]
    fn spans_cover_the_white_space_around_a_value() {
        let text = b"v=1; b =\r\n\tabc \r\n d ;c=x";
        let list = TagList::parse(text).unwrap();
        assert_eq!(
            &text[list.tag("b").unwrap().span.clone()],
            b"\r\n\tabc \r\n d "
        );
        assert_eq!(&text[list.tag("c").unwrap().span.clone()], b"x");
        assert_eq!(list.first(), Some("v"));
    }
}
