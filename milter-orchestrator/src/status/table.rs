//! The snapshot as tables for people.
//!
//! Columns are as wide as their widest cell. Nothing is asked or measured here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::paint::{Cell, Paint, Tone, shown, table};
use super::{Kind, MilterStatus, Snapshot};
use crate::counters::{Change, HistogramBucket, Phase, Word};
use crate::member::{OnFailure, Readiness};
use crate::metrics::health;
use crate::supervisor::child::State;

/// The snapshot as tables for people, without colours.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    render_in(snapshot, Paint::Plain)
}

/// The snapshot as tables for people.
#[must_use]
pub fn render_in(snapshot: &Snapshot, paint: Paint) -> String {
    let mut text = head(snapshot, paint);
    let listeners = snapshot.listeners.iter().map(|listener| {
        let connections = listener.connections.to_string();
        [&listener.name, &listener.socket, &connections].map(|text| text.as_str().into())
    });
    text += &table(["LISTENER", "SOCKET", "CONNECTIONS"], listeners, paint);
    text.push('\n');
    let titles = [
        "MILTER",
        "KIND",
        "STATE",
        "BREAKER",
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
    text += &table(titles, milters, paint);
    text.push('\n');
    text += &said(&snapshot.milters, paint);
    text.push('\n');
    text += &times(&snapshot.milters, paint);
    text
}

/// Who we are, and what keeps us from being ready.
fn head(snapshot: &Snapshot, paint: Paint) -> String {
    let up = age(snapshot.now, snapshot.since);
    let (version, pid) = (&snapshot.version, snapshot.pid);
    let health = health(snapshot);
    let ready = match health.ready {
        true => paint.paint("ready", Tone::Good),
        false => paint.paint("not ready", Tone::Bad),
    };
    // Writing into a string cannot fail.
    let mut text = format!("milter-orchestrator {version}, process {pid}, up {up}: {ready}\n");
    for reason in &health.reasons {
        let tone = match reason.blocks {
            true => Tone::Bad,
            false => Tone::Warning,
        };
        let what = paint.paint(&format!("{} {}", reason.about, reason.state), tone);
        let since = age(snapshot.now, reason.since);
        let message = shown(&reason.message);
        let _ = match reason.since == snapshot.now {
            true => writeln!(text, "  {what}: {message}"),
            false => writeln!(text, "  {what} for {since}: {message}"),
        };
    }
    text.push('\n');
    text
}

/// What each milter said of messages, and how it failed.
fn said(milters: &[MilterStatus], paint: Paint) -> String {
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
        let word = |word| Cell::from(number(&counts.messages_total, word));
        let changes: u64 = counts.changes_total.values().sum();
        let failures = counts
            .failures_total
            .iter()
            .filter(|(_, count)| **count > 0);
        let failures: Vec<String> = failures
            .map(|(kind, count)| format!("{kind:?} {count}").to_lowercase())
            .collect();
        [
            name.as_str().into(),
            word(Word::Continue),
            word(Word::Accept),
            word(Word::Reject),
            word(Word::Tempfail),
            word(Word::Reply),
            word(Word::Discard),
            changes.to_string().into(),
            number(&counts.changes_total, Change::Quarantine).into(),
            Cell::unwanted(counts.replays_total),
            match failures.is_empty() {
                true => "-".into(),
                false => Cell::new(failures.join(", "), Tone::Warning),
            },
        ]
    });
    table(titles, rows, paint)
}

fn number<L: Ord>(counts: &BTreeMap<L, u64>, label: L) -> String {
    counts.get(&label).copied().unwrap_or_default().to_string()
}

/// Within what time each milter gave nineteen of twenty answers.
fn times(milters: &[MilterStatus], paint: Paint) -> String {
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
        let mut row: [Cell; 10] = std::array::from_fn(|_| Cell::from(""));
        let cells = std::iter::once(name.clone()).chain(cells);
        row.iter_mut()
            .zip(cells)
            .for_each(|(to, cell)| *to = cell.into());
        row
    });
    table(titles, rows, paint)
}

fn row(milter: &MilterStatus, now: u64) -> [Cell; 11] {
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
    let pid = milter
        .pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    [
        milter.name.as_str().into(),
        format!("{kind}{shadow}").into(),
        Cell::new(milter.word(), tone(milter)),
        breaker(milter),
        pid.into(),
        age(now, milter.since).into(),
        Cell::unwanted(milter.restarts),
        milter.messages.to_string().into(),
        Cell::unwanted(milter.fallbacks),
        policy.into(),
        error.into(),
    ]
}

fn tone(milter: &MilterStatus) -> Tone {
    match milter.readiness {
        Readiness::Ready => Tone::Good,
        Readiness::Unknown | Readiness::Down => Tone::Warning,
        Readiness::Open => Tone::Bad,
    }
}

/// Whether mail goes to it, or a fresh process is being tried, or neither.
fn breaker(milter: &MilterStatus) -> Cell {
    match (milter.readiness, milter.state) {
        (Readiness::Open, State::Starting | State::Sick) => Cell::new("trying", Tone::Warning),
        (Readiness::Open, _) => Cell::new("open", Tone::Bad),
        (Readiness::Unknown | Readiness::Ready | Readiness::Down, _) => "closed".into(),
    }
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
