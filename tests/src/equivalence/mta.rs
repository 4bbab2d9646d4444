//! What a private mail server must be able to do, so that a chain can be compared on it.
//!
//! A server has one [`Entry`] for each way in: a loopback port with filters of its own. Everything
//! that it accepts goes to one sink; which message is whose is told by the queue id, which the
//! server writes into its own Received field. A server ends with its guard.

use std::net::SocketAddr;

use anyhow::Result;
use tempfile::TempDir;

/// A way in: one port of the server, with its own list of filters.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Unique name, of letters and digits.
    pub name: String,
    /// Filters in the order in which they are asked, each on a port of the loopback interface.
    pub milters: Vec<SocketAddr>,
}

/// What has become of a message that the server has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It has left the queue: delivered or discarded.
    Gone,
    /// It is held in quarantine: envelope and content as the server shows them.
    Held(Vec<u8>),
    /// It waits to be delivered again, though the sink refuses nothing.
    Deferred(Vec<u8>),
}

/// A running mail server.
pub trait Mta: Send + Sync {
    /// How it is called.
    fn name(&self) -> &'static str;

    /// Where the entry of that number is.
    fn address(&self, entry: usize) -> SocketAddr;

    /// The queue id in the reply to the end of a message.
    fn queue_id(&self, reply: &str) -> Option<String>;

    /// What has become of a message, once that is certain: waits for its delivery.
    ///
    /// # Errors
    /// When it is still being delivered after a while, or the queue cannot be read.
    fn fate(&self, queue_id: &str) -> Result<Fate>;

    /// The end of its log, for the report of a failure.
    fn log(&self) -> String;
}

/// An address of the loopback network that no other process uses: two servers that look for free
/// ports at the same time never find the same one.
#[must_use]
pub fn private_address() -> std::net::Ipv4Addr {
    let [.., high, middle, low] = std::process::id().to_be_bytes();
    // 127.0.0.0/16 is left to everybody else.
    std::net::Ipv4Addr::new(127, high.saturating_add(1), middle, low)
}

/// A folder for a server's queue, in memory where that is possible: every message is synchronised
/// to its file, and a full disk is no matter of the comparison.
///
/// # Errors
/// When there can be none.
pub fn private_folder() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let in_memory = builder.prefix("equivalence-").tempdir_in("/dev/shm");
    Ok(in_memory.or_else(|_| builder.tempdir())?)
}

/// So many free ports of an address.
///
/// # Errors
/// When there are not enough.
pub fn free_ports(ip: std::net::Ipv4Addr, count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<std::net::TcpListener> = (0..count)
        .map(|_| std::net::TcpListener::bind((ip, 0)))
        .collect::<std::io::Result<_>>()?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}
