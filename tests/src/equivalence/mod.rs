//! Chain equivalence: a mail server with filters in its own configuration, and the same server
//! with the same filters behind the orchestrator, must do the same.
//!
//! A scenario is the filters' scripts and the client's talk; it runs on both ways against a real
//! mail server ([`rig`]). What can be seen from outside is compared ([`outcome`]): every reply of
//! the dialogue, envelope and bytes of what is delivered, what is held; and what each filter was
//! told. Nothing here says what would be right: the server does.

pub mod campaign;
pub mod client;
pub mod deviations;
mod dialogue;
mod dice;
pub mod generate;
pub mod mta;
pub mod outcome;
pub mod postfix;
pub mod rig;
pub mod shrink;
pub mod sink;
mod told;
