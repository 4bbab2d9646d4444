//! The milter protocol, versions 2 to 6, from both sides: for filters, for whoever drives filters,
//! and for what stands between.
//!
//! # A filter
//!
//! A filter is a type that makes a transaction for each message; a transaction decides at the
//! stages it cares for, and is consumed by the last one. This one refuses a sender and marks
//! everything else:
//!
//! ```
//! # #[cfg(feature = "net")]
//! # mod example {
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
//! pub async fn run(socket: net::Listener) {
//!     let (filter, limits) = (std::sync::Arc::new(Mark), net::Limits::default());
//!     net::serve(vec![socket], || filter.clone(), limits, std::future::pending()).await;
//! }
//! # }
//! # #[cfg(feature = "net")]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     use milter_proto::message::{Address, Connection, Path};
//! #     use milter_proto::net::{Client, Listener, Timeouts};
//! #     use milter_proto::{edit::Edit, session::Event, verdict::Verdict, wire::Offer};
//! #     let listener = Listener::bind(&"inet:0@127.0.0.1".parse()?).await?;
//! #     let address = listener.address()?;
//! #     tokio::spawn(example::run(listener));
//! #     let (mut mta, _) = Client::connect(&address, &Offer::full(), Timeouts::default()).await?;
//! #     mta.send(Event::Connect(Connection::nameless(Address::Unknown)), None).await?;
//! #     let path = |address: &'static str| Path { address: address.into(), args: vec![] };
//! #     let refused = mta.send(Event::Mail(path("<spam@example.org>")), None).await?;
//! #     assert_eq!(refused.verdict, Verdict::Reject);
//! #     mta.send(Event::Mail(path("<friend@example.org>")), None).await?;
//! #     mta.send(Event::Rcpt(path("<me@example.org>")), None).await?;
//! #     let end = mta.send(Event::EndOfMessage, None).await?;
//! #     assert_eq!(end.edits, [Edit::add("X-Seen", "yes")]);
//! #     assert_eq!(end.verdict, Verdict::Continue);
//! #     mta.quit().await;
//! #     Ok(())
//! # }
//! # #[cfg(not(feature = "net"))]
//! # fn main() {}
//! ```
//!
//! It listens where `net::Listener::bind` is told to:
//! `"inet:10025@127.0.0.1".parse()?`, or `"unix:/run/mark.sock"`.
//!
//! # Driving filters
//!
//! `net::Client` does what a mail server does: it negotiates, sends events with their macros, waits
//! only where an answer is due, and hands over verdict and edits. [`mail::Mail`] applies the edits
//! to a header as Postfix or Sendmail would. `examples/mta.rs` is a whole one: it takes a message
//! from a file through a filter and prints what becomes of it.
//!
//! # Floors and features
//!
//! Four floors; each uses those below it alone. Without features nothing here knows a socket, a
//! clock or a task, so both state machines can be driven by any runtime, or none.
//!
//! | module | what it is | feature |
//! |---|---|---|
//! | `daemon` | a program around a filter: configuration, logging, signals | `daemon` |
//! | `net` | server and client on tokio, with limits and deadlines | `net` |
//! | [`session`] | who may say what when: both sides as pure state machines | |
//! | [`wire`] | frames, commands and replies as bytes | |
//!
//! Beside them stands `testkit`: scripted filters and mail servers for tests, and `.milter` files.
//! And the words that all floors share: [`message`] (what a filter is told), [`verdict`] and
//! [`edit`] (what it decides), [`filter`] (the traits that it implements).
//!
//! | feature | what it adds | what it pulls in |
//! |---|---|---|
//! | none | codec, state machines, traits | `bytes`, `bitflags`, `thiserror` |
//! | `net` | `net`: server, client, limits | `tokio` (net, time, sync), `tracing`, `socket2` |
//! | `testkit` | `testkit`: peers as data; on sockets with `net` | |
//! | `daemon` | `net`, `daemon`: arguments to exit code | `clap`, `serde`, `toml`, `nix` and more |
//!
//! # What is promised
//!
//! The types of other crates in this interface are few: `Bytes` and `BytesMut` of `bytes` 1; the
//! flag types' methods are those that `bitflags` 2 writes; `AsyncRead`, `AsyncWrite`, `Interest`
//! and `Ready` of tokio 1 in `net`; the traits of `serde` 1, `schemars` 1 and `clap` 4 where
//! `daemon::Program` asks for them. A new major version of one of them is a new one of this crate.
//!
//! Enums that mirror the protocol ([`wire::Command`], [`wire::Reply`], [`session::Event`],
//! [`verdict::Verdict`], [`edit::Edit`]) or say what is to be done ([`session::Step`],
//! [`session::Answer`]) are complete and meant to be matched without a wildcard: one more of them
//! would have to be thought about everywhere. Errors, warnings, limits, timeouts and results will
//! grow, and are `#[non_exhaustive]`.
//!
//! Errors are enums with reasons that can be compared ([`wire::WireError`],
//! [`session::ProtocolError`]) and say whose fault they are. Logging: `wire` and `session` say
//! nothing. `net` says one line at `warn` for each connection that ends before its time (peer,
//! stage, reason) and for each command out of order, and one at `error` when a filter fails. What
//! comes from outside is escaped. Nothing that a peer sends panics, or makes more be allocated than
//! the limits say.

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
