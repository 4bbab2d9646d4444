//! Finds the parts: one pass over the lines of the body with a stack of the boundaries that are
//! open.
//!
//! A line is compared to each open boundary, of which there are no more than the limit on depth,
//! and the bytes of a body are looked at once; so the cost is that of the body, not of the nesting.
//! Boundaries of multiparts beyond the depth are content.

use super::content::{self, Budget, Content};
use super::{Encoding, Part};
use crate::header::{Headers, content as line_content, line_length};
use crate::limits::{Limits, Reached};

/// A multipart whose parts are being read.
struct Open {
    part: usize,
    boundary: Vec<u8>,
}

/// The state of a walk.
struct Walk<'a> {
    body: &'a [u8],
    limits: &'a Limits,
    reached: &'a mut Reached,
    parts: Vec<Part>,
    stack: Vec<Open>,
    /// The part whose body is being read, which for a multipart is its preamble; none in an
    /// epilogue.
    leaf: Option<usize>,
}

/// What a line is to the open multiparts.
enum Delimiter {
    /// Another part of the multipart at this place of the stack begins.
    Next(usize),
    /// The multipart at this place of the stack ends.
    Last(usize),
}

/// The parts of a message with these header fields and this body; the message itself is the first.
#[must_use]
pub fn walk(headers: &Headers, body: &[u8], limits: &Limits, reached: &mut Reached) -> Vec<Part> {
    let mut walk = Walk {
        body,
        limits,
        reached,
        parts: Vec::new(),
        stack: Vec::new(),
        leaf: None,
    };
    let mut at = walk.begin(headers, None, 0, 0);
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        let length = line_length(rest);
        let line = line_content(rest.get(..length).unwrap_or(rest));
        let delimiter = walk.delimiter(line);
        let here = at;
        at += length;
        match delimiter {
            None => {}
            Some(Delimiter::Last(level)) => {
                walk.end_leaf(here);
                walk.stack.truncate(level);
            }
            Some(Delimiter::Next(_)) if walk.parts.len() >= limits.parts => {
                walk.end_leaf(here);
                walk.reached.note("parts");
                break;
            }
            Some(Delimiter::Next(level)) => {
                walk.end_leaf(here);
                walk.stack.truncate(level + 1);
                at = walk.next_part(level, at);
            }
        }
    }
    walk.end_leaf_at_end();
    let mut parts = walk.parts;
    let mut budget = Budget::new(limits);
    for part in &mut parts {
        content::fill(part, body, limits, &mut budget, reached);
    }
    parts
}

impl Walk<'_> {
    /// Which open multipart a line delimits, the innermost first.
    fn delimiter(&self, line: &[u8]) -> Option<Delimiter> {
        let line = line.strip_prefix(b"--")?;
        self.stack
            .iter()
            .enumerate()
            .rev()
            .find_map(|(level, open)| {
                let rest = line.strip_prefix(&open.boundary[..])?;
                match rest.trim_ascii_end() {
                    [] => Some(Delimiter::Next(level)),
                    b"--" => Some(Delimiter::Last(level)),
                    _ => None,
                }
            })
    }

    /// Reads the header of the part at `at` in the multipart at `level`; gives back where its body
    /// begins.
    fn next_part(&mut self, level: usize, at: usize) -> usize {
        let Some(parent) = self.stack.get(level).map(|open| open.part) else {
            return at;
        };
        if let Some(parent) = self.parts.get_mut(parent) {
            parent.content = Content::Multipart;
        }
        let depth = self.parts.get(parent).map_or(0, |part| part.depth + 1);
        let headers = self.headers_at(at);
        self.begin(&headers.0, Some(parent), depth, headers.1)
    }

    /// The header at `at`, which a delimiter ends too, and where its body begins.
    fn headers_at(&mut self, at: usize) -> (Headers, usize) {
        let mut reached = Reached::default();
        let bytes = self.body.get(at..).unwrap_or_default();
        let (headers, read) = Headers::parse(bytes, self.limits, &mut reached, |line| {
            self.delimiter(line).is_some()
        });
        for name in reached.names() {
            self.reached.note(name);
        }
        (headers, at + read)
    }

    /// Adds a part whose body begins at `at`, and those that begin with it; gives back where to
    /// read on.
    fn begin(
        &mut self,
        headers: &Headers,
        parent: Option<usize>,
        depth: usize,
        at: usize,
    ) -> usize {
        let index = self.parts.len();
        let mut part = Part::new(headers, parent, depth);
        part.body = at..at;
        let boundary = part.content_type.parameter("boundary").unwrap_or_default();
        let boundary = boundary.trim_end().as_bytes().to_vec();
        let is_multipart = part.is_multipart() && !boundary.is_empty();
        let mut is_inner_message = is_message(&part) && index + 1 < self.limits.parts;
        if depth >= self.limits.depth && (is_multipart || is_inner_message) {
            self.reached.note("depth");
            is_inner_message = false;
        } else if is_multipart {
            let part = index;
            self.stack.push(Open { part, boundary });
        }
        if is_inner_message {
            part.content = Content::Message;
        }
        self.parts.push(part);
        self.leaf = (!is_inner_message).then_some(index);
        if is_inner_message {
            // Recursion is bounded by the limit on depth.
            let (headers, at) = self.headers_at(at);
            return self.begin(&headers, Some(index), depth + 1, at);
        }
        at
    }

    /// Ends the part at hand before the delimiter at `at`; the line end before it belongs to the
    /// delimiter.
    fn end_leaf(&mut self, at: usize) {
        let Some(part) = self.leaf.take().and_then(|leaf| self.parts.get_mut(leaf)) else {
            return;
        };
        let before = self.body.get(part.body.start..at).unwrap_or_default();
        part.body.end = part.body.start + line_content(before).len();
    }

    /// Ends the part at hand with the message.
    fn end_leaf_at_end(&mut self) {
        let end = self.body.len();
        if let Some(part) = self.leaf.take().and_then(|leaf| self.parts.get_mut(leaf)) {
            part.body.end = end.max(part.body.start);
        }
    }
}

