//! Canonicalization of header fields and of the body (RFC 6376 §3.4), so that harmless changes in
//! transit do not break a signature.
//!
//! The body is taken in chunks, split anywhere, and given on in runs as long as possible; what must
//! be held back between two chunks is a count of line ends and three flags, so memory does not grow
//! with the body. CR and LF that do not form a pair are data. Nothing here can fail.

use std::fmt;

use thiserror::Error;

use crate::auth::header::Field;

/// How much a part of the message may change without breaking the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canonicalization {
    /// Hardly at all (RFC 6376 §3.4.1, §3.4.3).
    Simple,
    /// In white space, folds and the case of field names (RFC 6376 §3.4.2, §3.4.4).
    Relaxed,
}

/// The value of `c=`: one canonicalization for the header, one for the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Of the header.
    pub header: Canonicalization,
    /// Of the body.
    pub body: Canonicalization,
}

/// The text is no canonicalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("canonicalization is not simple or relaxed")]
pub struct UnknownCanonicalization;

impl Pair {
    /// All that there are.
    pub const ALL: [Self; 4] = [
        Self::new(Canonicalization::Simple, Canonicalization::Simple),
        Self::new(Canonicalization::Simple, Canonicalization::Relaxed),
        Self::new(Canonicalization::Relaxed, Canonicalization::Simple),
        Self::new(Canonicalization::Relaxed, Canonicalization::Relaxed),
    ];

    /// A pair.
    #[must_use]
    pub const fn new(header: Canonicalization, body: Canonicalization) -> Self {
        Self { header, body }
    }

    /// Reads `header/body`; one word alone is the header's, the body is simple then (RFC 6376
    /// §3.5).
    ///
    /// # Errors
    /// When a word is neither `simple` nor `relaxed`, in any case.
    pub fn parse(text: &[u8]) -> Result<Self, UnknownCanonicalization> {
        let word = |word: &[u8]| match word.to_ascii_lowercase().as_slice() {
            b"simple" => Ok(Canonicalization::Simple),
            b"relaxed" => Ok(Canonicalization::Relaxed),
            _ => Err(UnknownCanonicalization),
        };
        match text.iter().position(|&byte| byte == b'/') {
            Some(slash) => Ok(Self::new(word(&text[..slash])?, word(&text[slash + 1..])?)),
            None => Ok(Self::new(word(text)?, Canonicalization::Simple)),
        }
    }
}

impl fmt::Display for Canonicalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.header, self.body)
    }
}

/// The canonical form of a field, without the final CR LF.
#[must_use]
pub fn field(canonicalization: Canonicalization, field: &Field) -> Vec<u8> {
    match canonicalization {
        Canonicalization::Simple => [&field.name[..], b":", &field.value[..]].concat(),
        Canonicalization::Relaxed => {
            let mut out = field.key();
            out.push(b':');
            relax(&field.value, &mut out);
            out
        }
    }
}

/// Unfolds a value, makes runs of white space one space, drops those at the ends (RFC 6376 §3.4.2).
fn relax(value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let mut space = false;
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => space = true,
            // Unfolding takes the line end away and leaves the white space after it.
            b'\r' if bytes.peek() == Some(&b'\n') => {}
            b'\n' => {}
            _ => {
                if space && out.len() > start {
                    out.push(b' ');
                }
                space = false;
                out.push(byte);
            }
        }
    }
}

/// Canonicalizes a body that arrives in chunks.
#[derive(Debug, Clone)]
pub struct Body {
    canonicalization: Canonicalization,
    /// Line ends not given on yet: they count only if something follows.
    line_ends: u64,
    /// White space not given on yet (relaxed): it counts only if something follows on the line.
    space: bool,
    /// The last byte was a CR, which is half a line end or data.
    carriage_return: bool,
    /// Something was given on.
    started: bool,
}

/// Line ends to give on in one run.
const LINE_ENDS: [u8; 512] = {
    let mut run = [b'\r'; 512];
    let mut index = 1;
    while index < run.len() {
        run[index] = b'\n';
        index += 2;
    }
    run
};

impl Body {
    /// For a new body.
    #[must_use]
    pub fn new(canonicalization: Canonicalization) -> Self {
        Self {
            canonicalization,
            line_ends: 0,
            space: false,
            carriage_return: false,
            started: false,
        }
    }

    /// Takes the next chunk; calls `out` with runs of the canonical form.
    pub fn push(&mut self, chunk: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut rest = chunk;
        if self.carriage_return && !rest.is_empty() {
            self.carriage_return = false;
            match rest {
                [b'\n', after @ ..] => {
                    self.end_line();
                    rest = after;
                }
                _ => self.data(b"\r", out),
            }
        }
        while !rest.is_empty() {
            rest = self.step(rest, out);
        }
    }

    /// The end of the body; calls `out` with what is left.
    pub fn finish(mut self, out: &mut impl FnMut(&[u8])) {
        if self.carriage_return {
            self.data(b"\r", out);
        }
        // A body that is not empty ends in one CR LF; an empty one is CR LF if simple (§3.4.3),
        // nothing if relaxed (§3.4.4).
        if self.started || self.canonicalization == Canonicalization::Simple {
            out(b"\r\n");
        }
    }

