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

/// Decisions by queue id.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    decided: HashMap<String, String>,
    refused: HashMap<String, String>,
}

/// Reads both logs.
pub(super) fn read(stack: &Path, postfix: &Path) -> Result<Decisions> {
    let stack = fs::read(stack)?;
    let postfix = fs::read(postfix)?;
    Ok(Decisions {
        decided: decided(&String::from_utf8_lossy(&stack)),
        refused: refused(&String::from_utf8_lossy(&postfix)),
    })
}

impl Decisions {
    /// What was decided of a letter, and by whom.
    pub(super) fn of(&self, sent: &Sent) -> String {
        self.look_up(sent)
            .cloned()
            .unwrap_or_else(|| "?".to_owned())
    }

    /// Whether anything is known of a letter.
    pub(super) fn knows(&self, sent: &Sent) -> bool {
        self.look_up(sent).is_some()
    }

    fn look_up(&self, sent: &Sent) -> Option<&String> {
        let answer = sent.answer.as_ref().ok()?;
        let id = answer
            .queue_id()
            .or_else(|| Some(self.refused.get(&sent.letter.to)?));
        self.decided.get(id?)
    }
}

/// The line of each message in the orchestrator's log: JSON, one object a line.
fn decided(log: &str) -> HashMap<String, String> {
    let mut decided = HashMap::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        // The lines of the filters are inside those of the orchestrator, as text.
        if let (Some(id), Some(by)) = (text("queue_id"), text("by")) {
            decided.insert(id, by);
        }
    }
    decided
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
            {"message":"message","queue_id":"4A2B","decision":"reject","by":"spam"}"#;
        let decided = decided(log);
        assert_eq!(decided.len(), 1);
        assert_eq!(decided["4A2B"], "spam");
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
