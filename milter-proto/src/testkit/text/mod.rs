//! The text form of a [`Scenario`]: `.milter` files.
//!
//! One statement a line, which goes on in the next where it ends in `;`; `#` begins a comment;
//! white space separates and otherwise means nothing.
//! `"…"` is a string of bytes with `\"`, `\\`, `\n`, `\r`, `\t`, `\0` and `\xHH`; `"ab" * 1000` is
//! it so many times. Numbers of messages, connections and commands begin at 1.
//!
//! ```text
//! filter NAME                        a filter; what follows is about it
//!   version N                        without it 6
//!   actions ACTION… | all | none     without it none; SMFIF_* as add-headers, change-body …
//!   steps STEP… | all | none         without it none; SMFIP_* as no-helo, nr-header, skip …
//!   macros STAGE "NAME NAME…"        the macros that it asks for
//!   at WHEN: ACT; ACT…               what it does there; otherwise it lets everything pass
//! chain NAME [NAME NAME] NAME        their order, side by side in brackets; without it as written
//!   strict                           one filter at a time
//!   on-failure NAME POLICY           accept, tempfail, reject or quarantine
//!   timeout NAME TIME
//! mta                                a connection of an MTA, in frames
//!   > COMMAND                        it sends
//!   < EXPECTED; EXPECTED…            and this must come, before it sends more
//! smtp                               a connection of an SMTP client
//!   C: COMMAND                       a line as it is, or C: "…" for any bytes
//!   | LINE                           of a message; dots are seen to; or | "…" for any bytes
//! told NAME: AT AT…                  the filter was told just this (negotiation, macros aside)
//! told NAME on N: AT AT…             the same on its connection of that number
//! told NAME has COMMAND              it was told this, letter by letter
//! told NAME has-not COMMAND          it was not
//! told NAME connections N            it was connected to so often
//!
//! WHEN     = AT [N [of-connection]] [in-message N] [on-connection N]     later lines go before
//! AT       = open negotiate macros connect helo mail rcpt data header end-of-headers body end
//!            abort unknown quit quit-reuse
//! ACT      = REPLY | BYTES | wait TIME | close | hang | nothing
//! EXPECTED = REPLY | any REPLY-WORD | nothing | closed
//! COMMAND  = negotiate [version N] [actions …] [steps …] [macros STAGE "…"]…   alone: everything
//!          | macros AT "NAME" "VALUE"…
//!          | connect "HOST" (ADDRESS:PORT | tagged ADDRESS:PORT | unix "PATH" | unknown
//!                            | unparsable FAMILY PORT "TEXT")      tagged: IPv6 as sendmail has it
//!          | helo "NAME" | mail "<ADDRESS>" "ARGUMENT"… | rcpt "<ADDRESS>" "ARGUMENT"… | data
//!          | header "NAME" "VALUE" | end-of-headers | body "BYTES" | end ["BYTES"]
//!          | abort | unknown "LINE" | quit | quit-reuse | BYTES | wait TIME | close
//! REPLY    = continue | accept | reject | tempfail | discard | skip | progress
//!          | reply "550 5.7.1 TEXT" | shutdown | connection-failed | negotiate …
//!          | add "NAME" "VALUE" | insert INDEX "NAME" "VALUE" | change INDEX "NAME" "VALUE"
//!          | delete INDEX "NAME" | add-recipient "ADDRESS" ["ARGUMENTS"]
//!          | delete-recipient "ADDRESS" | sender "ADDRESS" ["ARGUMENTS"]
//!          | replace-body "BYTES" | quarantine "REASON"
//! BYTES    = raw "BYTES" | frame "BYTES"      a frame gets its length
//! TIME     = 100ms | 2s
//! ```
//!
//! A text that is not this is a [`ScriptError`]: file, line, and what to write instead. What is
//! printed reads back as the same value; comments are not kept.

mod command;
mod line;
mod parse;
mod print;
mod reply;

use thiserror::Error;

pub(super) use parse::parse;
pub use print::Text;

#[cfg(doc)]
use super::scenario::Scenario;

/// A mistake in a `.milter` text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}: {what}: {instead}")]
pub struct ScriptError {
    /// The file, as its reader calls it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub instead: String,
}

/// The same before anybody knows where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    what: String,
    instead: String,
}

impl Mistake {
    fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            instead: instead.into(),
        }
    }
}
