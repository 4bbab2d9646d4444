//! Runs filters as children and proxies the milter protocol through them.

pub mod blueprint;
pub mod config;
pub mod control;
pub mod member;
pub mod proxy;
pub mod route;
pub mod status;
pub mod supervisor;
