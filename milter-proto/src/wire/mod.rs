//! Bytes and values: frames, commands, replies. No input or output, no order of events.
//!
//! [`Decoder`] cuts a stream into [`Frame`]s; [`Command::parse`] and [`Reply::parse`] read them and
//! `encode` writes them. What is read is exact: every string ends in its NUL, nothing is trimmed,
//! and `parse(encode(x)) == x`. What does not fit is a [`WireError`] with its reason, after which
//! the connection is of no more use, since replies are matched to commands by order alone.

pub mod command;
mod error;
mod frame;
pub mod macros;
pub mod options;
pub mod reply;
mod strings;
#[cfg(test)]
mod tests;

pub use command::Command;
pub use error::{Malformed, WireError};
pub use frame::{Decoder, Frame};
pub use macros::Macros;
pub use options::{Actions, MacroStage, Offer, Steps};
pub use reply::Reply;

/// The protocol version spoken (`SMFI_PROT_VERSION`).
pub const VERSION: u32 = 6;
/// The oldest version accepted.
pub const VERSION_MIN: u32 = 2;
/// Bytes in the payload of a command that is neither header nor body, at most: as many as libmilter
/// takes.
pub const COMMAND_MAX: usize = 65_535;
/// Bytes in a body chunk at most, in either direction (`MILTER_CHUNK_SIZE`).
pub const CHUNK_MAX: usize = 65_535;
