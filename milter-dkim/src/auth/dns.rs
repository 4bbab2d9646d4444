//! The questions that sender authentication asks DNS, and the one place where the answers may come
//! from elsewhere.
//!
//! [`Dns`] is the seam. Its failures are three, because three is what the callers tell apart: there
//! is no such record (permanent), no answer came in time, the servers could not answer (both
//! temporary). [`KeyFile`] answers from a text file; the network is in
//! `resolver`.

use std::collections::HashMap;
use std::future::{Future, ready};

use thiserror::Error;

use super::domain::Domain;

/// A TXT record, its strings joined.
pub type Txt = Vec<u8>;

/// Answers questions about domain names.
pub trait Dns: Send + Sync + 'static {
    /// The TXT records at a name: at least one.
    fn txt(&self, name: &Domain) -> impl Future<Output = Result<Vec<Txt>, DnsError>> + Send;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsError {
    /// The name does not exist, or has no record of that type. Asking again will not help.
    #[error("no such record")]
    NoRecords,
    /// No answer in time.
    #[error("time-out")]
    Timeout,
    /// The servers answered that they could not, or no server could be reached.
    #[error("{0}")]
    Server(String),
}

/// A file with TXT records, for tests, for closed networks, and to pin keys.
///
/// A line is a name, white space and a value: either the bare text up to the end of the line, or as
/// in a zone file: optional time to live, `IN` and `TXT`, then quoted strings, over several lines
/// if parentheses enclose them. Names are absolute. Lines that begin with
/// `#` or `;` are comments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile {
    records: HashMap<Domain, Vec<Txt>>,
}

/// A mistake in a key file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct KeyFileError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: KeyFileMistake,
}

/// What can be wrong in a key file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFileMistake {
    /// The line does not begin with a domain name.
    #[error("a domain name is expected at the beginning")]
    Name,
    /// There is no value.
    #[error("a TXT value is expected after the name")]
    NoValue,
    /// A quote is not closed.
    #[error("a quote is not closed")]
    OpenQuote,
    /// A parenthesis is not closed.
    #[error("a parenthesis is not closed")]
    OpenParenthesis,
    /// Something stands beside the quoted strings.
    #[error("only quoted strings are expected here")]
    Stray,
}

impl KeyFile {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// The first mistake, with its line.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut file = Self::default();
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let mut more = || lines.next().map(|(line, _)| line);
            let (name, value) = parse_entry(line, &mut more).map_err(|reason| KeyFileError {
                line: number,
                reason,
            })?;
            file.records.entry(name).or_default().push(value);
        }
        Ok(file)
    }

    /// Adds a record.
    pub fn insert(&mut self, name: Domain, value: impl Into<Txt>) {
        self.records.entry(name).or_default().push(value.into());
    }
}

impl Dns for KeyFile {
    fn txt(&self, name: &Domain) -> impl Future<Output = Result<Vec<Txt>, DnsError>> + Send {
        ready(self.records.get(name).cloned().ok_or(DnsError::NoRecords))
    }
}

/// One entry; `more` gives the next line where parentheses are open.
fn parse_entry<'a>(
    line: &'a str,
    more: &mut dyn FnMut() -> Option<&'a str>,
) -> Result<(Domain, Txt), KeyFileMistake> {
    let (name, mut rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let name = Domain::parse(name).map_err(|_| KeyFileMistake::Name)?;
    loop {
        rest = rest.trim_start();
        let (word, after) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        let numeric = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric && !word.eq_ignore_ascii_case("IN") && !word.eq_ignore_ascii_case("TXT") {
            break;
        }
        rest = after;
    }
    match rest.bytes().next() {
        None => Err(KeyFileMistake::NoValue),
        Some(b'"' | b'(') => Ok((name, zone_strings(rest, more)?)),
        Some(_) => Ok((name, rest.as_bytes().to_vec())),
    }
}

/// Quoted strings as in a zone file, joined.
fn zone_strings<'a>(
    first: &'a str,
    more: &mut dyn FnMut() -> Option<&'a str>,
) -> Result<Txt, KeyFileMistake> {
    let mut value = Txt::new();
    let mut open = false;
    let mut line = first;
    loop {
        let mut bytes = line.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => zone_string(&mut bytes, &mut value)?,
                b'(' => open = true,
                b')' => open = false,
                b' ' | b'\t' => {}
                b';' => break,
                _ => return Err(KeyFileMistake::Stray),
            }
        }
        if !open {
            return Ok(value);
        }
        line = more().ok_or(KeyFileMistake::OpenParenthesis)?;
    }
}

