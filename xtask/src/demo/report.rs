//! The result, for people and for programs.

use serde_json::{Value, json};

use super::checks::{BULK, Check, Counts, Fate, fate};
use super::sending::Sent;
use super::{Evidence, sending};
use crate::terminal::{Tone, escaped, paint, say, table};

/// Tables and counts on standard output.
pub(super) fn show(evidence: &Evidence, checks: &[Check]) {
    say("");
    let heading = [
        "message",
        "SMTP answer",
        "outcome",
        "decided by",
        "the filters said",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let (bulk, special): (Vec<&Sent>, Vec<&Sent>) = evidence
        .sent
        .iter()
        .partition(|sent| sent.letter.what == BULK);
    rows.extend(special.iter().map(|sent| row(evidence, sent)));
    rows.extend(summary(evidence, &bulk));
    for (index, line) in table(&rows).iter().enumerate() {
        let line = if index == 0 {
            paint(Tone::Strong, line)
        } else {
            line.clone()
        };
        say(line);
    }
    say("");
    for kill in &evidence.kills {
        say(killed(kill));
    }
    let replayed = evidence
        .sent
        .iter()
        .filter_map(|sent| evidence.decisions.of(sent));
    let replayed = replayed.filter(|decision| decision.replays > 0).count();
    say(format_args!(
        "{replayed} messages in hand were shown to a successor from the beginning"
    ));
    for opinion in &evidence.signature {
        say(format_args!("{} says: {}", opinion.who, opinion.said));
    }
    say("");
    for check in checks {
        say(check);
    }
    say("");
    say(Counts::of(evidence));
}

/// The same as one JSON object.
pub(super) fn json(evidence: &Evidence, checks: &[Check]) -> Value {
    let messages: Vec<Value> = evidence
        .sent
        .iter()
        .map(|sent| {
            json!({
                "what": sent.letter.what,
                "to": sent.letter.to,
                "answer": answer(sent),
                "milliseconds": u64::try_from(sent.took.as_millis()).unwrap_or(u64::MAX),
                "decided_by": evidence.decisions.of(sent).map(|decision| &decision.by),
                "filters": evidence.decisions.of(sent).map(|decision| &decision.filters),
                "replays": evidence.decisions.of(sent).map(|decision| decision.replays),
                "outcome": fate(evidence, sent).word(),
            })
        })
        .collect();
    let checks: Vec<Value> = checks.iter().map(Check::json).collect();
    let counts = Counts::of(evidence);
    json!({ "messages": messages, "checks": checks, "counts": counts.json() })
}

fn row(evidence: &Evidence, sent: &Sent) -> Vec<String> {
    let decision = evidence.decisions.of(sent).cloned().unwrap_or_default();
    vec![
        sent.letter.what.to_owned(),
        answer(sent),
        fate(evidence, sent).word().to_owned(),
        decision.by,
        decision.filters,
    ]
}

/// One line for each outcome of the bulk.
fn summary(evidence: &Evidence, bulk: &[&Sent]) -> Vec<Vec<String>> {
    let origin = if evidence.archived {
        "archive"
    } else {
        "generated"
    };
    let mut rows = Vec::new();
    for wanted in [Fate::Delivered, Fate::Refused, Fate::Deferred, Fate::Lost] {
        let those: Vec<&&Sent> = bulk
            .iter()
            .filter(|sent| fate(evidence, sent) == wanted)
            .collect();
        let Some(example) = those.first() else {
            continue;
        };
        let mut row = row(evidence, example);
        row[0] = format!("{} × {BULK} ({origin})", those.len());
        rows.push(row);
    }
    rows
}

fn answer(sent: &Sent) -> String {
    match &sent.answer {
        Ok(answer) => {
            let text = escaped(answer.text.as_bytes(), 60);
            format!("{} {text} ({})", answer.code, answer.stage)
        }
        Err(error) => format!("none: {}", escaped(error.as_bytes(), 60)),
    }
}

fn killed(kill: &sending::Kill) -> String {
    let sending::Kill {
        filter,
        pid,
        after,
        successor,
    } = kill;
    let taken_over = successor.map_or("nobody took over".to_owned(), |pid| {
        format!("{pid} took over")
    });
    format!("SIGKILL to {filter} (process {pid}) after {after} messages: {taken_over}")
}
