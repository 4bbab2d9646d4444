//! One line, cut into tokens, and read from left to right.

use std::time::Duration;

use bytes::Bytes;

use super::Mistake;
use crate::testkit::script::At;

/// Bytes that a repeated string may become at most.
const REPEAT_MAX: usize = 64 * 1024 * 1024;

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, a number, an address.
    Word(String),
    /// A string.
    Text(Bytes),
    /// `:` `;` `[` `]` on their own.
    Mark(char),
}

/// What of a line is still to be read.
#[derive(Debug)]
pub(super) struct Line {
    tokens: std::vec::IntoIter<Token>,
}

impl Line {
    /// Cuts a line up; a comment is left out.
    pub(super) fn new(text: &str) -> Result<Self, Mistake> {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, after) = match first {
                '#' => break,
                '"' => {
                    let (text, after) = string(&rest[1..])?;
                    (Token::Text(text), after)
                }
                ':' | ';' | ']' => (Token::Mark(first), &rest[1..]),
                '[' if !is_address(rest) => (Token::Mark(first), &rest[1..]),
                _ => word(rest),
            };
            tokens.push(token);
            rest = after.trim_start();
        }
        Ok(Self {
            tokens: tokens.into_iter(),
        })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.as_slice().first()
    }

    /// Whether the statement goes on in the next line.
    pub(super) fn goes_on(&self) -> bool {
        self.tokens.as_slice().last() == Some(&Token::Mark(';'))
    }

    pub(super) fn is_done(&self) -> bool {
        self.peek().is_none()
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), Mistake> {
        match self.peek() {
            None => Ok(()),
            Some(token) => Err(Mistake::new(
                format!("{} is too much here", show(token)),
                "end the line before it",
            )),
        }
    }

    /// Takes this word if it is the next one.
    pub(super) fn takes(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Word(next)) if next == word);
        if is_next {
            self.tokens.next();
        }
        is_next
    }

    /// Takes this mark if it is the next one.
    pub(super) fn marks(&mut self, mark: char) -> bool {
        let is_next = self.peek() == Some(&Token::Mark(mark));
        if is_next {
            self.tokens.next();
        }
        is_next
    }

    /// This mark must be next.
    pub(super) fn mark(&mut self, mark: char, example: &str) -> Result<(), Mistake> {
        if self.marks(mark) {
            return Ok(());
        }
        Err(self.not(&format!("{mark:?}"), example))
    }

    /// The next word; `what` and `example` are for the mistake.
    pub(super) fn word(&mut self, what: &str, example: &str) -> Result<String, Mistake> {
        match self.peek() {
            Some(Token::Word(_)) => {}
            _ => return Err(self.not(what, example)),
        }
        match self.tokens.next() {
            Some(Token::Word(word)) => Ok(word),
            _ => Err(self.not(what, example)),
        }
    }

    /// The next word, when there is one.
    pub(super) fn maybe_word(&mut self) -> Option<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.tokens.next();
                Some(word)
            }
            _ => None,
        }
    }

    /// The next number, when there is one.
    pub(super) fn maybe_number(&mut self) -> Option<u32> {
        let number = match self.peek() {
            Some(Token::Word(word)) => word.parse().ok()?,
            _ => return None,
        };
        self.tokens.next();
        Some(number)
    }

    pub(super) fn number(&mut self, what: &str, example: &str) -> Result<u32, Mistake> {
        self.maybe_number().ok_or_else(|| self.not(what, example))
    }

    /// The next string, when there is one.
    pub(super) fn maybe_text(&mut self) -> Result<Option<Bytes>, Mistake> {
        let text = match self.peek() {
            Some(Token::Text(text)) => text.clone(),
            _ => return Ok(None),
        };
        self.tokens.next();
        if !self.takes("*") {
            return Ok(Some(text));
        }
        let example = "\"ab\" * 1000";
        let times = self.number("a number of times", example)?;
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        if text.len().saturating_mul(times) > REPEAT_MAX {
            return Err(Mistake::new(
                "that string is too long",
                format!("keep it below {REPEAT_MAX} bytes"),
            ));
        }
        Ok(Some(Bytes::from(text.repeat(times))))
    }

    pub(super) fn text(&mut self, what: &str, example: &str) -> Result<Bytes, Mistake> {
        self.maybe_text()?
            .ok_or_else(|| self.not(&format!("{what} in quotes"), example))
    }

    pub(super) fn time(&mut self) -> Result<Duration, Mistake> {
        let example = "write 100ms or 2s";
        let word = self.word("a time", example)?;
        let time = match (word.strip_suffix("ms"), word.strip_suffix('s')) {
            (Some(number), _) => number.parse().ok().map(Duration::from_millis),
            (None, Some(number)) => number.parse().ok().map(Duration::from_secs),
            (None, None) => None,
        };
        time.ok_or_else(|| Mistake::new(format!("{word:?} is no time"), example))
    }

    pub(super) fn at(&mut self) -> Result<At, Mistake> {
        let word = self.word("a stage", STAGES)?;
        stage(&word)
    }

    /// Something else was expected here.
    fn not(&self, what: &str, example: &str) -> Mistake {
        let found = self.peek().map_or_else(
            || "the line ends".to_owned(),
            |token| format!("{} stands", show(token)),
        );
        Mistake::new(format!("{found} where {what} is expected"), example)
    }
}

