//! The header of a message: fields in order, found by name from the bottom up.
//!
//! Values are kept as bytes, exactly as received but for folds: a bare LF, as MTAs hand it to
//! milters, becomes CR LF, which is what was signed. Nothing is decoded here. The total size is
//! limited; past the limit [`TooLarge`] is returned and nothing more is kept.

use std::collections::HashMap;

use thiserror::Error;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as spelled, white space before the colon included.
    pub name: Vec<u8>,
    /// Everything after the colon, leading space included, folds as CR LF, without the final CR LF.
    pub value: Vec<u8>,
}

impl Field {
    /// A field from its name and everything after the colon.
    pub fn new(name: impl Into<Vec<u8>>, value: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.into(),
            value: crlf(value.as_ref()),
        }
    }

    /// The name in lower case, without the white space before the colon.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        self.name.trim_ascii_end().to_ascii_lowercase()
    }
}

/// The header has more bytes than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the header is larger than {limit} bytes")]
pub struct TooLarge {
    /// The limit in bytes.
    pub limit: usize,
}

/// All fields of a message, top to bottom, with an index by name.
#[derive(Debug, Clone)]
pub struct Header {
    fields: Vec<Field>,
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    size: usize,
    limit: usize,
}

impl Default for Header {
    fn default() -> Self {
        Self::with_limit(Self::SIZE_MAX)
    }
}

impl Header {
    /// Bytes in all names and values together, unless another limit is given.
    pub const SIZE_MAX: usize = 256 * 1024;
    /// What a field costs beside its bytes, so that a million empty fields hit the limit too.
    const FIELD_COST: usize = 64;

    /// An empty header that takes at most `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            fields: Vec::new(),
            by_name: HashMap::new(),
            size: 0,
            limit,
        }
    }

    /// Adds a field at the bottom.
    ///
    /// # Errors
    /// When the limit is passed; the field is dropped then.
    pub fn push(&mut self, field: Field) -> Result<(), TooLarge> {
        let size = self.size + field.name.len() + field.value.len() + Self::FIELD_COST;
        if size > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        self.size = size;
        let slot = self.by_name.entry(field.key()).or_default();
        slot.push(self.fields.len());
        self.fields.push(field);
        Ok(())
    }

    /// All fields, top to bottom.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The fields of that name in any case, top to bottom.
    pub fn named<'a>(&'a self, name: &str) -> impl DoubleEndedIterator<Item = &'a Field> + 'a {
        let indexes = self.indexes(name.to_ascii_lowercase().as_bytes());
        indexes.iter().filter_map(|&index| self.fields.get(index))
    }

    /// How many fields have that name in any case.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.indexes(name.to_ascii_lowercase().as_bytes()).len()
    }

    /// Picks the fields that a list of names stands for: of each name from the bottom up, each
    /// field once; a name that finds none is skipped (RFC 6376 §5.4.2).
    pub fn select<'a>(&'a self, names: &[String]) -> Vec<&'a Field> {
        let mut left: HashMap<&[u8], usize> = HashMap::new();
        let mut picked = Vec::new();
        let lowered: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        for name in &lowered {
            let indexes = self.indexes(name.as_bytes());
            let rest = left.entry(name.as_bytes()).or_insert(indexes.len());
            if let Some(next) = rest.checked_sub(1) {
                *rest = next;
                picked.extend(indexes.get(next).and_then(|&index| self.fields.get(index)));
            }
        }
        picked
    }

    /// Where the fields of a lower-case name stand.
    fn indexes(&self, key: &[u8]) -> &[usize] {
        self.by_name.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Splits a message into header and body. Lines may end in LF alone; a line that is no field and no
/// fold begins the body.
///
/// # Errors
/// When the header is larger than its limit.
pub fn split(message: &[u8], limit: usize) -> Result<(Header, &[u8]), TooLarge> {
    let mut header = Header::with_limit(limit);
    let mut open: Option<Field> = None;
    let mut rest = message;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (line.first(), &mut open) {
            (None, _) => {
                rest = after;
                break;
            }
            (Some(b' ' | b'\t'), Some(field)) => {
                field.value.extend_from_slice(b"\r\n");
                field.value.extend_from_slice(line);
            }
            _ => {
                let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                    break;
                };
                let next = Field {
                    name: line[..colon].to_vec(),
                    value: line[colon + 1..].to_vec(),
                };
                open.replace(next)
                    .map_or(Ok(()), |field| header.push(field))?;
            }
        }
        rest = after;
    }
    open.map_or(Ok(()), |field| header.push(field))?;
    Ok((header, rest))
}

/// The same text with every bare LF as CR LF; CR elsewhere is kept.
#[must_use]
pub fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: &[(&str, &str)]) -> Header {
        let mut header = Header::default();
        for (name, value) in fields {
            header.push(Field::new(*name, value)).unwrap();
        }
        header
    }

    #[test]
    fn selection_goes_bottom_up_and_uses_each_field_once() {
        let header = header(&[("A", "1"), ("B", "2"), ("a ", "3"), ("C", "4")]);
        let cases: &[(&[&str], &[&str])] = &[
            (&["a"], &["3"]),
            (&["a", "A"], &["3", "1"]),
            (&["A", "b", "a", "a", "c"], &["3", "2", "1", "4"]),
            (&["x"], &[]),
            (&[], &[]),
        ];
        for (names, expected) in cases {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let picked = header.select(&names);
            let values: Vec<_> = picked.iter().map(|field| field.value.as_slice()).collect();
            let expected: Vec<_> = expected.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(values, expected, "{names:?}");
        }
    }

    #[test]
    fn messages_are_split() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case<'_>] = &[
            (
                "A: 1\r\nB:2\r\n\r\nbody\r\n",
                &[("A", " 1"), ("B", "2")],
                "body\r\n",
            ),
            ("A: 1\n\t2\n\nbody\n", &[("A", " 1\r\n\t2")], "body\n"),
            ("A: 1\r\n", &[("A", " 1")], ""),
            ("\r\nbody", &[], "body"),
            (
                "A: 1\r\nno field\r\nbody",
                &[("A", " 1")],
                "no field\r\nbody",
            ),
            ("A : 1\r\n\r\n", &[("A ", " 1")], ""),
            ("", &[], ""),
        ];
        for (message, fields, body) in cases {
            let (header, rest) = split(message.as_bytes(), Header::SIZE_MAX).unwrap();
            let got: Vec<_> = header.fields().to_vec();
            let expected: Vec<_> = fields.iter().map(|(n, v)| Field::new(*n, v)).collect();
            assert_eq!(got, expected, "{message:?}");
            assert_eq!(rest, body.as_bytes(), "{message:?}");
        }
    }

    #[test]
    fn the_size_is_limited() {
        let mut header = Header::with_limit(1000);
        assert_eq!(header.push(Field::new("A", vec![b'x'; 900])), Ok(()));
        assert_eq!(
            header.push(Field::new("B", [b'x'; 100])),
            Err(TooLarge { limit: 1000 })
        );
        assert_eq!((header.count("A"), header.count("b")), (1, 0));
        let many = "A:\r\n".repeat(100_000);
        assert!(split(many.as_bytes(), Header::SIZE_MAX).is_err());
    }

    #[test]
    fn bare_line_feeds_become_crlf() {
        let cases = [
            ("a\nb", "a\r\nb"),
            ("a\r\n b\n", "a\r\n b\r\n"),
            ("a\rb", "a\rb"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(crlf(text.as_bytes()), expected.as_bytes(), "{text:?}");
        }
    }
}
