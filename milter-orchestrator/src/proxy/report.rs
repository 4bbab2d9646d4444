//! One line of log for each message: who said what and took how long, what was decided, by whom and
//! why.
//!
//! Everything that came from outside is escaped, so that a line is a line whatever an address or a
//! queue id holds. The members' counters are kept here too, so that they and the log agree.

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use milter_proto::message::Address;
use milter_proto::session::{Event, Facts, FilterSide};
use milter_proto::verdict::Verdict;
use serde::Serialize;

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
    /// What it has against the client.
    pub(crate) refusal: Option<&'a Verdict>,
}

/// What is known of a message, for its line.
pub(crate) struct Line<'a> {
    message: &'a Message,
    facts: &'a Facts,
    added: Option<Duration>,
}

impl<'a> Line<'a> {
    /// The line of a message.
    pub(crate) fn new(message: &'a Message, side: &'a FilterSide) -> Self {
        Self {
            message,
            facts: side.facts(),
            added: None,
        }
    }

    /// With the time that was neither the MTA's nor a filter's.
    pub(crate) fn with_added(self, added: Option<Duration>) -> Self {
        Self { added, ..self }
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
            why = why(message, decided, parts),
            filters = %Words(parts),
            replays = message.replays,
            added_ms = self.added.map(tenths),
            ms = millis(now.saturating_duration_since(message.began)),
            "message"
        );
        let held = !message.quarantine.is_empty();
        let decision = Decision::of(decided.verdict.as_ref(), held);
        shared.traffic.message(decision, message.body.len());
        for part in parts {
            if part.member.shadow {
                part.count_shadow(decision);
            } else {
                part.count(decision);
            }
        }
    }
}

