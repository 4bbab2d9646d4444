//! Figures: what was measured beside what, and whether it is within its limit.

use crate::terminal;

/// Which side of the limit is the good one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// So much at most.
    AtMost(f64),
    /// So much at least.
    AtLeast(f64),
}

/// How ours is held against direct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// Ours divided by direct.
    Ratio,
    /// Ours less direct, in the unit of both.
    Difference,
    /// Ours alone.
    Nothing,
}

/// One round: the same without us, with the relay in our place, and with us.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Round {
    /// Without anybody between.
    pub(crate) direct: Option<f64>,
    /// With the bare relay, which nobody can beat.
    pub(crate) relay: Option<f64>,
    /// With us.
    pub(crate) ours: f64,
}

impl Round {
    /// One in which ours is measured alone.
    pub(crate) fn alone(ours: f64) -> Self {
        Self {
            direct: None,
            relay: None,
            ours,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) what: String,
    /// Of the measured values.
    pub(crate) unit: &'static str,
    /// Every round.
    pub(crate) rounds: Vec<Round>,
    /// What is judged.
    pub(crate) against: Against,
    /// By what; `None` for a figure that is only shown.
    pub(crate) limit: Option<Limit>,
}

impl Figure {
    /// What is judged: the median over the rounds.
    pub(crate) fn judged(&self) -> f64 {
        self.compared(|round| Some(round.ours)).unwrap_or_default()
    }

    /// The same for the relay in our place.
    pub(crate) fn judged_relay(&self) -> Option<f64> {
        self.compared(|round| round.relay)
    }

    /// Whether it is on the wrong side of its limit.
    pub(crate) fn is_beyond(&self) -> bool {
        match self.limit {
            Some(Limit::AtMost(limit)) => self.judged() > limit,
            Some(Limit::AtLeast(limit)) => self.judged() < limit,
            None => false,
        }
    }

    fn compared(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let each = self.rounds.iter().map(|round| {
            let value = value(round)?;
            match self.against {
                Against::Ratio => Some(value / round.direct?),
                Against::Difference => Some(value - round.direct?),
                Against::Nothing => Some(value),
            }
        });
        median(each.collect::<Option<Vec<f64>>>()?)
    }

    fn row(&self, judge: bool) -> Vec<String> {
        let of = |value: fn(&Round) -> Option<f64>| {
            let each = self.rounds.iter().map(value).collect::<Option<Vec<f64>>>();
            each.and_then(median).map_or_else(|| "-".to_owned(), number)
        };
        let sign = |value: f64| match self.against {
            Against::Ratio => format!("{value:.2} ×"),
            Against::Difference => format!("{}{} {}", plus(value), number(value), self.unit),
            Against::Nothing => format!("{} {}", number(value), self.unit),
        };
        let relay = self.judged_relay();
        let verdict = match (self.limit, judge) {
            (None, _) | (_, false) => "-",
            _ if self.is_beyond() => "MISSED",
            _ => "held",
        };
        vec![
            self.what.clone(),
            self.unit.to_owned(),
            of(|round| round.direct),
            of(|round| round.relay),
            of(|round| Some(round.ours)),
            sign(self.judged()),
            relay.map_or_else(|| "-".to_owned(), sign),
            match self.limit {
                Some(Limit::AtMost(limit)) => format!("≤ {}", sign(limit)),
                Some(Limit::AtLeast(limit)) => format!("≥ {}", sign(limit)),
                None => "-".to_owned(),
            },
            verdict.to_owned(),
        ]
    }
}

/// The figures as lines of text; `judge` says whether the limits mean anything.
pub(crate) fn table(figures: &[Figure], judge: bool) -> Vec<String> {
    let heading = [
        "measured",
        "unit",
        "direct",
        "relay",
        "ours",
        "ours/direct",
        "relay/direct",
        "wanted",
        "",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(figures.iter().map(|figure| figure.row(judge)));
    terminal::table(&rows)
}

/// The middle of `values`; of an even number of them the lower one of the two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    values.get(middle).copied()
}

fn plus(value: f64) -> &'static str {
    if value > 0.0 { "+" } else { "" }
}

/// Three digits or so.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(against: Against, limit: Limit) -> Figure {
        let round = |direct: f64, ours: f64| Round {
            direct: Some(direct),
            relay: Some(direct * 1.5),
            ours,
        };
        Figure {
            what: "sending".to_owned(),
            unit: "ms",
            // One round in which the machine did something else.
            rounds: vec![round(10.0, 20.0), round(100.0, 900.0), round(20.0, 40.0)],
            against,
            limit: Some(limit),
        }
    }

    #[test]
    fn rounds_are_compared_each_and_the_middle_one_is_judged() {
        let ratio = figure(Against::Ratio, Limit::AtMost(2.0));
        assert!((ratio.judged() - 2.0).abs() < 1e-9);
        assert_eq!(ratio.judged_relay(), Some(1.5));
        assert!(!ratio.is_beyond());
        assert!(figure(Against::Ratio, Limit::AtMost(1.9)).is_beyond());
        assert!(figure(Against::Ratio, Limit::AtLeast(2.1)).is_beyond());
        let difference = figure(Against::Difference, Limit::AtMost(20.0));
        assert!((difference.judged() - 20.0).abs() < 1e-9);
        assert!(!difference.is_beyond());
    }

    #[test]
    fn the_table_says_what_is_missed_only_where_it_judges() {
        let missed = [figure(Against::Ratio, Limit::AtMost(1.9))];
        assert!(table(&missed, true).join("\n").contains("MISSED"));
        assert!(!table(&missed, false).join("\n").contains("MISSED"));
        let held = [figure(Against::Ratio, Limit::AtMost(2.0))];
        let shown = table(&held, true).join("\n");
        assert!(
            shown.contains("≤ 2.00 ×") && shown.contains("held"),
            "{shown}"
        );
    }

    #[test]
    fn what_was_measured_alone_is_compared_with_nothing() {
        let alone = Figure {
            rounds: vec![Round::alone(50.0)],
            ..figure(Against::Nothing, Limit::AtMost(60.0))
        };
        assert!((alone.judged() - 50.0).abs() < 1e-9);
        assert_eq!(alone.judged_relay(), None);
        assert_eq!(median(Vec::new()), None);
    }
}
