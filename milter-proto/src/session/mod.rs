//! Both sides of the conversation as pure state machines: no socket, no clock, no task.
//!
//! ```text
//!          O          C           H,U         M         R         T, L…         N      B…  E
//!   Start ───▶ Fresh ───▶ Client ◀──┘ ───▶ Mail ───▶ Rcpt ───▶ Data,Headers ───▶ Body ◀┘ ──▶ End
//!                ▲           ▲               │         │             │            │          │
//!                │ K         └─────── verdict that ends the message, A, H, answer to E ──────┘
//!                └ from anywhere
//! ```
//!
//! [`FilterSide`] answers an MTA: commands go in, [`Step`]s come out, verdicts go in, replies come
//! out. [`MtaSide`] drives a filter: [`Event`]s go in, commands come out, replies go in,
//! [`Answer`]s come out. Both follow the same table (`stage`), in which a stage that was negotiated
//! away may be missing. Replies have no numbers: they belong to commands by order alone, so both
//! sides count what is owed and say [`ProtocolError`] to one too many instead of taking it for the
//! next. An error names the stage and whose fault it is, and leaves the state as it was; what
//! follows from it is for the caller to decide.
//!
//! Where libmilter, Postfix and Sendmail do not agree, these sides do the following.
//!
//! * A frame that does not add up (a macro without value, a parameter without its NUL, bytes behind
//!   an offer) is an error, never mended. Bytes behind a verdict are ignored.
//! * An answer to the offer may not have a higher version. Steps and actions that were not offered
//!   are masked with a [`Warning`]; an edit that was not agreed on is an error when it comes.
//! * An MTA's command out of order is answered with a temporary failure, where libmilter says
//!   nothing; a first command other than the offer ends the conversation.
//! * Progress counts at any stage. A skip counts for header fields and the body; elsewhere, as a
//!   discard at CONNECT and HELO, it means `Continue` and is a complaint
//!   ([`MtaSide::take_complaint`]).
//! * No ABORT goes after a message that is complete; one that comes is ignored.
//! * An empty list of macros means the default ([`Offer::select`](crate::wire::Offer::select)), and
//!   none is ever sent.

mod error;
mod event;
mod facts;
mod filter;
mod mta;
mod stage;
#[cfg(test)]
pub(crate) mod tests;

pub use error::{Fault, ProtocolError, Reason};
pub use event::Event;
pub use facts::Facts;
pub use filter::{FilterSide, Step};
pub use mta::{Answer, Expect, MtaSide, Sent, Warning};
pub use stage::Stage;