impl Part<'_> {
    /// Counts what a shadow said, or would have. A word that it still owes is counted when it
    /// comes.
    fn count_shadow(&self, decision: Decision) {
        let counters = self.member.health.counters();
        if decision == Decision::Abandoned {
            return;
        }
        let refused = self.part.refused_rcpt.as_ref().map(|(_, verdict)| verdict);
        let refused = refused.or(self.refusal);
        match (&self.part.state, refused) {
            (State::Refused(verdict), _) => counters.shadow(decision, verdict),
            (_, Some(verdict)) => counters.shadow(decision, verdict),
            (State::Done, None) => counters.shadow(decision, &Verdict::Accept),
            (State::Finished, None) => {
                counters.shadow(decision, &Verdict::Continue);
                for edit in &self.part.edits {
                    counters.changes(edit.into(), 1);
                }
                counters.changes(Change::Body, u64::from(self.part.replaces_body));
            }
            (State::Active, None) if self.part.position == Position::Finished => {}
            (State::Active | State::Failed(_), None) => counters.missed(),
        }
    }

    /// Counts the filter's word on the message, or that of its policy.
    fn count(&self, decision: Decision) {
        let Self { member, part, .. } = self;
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

/// Why it was decided so, where the decision alone does not say it: what went wrong with the filter
/// whose policy spoke, or why the message is held.
fn why(message: &Message, decided: &Decided, parts: &[Part<'_>]) -> Option<String> {
    let mut parts = parts.iter().filter(|part| !part.member.shadow);
    let failed = parts
        .find(|part| part.member.name == decided.by && matches!(part.part.state, State::Failed(_)));
    if let Some(failed) = failed {
        let error = failed.part.error.as_deref().unwrap_or("failed");
        return Some(escaped(error.as_bytes()));
    }
    let mut why = String::new();
    for (name, reason) in &message.quarantine {
        let separator = if why.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(why, "{separator}held by {name}: {}", escaped(reason));
    }
    (!why.is_empty()).then_some(why)
}

/// What every filter said, in the chain's order: `name=word/milliseconds` in a text, a list of
/// objects in JSON (`{:#}`, which a log that is JSON asks for).
struct Words<'a>(&'a [Part<'a>]);

/// What one filter said.
#[derive(Debug, Serialize)]
struct Said<'a> {
    name: &'a str,
    said: String,
    /// How many.
    edits: usize,
    ms: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shadow: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    /// What went wrong with it last, in this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Said<'a> {
    fn new(Part { member, part, .. }: &'a Part<'a>) -> Self {
        let said = match &part.state {
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
        Self {
            name: &member.name,
            said,
            edits: part.edits.len() + usize::from(part.replaces_body),
            ms: millis(part.busy),
            shadow: member.shadow,
            replayed: part.replayed,
            error: part.error.as_ref().map(|error| escaped(error.as_bytes())),
        }
    }
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shadow = if self.shadow { "(shadow)" } else { "" };
        write!(f, "{}{shadow}={}", self.name, self.said)?;
        if self.edits > 0 {
            write!(f, "+{}", self.edits)?;
        }
        let replayed = if self.replayed { "(replayed)" } else { "" };
        write!(f, "{replayed}/{}ms", self.ms)
    }
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.0.iter().map(Said::new);
        if f.alternate() {
            let list: Vec<Said<'_>> = said.collect();
            // Strings and numbers: they can always be written.
            return f.write_str(&serde_json::to_string(&list).unwrap_or_default());
        }
        for (number, said) in said.enumerate() {
            let separator = if number == 0 { "" } else { " " };
            write!(f, "{separator}{said}")?;
        }
        Ok(())
    }
}

/// In milliseconds, to a tenth.
fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn millis(duration: Duration) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::member::OnFailure;
    use crate::proxy::tests::harness::unreachable_member;

    /// One filter's part, as text and as JSON.
    fn both(shadow: bool, change: impl FnOnce(&mut child::Part)) -> (String, Value) {
        let member = Arc::into_inner(unreachable_member(1, OnFailure::TempFail, 0));
        let member = Member {
            name: "dkim".to_owned(),
            shadow,
            ..member.unwrap()
        };
        let mut part = child::Part::new();
        part.busy = Duration::from_micros(2_700);
        change(&mut part);
        let parts = [Part {
            member: &member,
            part: &part,
            refusal: None,
        }];
        let words = Words(&parts);
        let mut list: Value = serde_json::from_str(&format!("{words:#}")).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 1);
        (words.to_string(), list[0].take())
    }

    #[test]
    fn text_and_json_say_the_same_of_a_filter() {
        let reply = milter_proto::verdict::SmtpReply::new(550, "5.7.1", "no\"").unwrap();
        let refused = State::Refused(Verdict::Reply(reply));
        for (shadow, state, text, fields) in [
            (
                false,
                State::Finished,
                "dkim=continue/2ms",
                json!({ "said": "continue", "edits": 0 }),
            ),
            (
                false,
                State::Done,
                "dkim=accept/2ms",
                json!({ "said": "accept" }),
            ),
            (
                true,
                State::Active,
                "dkim(shadow)=unfinished/2ms",
                json!({ "said": "unfinished", "shadow": true }),
            ),
            (
                false,
                refused,
                "dkim=\"550 5.7.1 no\\\\\\\"\"/2ms",
                json!({ "said": "\"550 5.7.1 no\\\\\\\"\"" }),
            ),
        ] {
            let (said, object) = both(shadow, |part| part.state = state);
            assert_eq!(said, text);
            assert_eq!(
                (&object["name"], &object["ms"]),
                (&json!("dkim"), &json!(2))
            );
            for (name, value) in fields.as_object().unwrap() {
                assert_eq!(&object[name], value, "{name} in {object}");
            }
        }
        let (said, object) = both(false, |part| {
            part.state = State::Failed(OnFailure::Quarantine);
            part.replayed = true;
            part.replaces_body = true;
            part.error = Some("line\nbreak".to_owned());
        });
        assert_eq!(said, "dkim=failed:quarantine+1(replayed)/2ms");
        assert_eq!(object["said"], "failed:quarantine");
        assert_eq!(
            (&object["edits"], &object["replayed"]),
            (&json!(1), &json!(true))
        );
        assert_eq!(object["error"], "line\\nbreak");
        assert_eq!(object.get("shadow"), None);
    }
}
