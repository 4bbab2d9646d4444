//! The protocol on tokio: server and client.
//!
//! [`serve`] runs a [`Filter`](crate::filter::Filter) for every connection of some [`Listener`]s;
//! [`accept`] is the loop beneath it, for programs that handle connections themselves; [`Client`]
//! drives a filter as an MTA does. All waiting has a deadline from [`Limits`] or [`Timeouts`].

mod accept;
mod address;
mod dial;
mod frames;
mod limits;
mod serve;
mod stream;
#[cfg(test)]
mod tests;
mod unix;

pub use accept::{Admission, Served, Stop, accept, admit};
pub use address::{Address, InvalidAddress};
pub use dial::{Client, DialError, Response, Timeouts};
pub use frames::{Frames, StreamError};
pub use limits::Limits;
pub use serve::{ConnectionError, converse, serve};
pub use stream::{Listener, Peer, Stream};
