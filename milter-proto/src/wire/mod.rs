//! Bytes and values: frames, commands, replies. No input or output, no order of events.

pub mod command;
pub mod macros;
pub mod options;
pub mod reply;
