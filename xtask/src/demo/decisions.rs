//! Who decided what: read from the log of the orchestrator, found by Postfix's queue id.
//!
//! The answer to a refused message names no queue id; Postfix's own log leads from the recipient
//! to it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::sending::Sent;

/// What the orchestrator says of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Whose word counted.
    pub(super) by: String,
    /// What each filter said, how many edits it asked for, and how long it took.
    pub(super) filters: String,
    /// How often it was shown to a filter again, because the first one had gone.
    pub(super) replays: u64,
}

/// Decisions by queue id.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    decided: HashMap<String, Decision>,
    refused: HashMap<String, String>,
}

/// Reads both logs.
pub(super) fn read(stack: &Path, postfix: &Path) -> Result<Decisions> {
    let stack = fs::read(stack)?;
    let postfix = fs::read(postfix)?;
    Ok(Decisions::from_logs(
        &String::from_utf8_lossy(&stack),
        &String::from_utf8_lossy(&postfix),
    ))
}

impl Decisions {
    /// From the texts of both logs.
    pub(super) fn from_logs(stack: &str, postfix: &str) -> Self {
        Self {
            decided: decided(stack),
            refused: refused(postfix),
        }
    }
    /// What was decided of a letter, if that is known.
    pub(super) fn of(&self, sent: &Sent) -> Option<&Decision> {
        let answer = sent.answer.as_ref().ok()?;
        let id = answer
            .queue_id()
            .or_else(|| Some(self.refused.get(&sent.letter.to)?));
        self.decided.get(id?)
    }
}

/// The line of each message in the orchestrator's log: JSON, one object a line.
fn decided(log: &str) -> HashMap<String, Decision> {
    let mut decided = HashMap::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        // The lines of the filters are inside those of the orchestrator, as text.
        if let (Some(id), Some(by)) = (text("queue_id"), text("by")) {
            let decision = Decision {
                by,
                filters: filters(&line["filters"]),
                replays: line["replays"].as_u64().unwrap_or(0),
            };
            decided.insert(id, decision);
        }
    }
    decided
}

/// What each filter said, as `name=word`.
fn filters(list: &Value) -> String {
    let said = list.as_array().into_iter().flatten().map(|filter| {
        let text = |key: &str| filter[key].as_str().unwrap_or("?");
        format!("{}={}/{}ms", text("name"), text("said"), filter["ms"])
    });
    said.collect::<Vec<_>>().join(" ")
}

/// Recipient to queue id, from `QUEUEID: milter-reject: END-OF-MESSAGE from …: …; from=<…> to=<…>`.
fn refused(log: &str) -> HashMap<String, String> {
    log.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(": milter-reject: ")?;
            let (_, id) = before.rsplit_once(' ')?;
            let (_, to) = after.split_once(" to=<")?;
            let (to, _) = to.split_once('>')?;
            Some((to.to_owned(), id.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orchestrator_names_who_decided() {
        let log = r#"{"message":"ready","milter":"dkim"}
            not JSON
            {"message":"{\"queue_id\":\"4A2B\",\"by\":\"nobody\"}","milter":"dkim"}
        {"queue_id":"4A2B","by":"spam","replays":1,"filters":[{"name":"s","said":"no","ms":3}]}"#;
        let decided = decided(log);
        assert_eq!(decided.len(), 1);
        assert_eq!(decided["4A2B"].by, "spam");
        assert_eq!(decided["4A2B"].filters, "s=no/3ms");
        assert_eq!(decided["4A2B"].replays, 1);
    }

    #[test]
    fn postfix_leads_from_recipient_to_queue_id() {
        let log = "Aug  5 10:00:00 mx postfix/cleanup[7]: 4A2B: milter-reject: END-OF-MESSAGE \
                   from mail.sender.test[192.0.2.7]: 5.7.1 no; from=<a@sender.test> \
                   to=<spam@demo.test> proto=ESMTP helo=<x>\n\
                   Aug  5 10:00:00 mx postfix/smtpd[7]: 4A2C: client=localhost[127.0.0.1]\n";
        let refused = refused(log);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused["spam@demo.test"], "4A2B");
    }
}
