//! The snapshot as tables for people.
//!
//! Columns are as wide as their widest cell. Nothing is asked or measured here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::{Kind, MilterStatus, Snapshot};
use crate::counters::{Change, HistogramBucket, Phase, Word};
use crate::member::OnFailure;

/// The snapshot as tables for people.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let up = age(snapshot.now, snapshot.since);
    let (version, pid) = (&snapshot.version, snapshot.pid);
    let draining = match snapshot.draining {
        true => "; draining: takes no more mail until `drain --undo`",
        false => "",
    };
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "milter-orchestrator {version}, process {pid}, up {up}{draining}\n"
    );
    let listeners = snapshot.listeners.iter().map(|listener| {
        let connections = listener.connections.to_string();
        [listener.name.clone(), listener.socket.clone(), connections]
    });
    text += &table(["LISTENER", "SOCKET", "CONNECTIONS"], listeners);
    text.push('\n');
    let titles = [
        "MILTER",
        "KIND",
        "STATE",
        "PID",
        "SINCE",
        "RESTARTS",
        "MESSAGES",
        "FALLBACKS",
        "ON FAILURE",
        "LAST ERROR",
    ];
    let milters = snapshot
        .milters
        .iter()
        .map(|milter| row(milter, snapshot.now));
    text += &table(titles, milters);
    text.push('\n');
    text += &said(&snapshot.milters);
    text.push('\n');
    text += &times(&snapshot.milters);
    text
}

/// What each milter said of messages, and how it failed.
fn said(milters: &[MilterStatus]) -> String {
    let titles = [
        "MILTER",
        "CONTINUE",
        "ACCEPT",
        "REJECT",
        "TEMPFAIL",
        "REPLY",
        "DISCARD",
        "CHANGES",
        "QUARANTINE",
        "REPLAYS",
        "FAILURES",
    ];
    let rows = milters.iter().map(|MilterStatus { name, counts, .. }| {
        let word = |word| number(&counts.messages_total, word);
        let changes: u64 = counts.changes_total.values().sum();
        let failures = counts
            .failures_total
            .iter()
            .filter(|(_, count)| **count > 0);
        let failures: Vec<String> = failures
            .map(|(kind, count)| format!("{kind:?} {count}").to_lowercase())
            .collect();
        [
            name.clone(),
            word(Word::Continue),
            word(Word::Accept),
            word(Word::Reject),
            word(Word::Tempfail),
            word(Word::Reply),
            word(Word::Discard),
            changes.to_string(),
            number(&counts.changes_total, Change::Quarantine),
            counts.replays_total.to_string(),
            if failures.is_empty() {
                "-".to_owned()
            } else {
                failures.join(", ")
            },
        ]
    });
    table(titles, rows)
}

fn number<L: Ord>(counts: &BTreeMap<L, u64>, label: L) -> String {
    counts.get(&label).copied().unwrap_or_default().to_string()
}

/// Within what time each milter gave nineteen of twenty answers.
fn times(milters: &[MilterStatus]) -> String {
    let phases = [
        Phase::Connect,
        Phase::Helo,
        Phase::Mail,
        Phase::Rcpt,
        Phase::Data,
        Phase::Header,
        Phase::EndOfHeaders,
        Phase::Body,
        Phase::EndOfMessage,
    ];
    let titles = [
        "95% WITHIN",
        "CONNECT",
        "HELO",
        "MAIL",
        "RCPT",
        "DATA",
        "HEADER",
        "EOH",
        "BODY",
        "EOM",
    ];
    let rows = milters.iter().map(|MilterStatus { name, counts, .. }| {
        let cells = phases.map(|phase| {
            let seconds = counts.phases.get(&phase).map(|one| &one.answer_seconds);
            match seconds.and_then(|seconds| seconds.percentile(95)) {
                None => "-".to_owned(),
                Some(HistogramBucket { le_ms: None, .. }) => "longer".to_owned(),
                Some(HistogramBucket {
                    le_ms: Some(ms), ..
                }) if ms < 1000 => format!("{ms}ms"),
                Some(HistogramBucket {
                    le_ms: Some(ms), ..
                }) => format!("{}s", ms / 1000),
            }
        });
        let mut row = std::array::from_fn(|_| String::new());
        let cells = std::iter::once(name.clone()).chain(cells);
        row.iter_mut().zip(cells).for_each(|(to, cell)| *to = cell);
        row
    });
    table(titles, rows)
}

fn row(milter: &MilterStatus, now: u64) -> [String; 10] {
    let policy = match milter.on_failure {
        OnFailure::Accept => "accept",
        OnFailure::TempFail => "tempfail",
        OnFailure::Reject => "reject",
        OnFailure::Quarantine => "quarantine",
    };
    let kind = match milter.kind {
        Kind::Spawned => "spawned",
        Kind::Foreign => "foreign",
    };
    let shadow = if milter.shadow { ", shadow" } else { "" };
    let error = milter.last_error.as_ref().map_or_else(
        || "-".to_owned(),
        |error| format!("{} ago: {}", age(now, error.at), error.message),
    );
    [
        milter.name.clone(),
        format!("{kind}{shadow}"),
        milter.word().to_owned(),
        milter
            .pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        age(now, milter.since),
        milter.restarts.to_string(),
        milter.messages.to_string(),
        milter.fallbacks.to_string(),
        policy.to_owned(),
        error,
    ]
}

/// Rows under titles, each column as wide as its widest cell.
fn table<const N: usize>(titles: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut out = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", out.trim_end());
    }
    text
}

/// From `then` to `now` in two units at most.
pub(super) fn age(now: u64, then: u64) -> String {
    let seconds = Duration::from_secs(now.saturating_sub(then)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}
