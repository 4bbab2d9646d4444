//! Replies to the SMTP client, in the form that every MTA takes.
//!
//! MTAs treat a reply that they dislike very differently: a lone `%` makes Sendmail answer with a
//! permanent error of its own instead of a temporary one, an enhanced code of another class is a
//! configuration error to Postfix. So a [`SmtpReply`] exists only in the form that none of them
//! dislikes, whether it was made here or came from a peer.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

/// A reply to the SMTP client: 4xx or 5xx, optional enhanced code of the same class (RFC 3463),
/// printable text.
///
/// Holds what goes on the wire: `%` is doubled, lines are joined by CR LF and each begins with the
/// code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpReply(Bytes);

/// Why a text is no [`SmtpReply`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidReply {
    /// The code is not 400 to 599.
    #[error("reply code {0} is not 4xx or 5xx")]
    Code(u16),
    /// The enhanced status code is malformed or of another class than the code.
    #[error("enhanced status code {0:?} does not fit the reply code")]
    Enhanced(String),
    /// More lines than an MTA takes.
    #[error("a reply has at most {max} lines", max = SmtpReply::LINES_MAX)]
    TooManyLines,
    /// Bytes from a peer that are no reply at all.
    #[error("not a reply: code, optional enhanced code and text expected")]
    Malformed,
}

impl SmtpReply {
    /// Lines in a reply at most, as `smfi_setmlreply` has it.
    pub const LINES_MAX: usize = 32;
    /// Bytes in a line at most, code and enhanced code included, as libmilter has it (980).
    pub const LINE_MAX: usize = 980;

    /// A reply of `code`, with `enhanced` (`"5.7.1"`, or empty for none) and `text`, where a line
    /// feed starts a new line.
    ///
    /// Bytes that are not printable ASCII become `?`, long lines go on in further ones, `%` is
    /// doubled.
    ///
    /// # Errors
    /// When the code is not 4xx or 5xx, the enhanced code does not fit it, or there are too many
    /// lines.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Result<Self, InvalidReply> {
        if !(400..600).contains(&code) {
            return Err(InvalidReply::Code(code));
        }
        if !enhanced.is_empty() && enhanced_class(enhanced.as_bytes()) != Some(class_of(code)) {
            return Err(InvalidReply::Enhanced(enhanced.to_owned()));
        }
        let lines: Vec<&[u8]> = text.lines().map(str::as_bytes).collect();
        render(code, enhanced, &lines)
    }

    /// Reads what a filter sent (the payload of `SMFIR_REPLYCODE` without its NUL) and puts it in
    /// order: a lone `%` means itself and is doubled, as Postfix would have the client see it (to
    /// Sendmail it would make a 5xx of any reply); an enhanced code of another class is dropped
    /// (where Postfix would take a digit for one, the general code stands before it), control and
    /// 8-bit characters become `?`, lines over the limit go on in further ones.
    ///
    /// # Errors
    /// When it does not begin with a 4xx or 5xx code, its lines have different codes, or there are
    /// too many of them.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidReply> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut code = None;
        let mut lines = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (number, rest) = split_code(line).ok_or(InvalidReply::Malformed)?;
            if *code.get_or_insert(number) != number {
                return Err(InvalidReply::Malformed);
            }
            lines.push(single_percents(rest));
        }
        let code = code.ok_or(InvalidReply::Malformed)?;
        if !(400..600).contains(&code) {
            return Err(InvalidReply::Code(code));
        }
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        render(code, "", &lines)
    }

    /// The reply as it goes on the wire, without the final NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, sharing the buffer.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The three digits.
    #[must_use]
    pub fn code(&self) -> u16 {
        split_code(&self.0).map_or(0, |(code, _)| code)
    }

    /// Whether the SMTP connection is to be closed after it (421, RFC 5321 section 3.8).
    #[must_use]
    pub fn closes_connection(&self) -> bool {
        self.code() == 421
    }

    /// Whether it is a 4xx.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.0.first() == Some(&b'4')
    }
}

impl fmt::Display for SmtpReply {
    /// As the SMTP client sees it, on one line: `%` single, line ends as ` / `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        f.write_str(&text.replace("%%", "%").replace("\r\n", " / "))
    }
}

