//! What a filter decides, as values.
//!
//! Each stage has a verdict type of its own that holds just the answers which are legal and
//! portable there, so that a forbidden one does not compile: no discard at CONNECT and HELO, skip
//! for body chunks alone, edits at the end of the message alone. The text of a reply is
//! [`SmtpReply`].

use crate::edit::Edit;

pub use crate::smtp_reply::{InvalidReply, SmtpReply};

/// The answer to MAIL, RCPT, DATA, header fields and the end of headers; and the final one at the
/// end of the message.
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
    /// Refuse with a text of ours (`SMFIR_REPLYCODE`), temporary or permanent by its first
    /// digit.
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
