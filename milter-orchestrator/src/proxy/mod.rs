//! The proxy: one connection of an MTA on one side, the filters of a chain on the other.

mod edits;
mod headers;
mod offer;
mod plan;
mod spool;
