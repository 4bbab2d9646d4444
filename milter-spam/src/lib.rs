//! Scores mail by a table of checks and acts by thresholds.

mod charset;
pub mod date;
pub mod encoded_word;
pub mod header;
pub mod limits;
pub mod mailbox;
pub mod mime;
mod script;
pub mod transfer;
