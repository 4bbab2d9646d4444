//! Encoded words in header fields (RFC 2047) to text, in one pass.
//!
//! Text that is not a well-formed encoded word stays as it is. Neighbouring words in the same
//! character set are put together before they are decoded, since senders split them within
//! characters. How many words of which kind there were is told, because needless encoding hides
//! text from filters.

use crate::charset;
use crate::transfer;

/// A header value as a person reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The text, unfolded.
    pub text: String,
    /// Words in base64.
    pub base64: usize,
    /// Words in the `Q` encoding.
    pub quoted: usize,
    /// Whether the value as sent had bytes over 127.
    pub raw_8bit: bool,
}

impl Text {
    /// Whether encoded words were used where plain ASCII would have done.
    #[must_use]
    pub fn needless(&self) -> bool {
        self.base64 + self.quoted > 0 && !self.text.is_empty() && printable_ascii(&self.text)
    }
}

/// One encoded word, undone but for its character set.
struct Word<'a> {
    charset: &'a [u8],
    base64: bool,
    bytes: Vec<u8>,
}

/// Words of the same character set whose bytes wait for each other.
#[derive(Default)]
struct Pending {
    charset: Vec<u8>,
    bytes: Vec<u8>,
}

/// Decodes a field's value.
pub fn decode(value: &[u8]) -> Text {
    let mut out = Text {
        raw_8bit: !value.is_ascii(),
        ..Text::default()
    };
    let mut pending: Option<Pending> = None;
    let mut plain_from = 0;
    let mut at = 0;
    while let Some(found) = find_start(value, at) {
        let Some((word, end)) = parse(value, found) else {
            at = found + 2;
            continue;
        };
        let between = value.get(plain_from..found).unwrap_or_default();
        // White space between two encoded words is not shown (RFC 2047 section 6.2).
        if pending.is_none() || !between.trim_ascii().is_empty() {
            flush(&mut pending, &mut out.text);
            push_plain(&mut out.text, between);
        }
        out.base64 += usize::from(word.base64);
        out.quoted += usize::from(!word.base64);
        match &mut pending {
            Some(waiting) if waiting.charset.eq_ignore_ascii_case(word.charset) => {
                waiting.bytes.extend_from_slice(&word.bytes);
            }
            _ => {
                flush(&mut pending, &mut out.text);
                pending = Some(Pending {
                    charset: word.charset.to_vec(),
                    bytes: word.bytes,
                });
            }
        }
        at = end;
        plain_from = end;
    }
    flush(&mut pending, &mut out.text);
    push_plain(&mut out.text, value.get(plain_from..).unwrap_or_default());
    out
}

fn flush(pending: &mut Option<Pending>, text: &mut String) {
    if let Some(waiting) = pending.take() {
        text.push_str(&charset::decode(&waiting.bytes, &waiting.charset));
    }
}

/// Adds text outside of encoded words, line breaks of folds removed.
fn push_plain(text: &mut String, plain: &[u8]) {
    let plain = charset::decode(plain, b"");
    text.extend(plain.chars().filter(|c| !matches!(c, '\r' | '\n')));
}

/// The next `=?` at or after `at`.
fn find_start(value: &[u8], at: usize) -> Option<usize> {
    let rest = value.get(at..)?;
    rest.windows(2)
        .position(|pair| pair == b"=?")
        .map(|found| at + found)
}

/// The encoded word that begins at `start`, and where it ends.
fn parse(value: &[u8], start: usize) -> Option<(Word<'_>, usize)> {
    /// RFC 2047 allows 75 characters; real mail has longer ones.
    const LENGTH_MAX: usize = 1024;
    let whole = value.get(start + 2..)?;
    let whole = whole.get(..LENGTH_MAX).unwrap_or(whole);
    let charset_end = whole
        .iter()
        .take(64)
        .position(|byte| *byte == b'?' || byte.is_ascii_whitespace())?;
    let (charset, rest) = whole.split_at(charset_end);
    let [b'?', kind, b'?', encoded @ ..] = rest else {
        return None;
    };
    if !matches!(kind, b'B' | b'b' | b'Q' | b'q') {
        return None;
    }
    let end = encoded
        .windows(2)
        .position(|pair| pair == b"?=")
        .filter(|end| !has_line_break(encoded.get(..*end).unwrap_or_default()))?;
    let encoded = encoded.get(..end)?;
    let base64 = kind.eq_ignore_ascii_case(&b'B');
    let bytes = if base64 {
        transfer::base64(encoded, LENGTH_MAX)
    } else {
        q_encoding(encoded)
    };
    // RFC 2231 section 5: a language may follow the character set.
    let charset = charset
        .split(|byte| *byte == b'*')
        .next()
        .unwrap_or(charset);
    let length = 2 + charset_end + 3 + end + 2;
    let word = Word {
        charset,
        base64,
        bytes,
    };
    Some((word, start + length))
}

fn has_line_break(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

/// The `Q` encoding: quoted-printable with `_` for a space.
fn q_encoding(encoded: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = encoded
        .iter()
        .map(|byte| if *byte == b'_' { b' ' } else { *byte })
        .collect();
    transfer::quoted_printable(&spaced, spaced.len())
}

fn printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, text: &str, base64: usize, quoted: usize) {
        let decoded = decode(value.as_bytes());
        assert_eq!(
            (decoded.text.as_str(), decoded.base64, decoded.quoted),
            (text, base64, quoted),
            "{value}"
        );
    }

    #[test]
    fn decodes() {
        check("plain", "plain", 0, 0);
        check("=?utf-8?B?w6k=?=", "é", 1, 0);
        check(
            "=?iso-8859-1?q?caf=E9_au_lait?= now",
            "café au lait now",
            0,
            1,
        );
        check("a =?utf-8?q?b?=\r\n =?utf-8?q?c?= d", "a bc d", 0, 2);
        check("=?utf-8?B?ww==?= =?UTF-8?B?qQ==?=", "é", 2, 0);
        check("=?utf-8*en?q?x?=", "x", 0, 1);
        check("folded\r\n text", "folded text", 0, 0);
        check("=?utf-8?x?no?= =?broken", "=?utf-8?x?no?= =?broken", 0, 0);
        check("1 =? 2", "1 =? 2", 0, 0);
    }

    #[test]
    fn needless_encoding_is_seen() {
        assert!(decode(b"=?utf-8?B?aGVsbG8=?=").needless());
        assert!(!decode(b"=?utf-8?B?w6k=?=").needless());
        assert!(!decode(b"hello").needless());
    }
}