/// The first digit of a code, as a character.
fn class_of(code: u16) -> u8 {
    if code < 500 { b'4' } else { b'5' }
}

/// The class of an enhanced status code (RFC 3463 section 2); `None` when the text is none.
fn enhanced_class(text: &[u8]) -> Option<u8> {
    let parts: Vec<&[u8]> = text.splitn(4, |byte| *byte == b'.').collect();
    let [[class @ (b'2' | b'4' | b'5')], subject, detail] = parts[..] else {
        return None;
    };
    let number = |part: &[u8]| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
    (number(subject) && number(detail)).then_some(*class)
}

/// Splits a line into its code and what follows the separator.
fn split_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.first(), None | Some(b' ' | b'-')) {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some((code, rest.get(1..).unwrap_or_default()))
}

/// Undoes the doubling of `%`; a lone one stays.
fn single_percents(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        out.push(*byte);
        rest = match byte {
            b'%' => after.strip_prefix(b"%").unwrap_or(after),
            _ => after,
        };
    }
    out
}

/// Takes enhanced codes of another class off the front of a text: Postfix would refuse the reply.
fn without_foreign_class(code: u16, mut text: &[u8]) -> &[u8] {
    loop {
        let end = text
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(text.len());
        let (first, rest) = text.split_at(end);
        match enhanced_class(first) {
            Some(class) if class != class_of(code) => text = rest.trim_ascii_start(),
            _ => return text,
        }
    }
}

