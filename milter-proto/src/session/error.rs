//! What can go wrong between two sides that both send proper frames, and whose fault it is.

use std::fmt;

use thiserror::Error;

use crate::edit::InvalidEdit;
use crate::session::stage::Stage;
use crate::wire::WireError;
use crate::wire::options::Actions;

/// A breach of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{fault} {stage}: {reason}")]
pub struct ProtocolError {
    /// How far the conversation was.
    pub stage: Stage,
    /// Who broke it.
    pub fault: Fault,
    /// How.
    pub reason: Reason,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer that sends commands.
    Mta,
    /// The one that decides: a filter process, or our own [`Filter`](crate::filter::Filter).
    Filter,
    /// The code that calls this module.
    Caller,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mta => "MTA",
            Self::Filter => "filter",
            Self::Caller => "program",
        })
    }
}

/// How the protocol was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// A command that has no place at this stage.
    #[error("'{}' is out of order", char::from(*.0))]
    OutOfOrder(u8),
    /// More of them than any MTA sends by mistake.
    #[error("more than {0} commands out of order")]
    TooManyOutOfOrder(usize),
    /// Something was sent or asked while an answer is owed.
    #[error("an answer is still owed")]
    AnswerOwed,
    /// An answer where none, or one of another kind, is owed.
    #[error("no such answer is owed")]
    NoAnswerOwed,
    /// A reply to nothing: were it taken for the next answer, all later ones would be off by one.
    #[error("reply '{}' that nothing asked for", char::from(*.0))]
    Unasked(u8),
    /// A reply that has no meaning at this stage.
    #[error("reply '{}' is not allowed here", char::from(*.0))]
    Forbidden(u8),
    /// A protocol version that is not spoken.
    #[error("protocol version {0} is not supported (2 to 6 are)")]
    Version(u32),
    /// The filter needs what the MTA does not allow.
    #[error("{0:?} is needed but was not offered")]
    NotOffered(Actions),
    /// An edit of a kind that was not negotiated.
    #[error("{0:?} was not negotiated")]
    NotNegotiated(Actions),
    /// An edit before the end of the message.
    #[error("edit '{}' before the end of the message", char::from(*.0))]
    EditTooEarly(u8),
    /// More edits than any honest filter makes.
    #[error("more than {0} edits")]
    TooManyEdits(usize),
    /// An edit that must not be passed on.
    #[error(transparent)]
    Edit(#[from] InvalidEdit),
    /// A reply that stands for the end of the filter (`SMFIR_SHUTDOWN`, `SMFIR_CONN_FAIL`).
    #[error("'{}' says that the filter is shutting down or cut off", char::from(*.0))]
    GaveUp(u8),
    /// The bytes were no frame, command or reply.
    #[error(transparent)]
    Wire(#[from] WireError),
}
