//! Content-Transfer-Encoding (RFC 2045 section 6) undone, as tolerantly as mail readers do it and
//! in one pass.
//!
//! Nothing is an error: characters outside of the alphabet are skipped, a bad escape stays as it
//! is, and the output stops at a limit.

/// How a part's body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// `7bit`, which is also meant where nothing is said.
    #[default]
    SevenBit,
    /// `8bit`.
    EightBit,
    /// `binary`.
    Binary,
    /// `base64`.
    Base64,
    /// `quoted-printable`.
    QuotedPrintable,
    /// A name that RFC 2045 does not have; read as it stands.
    Unknown,
}

impl Encoding {
    /// By its name in the field, comments and case aside.
    #[must_use]
    pub fn named(value: &[u8]) -> Self {
        let end = value
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b';' | b'(' | b'\r' | b'\n'))
            .unwrap_or(value.len());
        let name = value.get(..end).unwrap_or(value);
        [
            ("7bit", Self::SevenBit),
            ("8bit", Self::EightBit),
            ("binary", Self::Binary),
            ("base64", Self::Base64),
            ("quoted-printable", Self::QuotedPrintable),
        ]
        .into_iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
        .map_or(Self::Unknown, |(_, encoding)| encoding)
    }

    /// The body without its encoding, at most `most` bytes of it.
    #[must_use]
    pub fn decode(self, body: &[u8], most: usize) -> Vec<u8> {
        match self {
            Self::Base64 => base64(body, most),
            Self::QuotedPrintable => quoted_printable(body, most),
            Self::SevenBit | Self::EightBit | Self::Binary | Self::Unknown => {
                body.get(..most).unwrap_or(body).to_vec()
            }
        }
    }
}

/// Base64 (RFC 4648 section 4); padding ends a quantum, other characters are skipped.
pub(crate) fn base64(body: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most.min(body.len() / 4 * 3 + 3));
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in body {
        if out.len() >= most {
            break;
        }
        let Some(value) = sextet(*byte) else {
            if *byte == b'=' {
                held = 0;
            }
            continue;
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Quoted-printable (RFC 2045 section 6.7).
pub(crate) fn quoted_printable(body: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(most.min(body.len()));
    let mut rest = body;
    while let [first, after @ ..] = rest {
        if out.len() >= most {
            break;
        }
        if *first != b'=' {
            out.push(*first);
            rest = after;
            continue;
        }
        rest = match after {
            [high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                tail
            }
            _ => match soft_break(after) {
                Some(tail) => tail,
                None => {
                    out.push(b'=');
                    after
                }
            },
        };
    }
    out
}

/// What follows a soft line break, whose `=` may be followed by white space that a gateway added.
fn soft_break(after: &[u8]) -> Option<&[u8]> {
    /// White space between `=` and the line end; more than this is no soft break.
    const PADDING_MAX: usize = 76;
    let blank = after
        .iter()
        .take(PADDING_MAX)
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let line_end = after.get(blank..)?;
    line_end
        .strip_prefix(b"\r\n")
        .or_else(|| line_end.strip_prefix(b"\n"))
        .or_else(|| line_end.is_empty().then_some(line_end))
}

/// The value of a hexadecimal digit.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, body: &str, expected: &str) {
        let decoded = Encoding::named(name.as_bytes()).decode(body.as_bytes(), 1000);
        assert_eq!(
            String::from_utf8_lossy(&decoded),
            expected,
            "{name} {body:?}"
        );
    }

    #[test]
    fn decodes() {
        check("base64", "aGVs\r\nbG8=\r\n", "hello");
        check("BASE64 (really)", "aGVsbG8", "hello");
        check("base64", "a!GVs*bG8=aGk=", "hellohi");
        check("base64", "", "");
        check("quoted-printable", "a=3Db=\r\nc= \t\nd", "a=bcd");
        check("Quoted-Printable", "=zz=4", "=zz=4");
        check("quoted-printable", "=", "");
        check("7bit", "as=20is", "as=20is");
        check("x-uuencode", "as=20is", "as=20is");
    }

    #[test]
    fn stops_at_the_limit() {
        let long = "QUFB".repeat(1000);
        for name in ["base64", "quoted-printable", "8bit"] {
            let decoded = Encoding::named(name.as_bytes()).decode(long.as_bytes(), 10);
            assert_eq!(decoded.len(), 10, "{name}");
        }
    }
}
