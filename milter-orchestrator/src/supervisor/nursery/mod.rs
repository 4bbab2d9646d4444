//! Nurseries: small processes that are the parents of the children.
//!
//! There is one for each user that children run as (and a spare one beside it). It is our own
//! binary under a hidden sub-command, has one thread, gives up what rights it has before anything
//! else, and then does as its *holders* ask over a socket: starts programs, signals their process
//! groups, and tells how they end. A holder is an orchestrator; there may be two of them for a
//! while, an old one and the one that takes over ([`message`]). When no holder is left, however
//! that came about, a nursery kills all of its children and ends, so that no child outlives the
//! orchestrator; when a nursery ends, the kernel ends its children.
//!
//! A nursery reads no configuration, decides nothing, and never starts a child by itself. What
//! fails is reported to the holders as a value.

mod brood;
pub mod channel;
pub mod exec;
pub mod hold;
pub mod message;
pub mod serve;

pub use hold::{Cradle, Nurseries, Share};

/// This binary, also after it was replaced on disk.
pub(crate) const OURSELVES: &str = "/proc/self/exe";
