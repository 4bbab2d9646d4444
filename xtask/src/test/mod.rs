//! `cargo xtask test`: everything that must hold, in one command and one table.
//!
//! A part that fails does not hinder the next. A part that cannot run here is skipped, by name and
//! with the reason; under continuous integration (`CI=true`) that counts as a failure. The last
//! line is `N passed, N failed, N skipped`, where a test of the suite, a check of the demonstration
//! and each other part count as one.

mod suite;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::suite::Runner;
use crate::bench::{self, Effort, Subject};
use crate::demo::{self, Options};
use crate::interrupt::Interrupt;
use crate::terminal::{Tone, paint, say, table};
use crate::workspace::{self, Profile};
use crate::{layers, setup, tidy};

/// Archives that some tests read, relative to the root of the workspace.
const ARCHIVES: &[&str] = &[demo::ARCHIVE, "../shared/data/conformance.tar.xz"];

/// How many things passed, failed, and could not be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    /// A reason each.
    skipped: Vec<String>,
}

impl Tally {
    fn one_passed() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    fn one_skipped(reason: impl Into<String>) -> Self {
        Self {
            skipped: vec![reason.into()],
            ..Self::default()
        }
    }
}

/// One row of the table.
struct Part {
    name: &'static str,
    tally: Tally,
    took: Duration,
    /// Why it failed, beyond what it printed.
    problem: Option<String>,
}

/// What every part may use.
struct Bench {
    install: bool,
    interrupt: Interrupt,
}