/// Writes the lines of a reply, the last one without CR LF.
fn render(code: u16, enhanced: &str, lines: &[&[u8]]) -> Result<SmtpReply, InvalidReply> {
    if lines.len() > SmtpReply::LINES_MAX {
        return Err(InvalidReply::TooManyLines);
    }
    let lines = if lines.is_empty() { &[&b""[..]] } else { lines };
    let space = if enhanced.is_empty() { "" } else { " " };
    let room = SmtpReply::LINE_MAX - "550 ".len() - enhanced.len() - space.len();
    let mut texts = Vec::new();
    for line in lines {
        if !enhanced.is_empty() {
            put_lines(line, room, &mut texts);
            continue;
        }
        let line = without_foreign_class(code, line);
        let digit = line.first().filter(|byte| byte.is_ascii_digit());
        if texts.is_empty() && digit.is_some_and(|digit| *digit != class_of(code)) {
            // Postfix takes any digit there for the class of an enhanced code.
            let general = format!("{}.0.0 ", char::from(class_of(code)));
            put_lines(&[general.as_bytes(), line].concat(), room, &mut texts);
        } else {
            put_lines(line, room, &mut texts);
        }
    }
    if texts.len() > SmtpReply::LINES_MAX {
        return Err(InvalidReply::TooManyLines);
    }
    let mut out = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let last = number + 1 == texts.len();
        let mark = if last { ' ' } else { '-' };
        out.extend_from_slice(format!("{code}{mark}{enhanced}{space}").as_bytes());
        out.extend_from_slice(text);
        if !last {
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(SmtpReply(Bytes::from(out)))
}

/// Appends a text, cleaned, as lines of at most `room` bytes; no more of them than a reply can have
/// and one, so that a huge text costs little.
fn put_lines(text: &[u8], room: usize, out: &mut Vec<Vec<u8>>) {
    let mut line = Vec::new();
    for byte in text {
        let clean: &[u8] = match byte {
            b'%' => b"%%",
            b' '..=b'~' => &[*byte],
            _ => b"?",
        };
        if line.len() + clean.len() > room {
            out.push(std::mem::take(&mut line));
            if out.len() > SmtpReply::LINES_MAX {
                return;
            }
        }
        line.extend_from_slice(clean);
    }
    out.push(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: u16, enhanced: &str, text: &str, wire: &str) {
        let reply = SmtpReply::new(code, enhanced, text).unwrap();
        assert_eq!(String::from_utf8_lossy(reply.as_bytes()), wire);
        assert_eq!(SmtpReply::parse(reply.as_bytes()).unwrap(), reply);
        assert_eq!(reply.code(), code);
    }

    #[test]
    fn case_066_a_per_cent_sign_is_doubled() {
        check(550, "5.7.1", "x%", "550 5.7.1 x%%");
    }

    fn refused(code: u16, enhanced: &str, text: &str, error: &InvalidReply) {
        let reply = SmtpReply::new(code, enhanced, text);
        assert_eq!(reply.as_ref(), Err(error));
    }

    #[test]
    fn case_067_codes_that_are_none() {
        for code in [250, 55, 600, 0, 399] {
            refused(code, "", "", &InvalidReply::Code(code));
        }
        assert_eq!(SmtpReply::parse(b"5x0 a"), Err(InvalidReply::Malformed));
        for enhanced in ["4.1.1", "5.1", "5.1.1000", "5..1", "x"] {
            let error = InvalidReply::Enhanced(enhanced.to_owned());
            refused(550, enhanced, "", &error);
        }
    }

    #[test]
    fn case_068_several_lines() {
        let wire = "550-5.7.1 a\r\n550-5.7.1 b\r\n550 5.7.1 c";
        check(550, "5.7.1", "a\nb\r\nc", wire);
        assert!(SmtpReply::new(550, "", &"x\n".repeat(32)).is_ok());
        refused(550, "", &"x\n".repeat(33), &InvalidReply::TooManyLines);
    }

    #[test]
    fn case_069_a_long_line_goes_on_in_another() {
        let long = "x".repeat(1100);
        let lines = [970, 130].map(|length| "x".repeat(length));
        let wire = format!("550-5.7.1 {}\r\n550 5.7.1 {}", lines[0], lines[1]);
        check(550, "5.7.1", &long, &wire);
        let reply = SmtpReply::parse(format!("550 {long}").as_bytes()).unwrap();
        for line in reply.as_bytes().split(|byte| *byte == b'\n') {
            assert!(line.len() <= SmtpReply::LINE_MAX + 1);
        }
        // A sign that is written as two bytes is not torn.
        let signs = SmtpReply::new(450, "", &"%".repeat(600)).unwrap();
        assert_eq!(SmtpReply::parse(signs.as_bytes()).unwrap(), signs);
        refused(550, "", &"x".repeat(40_000), &InvalidReply::TooManyLines);
    }

    #[test]
    fn made_replies() {
        check(450, "", "", "450 ");
        check(450, "4.2.1", "", "450 4.2.1 ");
        check(550, "", "tab\tand \u{e9}", "550 tab?and ??");
        check(550, "", "4.1.1 2.0.0 other class", "550 other class");
        check(550, "5.7.1", "4.1.1 kept", "550 5.7.1 4.1.1 kept");
    }

    #[test]
    fn replies_of_peers() {
        let check = |wire: &str, clean: &str| {
            let reply = SmtpReply::parse(wire.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(reply.as_bytes()), clean);
            assert_eq!(SmtpReply::parse(reply.as_bytes()).unwrap(), reply);
        };
        check("450 4.7.1 100% x", "450 4.7.1 100%% x");
        check("450 4.7.1 100%% x", "450 4.7.1 100%% x");
        check("450 %%%", "450 %%%%");
        check("550 4.1.1 x", "550 x");
        check("550 4.1.1", "550 ");
        check("550", "550 ");
        check("550 ", "550 ");
        check("550 10 is no code", "550 5.0.0 10 is no code");
        check("450-10\r\n450 10", "450-4.0.0 10\r\n450 10");
        check("550 5 lines", "550 5 lines");
        check("550-a\r\n550 b", "550-a\r\n550 b");
        check("550-a\n550-b\r\n", "550-a\r\n550 b");
        check("421 closing\rdown", "421 closing?down");
    }

    #[test]
    fn texts_that_are_no_replies() {
        let check = |wire: &str, error| assert_eq!(SmtpReply::parse(wire.as_bytes()), Err(error));
        check("", InvalidReply::Malformed);
        check("25 ", InvalidReply::Malformed);
        check("5x0 a", InvalidReply::Malformed);
        check("5500 a", InvalidReply::Malformed);
        check("550-a\r\n450 b", InvalidReply::Malformed);
        check("550-a\r\nb", InvalidReply::Malformed);
        check("250 ok", InvalidReply::Code(250));
        check(&"550-x\r\n".repeat(33), InvalidReply::TooManyLines);
    }
}
