//! The milter protocol, both sides, and what every daemon needs to run.

#[cfg(test)]
mod captures;
pub mod edit;
pub mod filter;
pub mod message;
pub mod session;
mod smtp_reply;
pub mod verdict;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "net")]
pub mod net;
