//! Sender authentication: who signed a message, and may be believed to have sent it.
//!
//! A library of its own inside the crate: it knows neither milters nor configuration, and imports
//! nothing of ours from outside this folder. Two things come from whoever uses it: answers of DNS
//! ([`dns::Dns`]) and the time, so that everything can be tried without network and clock. It
//! reports what it found and decides nothing about a message; failures are values in the report.
//!
//! | module | what it is |
//! |---|---|
//! | [`dkim`] | signatures: made, verified, reported |
//! | [`results`] | Authentication-Results, in which reports travel |
//! | [`header`], [`address`], [`domain`], [`tags`] | what messages and records are made of |
//! | [`dns`], [`resolver`] | the question, and who answers it |
//!
//! Each further method (SPF, DMARC) is a folder beside [`dkim`], on the same seams.

pub mod address;
pub mod dkim;
pub mod dns;
pub mod domain;
pub mod header;
pub mod resolver;
pub mod results;
pub mod tags;
