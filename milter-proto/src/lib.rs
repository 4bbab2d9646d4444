//! The milter protocol, both sides, and what every daemon needs to run.
//!
//! Four floors; each uses those below it alone:
//!
//! | module | what it is | needs |
//! |---|---|---|
//! | `daemon` | a program around a filter: configuration, logging, signals | feature `daemon` |
//! | `net` | server and client on tokio, with limits and deadlines | feature `net` |
//! | [`session`] | who may say what when: both sides as pure state machines | |
//! | [`wire`] | frames, commands and replies as bytes | |
//!
//! Beside them stands `testkit` (feature `testkit`): scripted filters and mail servers for tests, and
//! `.milter` files. And the words that all floors share: [`message`] (what a filter is told),
//! [`verdict`] and [`edit`] (what it decides), [`filter`] (the traits that it implements). Without
//! features nothing here knows a socket, a clock or a task.
//!
//! A filter is a type that makes a transaction for each message; a transaction decides at the
//! stages it cares for, and is consumed by the last one. This one refuses a sender and marks
//! everything else:
//!
//! ```no_run
//! # #[cfg(feature = "net")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use milter_proto::filter::{Context, Filter, Needs, Transaction};
//! use milter_proto::{edit::Edit, message::Path, net, verdict::*, wire::Actions};
//!
//! struct Mark;
//! impl Filter for Mark {
//!     type Transaction = Message;
//!     fn needs(&self) -> Needs {
//!         Needs { actions: Actions::ADD_HEADERS, ..Needs::default() }
//!     }
//!     fn begin(&self, _: Context<'_>) -> Message {
//!         Message
//!     }
//! }
//! struct Message;
//! impl Transaction for Message {
//!     async fn mail(&mut self, _: Context<'_>, sender: Path) -> Verdict {
//!         if sender.bare() == b"spam@example.org" { Verdict::Reject } else { Verdict::Continue }
//!     }
//!     async fn finish(self, _: Context<'_>) -> Outcome {
//!         Outcome { edits: vec![Edit::add("X-Seen", "yes")], verdict: Verdict::Continue }
//!     }
//! }
//! tokio::runtime::Runtime::new()?.block_on(async {
//!     let socket = net::Listener::bind(&"inet:10025@127.0.0.1".parse()?).await?;
//!     let filter = std::sync::Arc::new(Mark);
//!     let (limits, never) = (net::Limits::default(), std::future::pending());
//!     net::serve(vec![socket], || filter.clone(), limits, never).await;
//!     Ok(())
//! })
//! # }
//! # #[cfg(not(feature = "net"))]
//! # fn main() {}
//! ```
//!
//! Errors are enums with reasons that can be compared ([`wire::WireError`],
//! [`session::ProtocolError`]) and say whose fault they are. Logging: `wire` and `session` say
//! nothing. `net` says one line at `warn` for each connection that ends before its time (peer,
//! stage, reason) and for each command out of order, and one at `error` when a filter fails. What
//! comes from outside is escaped.

pub mod edit;
pub mod filter;
pub mod mail;
pub mod message;
pub mod session;
mod smtp_reply;
pub mod verdict;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "testkit")]
pub mod testkit;
