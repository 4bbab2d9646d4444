//! Sender authentication: who signed a message, and may be believed to have sent it.

pub mod address;
pub mod dkim;
pub mod dns;
pub mod domain;
pub mod header;
pub mod resolver;
pub mod results;
pub mod tags;