/// One quoted string whose first quote is read already, with the escapes `\"`, `\\` and `\DDD` (RFC
/// 1035 §5.1).
fn zone_string(
    bytes: &mut impl Iterator<Item = u8>,
    value: &mut Txt,
) -> Result<(), KeyFileMistake> {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Ok(()),
            b'\\' => {
                let escaped = bytes.next().ok_or(KeyFileMistake::OpenQuote)?;
                if !escaped.is_ascii_digit() {
                    value.push(escaped);
                    continue;
                }
                let rest: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = [&[escaped][..], &rest].concat();
                let number = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|text| text.parse().ok());
                value.push(number.ok_or(KeyFileMistake::Stray)?);
            }
            _ => value.push(byte),
        }
    }
    Err(KeyFileMistake::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_all_forms() {
        let cases: &[(&str, &str)] = &[
            ("s._domainkey.example.org v=DKIM1; p=abc", "v=DKIM1; p=abc"),
            ("  S._domainkey.Example.org.\t  p=abc  ", "p=abc"),
            (
                "s._domainkey.example.org. IN TXT \"v=DKIM1; \" \"p=abc\"",
                "v=DKIM1; p=abc",
            ),
            (
                "s._domainkey.example.org 3600 in txt \"p=abc\" ; note",
                "p=abc",
            ),
            (
                "s._domainkey.example.org TXT ( \"v=DKIM1; \"\n\t\"p=abc\" )  ; note",
                "v=DKIM1; p=abc",
            ),
            (
                "s._domainkey.example.org ( \"p=\" ; half\n\n\"abc\"\n)",
                "p=abc",
            ),
            (
                "s._domainkey.example.org \"a\\\"b\\\\c\\059d\"",
                "a\"b\\c;d",
            ),
            (
                "# note\n; note\n\ns._domainkey.example.org p=abc\n",
                "p=abc",
            ),
        ];
        for (text, expected) in cases {
            let file = KeyFile::parse(text).unwrap();
            let name = Domain::parse("s._domainkey.example.org").unwrap();
            let records = &file.records[&name];
            assert_eq!(records, &[expected.as_bytes().to_vec()], "{text:?}");
        }
    }

    #[test]
    fn mistakes_name_the_line() {
        use KeyFileMistake as M;
        let cases: &[(&str, usize, KeyFileMistake)] = &[
            ("a.b x\n\n!! y", 3, M::Name),
            ("a.b", 1, M::NoValue),
            ("a.b IN TXT", 1, M::NoValue),
            ("a.b \"x", 1, M::OpenQuote),
            ("a.b \"x\\", 1, M::OpenQuote),
            ("a.b ( \"x\"\n\"y\"", 1, M::OpenParenthesis),
            ("a.b \"x\" y", 1, M::Stray),
            ("a.b \"\\999\"", 1, M::Stray),
        ];
        for (text, line, reason) in cases {
            let expected = KeyFileError {
                line: *line,
                reason: reason.clone(),
            };
            assert_eq!(KeyFile::parse(text), Err(expected), "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_file_answers_questions() {
        let mut file = KeyFile::parse("a.example x\na.example y").unwrap();
        let name = |text: &str| Domain::parse(text).unwrap();
        file.insert(name("b.example"), "z");
        assert_eq!(
            file.txt(&name("a.example")).await,
            Ok(vec![b"x".to_vec(), b"y".to_vec()])
        );
        assert_eq!(file.txt(&name("b.example")).await, Ok(vec![b"z".to_vec()]));
        assert_eq!(file.txt(&name("c.example")).await, Err(DnsError::NoRecords));
    }
}
