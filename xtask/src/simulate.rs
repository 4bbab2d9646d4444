//! `cargo xtask simulate`: the deterministic simulation of the proxy, for as many seeds as are
//! wanted.
//!
//! The work is done by a test of the orchestrator's, which takes its numbers from the environment
//! and says how far it is; this builds it with optimisation and every assertion, and starts it. A
//! seed that violates an invariant is told with its history and the command that repeats it; the
//! command fails then.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::workspace;

/// The test.
const TEST: &str = "proxy::simulation::simulation";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How many seeds.
    pub(crate) seeds: u64,
    /// The first of them.
    pub(crate) seed: u64,
    /// Messages of each.
    pub(crate) messages: u64,
    /// Build without optimisation: at once, and a tenth as fast.
    pub(crate) dev: bool,
}

/// Runs the seeds; an error when one of them violates something.
pub(crate) fn run(options: Options) -> Result<()> {
    ensure!(
        options.seeds > 0 && options.messages > 0,
        "simulate: neither --seeds nor --messages can be 0"
    );
    ensure!(
        options.seed.checked_add(options.seeds).is_some(),
        "simulate: --seed and --seeds together are too large"
    );
    let status = command(options).status()?;
    if !status.success() {
        bail!("simulate: a seed violates an invariant, or the test cannot be built ({status})");
    }
    Ok(())
}

fn command(options: Options) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--locked",
        "--package",
        "milter-orchestrator",
        "--lib",
    ]);
    if !options.dev {
        cargo.args(["--profile", "fuzz"]);
    }
    cargo.args(["--", "--exact", TEST, "--nocapture"]);
    for (name, value) in [
        ("SIMULATE_SEEDS", options.seeds),
        ("SIMULATE_SEED", options.seed),
        ("SIMULATE_MESSAGES", options.messages),
    ] {
        cargo.env(name, value.to_string());
    }
    // The history says more than where it was judged.
    cargo.env("RUST_BACKTRACE", "0");
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options {
        seeds: 1,
        seed: 7,
        messages: 20,
        dev: true,
    };

    #[test]
    fn numbers_reach_the_test_and_nonsense_is_refused() {
        let command = command(OPTIONS);
        let seed = command
            .get_envs()
            .find(|(name, _)| *name == "SIMULATE_SEED");
        let seed = seed.and_then(|(_, value)| value);
        assert_eq!(seed, Some("7".as_ref()));
        assert!(command.get_args().any(|argument| argument == TEST));
        assert!(!command.get_args().any(|argument| argument == "fuzz"));
        for wrong in [
            Options {
                seeds: 0,
                ..OPTIONS
            },
            Options {
                messages: 0,
                ..OPTIONS
            },
            Options {
                seed: u64::MAX,
                ..OPTIONS
            },
        ] {
            assert!(run(wrong).is_err(), "{wrong:?}");
        }
    }

    /// A test of that name is there to be run.
    #[test]
    fn the_test_has_that_name() {
        let path = "milter-orchestrator/src/proxy/simulation/mod.rs";
        let text = std::fs::read_to_string(workspace::root().join(path)).unwrap();
        assert!(text.contains("#[test]\nfn simulation()"));
    }
}
