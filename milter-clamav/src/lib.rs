//! Scans mail through clamd while it arrives.
//!
//! `clamd` speaks clamd's protocol, `spool` keeps the message as clamd must see it, `scan` brings
//! both together for one message and always ends in a finding, `outcome` is the table from
//! finding to verdict, `filter` is the milter, `config` the file, `program` start and sub-commands.

pub mod clamd;
pub mod config;
pub mod filter;
pub mod outcome;
pub mod program;
pub mod scan;
pub mod spool;

pub use filter::Clamav;
