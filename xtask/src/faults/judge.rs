//! What a fault measures, and whether its limits were held: pure.
//!
//! A limit on a time is absolute. On a machine that is slow without any fault, the time that the
//! calm run took is allowed on top; a limit that is held only so says it.

use anyhow::Result;

use super::ledger::Ledger;
use super::office::Office;
use crate::setup::Tool;

/// A fault: one row of the table.
pub(super) struct Fault {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    /// What is done, in a line.
    pub(super) what: &'static str,
    /// What must hold.
    pub(super) limits: &'static [Limit],
    /// Programs that it needs, Postfix aside.
    pub(super) tools: &'static [Tool],
    /// Does it.
    pub(super) inject: fn(&Office) -> Result<Measured>,
}

/// What must hold of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    /// The figure: one of the ledger's, or one that the fault measures by itself.
    pub(super) figure: &'static str,
    /// Which side is good.
    pub(super) bound: Bound,
}

/// The side of a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    /// No more than so much.
    AtMost(f64),
    /// No fewer.
    AtLeast(f64),
    /// No more than so many milliseconds, beyond what the calm run takes.
    Within(f64),
}

/// No more than so much of a figure.
pub(super) const fn at_most(figure: &'static str, value: f64) -> Limit {
    let bound = Bound::AtMost(value);
    Limit { figure, bound }
}

/// No fewer.
pub(super) const fn at_least(figure: &'static str, value: f64) -> Limit {
    let bound = Bound::AtLeast(value);
    Limit { figure, bound }
}

/// No more than so many milliseconds.
pub(super) const fn within(figure: &'static str, milliseconds: f64) -> Limit {
    let bound = Bound::Within(milliseconds);
    Limit { figure, bound }
}

/// What came of a fault.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    /// Of the letters.
    pub(super) ledger: Ledger,
    /// Beside them, with their names; times in milliseconds.
    pub(super) figures: Vec<(&'static str, f64)>,
    /// For people.
    pub(super) notes: Vec<String>,
}

impl Measured {
    /// Of letters alone.
    pub(super) fn of(ledger: Ledger) -> Self {
        Self {
            ledger,
            ..Self::default()
        }
    }

    /// The same with one more figure.
    pub(super) fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }

    fn value(&self, figure: &str) -> Option<f64> {
        let Ledger {
            delivered,
            refused,
            deferred,
            lost,
            unseen,
            twice,
            ..
        } = self.ledger;
        let count = match figure {
            "delivered" => delivered,
            "refused" => refused,
            "deferred" => deferred,
            "lost" => lost,
            "unseen" => unseen,
            "twice" => twice,
            "p99" => return self.ledger.percentile(99),
            _ => {
                let own = self.figures.iter().find(|(name, _)| *name == figure);
                return own.map(|(_, value)| *value);
            }
        };
        Some(count as f64)
    }
}

/// A limit and how it went.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// The limit.
    pub(super) limit: Limit,
    /// What was measured; `None` when it was not.
    pub(super) value: Option<f64>,
    /// How.
    pub(super) word: Word,
}

/// How a limit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Held.
    Held,
    /// Held, beyond what the calm run takes on this machine.
    HeldBesideNoise,
    /// Missed.
    Missed,
}

/// A fault, what it measured, and how its limits went.
pub(super) struct Judged {
    /// The fault.
    pub(super) fault: &'static Fault,
    /// What it measured; an error when it could not be injected.
    pub(super) measured: Result<Measured, String>,
    /// Its limits.
    pub(super) verdicts: Vec<Verdict>,
}

impl Judged {
    /// Judges; `noise` is the calm run's p99 in milliseconds.
    pub(super) fn new(
        fault: &'static Fault,
        measured: Result<Measured>,
        noise: Option<f64>,
    ) -> Self {
        let measured = measured.map_err(|error| format!("{error:#}"));
        let verdicts = match &measured {
            Ok(measured) => fault
                .limits
                .iter()
                .map(|limit| judge(*limit, measured.value(limit.figure), noise.unwrap_or(0.0)))
                .collect(),
            Err(_) => Vec::new(),
        };
        Self {
            fault,
            measured,
            verdicts,
        }
    }

    /// Whether all of its limits were held.
    pub(super) fn held(&self) -> bool {
        let missed = |verdict: &Verdict| verdict.word == Word::Missed;
        self.measured.is_ok() && !self.verdicts.iter().any(missed)
    }

    /// Its p99 in milliseconds.
    pub(super) fn p99(&self) -> Option<f64> {
        self.measured.as_ref().ok()?.ledger.percentile(99)
    }
}

fn judge(limit: Limit, value: Option<f64>, noise: f64) -> Verdict {
    let word = match (limit.bound, value) {
        (_, None) => Word::Missed,
        (Bound::AtMost(most), Some(value)) if value <= most => Word::Held,
        (Bound::AtLeast(least), Some(value)) if value >= least => Word::Held,
        (Bound::Within(most), Some(value)) if value <= most => Word::Held,
        (Bound::Within(most), Some(value)) if value <= most + noise => Word::HeldBesideNoise,
        (Bound::AtMost(_) | Bound::AtLeast(_) | Bound::Within(_), Some(_)) => Word::Missed,
    };
    Verdict { limit, value, word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_two_sides_and_times_have_noise() {
        for (limit, value, word) in [
            (at_most("lost", 0.0), Some(0.0), Word::Held),
            (at_most("lost", 0.0), Some(1.0), Word::Missed),
            (at_most("lost", 0.0), None, Word::Missed),
            (at_least("kept", 20.0), Some(20.0), Word::Held),
            (at_least("kept", 20.0), Some(19.0), Word::Missed),
            (within("p99", 200.0), Some(200.0), Word::Held),
            (within("p99", 200.0), Some(250.0), Word::HeldBesideNoise),
            (within("p99", 200.0), Some(251.0), Word::Missed),
        ] {
            assert_eq!(judge(limit, value, 50.0).word, word, "{limit:?} {value:?}");
        }
    }
}
