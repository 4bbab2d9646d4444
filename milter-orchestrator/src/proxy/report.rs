//! One line of log for each message: who said what and took how long, what was decided and by whom.
//!
//! Everything that came from outside is escaped, so that a line is a line whatever an address or a
//! queue id holds. The members' counters are kept here too, so that they and the log agree.

use std::fmt::Write as _;
use std::time::Instant;

use milter_proto::message::Address;
use milter_proto::session::{Event, Facts, FilterSide};
use milter_proto::verdict::Verdict;

use super::Shared;
use super::child::{self, State};
use super::message::{Decided, Message};
use super::plan::Position;
use crate::counters::{Change, Decision, Failure, Replay, Word};
use crate::member::Member;

/// Bytes of a foreign text that are logged at most.
const TEXT_MAX: usize = 120;

/// A filter's part, with the filter.
pub(crate) struct Part<'a> {
    pub(crate) member: &'a Member,
    pub(crate) part: &'a child::Part,
}

/// What is known of a message, for its line.
pub(crate) struct Line<'a> {
    message: &'a Message,
    facts: &'a Facts,
}

impl<'a> Line<'a> {
    /// The line of a message.
    pub(crate) fn new(message: &'a Message, side: &'a FilterSide) -> Self {
        Self {
            message,
            facts: side.facts(),
        }
    }

    /// Writes it, and counts.
    pub(crate) fn log(&self, shared: &Shared, chain: &str, parts: &[Part<'_>], now: Instant) {
        let message = self.message;
        let unknown = Decided {
            verdict: None,
            by: String::new(),
        };
        let decided = message.decided.as_ref().unwrap_or(&unknown);
        tracing::info!(
            queue_id = %queue_id(self.facts),
            listen = %shared.listen,
            route = chain,
            client = %client(self.facts),
            sender = %address_of(&message.mail.event),
            recipients = message.recipients.iter().filter(|one| !one.refused).count(),
            size = message.body.len(),
            decision = %decided.verdict.as_ref().map_or_else(|| "none".to_owned(), verdict),
            by = %decided.by.escape_debug(),
            filters = %words(parts),
            replays = message.replays,
            ms = millis(now.saturating_duration_since(message.began)),
            "message"
        );
        let held = !message.quarantine.is_empty();
        let decision = Decision::of(decided.verdict.as_ref(), held);
        shared.traffic.message(decision, message.body.len());
        parts
            .iter()
            .filter(|part| !part.member.shadow)
            .for_each(|part| part.count(decision));
    }
}

impl Part<'_> {
    /// Counts the filter's word on the message, or that of its policy.
    fn count(&self, decision: Decision) {
        let Self { member, part } = self;
        let health = &member.health;
        let counters = health.counters();
        if part.replayed {
            counters.replayed(match &part.state {
                State::Failed(_) => Replay::Failed,
                State::Active => Replay::Unneeded,
                State::Done | State::Refused(_) | State::Finished => Replay::Ok,
            });
        }
        match &part.state {
            State::Failed(policy) => {
                let failure = part.failure.unwrap_or(Failure::Closed);
                let why = part.error.as_deref().unwrap_or("failed");
                health.count_fallback(*policy, failure, why);
                if decision == Decision::Accept {
                    counters.unseen();
                }
            }
            State::Done => counters.message(Word::Accept),
            State::Refused(verdict) => counters.message(verdict.into()),
            State::Finished => {
                counters.message(Word::Continue);
                for edit in &part.edits {
                    counters.changes(edit.into(), 1);
                }
                counters.changes(Change::Body, u64::from(part.replaces_body));
            }
            State::Active => {}
        }
    }
}

/// What every filter said, as `name=word/milliseconds`, in the chain's order.
fn words(parts: &[Part<'_>]) -> String {
    let mut line = String::new();
    for Part { member, part } in parts {
        let separator = if line.is_empty() { "" } else { " " };
        let shadow = if member.shadow { "(shadow)" } else { "" };
        let word = match &part.state {
            // Its word is logged when it comes.
            State::Active if member.shadow && part.position == Position::Finished => {
                "pending".to_owned()
            }
            State::Active => "unfinished".to_owned(),
            State::Done => "accept".to_owned(),
            State::Finished => "continue".to_owned(),
            State::Refused(word) => verdict(word),
            State::Failed(policy) => format!("failed:{policy:?}").to_lowercase(),
        };
        let edits = part.edits.len() + usize::from(part.replaces_body);
        let edits = match edits {
            0 => String::new(),
            edits => format!("+{edits}"),
        };
        let replayed = if part.replayed { "(replayed)" } else { "" };
        let ms = millis(part.busy);
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "{separator}{}{shadow}={word}{edits}{replayed}/{ms}ms",
            member.name
        );
    }
    line
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A verdict in a word; a reply text in full.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "continue".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reject => "reject".to_owned(),
        Verdict::TempFail => "tempfail".to_owned(),
        Verdict::Discard => "discard".to_owned(),
        Verdict::Reply(reply) => format!("{:?}", escaped(reply.to_string().as_bytes())),
    }
}

/// The queue id, or `-` where the MTA has not told it.
pub(crate) fn queue_id(facts: &Facts) -> String {
    facts
        .macro_value("i")
        .map_or_else(|| "-".to_owned(), |id| escaped(id))
}

/// The client's address and name.
pub(crate) fn client(facts: &Facts) -> String {
    let Some(connection) = facts.connection() else {
        return "-".to_owned();
    };
    let name = escaped(&connection.hostname);
    match &connection.address {
        Address::Inet(address) => format!("{name}[{}]", address.ip()),
        Address::TaggedInet6(address) => format!("{name}[{}]", address.ip()),
        Address::Unix(path) => format!("{name}[unix:{}]", escaped(path)),
        Address::Unknown => name,
        Address::Unparsable { text, .. } => format!("{name}[{}]", escaped(text)),
    }
}

fn address_of(event: &Event) -> String {
    match event {
        Event::Mail(path) => escaped(&path.address),
        _ => String::new(),
    }
}

/// A foreign text on one line and in ASCII.
pub(crate) fn escaped(text: &[u8]) -> String {
    let mut shown = text[..text.len().min(TEXT_MAX)].escape_ascii().to_string();
    if text.len() > TEXT_MAX {
        shown.push('…');
    }
    shown
}
