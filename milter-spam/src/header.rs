//! Header fields of a message or of a MIME part, as bytes, in their order.
//!
//! Reads them out of a message or takes them one by one from the MTA. Lines that are no header
//! field are not an error: they are counted, since a broken header is itself a sign. Names are
//! compared without regard to ASCII case, values are kept as sent.

use crate::limits::{Limits, Reached};

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as spelled, without white space before the colon.
    pub name: Vec<u8>,
    /// What follows the colon, without white space around it; folds are kept.
    pub value: Vec<u8>,
}

/// The fields of one header, top to bottom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<Field>,
    bytes: usize,
    broken_lines: usize,
}

impl Headers {
    /// Adds a field, unless the limits on number or bytes are reached; the value is cut where it
    /// crosses the limit.
    pub fn push(&mut self, name: &[u8], value: &[u8], limits: &Limits, reached: &mut Reached) {
        if self.fields.len() >= limits.header_fields {
            reached.note("header_fields");
            return;
        }
        let room = limits.header.as_len().saturating_sub(self.bytes);
        if name.len() > room {
            reached.note("header");
            return;
        }
        let value = value.trim_ascii();
        let keep = value.len().min(room - name.len());
        if keep < value.len() {
            reached.note("header");
        }
        self.bytes += name.len() + keep;
        self.fields.push(Field {
            name: name.trim_ascii_end().to_vec(),
            value: value.get(..keep).unwrap_or(value).to_vec(),
        });
    }

    /// Reads the header at the start of `bytes` up to its empty line, or to a line for which `stop`
    /// says so; gives back the bytes read.
    pub fn parse(
        bytes: &[u8],
        limits: &Limits,
        reached: &mut Reached,
        stop: impl Fn(&[u8]) -> bool,
    ) -> (Self, usize) {
        let mut headers = Self::default();
        let mut at = 0;
        let mut open: Option<(usize, usize)> = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let length = line_length(rest);
            let line = content(rest.get(..length).unwrap_or(rest));
            if stop(line) {
                break;
            }
            at += length;
            if line.is_empty() {
                break;
            }
            let folded = matches!(line.first(), Some(b' ' | b'\t'));
            match (folded, open) {
                (true, Some((start, _))) => open = Some((start, at)),
                (true, None) => headers.broken_lines += 1,
                (false, _) => {
                    headers.close(open.take(), bytes, limits, reached);
                    open = Some((at - length, at));
                }
            }
        }
        headers.close(open, bytes, limits, reached);
        (headers, at)
    }

    /// Takes the unfolded-to-be lines `open` of `bytes` as one field, or counts them as broken.
    fn close(
        &mut self,
        open: Option<(usize, usize)>,
        bytes: &[u8],
        limits: &Limits,
        reached: &mut Reached,
    ) {
        let Some(field) = open.and_then(|(start, end)| bytes.get(start..end)) else {
            return;
        };
        let colon = field.iter().position(|byte| *byte == b':');
        match colon.map(|colon| field.split_at(colon)) {
            Some((name, value)) if is_name(name) => {
                let value = value.get(1..).unwrap_or_default();
                self.push(name, value, limits, reached);
            }
            _ => self.broken_lines += 1,
        }
    }

    /// All fields.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Lines that are neither a field nor a continuation of one.
    #[must_use]
    pub fn broken_lines(&self) -> usize {
        self.broken_lines
    }

    /// The values of all fields called `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| &field.value[..])
    }

    /// The value of the topmost field called `name`.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| &field.value[..])
    }

    /// Whether there is a field called `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }
}

/// Bytes of the first line of `bytes`, its line end included.
pub(crate) fn line_length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |end| end + 1)
}

/// A line without its line end.
pub(crate) fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether these are the characters of a field name (RFC 5322 section 2.2), obsolete white space
/// before the colon allowed.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let name = name.trim_ascii_end();
    !name.is_empty() && name.iter().all(|byte| matches!(byte, 33..=126))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Headers, usize, Reached) {
        let mut reached = Reached::default();
        let (headers, read) =
            Headers::parse(text.as_bytes(), &Limits::default(), &mut reached, |line| {
                line == b"--stop"
            });
        (headers, read, reached)
    }

    #[test]
    fn reads_up_to_the_empty_line() {
        let (headers, read, _) = parse("A: 1\r\nb : 2\r\n\tmore\r\nA:3\r\n\r\nbody: 4\r\n");
        assert_eq!(read, 27);
        assert_eq!(headers.all("a").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(headers.first("B"), Some(&b"2\r\n\tmore"[..]));
        assert!(!headers.has("body"));
        assert_eq!(headers.broken_lines(), 0);
    }

    #[test]
    fn counts_what_is_no_field() {
        let (headers, _, _) = parse(" folded first\nno colon here\nsp ace: 1\n: nameless\nok: 1\n");
        assert_eq!(headers.broken_lines(), 4);
        assert_eq!(headers.fields().len(), 1);
    }

    #[test]
    fn stops_where_told() {
        let (headers, read, _) = parse("A: 1\n--stop\nB: 2\n");
        assert_eq!((headers.fields().len(), read), (1, 5));
    }

    #[test]
    fn keeps_within_its_limits() {
        let limits = Limits::default();
        let (headers, _, reached) = parse(&"A: 1\n".repeat(limits.header_fields + 1));
        assert_eq!(headers.fields().len(), limits.header_fields);
        assert_eq!(reached.names(), ["header_fields"]);
        let (headers, _, reached) = parse(&format!("A: {}\nB: 1\n", "x".repeat(300 << 10)));
        assert!(headers.bytes <= limits.header.as_len());
        assert_eq!(reached.names(), ["header"]);
    }
}
