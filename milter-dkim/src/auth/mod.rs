//! Sender authentication: who signed a message, and may be believed to have sent it.

pub mod dkim;
pub mod domain;
pub mod header;
pub mod tags;
