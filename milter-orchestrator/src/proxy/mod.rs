//! The proxy: one connection of an MTA on one side, the filters of a chain on the other.

mod headers;
mod offer;
