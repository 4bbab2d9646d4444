//! What came of a scenario on one of the two ways, without what differs by nature: queue ids,
//! dates, the time in Received, the bookkeeping of the queue.
//!
//! Two outcomes are compared part by part; the first difference is said in words.

use std::fmt::{self, Display, Formatter};

use bytes::Bytes;
use milter_proto::testkit::{Scenario, Told};
use milter_proto::wire::Steps;

use super::client::Spoken;
use super::mta::Fate;
use super::sink::Delivery;
use super::told::{seen, told_differently};

/// Everything that can be seen from outside, and what the filters were told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The talk on each connection, one after the other.
    pub dialogues: Vec<Vec<Spoken>>,
    /// What became of each message that the server took, in order.
    pub messages: Vec<Taken>,
    /// What each filter of the chain was told.
    pub told: Vec<Vec<Told>>,
}

/// A message that the server took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Where it ended.
    pub fate: Fate,
    /// As the sink was given it.
    pub deliveries: Vec<Delivery>,
}

/// Two outcomes that should be equal.
#[derive(Debug)]
pub struct Difference {
    /// What differs.
    pub what: String,
    /// With the filters listed in the server's configuration.
    pub direct: Outcome,
    /// With the filters behind the orchestrator.
    pub proxied: Outcome,
}

impl Display for Difference {
    /// What is equal once, what differs under each other: `-` without the orchestrator, `+` with
    /// it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} differs (- direct, + behind the orchestrator):",
            self.what
        )?;
        let (direct, proxied) = (self.direct.lines(), self.proxied.lines());
        let length = direct.len().max(proxied.len());
        for number in 0..length {
            let (one, other) = (direct.get(number), proxied.get(number));
            if one == other {
                writeln!(f, "  {}", one.map_or("", String::as_str))?;
                continue;
            }
            for (mark, line) in [("-", one), ("+", other)] {
                if let Some(line) = line {
                    writeln!(f, "{mark} {line}")?;
                }
            }
        }
        Ok(())
    }
}

impl Outcome {
    /// Puts stable words in place of the queue ids and the times.
    pub(super) fn normalise(&mut self, ids: &[String]) {
        for spoken in self.dialogues.iter_mut().flatten() {
            if let Some(reply) = &mut spoken.reply {
                let plain = plain(reply.as_bytes(), ids);
                *reply = String::from_utf8_lossy(&plain).into_owned();
            }
        }
        for message in &mut self.messages {
            for delivery in &mut message.deliveries {
                delivery.message = plain(&delivery.message, ids);
                delivery.from = without_size(&delivery.from);
            }
            // Recipients of one message may go out together or one by one.
            message
                .deliveries
                .sort_by(|one, other| one.to.cmp(&other.to));
            match &mut message.fate {
                Fate::Gone => {}
                Fate::Held(shown) | Fate::Deferred(shown) => {
                    *shown = without_bookkeeping(&plain(shown, ids));
                }
            }
        }
    }

    /// Takes the addresses away that Sendmail writes before the text of a refusal at the end of a
    /// message: the last recipient or sender that a filter has set there. Behind the orchestrator
    /// it has heard of none.
    pub(super) fn without_new_addresses(&mut self, addresses: &[Bytes]) {
        let refusals = self.dialogues.iter_mut().flatten();
        let refusals = refusals.filter(|spoken| spoken.message);
        for reply in refusals.filter_map(|spoken| spoken.reply.as_mut()) {
            for address in addresses {
                let mark = format!("{}... ", String::from_utf8_lossy(address));
                *reply = reply.replacen(&mark, "", 1);
            }
        }
    }

    /// As text, a line for each thing that can differ.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, dialogue) in self.dialogues.iter().enumerate() {
            lines.push(format!("-- connection {}", number + 1));
            for spoken in dialogue {
                lines.push(format!("C: {}", spoken.said.escape_ascii()));
                let reply = spoken.reply.as_deref().unwrap_or("(closed)");
                lines.extend(reply.lines().map(|line| format!("S: {line}")));
            }
        }
        for (number, taken) in self.messages.iter().enumerate() {
            let (word, shown) = match &taken.fate {
                Fate::Gone => ("gone from the queue", &b""[..]),
                Fate::Held(shown) => ("held", &shown[..]),
                Fate::Deferred(shown) => ("deferred", &shown[..]),
            };
            lines.push(format!("-- message {}: {word}", number + 1));
            lines.extend(escaped(shown));
            for delivery in &taken.deliveries {
                lines.push(format!("from {} to {:?}", delivery.from, delivery.to));
                lines.extend(escaped(&delivery.message));
            }
        }
        lines
    }

    /// What differs; `None` when nothing does. `self` is the outcome without the orchestrator.
    #[must_use]
    pub fn difference(
        &self,
        proxied: &Self,
        scenario: &Scenario,
        ids: [&[String]; 2],
    ) -> Option<String> {
        if self.dialogues != proxied.dialogues {
            return Some("the SMTP dialogue".to_owned());
        }
        if self.messages != proxied.messages {
            return Some("what became of a message".to_owned());
        }
        let filters = scenario.filters.iter().enumerate();
        // Without MAIL it is not told where one message ends and the next begins.
        let mut filters =
            filters.filter(|(_, script)| !script.offer.steps.contains(Steps::NO_MAIL));
        filters.find_map(|(number, script)| {
            let direct = seen(self.told.get(number)?, script, ids[0]);
            let proxied = seen(proxied.told.get(number)?, script, ids[1]);
            told_differently(&direct, &proxied)
                .map(|what| format!("what {} was told: {what}", script.name))
        })
    }
}

