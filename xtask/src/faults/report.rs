//! The results: a table for people, JSON for programs, both written down.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::judge::{Bound, Judged, Verdict, Word};
use super::rows;
use crate::terminal::{Tone, paint, say, table};
use crate::workspace;

/// Names the faults.
pub(super) fn list() {
    let rows: Vec<Vec<String>> = rows::TABLE
        .iter()
        .map(|fault| {
            let limits: Vec<String> = fault.limits.iter().map(|limit| bound(*limit)).collect();
            vec![
                fault.name.to_owned(),
                fault.what.to_owned(),
                limits.join(", "),
            ]
        })
        .collect();
    for line in table(&rows) {
        say(line);
    }
}

/// A line as soon as a fault is through.
pub(super) fn progress(judged: &Judged) {
    let held = match judged.held() {
        true => paint(Tone::Good, "held"),
        false => paint(Tone::Bad, "MISSED"),
    };
    say(format_args!(
        "{held}  {}: {}",
        judged.fault.name,
        words(judged)
    ));
    if let Ok(measured) = &judged.measured {
        for note in &measured.notes {
            say(format_args!("      {note}"));
        }
        for word in &measured.ledger.words {
            say(format_args!("      {}", word.escape_debug()));
        }
    }
}

/// The table.
pub(super) fn show(judged: &[Judged]) {
    for (index, line) in lines(judged).into_iter().enumerate() {
        match index {
            0 => say(paint(Tone::Strong, &line)),
            _ => say(line),
        }
    }
}

/// Writes text and JSON into the build folder.
pub(super) fn write(judged: &[Judged]) -> Result<PathBuf> {
    let folder = workspace::target()?.join("faults");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    fs::write(folder.join("result.txt"), lines(judged).join("\n") + "\n")?;
    let all: Vec<Value> = judged.iter().map(value).collect();
    fs::write(
        folder.join("result.json"),
        serde_json::to_string_pretty(&all)?,
    )?;
    Ok(folder)
}

fn lines(judged: &[Judged]) -> Vec<String> {
    let heading = [
        "fault",
        "sent",
        "delivered",
        "refused",
        "deferred",
        "lost",
        "unseen",
        "p50 ms",
        "p99 ms",
        "",
        "limits",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(judged.iter().map(row));
    table(&rows)
}

fn row(judged: &Judged) -> Vec<String> {
    let mut row = vec![judged.fault.name.to_owned()];
    let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
    match &judged.measured {
        Ok(measured) => {
            let l = &measured.ledger;
            let counts = [l.sent, l.delivered, l.refused, l.deferred, l.lost, l.unseen];
            row.extend(counts.iter().map(ToString::to_string));
            row.extend([time(l.percentile(50)), time(l.percentile(99))]);
        }
        Err(_) => row.extend(["-"; 8].map(str::to_owned)),
    }
    let word = if judged.held() { "held" } else { "MISSED" };
    row.extend([word.to_owned(), words(judged)]);
    row
}

/// The limits and what was measured, or why nothing was.
fn words(judged: &Judged) -> String {
    match &judged.measured {
        Err(error) => error.clone(),
        Ok(_) => {
            let words: Vec<String> = judged.verdicts.iter().map(verdict).collect();
            words.join(", ")
        }
    }
}

fn verdict(verdict: &Verdict) -> String {
    let value = verdict
        .value
        .map_or_else(|| "not measured".to_owned(), number);
    let more = match verdict.word {
        Word::Held => "",
        Word::HeldBesideNoise => " beside noise",
        Word::Missed => " MISSED",
    };
    format!("{} = {value}{more}", bound(verdict.limit))
}

fn bound(limit: super::judge::Limit) -> String {
    let figure = limit.figure;
    match limit.bound {
        Bound::AtMost(most) => format!("{figure} <= {}", number(most)),
        Bound::AtLeast(least) => format!("{figure} >= {}", number(least)),
        Bound::Within(most) => format!("{figure} <= {} ms", number(most)),
    }
}

fn number(value: f64) -> String {
    match value.fract().abs() < 0.05 || value.abs() >= 100.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    }
}

fn value(judged: &Judged) -> Value {
    let mut object = Map::new();
    object.insert("fault".to_owned(), json!(judged.fault.name));
    object.insert("what".to_owned(), json!(judged.fault.what));
    object.insert("held".to_owned(), json!(judged.held()));
    match &judged.measured {
        Err(error) => {
            object.insert("error".to_owned(), json!(error));
        }
        Ok(measured) => {
            let l = &measured.ledger;
            for (name, count) in [
                ("sent", l.sent),
                ("delivered", l.delivered),
                ("refused", l.refused),
                ("deferred", l.deferred),
                ("lost", l.lost),
                ("unseen", l.unseen),
                ("twice", l.twice),
            ] {
                object.insert(name.to_owned(), json!(count));
            }
            object.insert("p50_ms".to_owned(), json!(l.percentile(50)));
            object.insert("p99_ms".to_owned(), json!(l.percentile(99)));
            let figures: Map<String, Value> = measured
                .figures
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect();
            object.insert("figures".to_owned(), Value::Object(figures));
            object.insert("notes".to_owned(), json!(measured.notes));
            object.insert("answers".to_owned(), json!(l.words));
        }
    }
    let limits: Vec<Value> = judged
        .verdicts
        .iter()
        .map(|verdict| {
            json!({
                "limit": bound(verdict.limit),
                "value": verdict.value,
                "held": verdict.word != Word::Missed,
                "beside_noise": verdict.word == Word::HeldBesideNoise,
            })
        })
        .collect();
    object.insert("limits".to_owned(), json!(limits));
    Value::Object(object)
}
