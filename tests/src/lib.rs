//! Peers for tests: processes that end with the test, the daemons, an MTA, a name server, clamd,
//! opendkim.
//!
//! Nothing here is part of the product, and nothing of it is ever linked into the product. Every
//! peer lives in a folder and on sockets of its own.

pub mod clamd;
pub mod compiled;
pub mod dns;
pub mod equivalence;
pub mod foreign;
pub mod mta;
pub mod opendkim;
pub mod process;
pub mod programs;
pub mod scripts;
pub mod sendmail;
pub mod skip;
