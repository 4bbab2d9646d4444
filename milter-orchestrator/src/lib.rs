//! Runs filters as children and proxies the milter protocol through them.
//!
//! [`config`] is the file as written, [`blueprint`] what it means; [`supervisor`] keeps the filters
//! running; [`route`] says which [`member`]s a message goes through and the proxy takes it there;
//! `orchestrator` is the daemon that brings them together. [`counters`] says in numbers what
//! each did, [`status`], [`metrics`] and [`control`] show it, [`explain`] shows what would happen
//! to a message, [`reload`] what of a new configuration counts at once, [`import`] translates
//! configurations of others. Filters are commands and sockets here, never crates.

pub mod blueprint;
pub mod commands;
pub mod config;
pub mod control;
pub mod counters;
mod entrance;
pub mod explain;
pub mod import;
pub mod isolation;
mod list_watch;
pub mod member;
pub mod metrics;
mod orchestrator;
pub mod proxy;
pub mod reload;
pub mod route;
pub mod sandbox;
mod sockets;
pub mod status;
pub mod supervisor;

pub use orchestrator::Orchestrator;