fn escaped(text: &[u8]) -> impl Iterator<Item = String> {
    /// A longer line says nothing more.
    const LINE_MAX: usize = 200;
    text.split(|byte| *byte == b'\n').map(|line| {
        let shown = line.get(..LINE_MAX).unwrap_or(line);
        shown.escape_ascii().to_string()
    })
}

/// Stable words in place of queue ids and of times as Postfix and Sendmail write them.
pub(super) fn plain(bytes: &[u8], ids: &[String]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        if let Some(number) = ids.iter().position(|id| rest.starts_with(id.as_bytes())) {
            out.extend_from_slice(format!("[message {}]", number + 1).as_bytes());
            rest = &rest[ids[number].len()..];
        } else if let Some(length) = stamp_length(rest) {
            out.extend_from_slice(b"[stamp]");
            rest = &rest[length..];
        } else if let Some(length) = date_length(rest) {
            out.extend_from_slice(b"[date]");
            rest = &rest[length..];
        } else {
            out.push(*byte);
            rest = &rest[1..];
        }
    }
    out
}

/// Length of what a server writes into a Message-Id at the beginning: the time, a dot, the queue
/// id.
fn stamp_length(bytes: &[u8]) -> Option<usize> {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let id = bytes[digits..].strip_prefix(b".")?;
    let length = id.iter().position(|byte| !byte.is_ascii_alphanumeric())?;
    // Postfix writes seconds, Sendmail does not.
    let is_stamp = matches!(digits, 12 | 14) && id.get(length) == Some(&b'@');
    is_stamp.then_some(digits + 1 + length)
}

/// Length of a date at the beginning, such as Postfix's `Sun, 22 Nov 2026 19:22:42 +0000 (UTC)` or
/// Sendmail's `Sun, 22 Nov 2026 19:22:42 GMT`; the machine's zone is of no account.
fn date_length(bytes: &[u8]) -> Option<usize> {
    let mut end = "Sun, 22 Nov 2026 19:22:42".len();
    // The day of the month has no leading zero.
    if bytes.get(6) == Some(&b' ') {
        end -= 1;
    }
    let date = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let words: Vec<&str> = date.split(' ').collect();
    let [weekday, day, month, year, time] = words[..] else {
        return None;
    };
    let is_date = weekday.len() == 4
        && weekday.ends_with(',')
        && day.parse::<u8>().is_ok()
        && month.len() == 3
        && year.len() == 4
        && time.len() == 8;
    let zone = bytes.get(end..)?;
    let zones: [&[u8]; 2] = [b" GMT", b" +0000 (UTC)"];
    let zone = zones.into_iter().find(|known| zone.starts_with(known));
    is_date.then(|| end + zone.map_or(0, <[u8]>::len))
}

/// The size that the server adds depends on the length of the queue id.
fn without_size(from: &str) -> String {
    let words = from.split(' ').filter(|word| !word.starts_with("SIZE="));
    words.collect::<Vec<_>>().join(" ")
}

/// Without sizes, times and places of records in the queue file, and without parameters of a sender
/// that were replaced by later ones.
fn without_bookkeeping(shown: &[u8]) -> Vec<u8> {
    const PASSED_OVER: [&[u8]; 9] = [
        b"named_attribute: server_port=",
        b"message_size:",
        b"message_arrival_time:",
        b"create_time:",
        b"pointer_record:",
        b"named_attribute: create_time=",
        b"named_attribute: log_client_port=",
        b"named_attribute: client_port=",
        b"*** ",
    ];
    const LAST_COUNTS: [&[u8]; 2] = [
        b"named_attribute: envelope_id=",
        b"named_attribute: ret_flags=",
    ];
    let mut kept: Vec<&[u8]> = Vec::new();
    for line in shown.split_inclusive(|byte| *byte == b'\n') {
        if PASSED_OVER.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        if let Some(start) = LAST_COUNTS.iter().find(|start| line.starts_with(start)) {
            kept.retain(|earlier| !earlier.starts_with(start));
        }
        kept.push(line);
    }
    kept.concat()
}