/// Whether a part is a message that can be read as it stands.
fn is_message(part: &Part) -> bool {
    let plain = matches!(
        part.encoding,
        Encoding::SevenBit | Encoding::EightBit | Encoding::Binary | Encoding::Unknown
    );
    plain
        && part.content_type.kind == "message"
        && matches!(&part.content_type.subtype[..], "rfc822" | "global")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a message as `depth type [text]`, and the limits it reached.
    fn outline(message: &str) -> (Vec<String>, Vec<&'static str>) {
        let message = message.replace('\n', "\r\n");
        let limits = Limits::default();
        let mut reached = Reached::default();
        let (headers, read) = Headers::parse(message.as_bytes(), &limits, &mut reached, |_| false);
        let parts = walk(&headers, &message.as_bytes()[read..], &limits, &mut reached);
        let lines = parts.iter().map(|part| match part.text() {
            Some(text) => format!(
                "{} {} {:?}",
                part.depth,
                part.content_type.name(),
                text.text
            ),
            None => format!("{} {}", part.depth, part.content_type.name()),
        });
        (lines.collect(), reached.names().to_vec())
    }

    fn check(message: &str, expected: &[&str]) {
        assert_eq!(outline(message).0, expected, "{message}");
    }

    #[test]
    fn reads_trees() {
        check("A: b\n\nhello\n", &["0 text/plain \"hello\\r\\n\""]);
        check("", &["0 text/plain \"\""]);
        check(
            "Content-Type: multipart/mixed; boundary=x\n\npreamble\n--x\n\none\n--x \n\
             Content-Type: text/html\n\ntwo\n--x--\nepilogue\n--x\n\nno\n",
            &[
                "0 multipart/mixed",
                "1 text/plain \"one\"",
                "1 text/html \"two\"",
            ],
        );
        check(
            "Content-Type: multipart/mixed; boundary=x\n\n--x\n\
             Content-Type: multipart/alternative; boundary=xx\n\n--xx\n\na\n--xx\n\nb\n--x\n\nc\n\
             ",
            &[
                "0 multipart/mixed",
                "1 multipart/alternative",
                "2 text/plain \"a\"",
                "2 text/plain \"b\"",
                "1 text/plain \"c\\r\\n\"",
            ],
        );
    }

    #[test]
    fn reads_messages_within_messages() {
        check(
            "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: message/rfc822\n\n\
             Subject: s\nContent-Type: multipart/mixed; boundary=y\n\n--y\n\ninner\n--y--\n--x\n\
             \nouter\n--x--\n",
            &[
                "0 multipart/mixed",
                "1 message/rfc822",
                "2 multipart/mixed",
                "3 text/plain \"inner\"",
                "1 text/plain \"outer\"",
            ],
        );
    }

    #[test]
    fn a_multipart_without_its_boundary_is_text() {
        check(
            "Content-Type: multipart/mixed; boundary=x\n\nseen\n",
            &["0 multipart/mixed \"seen\\r\\n\""],
        );
        check(
            "Content-Type: multipart/mixed\n\n--x\n",
            &["0 multipart/mixed \"--x\\r\\n\""],
        );
    }

    #[test]
    fn headers_end_at_a_boundary() {
        check(
            "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n--x\n\n\
             b\n--x--\n",
            &[
                "0 multipart/mixed",
                "1 text/html \"\"",
                "1 text/plain \"b\"",
            ],
        );
    }

    #[test]
    fn nesting_and_number_have_limits() {
        let mut nested = String::new();
        for level in 0..200 {
            nested += &format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n");
        }
        let (parts, reached) = outline(&nested);
        assert_eq!((parts.len(), reached), (33, vec!["depth"]));
        let many = format!(
            "Content-Type: multipart/mixed; boundary=b\n\n{}",
            "--b\n\nx\n".repeat(2000)
        );
        let (parts, reached) = outline(&many);
        assert_eq!((parts.len(), reached), (1000, vec!["parts"]));
        let forwards = "Content-Type: message/rfc822\n\n".repeat(5000);
        let (parts, reached) = outline(&forwards);
        assert_eq!((parts.len(), reached), (33, vec!["depth"]));
    }
}
