//! A verdict as the header fields that mail programs and scripts know from rspamd, as edits, and as
//! a line of the log. Pure.
//!
//! Whatever comes from a message is made printable and short before it is written. Fields of these
//! names that a message brings along are removed, the last one first, so that what is left to
//! remove keeps its number.

use std::fmt::Write as _;

use milter_proto::edit::Edit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::charset::cut;
use crate::score::{Action, Symbol, Verdict};

/// A header field that a message can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// `X-Spamd-Result`: score and all symbols.
    XSpamdResult,
    /// `X-Spamd-Bar`: the score as plus or minus signs.
    XSpamdBar,
    /// `X-Spam-Level`: the score as stars.
    XSpamLevel,
    /// `X-Spam-Status`: yes or no, and the score.
    XSpamStatus,
    /// `X-Spam-Score`: the score.
    XSpamScore,
}

/// The mark of spam.
const FLAG: &str = "X-Spam";

/// All names that are ours, and so removed from what comes in.
pub const NAMES: [&str; 6] = [
    FLAG,
    Field::XSpamdResult.name(),
    Field::XSpamdBar.name(),
    Field::XSpamLevel.name(),
    Field::XSpamStatus.name(),
    Field::XSpamScore.name(),
];

impl Field {
    /// The field's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XSpamdResult => "X-Spamd-Result",
            Self::XSpamdBar => "X-Spamd-Bar",
            Self::XSpamLevel => "X-Spam-Level",
            Self::XSpamStatus => "X-Spam-Status",
            Self::XSpamScore => "X-Spam-Score",
        }
    }

    /// The field's value; `None` where rspamd writes none.
    #[must_use]
    pub fn value(self, verdict: &Verdict) -> Option<String> {
        let score = verdict.score;
        match self {
            Self::XSpamdResult => Some(result(verdict)),
            Self::XSpamdBar => Some(bar(score)),
            Self::XSpamLevel => (score >= 1.0).then(|| "*".repeat(signs(score))),
            Self::XSpamStatus => {
                let word = if verdict.action.is_spam() {
                    "Yes"
                } else {
                    "No"
                };
                Some(format!("{word}, score={score:.2}"))
            }
            Self::XSpamScore => Some(format!("{score:.2}")),
        }
    }
}

/// Signs for a score, at most a hundred.
fn signs(score: f64) -> usize {
    score.abs().min(100.0) as usize
}

fn bar(score: f64) -> String {
    match signs(score) {
        0 => "/".to_owned(),
        signs if score > 0.0 => "+".repeat(signs),
        signs => "-".repeat(signs),
    }
}

/// `default: False [1.20 / 15.00];` and a line for each symbol.
fn result(verdict: &Verdict) -> String {
    /// Bytes of the field; an MTA cuts longer ones off.
    const LENGTH_MAX: usize = 32 << 10;
    let refused = if verdict.action == Action::Reject {
        "True"
    } else {
        "False"
    };
    let mut text = format!(
        "default: {refused} [{:.2} / {:.2}]",
        verdict.score, verdict.required
    );
    for symbol in &verdict.symbols {
        let options: Vec<String> = symbol.options.iter().map(|option| clean(option)).collect();
        let line = format!(
            ";\n\t{}({:.2})[{}]",
            symbol.name,
            symbol.score,
            options.join(",")
        );
        if text.len() + line.len() > LENGTH_MAX {
            break;
        }
        text.push_str(&line);
    }
    text
}

