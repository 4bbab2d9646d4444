//! What a filter decides, as values.
//!
//! Each stage has a verdict type of its own that holds just the answers which are legal and portable there, so that a forbidden
//! one does not compile: no discard at CONNECT and HELO, skip for body chunks alone, edits at the end of the message alone.

use bytes::Bytes;
use thiserror::Error;

use crate::edit::Edit;

/// The answer to MAIL, RCPT, DATA, header fields and the end of headers; and the final one at the end of the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Go on (`SMFIR_CONTINUE`).
    #[default]
    Continue,
    /// Take the message without asking this filter again (`SMFIR_ACCEPT`).
    Accept,
    /// Refuse with the MTA's own 5xx text (`SMFIR_REJECT`); at RCPT this recipient alone.
    Reject,
    /// Refuse with the MTA's own 4xx text (`SMFIR_TEMPFAIL`).
    TempFail,
    /// Take the message and drop it silently (`SMFIR_DISCARD`).
    Discard,
    /// Refuse with a text of ours (`SMFIR_REPLYCODE`), temporary or permanent by its first digit.
    Reply(SmtpReply),
}

/// The answer to CONNECT and HELO: as [`Verdict`], without discard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Greeting {
    /// Go on.
    #[default]
    Continue,
    /// Let everything on this connection pass without asking this filter.
    Accept,
    /// Refuse the client with the MTA's own 5xx text.
    Reject,
    /// Refuse the client with the MTA's own 4xx text.
    TempFail,
    /// Refuse the client with a text of ours.
    Reply(SmtpReply),
}

/// The answer to a body chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyVerdict {
    /// No more chunks, but the end of the message is still wanted (`SMFIR_SKIP`).
    Skip,
    /// As at any other stage.
    Go(Verdict),
}

impl Default for BodyVerdict {
    fn default() -> Self {
        Self::Go(Verdict::Continue)
    }
}

impl From<Greeting> for Verdict {
    fn from(greeting: Greeting) -> Self {
        match greeting {
            Greeting::Continue => Self::Continue,
            Greeting::Accept => Self::Accept,
            Greeting::Reject => Self::Reject,
            Greeting::TempFail => Self::TempFail,
            Greeting::Reply(reply) => Self::Reply(reply),
        }
    }
}

/// What a filter decides at the end of the message: edits, then the verdict.
///
/// Edits count only with [`Verdict::Continue`] and [`Verdict::Accept`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// In the order in which they are to be applied.
    pub edits: Vec<Edit>,
    /// The final word.
    pub verdict: Verdict,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        Self {
            edits: Vec::new(),
            verdict,
        }
    }
}

/// A reply to the SMTP client that every MTA takes: 4xx or 5xx, optional enhanced code of the same class (RFC 3463), printable text.
///
/// Holds what goes on the wire: `%` is doubled, lines are joined by CR LF and each begins with the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpReply(Bytes);

/// Why a text is no [`SmtpReply`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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

    /// A reply of `code`, with `enhanced` (`"5.7.1"`, or empty for none) and `text`, where a line feed starts a new line.
    ///
    /// Bytes that are not printable ASCII become `?`, long lines are cut, `%` is doubled.
    ///
    /// # Errors
    /// When the code is not 4xx or 5xx, the enhanced code does not fit it, or there are too many lines.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Result<Self, InvalidReply> {
        if !(400..600).contains(&code) {
            return Err(InvalidReply::Code(code));
        }
        if !enhanced.is_empty() && !is_enhanced_of(enhanced, code) {
            return Err(InvalidReply::Enhanced(enhanced.to_owned()));
        }
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > Self::LINES_MAX {
            return Err(InvalidReply::TooManyLines);
        }
        Ok(Self(render(code, enhanced, &lines)))
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

    /// Whether it is a 4xx.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.0.first() == Some(&b'4')
    }
}

/// Whether `text` is `class.subject.detail` (RFC 3463) of the class of `code`.
fn is_enhanced_of(text: &str, code: u16) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let [class, subject, detail] = parts[..] else {
        return false;
    };
    let number =
        |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    class == (code / 100).to_string() && number(subject) && number(detail)
}

/// Writes the lines of a reply, the last one without CR LF.
fn render(code: u16, enhanced: &str, lines: &[&str]) -> Bytes {
    let space = if enhanced.is_empty() { "" } else { " " };
    let mut out = Vec::new();
    let last = lines.len().saturating_sub(1);
    for (number, line) in lines
        .iter()
        .chain(lines.is_empty().then_some(&""))
        .enumerate()
    {
        let mark = if number < last { '-' } else { ' ' };
        let start = out.len();
        out.extend_from_slice(format!("{code}{mark}{enhanced}{space}").as_bytes());
        for byte in line.bytes() {
            let clean: &[u8] = match byte {
                b'%' => b"%%",
                b' '..=b'~' => &[byte],
                _ => b"?",
            };
            if out.len() - start + clean.len() > SmtpReply::LINE_MAX {
                break;
            }
            out.extend_from_slice(clean);
        }
        if number < last {
            out.extend_from_slice(b"\r\n");
        }
    }
    Bytes::from(out)
}
