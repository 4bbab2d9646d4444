//! A failing scenario made smaller, as long as it fails.
//!
//! Every round proposes scenarios with one thing less, the large things first: a filter, a
//! connection, a step, a cue, an act, a negotiated flag, a line of a message. The first that still
//! differs is taken, and the round begins anew. A scenario without anything that is different on
//! purpose stays without. The number of runs is limited.

use anyhow::{Context, Result};
use milter_proto::testkit::{Act, Chain, FilterScript, Scenario, SmtpStep};
use milter_proto::wire::{Actions, Reply, Steps, VERSION};

use super::deviations;
use super::outcome::Difference;
use super::rig::Rig;

/// Runs at most for one scenario.
const RUNS_MAX: usize = 400;

/// Pieces of one message that are left out in a round: a long one is cut by halves first.
const SPANS_MAX: usize = 63;

/// The smallest scenario found that still differs, and how.
///
/// # Errors
/// When something else fails than what is compared.
pub async fn shrink(
    rig: &Rig,
    scenario: Scenario,
    difference: Difference,
) -> Result<(Scenario, Difference)> {
    let (mut smallest, mut difference) = (scenario, difference);
    let server = rig.mta.name();
    let strays = !deviations::has_none(&smallest, server);
    let mut runs = 0;
    'rounds: loop {
        for smaller in smaller(&smallest) {
            if !strays && !deviations::has_none(&smaller, server) {
                continue;
            }
            if runs == RUNS_MAX {
                break 'rounds;
            }
            runs += 1;
            let compared = rig.compare(&smaller).await;
            if let Some(found) = compared.with_context(|| smaller.to_string())? {
                (smallest, difference) = (smaller, found);
                continue 'rounds;
            }
        }
        break;
    }
    Ok((smallest, difference))
}

/// Scenarios with one thing less.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut propose = |change: &dyn Fn(&mut Scenario)| {
        let mut smaller = scenario.clone();
        change(&mut smaller);
        if smaller != *scenario && smaller.filters.iter().all(is_proper) {
            all.push(smaller);
        }
    };
    if scenario.filters.len() > 1 {
        for number in 0..scenario.filters.len() {
            propose(&|smaller| {
                smaller.filters.remove(number);
                let names = smaller.filters.iter().map(|filter| filter.name.as_str());
                smaller.chain = Chain {
                    strict: smaller.chain.strict,
                    ..Chain::of(names)
                };
            });
        }
    }
    for (number, dialogue) in scenario.smtp.iter().enumerate() {
        if scenario.smtp.len() > 1 {
            propose(&|smaller| drop(smaller.smtp.remove(number)));
        }
        for (length, start) in spans(dialogue.steps.len()) {
            propose(&|smaller| {
                smaller.smtp[number].steps.drain(start..start + length);
            });
        }
    }
    for number in 0..scenario.filters.len() {
        smaller_filter(scenario, number, &mut propose);
    }
    for (number, dialogue) in scenario.smtp.iter().enumerate() {
        for (place, step) in dialogue.steps.iter().enumerate() {
            let SmtpStep::Message(lines) = step else {
                continue;
            };
            for (length, start) in spans(lines.len()).into_iter().take(SPANS_MAX) {
                propose(&|smaller| {
                    if let SmtpStep::Message(lines) = &mut smaller.smtp[number].steps[place] {
                        lines.drain(start..start + length);
                    }
                });
            }
        }
    }
    all
}

/// Whether a filter does just what it negotiated: what becomes of one that does more is not
/// compared.
fn is_proper(filter: &FilterScript) -> bool {
    let agreed = filter.offer.actions;
    let allowed = |act: &Act| match act {
        Act::Say(Reply::Edit(edit)) => agreed.contains(edit.action()),
        Act::Raw(frame) => action_of(frame).is_none_or(|action| agreed.contains(action)),
        _ => true,
    };
    let macros = filter.offer.macros.is_empty() || agreed.contains(Actions::SET_MACRO_LIST);
    macros && filter.cues.iter().all(|cue| cue.acts.iter().all(allowed))
}

/// What must have been negotiated for an edit that is written as a frame.
fn action_of(frame: &[u8]) -> Option<Actions> {
    (frame.get(4) == Some(&b'2')).then_some(Actions::ADD_RECIPIENT_ARGS)
}

/// One filter with one thing less.
fn smaller_filter(
    scenario: &Scenario,
    number: usize,
    propose: &mut impl FnMut(&dyn Fn(&mut Scenario)),
) {
    let filter = &scenario.filters[number];
    for (place, cue) in filter.cues.iter().enumerate() {
        propose(&|smaller| drop(smaller.filters[number].cues.remove(place)));
        let edits = cue.acts.len().saturating_sub(1);
        for (length, start) in spans(edits) {
            propose(&|smaller| {
                smaller.filters[number].cues[place]
                    .acts
                    .drain(start..start + length);
            });
        }
        propose(&|smaller| smaller.filters[number].cues[place].message = None);
        propose(&|smaller| smaller.filters[number].cues[place].nth = None);
    }
    propose(&|smaller| smaller.filters[number].offer.version = VERSION);
    propose(&|smaller| smaller.filters[number].offer.macros.clear());
    propose(&|smaller| smaller.filters[number].offer.steps = Steps::empty());
    for step in filter.offer.steps.iter() {
        propose(&|smaller| smaller.filters[number].offer.steps -= step);
    }
    for action in filter.offer.actions.iter() {
        propose(&|smaller| smaller.filters[number].offer.actions -= action);
    }
}

/// Everything, halves, quarters, and so on down to single ones: length and start.
fn spans(count: usize) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut length = count;
    while length > 0 {
        let starts = (0..count).step_by(length);
        spans.extend(starts.map(|start| (length.min(count - start), start)));
        length /= 2;
    }
    spans
}
