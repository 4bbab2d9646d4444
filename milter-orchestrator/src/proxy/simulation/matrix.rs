//! Every phase × every way to fail × every place in the chain × every policy: one thing goes wrong
//! with one of three filters, once or whenever it is told of the message, in ordinary and in strict
//! chains. The invariants are checked by the way.

use milter_proto::verdict::Verdict;

use super::chance::Chance;
use super::filter::Lapse;
use super::plan::{Extent, Plan, Script};
use super::world::{Outcome, World};
use crate::member::OnFailure;

/// A name, the command at which it happens, and how much of the answer comes before it.
const PHASES: [(&str, u8, Extent); 11] = [
    ("connect", b'C', Extent::Nothing),
    ("helo", b'H', Extent::Nothing),
    ("mail", b'M', Extent::Nothing),
    ("rcpt", b'R', Extent::Nothing),
    ("data", b'T', Extent::Nothing),
    ("header", b'L', Extent::Nothing),
    ("end of header", b'N', Extent::Nothing),
    ("body", b'B', Extent::Nothing),
    ("end of message", b'E', Extent::Nothing),
    ("in the middle of edits", b'E', Extent::Part),
    ("between messages", b'E', Extent::Whole),
];

/// Hangs on one connection, hangs as a whole, dies, talks nonsense.
const LAPSES: [Lapse; 4] = [Lapse::Silent, Lapse::Stopped, Lapse::Killed, Lapse::Garbage];

const POLICIES: [OnFailure; 4] = [
    OnFailure::Accept,
    OnFailure::TempFail,
    OnFailure::Reject,
    OnFailure::Quarantine,
];

/// What must become of the first message.
fn expected(script: Script, policy: OnFailure) -> Outcome {
    let all = Outcome {
        word: Some(Verdict::Continue),
        marks: vec![0, 1, 2],
        held: false,
    };
    let too_late = match script.lapse {
        // It is not tried again until it has been replaced.
        Lapse::Stopped => true,
        // It is not given the time for the end of the message again.
        Lapse::Silent => script.code == b'E',
        _ => false,
    };
    if script.extent == Extent::Whole || !(script.always || too_late) {
        return all;
    }
    let word = match policy {
        OnFailure::Accept | OnFailure::Quarantine => Verdict::Continue,
        OnFailure::TempFail => Verdict::TempFail,
        OnFailure::Reject => Verdict::Reject,
    };
    // Nothing of the failed filter, everything of the others; of a refused message nothing.
    let passes = word == Verdict::Continue;
    let others = (0..3).filter(|filter| passes && *filter != script.filter);
    Outcome {
        word: Some(word),
        marks: others.collect(),
        held: policy == OnFailure::Quarantine,
    }
}

fn check(script: Script, policy: OnFailure, strict: bool, seed: u64) -> Result<(), String> {
    match attempt(script, policy, (strict, seed), false) {
        Ok(()) => Ok(()),
        // Once more, with the history.
        Err(_) => attempt(script, policy, (strict, seed), true),
    }
}

fn attempt(
    script: Script,
    policy: OnFailure,
    (strict, seed): (bool, u64),
    tell: bool,
) -> Result<(), String> {
    let plan = Plan::scripted(script, policy, strict);
    let mut world = World::new(plan, Chance::new(seed), tell);
    let run = world.run();
    let wanted = expected(script, policy);
    let clean = Outcome {
        word: Some(Verdict::Continue),
        marks: vec![0, 1, 2],
        held: false,
    };
    let as_wanted = world.outcomes == [wanted.clone(), clean];
    if run.is_ok() && as_wanted {
        return Ok(());
    }
    let story = world.story().join("\n");
    let got = &world.outcomes;
    Err(format!(
        "{story}\n{run:?}\ngot {got:?}\nfor {wanted:?} and a clean one"
    ))
}

#[test]
fn whatever_fails_its_policy_speaks_and_nothing_else_suffers() {
    let mut seed = 0;
    for (phase, code, extent) in PHASES {
        for lapse in LAPSES {
            for filter in 0..3 {
                for policy in POLICIES {
                    for (always, strict) in [(true, false), (true, true), (false, false)] {
                        seed += 1;
                        let script = Script {
                            code,
                            filter,
                            always,
                            lapse,
                            extent,
                        };
                        if let Err(story) = check(script, policy, strict, seed) {
                            panic!(
                                "{story}\n{phase} {lapse:?} {policy:?}: {script:?} strict: {strict}"
                            );
                        }
                    }
                }
            }
        }
    }
}
