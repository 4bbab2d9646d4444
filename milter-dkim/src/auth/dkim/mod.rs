//! DKIM (RFC 6376, with RFC 8301 and RFC 8463): signing and verifying, without sockets, files or
//! clocks.

pub mod body_hash;
pub mod canonical;
pub mod key;
pub mod lookup;
pub mod private_key;
pub mod report;
pub mod sign;
pub mod signature;
pub mod verify;