const STAGES: &str = "write open, negotiate, macros, connect, helo, mail, rcpt, data, header, \
     end-of-headers, body, end, abort, unknown, quit or quit-reuse";

/// The stage of that name.
pub(super) fn stage(word: &str) -> Result<At, Mistake> {
    let found = At::ALL.into_iter().find(|at| at.name() == word);
    found.ok_or_else(|| Mistake::new(format!("{word:?} is no stage"), STAGES))
}

fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("{word:?}"),
        Token::Text(text) => format!("the string \"{}\"", text.escape_ascii()),
        Token::Mark(mark) => format!("{mark:?}"),
    }
}

/// `[::1]:25` rather than a list.
fn is_address(rest: &str) -> bool {
    let inside = rest.split(']').next().unwrap_or_default();
    inside.contains(':')
}

/// A colon ends a word when nothing follows it.
fn word(rest: &str) -> (Token, &str) {
    let mut end = rest.len();
    let mut bracket = false;
    for (at, character) in rest.char_indices() {
        let after = &rest[at + character.len_utf8()..];
        let stops = match character {
            '[' => {
                bracket = true;
                at > 0
            }
            ']' => !std::mem::take(&mut bracket),
            ':' => !bracket && (after.is_empty() || after.starts_with(char::is_whitespace)),
            ';' | '"' => true,
            other => other.is_whitespace(),
        };
        if stops {
            end = at;
            break;
        }
    }
    (Token::Word(rest[..end].to_owned()), &rest[end..])
}

/// Reads a string behind its first quote, and says what follows the last one.
pub(super) fn string(rest: &str) -> Result<(Bytes, &str), Mistake> {
    let mut out = Vec::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Bytes::from(out), &rest[at + 1..])),
            '\\' => {
                let escape = characters.next().map(|(_, escape)| escape);
                out.push(match escape {
                    Some('x') => hex(&mut characters)?,
                    other => simple_escape(other)?,
                });
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err(Mistake::new("a string has no end", "write \" after it"))
}

fn simple_escape(escape: Option<char>) -> Result<u8, Mistake> {
    Ok(match escape {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('0') => 0,
        Some('"') => b'"',
        Some('\\') => b'\\',
        _ => {
            return Err(Mistake::new(
                "a backslash is not followed by what it can stand before",
                r#"write \n, \r, \t, \0, \", \\ or \xHH"#,
            ));
        }
    })
}

fn hex(characters: &mut std::str::CharIndices<'_>) -> Result<u8, Mistake> {
    let mut digit = || characters.next().and_then(|(_, digit)| digit.to_digit(16));
    match (digit(), digit()) {
        (Some(high), Some(low)) => Ok(u8::try_from(high * 16 + low).unwrap_or_default()),
        _ => Err(Mistake::new(
            "\\x is not followed by two hexadecimal digits",
            r"write \x00 to \xff",
        )),
    }
}