    /// Deals with the first bytes of a text that is not empty; returns the rest.
    fn step<'a>(&mut self, text: &'a [u8], out: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let relaxed = self.canonicalization == Canonicalization::Relaxed;
        match text {
            [b'\r'] => {
                self.carriage_return = true;
                &[]
            }
            [b'\r', b'\n', rest @ ..] => {
                self.end_line();
                rest
            }
            [b'\r', rest @ ..] => {
                self.data(b"\r", out);
                rest
            }
            [b' ' | b'\t', rest @ ..] if relaxed => {
                self.space = true;
                rest
            }
            _ => {
                let (run, rest) = text.split_at(canonical_run(text, relaxed));
                self.data(run, out);
                rest
            }
        }
    }

    /// A line ends: white space at its end is forgotten.
    fn end_line(&mut self) {
        self.space = false;
        self.line_ends += 1;
    }

    /// Gives data on, after what was held back.
    fn data(&mut self, run: &[u8], out: &mut impl FnMut(&[u8])) {
        while self.line_ends > 0 {
            let batch = self.line_ends.min(LINE_ENDS.len() as u64 / 2);
            let length = usize::try_from(batch * 2).unwrap_or(LINE_ENDS.len());
            out(&LINE_ENDS[..length]);
            self.line_ends -= batch;
        }
        if std::mem::take(&mut self.space) {
            out(b" ");
        }
        self.started = true;
        out(run);
    }
}

/// The length of the longest beginning of a text (which begins with data) that is canonical as it
/// stands and ends in data, so that it can be hashed in one go. At least 1.
fn canonical_run(text: &[u8], relaxed: bool) -> usize {
    let is_data = |byte: Option<&u8>| match byte {
        None | Some(b'\r') => false,
        Some(b' ' | b'\t') => !relaxed,
        Some(_) => true,
    };
    let mut index = 1;
    while let Some(&byte) = text.get(index) {
        index += match byte {
            b'\r' if text.get(index + 1) == Some(&b'\n') && is_data(text.get(index + 2)) => 3,
            b' ' if relaxed && is_data(text.get(index + 1)) => 2,
            _ if is_data(Some(&byte)) => 1,
            _ => break,
        };
    }
    index
}

#[cfg(test)]
mod tests {
    use super::Canonicalization::{Relaxed, Simple};
    use super::*;

    fn body(canonicalization: Canonicalization, chunks: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut body = Body::new(canonicalization);
        for chunk in chunks {
            body.push(chunk, &mut |run| out.extend_from_slice(run));
        }
        body.finish(&mut |run| out.extend_from_slice(run));
        out
    }

    /// Body, its simple form, its relaxed form.
    const BODIES: &[(&str, &str, &str)] = &[
        ("", "\r\n", ""),
        ("\r\n", "\r\n", ""),
        ("\r\n\r\n\r\n", "\r\n", ""),
        (" \t\r\n", " \t\r\n", ""),
        (" \r\n\t\r\n\r\n", " \r\n\t\r\n", ""),
        ("  ", "  \r\n", ""),
        ("a", "a\r\n", "a\r\n"),
        ("a\r\n", "a\r\n", "a\r\n"),
        ("a\r\n\r\n\r\n", "a\r\n", "a\r\n"),
        ("a\r\n \r\n", "a\r\n \r\n", "a\r\n"),
        ("\r\n\r\na\r\n", "\r\n\r\na\r\n", "\r\n\r\na\r\n"),
        (
            " C \r\nD \t E\r\n\r\n\r\n",
            " C \r\nD \t E\r\n",
            " C\r\nD E\r\n",
        ),
        ("\ta\t\tb", "\ta\t\tb\r\n", " a b\r\n"),
        ("a \r\n\t \r\n b", "a \r\n\t \r\n b\r\n", "a\r\n\r\n b\r\n"),
        ("a\nb\n", "a\nb\n\r\n", "a\nb\n\r\n"),
        ("a\rb", "a\rb\r\n", "a\rb\r\n"),
        ("a \rb \n c", "a \rb \n c\r\n", "a \rb \n c\r\n"),
        ("a\r", "a\r\r\n", "a\r\r\n"),
        ("a\r\r\n", "a\r\r\n", "a\r\r\n"),
        ("\r\r\n\r", "\r\r\n\r\r\n", "\r\r\n\r\r\n"),
        ("a \r \r\n", "a \r \r\n", "a \r\r\n"),
        ("\n", "\n\r\n", "\n\r\n"),
        (
            "a\0b\x0b c\u{a0}",
            "a\0b\x0b c\u{a0}\r\n",
            "a\0b\x0b c\u{a0}\r\n",
        ),
    ];

    #[test]
    fn bodies_have_the_forms_of_the_table() {
        for (text, simple, relaxed) in BODIES {
            assert_eq!(
                body(Simple, &[text.as_bytes()]),
                simple.as_bytes(),
                "simple {text:?}"
            );
            assert_eq!(
                body(Relaxed, &[text.as_bytes()]),
                relaxed.as_bytes(),
                "relaxed {text:?}"
            );
        }
    }