/// An option as it may stand in the field: short, printable, without the signs that programs take
/// the field apart by.
fn clean(option: &str) -> String {
    const OPTION_MAX: usize = 96;
    cut(option, OPTION_MAX)
        .chars()
        .map(|c| match c {
            ';' | ',' | '[' | ']' => '_',
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}

/// What a message gets written into its header, and what is taken out of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Marking {
    /// Fields to add.
    pub fields: Vec<Field>,
    /// How many fields of each of [`NAMES`] came with the message, and are to be removed.
    pub forged: [u32; NAMES.len()],
    /// What the subject becomes when it is rewritten: `%s` is the subject, `%d` the score.
    pub subject: String,
    /// The subject as it came; none where there is no such field.
    pub old_subject: Option<Vec<u8>>,
}

impl Marking {
    /// The edits for a message that is not refused.
    #[must_use]
    pub fn edits(&self, verdict: Option<&Verdict>) -> Vec<Edit> {
        let mut edits = Vec::new();
        for (name, number) in NAMES.iter().zip(self.forged) {
            edits.extend((1..=number).rev().map(|index| Edit::delete(index, *name)));
        }
        let Some(verdict) = verdict else {
            return edits;
        };
        for field in &self.fields {
            let value = field.value(verdict);
            edits.extend(value.map(|value| Edit::add(field.name(), value)));
        }
        if verdict.action >= Action::AddHeader {
            edits.push(Edit::add(FLAG, "Yes"));
        }
        if verdict.action == Action::RewriteSubject {
            edits.push(self.rewritten(verdict.score));
        }
        edits
    }

    fn rewritten(&self, score: f64) -> Edit {
        let with_score = self.subject.replace("%d", &format!("{score:.2}"));
        let old = self.old_subject.as_deref().unwrap_or_default();
        let (before, after) = with_score.split_once("%s").unwrap_or((&with_score, ""));
        let value = [before.as_bytes(), old, after.as_bytes()].concat();
        let edit = match self.old_subject {
            Some(_) => Edit::change(1, "Subject", value),
            None => Edit::add("Subject", value),
        };
        // The old subject may hold any bytes; the name is one, so nothing is refused.
        edit.clean().unwrap_or_else(|_| Edit::add("Subject", ""))
    }
}

/// The symbols for a line of the log: `GTUBE(0.00),MISSING_TO(2.00)`.
#[must_use]
pub fn symbols(symbols: &[Symbol]) -> String {
    let mut line = String::new();
    for symbol in symbols {
        let comma = if line.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(line, "{comma}{}({:.2})", symbol.name, symbol.score);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &'static str, score: f64, options: &[&str]) -> Symbol {
        Symbol {
            name,
            score,
            description: "",
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    fn verdict(action: Action, score: f64) -> Verdict {
        Verdict {
            action,
            score,
            required: 15.0,
            symbols: vec![symbol("A", 2.0, &["x;y", "é\r\n"]), symbol("B", -0.8, &[])],
        }
    }

    #[test]
    fn fields_are_as_rspamd_writes_them() {
        let spam = verdict(Action::AddHeader, 6.5);
        for (field, value) in [
            (
                Field::XSpamdResult,
                Some("default: False [6.50 / 15.00];\n\tA(2.00)[x_y,???];\n\tB(-0.80)[]"),
            ),
            (Field::XSpamdBar, Some("++++++")),
            (Field::XSpamLevel, Some("******")),
            (Field::XSpamStatus, Some("Yes, score=6.50")),
            (Field::XSpamScore, Some("6.50")),
        ] {
            assert_eq!(field.value(&spam).as_deref(), value, "{field:?}");
        }
        let ham = verdict(Action::NoAction, -2.5);
        assert_eq!(Field::XSpamdBar.value(&ham).as_deref(), Some("--"));
        assert_eq!(Field::XSpamLevel.value(&ham), None);
        assert_eq!(
            Field::XSpamStatus.value(&ham).as_deref(),
            Some("No, score=-2.50")
        );
        assert_eq!(bar(0.99), "/");
        assert_eq!(bar(1e300).len(), 100);
        let refused = verdict(Action::Reject, 20.0);
        let value = Field::XSpamdResult.value(&refused).unwrap_or_default();
        assert!(value.starts_with("default: True [20.00 / 15.00]"));
    }

    #[test]
    fn forged_fields_go_from_the_last_one_on() {
        let marking = Marking {
            forged: [2, 1, 0, 0, 0, 0],
            ..Marking::default()
        };
        let expected = [
            Edit::delete(2, "X-Spam"),
            Edit::delete(1, "X-Spam"),
            Edit::delete(1, "X-Spamd-Result"),
        ];
        assert_eq!(marking.edits(None), expected);
        let ham = verdict(Action::NoAction, 0.0);
        assert_eq!(marking.edits(Some(&ham)), expected);
    }

    #[test]
    fn spam_is_marked_and_its_subject_rewritten() {
        let marking = Marking {
            subject: "***SPAM %d*** %s".to_owned(),
            old_subject: Some(b"caf\xe9".to_vec()),
            fields: vec![Field::XSpamScore],
            ..Marking::default()
        };
        let spam = verdict(Action::RewriteSubject, 8.0);
        assert_eq!(
            marking.edits(Some(&spam)),
            [
                Edit::add("X-Spam-Score", "8.00"),
                Edit::add("X-Spam", "Yes"),
                Edit::change(1, "Subject", &b"***SPAM 8.00*** caf\xe9"[..]),
            ]
        );
        let without = Marking {
            old_subject: None,
            ..marking
        };
        let last = without.edits(Some(&spam)).pop();
        assert_eq!(last, Some(Edit::add("Subject", "***SPAM 8.00*** ")));
    }

    #[test]
    fn the_log_has_all_symbols() {
        let verdict = verdict(Action::NoAction, 0.0);
        assert_eq!(symbols(&verdict.symbols), "A(2.00),B(-0.80)");
        assert_eq!(symbols(&[]), "");
    }
}
