//! Scripted peers for tests: filters and mail servers that do what a script says, also what no
//! correct peer does.
//!
//! | type | what it is |
//! |---|---|
//! | [`FilterScript`] | what a filter negotiates, and what it does when; the rest it does right |
//! | [`ScriptedFilter`] | obeys it without input or output, and writes down what it was told |
//! | [`MtaScript`], [`ScriptedMta`] | the other side: what is sent, and what must come back |
//! | [`Scenario`] | a whole test as text, a `.milter` file: filters, conversations, claims |
//! | [`exposition`] | a strict reader of metrics |
//! | [`text`] | the grammar of `.milter` files |
//! | `FilterServer` | a scripted filter on a socket, its script exchangeable (feature `net`) |
//! | `converse` | an MTA's script over a stream (feature `net`) |
//!
//! A filter that refuses the second recipient and marks everything else, asked by hand:
//!
//! ```
//! use milter_proto::testkit::{Act, FilterScript, Scenario, ScriptedFilter};
//! use milter_proto::wire::{Command, Offer, Reply};
//!
//! let scenario = Scenario::parse("example.milter", r#"
//!     filter marker
//!       actions add-headers
//!       at rcpt 2: reply "550 5.7.1 one is enough"
//!       at end: add "X-Seen" "yes"; continue
//! "#)?;
//! let mut filter = ScriptedFilter::new(scenario.filters[0].clone());
//! filter.hear(&Command::Negotiate(Offer::full()));
//! let acts = filter.hear(&Command::EndOfMessage(Default::default()));
//! assert_eq!(acts.last(), Some(&Act::Say(Reply::Continue)));
//! assert_eq!(filter.transcript().len(), 2);
//! # Ok::<(), milter_proto::testkit::ScriptError>(())
//! ```
//!
//! Nothing here judges a peer but by the script. What a script cannot say is an error of the text
//! with its line; what goes wrong on a socket ends that one connection.

#[cfg(feature = "net")]
mod converse;
pub mod exposition;
mod filter;
mod mta;
mod scenario;
mod script;
#[cfg(feature = "net")]
mod serve;
#[cfg(test)]
mod tests;
pub mod text;

#[cfg(feature = "net")]
pub use converse::converse;
pub use filter::{ScriptedFilter, Told};
pub use mta::{Exchange, Expect, Mismatch, MtaScript, MtaStep, ScriptedMta, Turn};
pub use scenario::{Chain, Claim, Dialogue, OnFailure, Place, Scenario, SmtpStep};
pub use script::{Act, At, Cue, FilterScript, Nth};
#[cfg(feature = "net")]
pub use serve::FilterServer;
#[doc(no_inline)]
pub use text::{ScriptError, Text};