    #[test]
    fn any_split_gives_the_same() {
        for (text, simple, relaxed) in BODIES {
            let text = text.as_bytes();
            for (canonicalization, expected) in [(Simple, simple), (Relaxed, relaxed)] {
                for first in 0..=text.len() {
                    for second in first..=text.len() {
                        let chunks = [&text[..first], &text[first..second], &text[second..]];
                        let got = body(canonicalization, &chunks);
                        assert_eq!(got, expected.as_bytes(), "{text:?} at {first} and {second}");
                    }
                }
            }
        }
    }

    /// The definition, byte by byte over the whole text: what the streaming form must equal.
    fn by_definition(canonicalization: Canonicalization, text: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
        let mut index = 0;
        while index < text.len() {
            if text[index..].starts_with(b"\r\n") {
                lines.push(Vec::new());
                index += 2;
                continue;
            }
            lines.last_mut().unwrap().push(text[index]);
            index += 1;
        }
        if canonicalization == Relaxed {
            for line in &mut lines {
                line.iter_mut()
                    .filter(|byte| **byte == b'\t')
                    .for_each(|byte| *byte = b' ');
                line.dedup_by(|a, b| *a == b' ' && *b == b' ');
                if line.last() == Some(&b' ') {
                    line.pop();
                }
            }
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        if lines.is_empty() && canonicalization == Simple {
            lines.push(Vec::new());
        }
        lines
            .iter()
            .flat_map(|line| [&line[..], b"\r\n"].concat())
            .collect()
    }

    #[test]
    fn streaming_equals_the_definition_for_random_bodies() {
        bolero::check!()
            .with_type::<(Vec<u8>, Vec<u8>)>()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|(seed, cuts)| {
                let alphabet = b"\r\n \ta";
                let pick = |byte: &u8| alphabet[usize::from(*byte) % alphabet.len()];
                let text: Vec<u8> = seed.iter().map(pick).collect();
                let mut chunks = Vec::new();
                let mut rest = &text[..];
                for cut in cuts {
                    let (chunk, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                    chunks.push(chunk);
                    rest = after;
                }
                chunks.push(rest);
                for canonicalization in [Simple, Relaxed] {
                    let expected = by_definition(canonicalization, &text);
                    assert_eq!(body(canonicalization, &chunks), expected, "{text:?}");
                }
            });
    }

    #[test]
    fn many_blank_lines_cost_no_memory_and_come_back() {
        let blank = "\r\n".repeat(200_000);
        let text = format!("{blank}x");
        assert_eq!(
            body(Simple, &[text.as_bytes()]),
            format!("{blank}x\r\n").as_bytes()
        );
        assert_eq!(body(Relaxed, &[blank.as_bytes(), blank.as_bytes()]), b"");
    }

    #[test]
    fn prose_is_given_on_in_long_runs() {
        let text = "one two three\r\nfour five six\r\n".repeat(100);
        let mut runs = 0;
        Body::new(Relaxed).push(text.as_bytes(), &mut |_| runs += 1);
        assert!(runs <= 2, "{runs} runs");
    }

    #[test]
    fn fields_have_the_forms_of_the_table() {
        let cases: &[(&str, &str, &str, &str)] = &[
            ("A", " X", "A: X", "a:X"),
            ("B ", " Y\t\r\n\tZ  ", "B : Y\t\r\n\tZ  ", "b:Y Z"),
            ("SUBJect", "AbC\r\n", "SUBJect:AbC\r\n", "subject:AbC"),
            ("C", "", "C:", "c:"),
            ("C", " \t\r\n ", "C: \t\r\n ", "c:"),
            ("D", "a\r\n b\r\n\t c", "D:a\r\n b\r\n\t c", "d:a b c"),
            ("E", "a\rb", "E:a\rb", "e:a\rb"),
        ];
        for (name, value, simple, relaxed) in cases {
            let input = Field::new(*name, value);
            assert_eq!(
                field(Simple, &input),
                simple.as_bytes(),
                "simple {name:?}:{value:?}"
            );
            assert_eq!(
                field(Relaxed, &input),
                relaxed.as_bytes(),
                "relaxed {name:?}:{value:?}"
            );
        }
    }

    #[test]
    fn pairs_are_read_and_written() {
        for pair in Pair::ALL {
            assert_eq!(Pair::parse(pair.to_string().as_bytes()), Ok(pair));
        }
        assert_eq!(Pair::parse(b"relaxed"), Ok(Pair::new(Relaxed, Simple)));
        assert_eq!(
            Pair::parse(b"Simple/RELAXED"),
            Ok(Pair::new(Simple, Relaxed))
        );
        for wrong in ["", "/", "relaxed/", "nowsp", "simple/simple/simple"] {
            assert_eq!(
                Pair::parse(wrong.as_bytes()),
                Err(UnknownCanonicalization),
                "{wrong}"
            );
        }
    }
}
