//! Scores mail by a table of checks and acts by thresholds.

pub mod authentication;
mod charset;
pub mod date;
pub mod encoded_word;
pub mod envelope;
pub mod facts;
pub mod header;
pub mod html;
pub mod limits;
pub mod links;
pub mod mailbox;
pub mod mime;
pub mod rules;
pub mod score;
mod script;
pub mod transfer;
