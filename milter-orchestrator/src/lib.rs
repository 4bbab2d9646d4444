//! Runs filters as children and proxies the milter protocol through them.

pub mod member;
pub mod route;
pub mod supervisor;