/// A part: a name and what it does.
type Step = (&'static str, fn(&Bench) -> Result<Tally>);

/// In this order: what is quick and often wrong first.
const STEPS: &[Step] = &[
    ("set-up", set_up),
    ("archives", archives),
    ("fmt", fmt),
    ("layers", |_| layers::run().map(|()| Tally::one_passed())),
    ("clippy", clippy),
    ("build", build),
    ("tidy", |_| tidy::run(false).map(|()| Tally::one_passed())),
    ("tests", tests),
    ("doc tests", doc_tests),
    ("doc", doc),
    ("bench", measurements),
    ("demo", demonstration),
];

/// Runs every part; an error when one fails, or under CI when one is skipped.
pub(crate) fn run(install: bool) -> Result<()> {
    let bench = Bench {
        install,
        interrupt: Interrupt::watch()?,
    };
    let mut parts = Vec::new();
    for (name, step) in STEPS {
        say(paint(Tone::Strong, &format!("── {name}")));
        let start = Instant::now();
        let done = step(&bench);
        bench.interrupt.check()?;
        let part = part(name, done, start.elapsed());
        part.problem.iter().for_each(say);
        parts.push(part);
    }
    show(&parts);
    conclude(&parts, std::env::var("CI").is_ok_and(|ci| ci == "true"))
}

fn part(name: &'static str, done: Result<Tally>, took: Duration) -> Part {
    let (tally, problem) = match done {
        Ok(tally) => (tally, None),
        Err(error) => {
            let failed = Tally {
                failed: 1,
                ..Tally::default()
            };
            (failed, Some(format!("{error:#}")))
        }
    };
    Part {
        name,
        tally,
        took,
        problem,
    }
}

/// The table, the reasons, and the last line.
fn show(parts: &[Part]) {
    let heading = ["part", "passed", "failed", "skipped", "seconds", "remarks"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(parts.iter().map(row));
    say("");
    table(&rows).iter().for_each(say);
    for part in parts {
        for reason in &part.tally.skipped {
            let word = paint(Tone::Odd, "skipped");
            say(format_args!("{word} {}: {reason}", part.name));
        }
    }
    let Tally {
        passed,
        failed,
        skipped,
    } = sum(parts);
    say("");
    say(format_args!(
        "{passed} passed, {failed} failed, {} skipped",
        skipped.len()
    ));
}

/// An error when something failed, or under CI was skipped.
fn conclude(parts: &[Part], ci: bool) -> Result<()> {
    let Tally {
        failed, skipped, ..
    } = sum(parts);
    if failed > 0 {
        bail!("test: {failed} failed");
    }
    if ci && !skipped.is_empty() {
        bail!("test: {} skipped, which CI does not allow", skipped.len());
    }
    Ok(())
}

fn sum(parts: &[Part]) -> Tally {
    let mut sum = Tally::default();
    for part in parts {
        sum.add(part.tally.clone());
    }
    sum
}

fn row(part: &Part) -> Vec<String> {
    let problem = part.problem.as_deref().unwrap_or_default();
    let remark = problem.lines().next().unwrap_or_default();
    vec![
        part.name.to_owned(),
        part.tally.passed.to_string(),
        part.tally.failed.to_string(),
        part.tally.skipped.len().to_string(),
        format!("{:.1}", part.took.as_secs_f64()),
        remark.to_owned(),
    ]
}

fn set_up(bench: &Bench) -> Result<Tally> {
    let lacks = setup::everything(bench.install)?;
    if lacks.is_empty() {
        return Ok(Tally::one_passed());
    }
    Ok(Tally::one_skipped(lacks.join("\n")))
}

/// The archives of test data are not part of the project; tests that read them say so when skipped.
fn archives(_: &Bench) -> Result<Tally> {
    let root = workspace::root();
    let mut tally = Tally::default();
    for archive in ARCHIVES {
        if root.join(archive).is_file() {
            tally.passed += 1;
        } else {
            tally.skipped.push(format!("{archive} is not there"));
        }
    }
    Ok(tally)
}

fn fmt(_: &Bench) -> Result<Tally> {
    component("fmt", workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &Bench) -> Result<Tally> {
    let mut clippy = workspace::cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    component("clippy", clippy.args(["--", "-D", "warnings"]))
}

/// The daemons and examples that tests start as processes.
fn build(_: &Bench) -> Result<Tally> {
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--workspace", "--bins", "--examples"]);
    workspace::succeed(&mut build)?;
    Ok(Tally::one_passed())
}

fn doc(_: &Bench) -> Result<Tally> {
    let mut doc = workspace::cargo();
    doc.args(["doc", "--locked", "--workspace", "--no-deps"]);
    workspace::succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Tally::one_passed())
}

/// Runs a command of a rustup component that a minimal installation lacks.
fn component(name: &str, command: &mut Command) -> Result<Tally> {
    if workspace::output(workspace::cargo().args([name, "--version"])).is_err() {
        return Ok(Tally::one_skipped(format!(
            "cargo {name} is not installed: rustup component add rustfmt clippy"
        )));
    }
    workspace::succeed(command)?;
    Ok(Tally::one_passed())
}

fn tests(_: &Bench) -> Result<Tally> {
    let nextest = workspace::output(workspace::cargo().args(["nextest", "--version"])).is_ok();
    let runner = if nextest {
        Runner::Nextest
    } else {
        Runner::Cargo
    };
    let mut selection = vec!["--workspace", "--no-fail-fast"];
    if runner == Runner::Cargo {
        // Without the examples in documentation, which have a part of their own.
        selection.extend(["--lib", "--bins", "--tests", "--examples"]);
    }
    suite::run(runner, &selection)
}

/// Nextest does not run the examples in documentation.
fn doc_tests(_: &Bench) -> Result<Tally> {
    suite::run(Runner::Cargo, &["--workspace", "--doc"])
}

/// That everything can still be measured; how fast it is on this machine is no matter of a test.
fn measurements(bench: &Bench) -> Result<Tally> {
    let effort = Effort {
        rounds: 1,
        quick: true,
    };
    bench::perform(Subject::Proxy, effort, &bench.interrupt)?;
    Ok(Tally::one_passed())
}

fn demonstration(bench: &Bench) -> Result<Tally> {
    if let Some(obstacle) = demo::obstacle(bench.install)? {
        return Ok(Tally::one_skipped(obstacle));
    }
    let options = Options {
        profile: Profile::Dev,
        install: bench.install,
        json: false,
        keep: false,
    };
    let checks = demo::perform(options, &bench.interrupt)?;
    let failed = checks.iter().filter(|check| check.failed()).count();
    Ok(Tally {
        passed: checks.len() - failed,
        failed,
        skipped: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_fails_and_a_skip_fails_under_ci_alone() {
        let row = |tally: Tally| part("x", Ok(tally), Duration::ZERO);
        let skipped = || row(Tally::one_skipped("no reason"));
        assert!(conclude(&[row(Tally::one_passed())], true).is_ok());
        assert!(conclude(&[row(Tally::one_passed()), skipped()], false).is_ok());
        assert!(conclude(&[row(Tally::one_passed()), skipped()], true).is_err());
        let broken = part("y", Err(anyhow::anyhow!("no")), Duration::ZERO);
        assert!(conclude(&[row(Tally::one_passed()), broken], false).is_err());
    }
}
