//! From hits to a score and an action. Pure.
//!
//! Scores add up; a group's hits together weigh no more than its cap. The action is the severest
//! whose threshold the score reaches. Greylisting is not among the actions: there is nothing here
//! that remembers a message.

use serde::Serialize;

use crate::rules::{Group, Hit, Rule};

/// What is done with a message, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Action {
    /// Nothing.
    #[serde(rename = "no action")]
    NoAction,
    /// Mark it in its header.
    #[serde(rename = "add header")]
    AddHeader,
    /// Mark it in its header and its subject.
    #[serde(rename = "rewrite subject")]
    RewriteSubject,
    /// Refuse it for now.
    #[serde(rename = "soft reject")]
    SoftReject,
    /// Refuse it for good.
    #[serde(rename = "reject")]
    Reject,
}

impl Action {
    /// As rspamd calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoAction => "no action",
            Self::AddHeader => "add header",
            Self::RewriteSubject => "rewrite subject",
            Self::SoftReject => "soft reject",
            Self::Reject => "reject",
        }
    }

    /// Whether the message is taken for spam.
    #[must_use]
    pub fn is_spam(self) -> bool {
        self != Self::NoAction
    }
}

/// The scores from which on an action is taken; those that are missing are never taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    /// Action and score.
    pub of: Vec<(Action, f64)>,
}

impl Thresholds {
    /// The action for a score.
    #[must_use]
    pub fn action(&self, score: f64) -> Action {
        self.of
            .iter()
            .filter(|(_, threshold)| score >= *threshold)
            .map(|(action, _)| *action)
            .max()
            .unwrap_or(Action::NoAction)
    }

    /// The score that is shown as required: the highest of all.
    #[must_use]
    pub fn required(&self) -> f64 {
        self.of
            .iter()
            .map(|(_, threshold)| *threshold)
            .fold(0.0, f64::max)
    }
}

/// One symbol of a result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Symbol {
    /// Name of the check.
    pub name: &'static str,
    /// What it adds to the score.
    pub score: f64,
    /// What the check means.
    pub description: &'static str,
    /// What it was that it found.
    pub options: Vec<String>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// The sum.
    pub score: f64,
    /// The score at which a message is refused.
    pub required: f64,
    /// What made it up, the weightiest first.
    pub symbols: Vec<Symbol>,
}

/// Adds up hits, each with its rule and the rule's weight as configured.
#[must_use]
pub fn add_up(hits: Vec<(&Rule, f64, Hit)>, thresholds: &Thresholds) -> Verdict {
    let mut groups = [0.0; Group::ALL.len()];
    let mut forced: Option<Action> = None;
    let mut symbols = Vec::with_capacity(hits.len());
    for (rule, weight, hit) in hits {
        forced = forced.max(hit.action);
        let mut score = weight * hit.factor;
        if let (Some(cap), Some(sum)) = (rule.group.cap(), groups.get_mut(rule.group as usize)) {
            // Hits that speak for a message are not capped.
            let room = f64::max(cap - *sum, 0.0);
            score = score.min(room);
            *sum += score;
        }
        symbols.push(Symbol {
            name: rule.name,
            score,
            description: rule.about,
            options: hit.options,
        });
    }
    symbols.sort_by(|one, other| other.score.total_cmp(&one.score));
    let score = symbols.iter().map(|symbol| symbol.score).sum();
    let action = thresholds.action(score);
    Verdict {
        action: forced.map_or(action, |forced| forced.max(action)),
        score,
        required: thresholds.required(),
        symbols,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Stage;

    fn rule(name: &'static str, group: Group) -> Rule {
        Rule {
            name,
            about: "",
            group,
            weight: 0.0,
            stage: Stage::Header,
            check: |_| None,
        }
    }

    fn thresholds() -> Thresholds {
        Thresholds {
            of: vec![
                (Action::AddHeader, 6.0),
                (Action::RewriteSubject, 8.0),
                (Action::Reject, 15.0),
            ],
        }
    }

    #[test]
    fn the_severest_action_reached_decides() {
        for (score, action) in [
            (-3.0, Action::NoAction),
            (5.99, Action::NoAction),
            (6.0, Action::AddHeader),
            (8.5, Action::RewriteSubject),
            (15.0, Action::Reject),
            (1e9, Action::Reject),
        ] {
            assert_eq!(thresholds().action(score), action, "{score}");
        }
        assert_eq!(Thresholds::default().action(100.0), Action::NoAction);
        assert_eq!(thresholds().required(), 15.0);
        let crossed = Thresholds {
            of: vec![(Action::AddHeader, 20.0), (Action::Reject, 15.0)],
        };
        assert_eq!(crossed.action(25.0), Action::Reject);
    }

    #[test]
    fn groups_are_capped_and_factors_count() {
        let (a, b, c) = (
            rule("A", Group::Headers),
            rule("B", Group::Headers),
            rule("C", Group::Mua),
        );
        let verdict = add_up(
            vec![
                (&a, 6.0, Hit::new()),
                (&b, 8.0, Hit::new()),
                (&b, -1.0, Hit::new()),
                (&c, 4.0, Hit::new().times(0.5)),
            ],
            &thresholds(),
        );
        let scores: Vec<f64> = verdict.symbols.iter().map(|symbol| symbol.score).collect();
        assert_eq!(scores, [6.0, 2.0, 2.0, -1.0]);
        assert_eq!(
            (verdict.score, verdict.action),
            (9.0, Action::RewriteSubject)
        );
    }

    #[test]
    fn a_hit_can_ask_for_an_action() {
        let rule = rule("A", Group::Other);
        let hit = || Hit::new().at_least(Action::SoftReject);
        let verdict = add_up(vec![(&rule, 0.0, hit())], &thresholds());
        assert_eq!(verdict.action, Action::SoftReject);
        let verdict = add_up(vec![(&rule, 20.0, hit())], &thresholds());
        assert_eq!(verdict.action, Action::Reject);
    }
}
