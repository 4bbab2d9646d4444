//! What a filter says to an MTA (`SMFIR_*`).

use crate::edit::Edit;
use crate::verdict::SmtpReply;
use crate::wire::options::Offer;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `O` The answer to the negotiation.
    Negotiate(Offer),
    /// `c`
    Continue,
    /// `a`
    Accept,
    /// `r`
    Reject,
    /// `t`
    TempFail,
    /// `d`
    Discard,
    /// `s`
    Skip,
    /// `p` Still working; not an answer.
    Progress,
    /// `y` A reply text.
    SmtpReply(SmtpReply),
    /// A change, legal at the end of the message only.
    Edit(Edit),
    /// `4` Internal to MTAs: an error from a filter.
    Shutdown,
    /// `f` Historical: an error from a filter.
    ConnectionFailed,
}
