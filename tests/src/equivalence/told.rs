//! What a filter was told, as far as it must be the same on both ways.
//!
//! Compared are messages that a filter saw to their end: envelope, header, body, and at each step
//! the macros that a filter on libmilter would find there: the value of the latest stage that has
//! one. What the server repeats before header fields, chunks of the body and unknown commands
//! libmilter passes over, and so does this.

use std::collections::BTreeMap;

use milter_proto::testkit::{Act, At, FilterScript, Told};
use milter_proto::wire::{Command, Macros, Reply};

use super::outcome::plain;

/// Macros that differ by nature: ports, and how many connections there were just then.
const BY_NATURE: &[&[u8]] = &[b"client_port", b"daemon_port", b"client_connections"];

/// In place of the queue id of a message that was not taken.
const UNKNOWN_ID: &[u8] = b"[message]";

/// What a filter was told of one message that it saw to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    envelope: Vec<Command>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    /// What could be looked up at each step.
    macros: Vec<(At, Values)>,
}

/// Values of macros by their names without braces.
type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything that a filter saw to the end directly, it must have seen in the same way and order
/// behind the orchestrator. It may have seen more there: filters that may not change the message
/// see it side by side, and one that would not have been asked, since an earlier one refuses the
/// message, has seen it all the same. More macros than asked for do no harm.
pub(super) fn told_differently(direct: &[Seen], proxied: &[Seen]) -> Option<String> {
    let mut rest = proxied.iter();
    for (number, seen) in direct.iter().enumerate() {
        let number = number + 1;
        // What a macro says is no mark of a message: a wrong one is said in words.
        let Some(other) = rest.find(|other| seen.is_same_message(other)) else {
            let other = proxied.get(number - 1);
            return Some(format!("message {number}: {seen:?}\nbut {other:?}"));
        };
        if let Some(what) = seen.other_macro(other) {
            return Some(format!("message {number}: {what}"));
        }
    }
    None
}

impl Seen {
    fn is_same_message(&self, proxied: &Self) -> bool {
        self.envelope == proxied.envelope
            && self.headers == proxied.headers
            && self.body == proxied.body
    }

    /// The first macro that has another value behind the orchestrator, or none.
    fn other_macro(&self, proxied: &Self) -> Option<String> {
        let mut steps = self.macros.iter().zip(&proxied.macros);
        steps.find_map(|((at, direct), (_, proxied))| {
            // What Postfix still sends of an earlier message is of no use to anybody.
            let mut values = direct.iter().filter(|(_, value)| **value != UNKNOWN_ID);
            let (name, value) = values.find(|(name, value)| proxied.get(*name) != Some(*value))?;
            let other = proxied.get(name).map(|other| other.escape_ascii());
            Some(format!(
                "macro {} at {}: {} but {}",
                name.escape_ascii(),
                at.name(),
                value.escape_ascii(),
                other.map_or_else(|| "none".to_owned(), |other| other.to_string())
            ))
        })
    }
}

/// The messages that a filter saw to their end.
pub(super) fn seen(told: &[Told], script: &FilterScript, ids: &[String]) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut seen = Seen::default();
    let mut macros = Lookup::default();
    let mut connection = 0;
    // An old connection can end while the next one is in use.
    let mut told: Vec<&Told> = told.iter().collect();
    told.sort_by_key(|one| one.connection);
    for one in told {
        let Ok(command) = &one.command else { continue };
        if connection != one.connection {
            connection = one.connection;
            (seen, macros) = (Seen::default(), Lookup::default());
        }
        let at = At::of(command);
        if matches!(at, At::Abort | At::Mail | At::Helo) {
            seen = Seen::default();
        }
        macros.hear(command);
        match command {
            Command::Mail(_) | Command::Rcpt(_) => seen.envelope.push(command.clone()),
            Command::Header(header) => {
                let value = plain(&header.value, ids);
                seen.headers.push((header.name.to_vec(), value));
            }
            Command::Body(chunk) => seen.body.extend_from_slice(chunk),
            _ => {}
        }
        let stage = Lookup::STAGES.iter().any(|(_, stage)| *stage == at);
        if stage {
            seen.macros.push((at, macros.values(ids)));
        }
        if at == At::EndOfMessage {
            if skips_body(script) {
                // How much came before the skip depends on how it was cut.
                seen.body.clear();
            }
            all.push(std::mem::take(&mut seen));
        }
    }
    all
}

fn skips_body(script: &FilterScript) -> bool {
    let skips = |act: &Act| *act == Act::Say(Reply::Skip);
    let mut cues = script.cues.iter().filter(|cue| cue.at == At::Body);
    cues.any(|cue| cue.acts.iter().any(skips))
}

/// Macros as libmilter keeps them: a list for each stage, the latest first.
#[derive(Debug, Default)]
struct Lookup([Option<Macros>; Self::STAGES.len()]);

impl Lookup {
    /// The stages in the order in which libmilter holds them.
    const STAGES: [(u8, At); 7] = [
        (b'C', At::Connect),
        (b'H', At::Helo),
        (b'M', At::Mail),
        (b'R', At::Rcpt),
        (b'T', At::Data),
        (b'E', At::EndOfMessage),
        (b'N', At::EndOfHeaders),
    ];

    fn hear(&mut self, command: &Command) {
        if let Command::Macros(macros) = command {
            let place = Self::STAGES
                .iter()
                .position(|(code, _)| *code == macros.stage);
            if let Some(place) = place {
                self.0[place] = Some(macros.clone());
            }
            return;
        }
        // Its own list has come before; those of later stages are of an earlier message.
        let begins = [At::Connect, At::Helo, At::Mail, At::Rcpt];
        let place = begins.iter().position(|at| *at == At::of(command));
        if let Some(place) = place {
            self.0[place + 1..].fill(None);
        }
    }

    fn values(&self, ids: &[String]) -> Values {
        let pairs = self.0.iter().flatten().flat_map(|macros| &macros.pairs);
        let named = pairs.map(|(name, value)| (bare(name), value));
        let compared = named.filter(|(name, _)| !BY_NATURE.contains(name));
        let mut values = Values::new();
        for (name, value) in compared {
            let mut value = plain(value, ids);
            if name == b"i" && !value.starts_with(b"[message ") {
                value = UNKNOWN_ID.to_vec();
            }
            values.insert(name.to_vec(), value);
        }
        values
    }
}

/// A name without its braces.
fn bare(name: &[u8]) -> &[u8] {
    let inner = name.strip_prefix(b"{");
    inner
        .and_then(|name| name.strip_suffix(b"}"))
        .unwrap_or(name)
}
