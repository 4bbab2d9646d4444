//! A simulation of everything around the proxy: virtual time, a schedule and faults that follow
//! from a seed. The session with all that belongs to it, the table of a child's states and the
//! delays between its starts are the real ones; sockets, processes and the clock are values.
//! Filters are killed, stopped, silent, late, slow, talk nonsense and answer twice; messages kill
//! filters; bytes arrive in any pieces and readiness in any order; MTAs give up; several sessions
//! with several messages run at the same time over the same filters, and clients send again what
//! was refused for now. The same seed is the same history.
//!
//! What must hold whatever happens:
//!
//! * I1: every question of the MTA's gets exactly one answer, the end of a message one last word.
//! * I2: nothing is said that has no place at that stage, or was promised not to be said, on either
//!   side.
//! * I3: what passes was passed by every filter, or that filter had failed, its policy allows it,
//!   and it is counted; no refusal is nobody's.
//! * I4: nothing of one message or client is seen in another.
//! * I5: of each filter all edits arrive or none, in the chain's order, and none with a refusal.
//! * I6: a filter sees header, body and recipients as those before it left them, byte for byte.
//! * I7: what is held in memory is bounded, and given back.
//! * I8: no answer takes longer than the limits say, nor does the end of a session.
//! * I9: where nothing else is wrong, a message kills a filter by its content at most twice,
//!   however often it comes, and costs no other message anything.
//!
//! `cargo xtask simulate` runs many seeds. A violation is told with its seed, the least number of
//! messages that shows it, and the history.

mod chance;
mod check;
mod filter;
mod letter;
mod matrix;
mod mta;
mod pipe;
mod plan;
mod world;

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::chance::Chance;
use self::check::{Result, Violation};
use self::plan::{Plan, Sabotage};
use self::world::{Figures, World};

/// Bytes of bodies in memory that all messages share.
const BUDGET: usize = 64 * 1024;

/// Seeds of the ordinary tests: a few seconds.
const SEEDS: u64 = 60;

/// One world, and its history if that is wanted.
fn run(
    seed: u64,
    messages: u64,
    sabotage: Option<Sabotage>,
    tell: bool,
) -> (Result<Figures>, String) {
    let mut chance = Chance::new(seed);
    let plan = Plan::new(messages, sabotage, &mut chance);
    let mut world = World::new(plan, chance, tell);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|_| Err(Violation::new(0, "panicked")));
    (result, world.story().join("\n"))
}

/// The violation of a seed, with the least number of messages that shows it, and the history.
fn report(seed: u64, messages: u64, violation: &Violation) -> String {
    let fewer = (1..messages).find(|count| run(seed, *count, None, false).0.is_err());
    let messages = fewer.unwrap_or(messages);
    let (result, story) = run(seed, messages, None, true);
    let mut text = String::new();
    let shown = result.err().unwrap_or_else(|| violation.clone());
    let _ = writeln!(text, "{story}\n\nviolation of {shown}");
    let _ = writeln!(
        text,
        "cargo xtask simulate --seeds 1 --seed {seed} --messages {messages}"
    );
    text
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the seeds that the environment names, or a few.
#[test]
fn simulation() {
    let first = number("SIMULATE_SEED").unwrap_or(1);
    let seeds = number("SIMULATE_SEEDS");
    let messages = number("SIMULATE_MESSAGES").unwrap_or(20);
    let count = seeds.unwrap_or(SEEDS);
    let begin = Instant::now();
    let mut told = begin;
    let mut all = Figures::default();
    for seed in first..first + count {
        match run(seed, messages, None, false).0 {
            Ok(figures) => all.add(&figures),
            Err(violation) => panic!("seed {seed}\n{}", report(seed, messages, &violation)),
        }
        if seeds.is_some() && told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(seed - first + 1, count, &all, begin.elapsed());
        }
    }
    progress(count, count, &all, begin.elapsed());
    let enough = [
        all.passed,
        all.refused,
        all.lapses,
        all.replays,
        all.fallbacks,
    ];
    assert!(
        count < SEEDS || enough.iter().all(|count| *count > 0),
        "{all:?}"
    );
}

/// Seeds that have shown a fault of the proxy, or of the simulation.
#[test]
fn seeds_that_have_found_something_stay_good() {
    for seed in [1496, 1669, 2137, 3201, 3769, 4379, 17268] {
        if let Err(violation) = run(seed, 20, None, false).0 {
            panic!("seed {seed}\n{}", report(seed, 20, &violation));
        }
    }
}

fn progress(done: u64, count: u64, all: &Figures, took: Duration) {
    let rate = all.messages * 1000 / u64::try_from(took.as_millis()).unwrap_or(1).max(1);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "{done} of {count} seeds, {} messages, {rate} a second: {} passed, {} refused, {} left; \
         {} faults, {} told again, {} by policy, {} poison, {} excused",
        all.messages,
        all.passed,
        all.refused,
        all.aborted,
        all.lapses,
        all.replays,
        all.fallbacks,
        all.poison,
        all.excused
    );
}

/// Every invariant is seen to fail where a double breaks it.
#[test]
fn every_invariant_can_fail() {
    for (sabotage, invariant) in [
        (Sabotage::SecondWord, 1),
        (Sabotage::WrongReply, 2),
        (Sabotage::Unseen, 3),
        (Sabotage::Leak, 4),
        (Sabotage::HalfTheEdits, 5),
        (Sabotage::Altered, 6),
        (Sabotage::Hoard, 7),
        (Sabotage::Silence, 8),
        (Sabotage::Forgetful, 9),
    ] {
        let violations = (1..3000).filter_map(|seed| run(seed, 20, Some(sabotage), false).0.err());
        let found = violations
            .map(|violation| violation.invariant)
            .find(|found| *found == invariant);
        assert_eq!(found, Some(invariant), "{sabotage:?}");
    }
}

#[test]
fn a_seed_is_the_same_history() {
    for seed in 1..20 {
        let (once, again) = (run(seed, 10, None, true), run(seed, 10, None, true));
        assert_eq!(once.0, again.0, "{seed}");
        assert!(once.1 == again.1, "{seed}");
    }
}
