//! `cargo xtask fuzz`: every fuzz target of the workspace for a given time, one after the other.
//!
//! A target is a test with `bolero::check!` in it, so nothing has to be registered, and the same
//! code runs for a moment with the ordinary tests. The engine is bolero's own, which draws inputs
//! at random on the stable toolchain and shrinks what fails; it knows nothing of coverage. Each
//! target judges its results itself. What it cannot judge is judged from outside: that it ends,
//! and how much memory it ever held. A target that fails does not hinder the next; the command
//! that repeats a failure is printed with it.

mod duration;
mod run;
mod targets;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

pub(crate) use self::duration::Time;
use self::run::{Outcome, Ran};
use self::targets::Target;
use crate::interrupt::Interrupt;
use crate::terminal::{Tone, paint, say, table};
use crate::workspace;

/// What to do.
#[derive(Debug)]
pub(crate) struct Options {
    /// For each target.
    pub(crate) time: Duration,
    /// Words in the names of the targets to run; all when empty.
    pub(crate) targets: Vec<String>,
    /// Say which there are, and run none.
    pub(crate) list: bool,
    /// Build with optimisation; assertions and checks of overflow stay.
    pub(crate) optimised: bool,
}

/// Runs the targets; an error when one finds something, and when there is none to run.
pub(crate) fn run(options: &Options) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let all = targets::find(options.optimised)?;
    let chosen = choose(&all, &options.targets)?;
    if options.list {
        chosen.iter().for_each(|target| say(target.name()));
        return Ok(());
    }
    let logs = workspace::target()?.join("fuzz");
    let mut ran = Vec::new();
    for target in chosen {
        say(paint(Tone::Strong, &format!("── {}", target.name())));
        let result = run::run(target, options.time, &log_of(&logs, target), &interrupt)?;
        say(&result);
        ran.push(result);
        if interrupt.raised() {
            break;
        }
    }
    conclude(&ran)
}

/// Where the output of a target goes.
fn log_of(logs: &std::path::Path, target: &Target) -> PathBuf {
    logs.join(format!("{}.log", target.name().replace("::", ".")))
}

/// The targets whose names hold one of the words.
fn choose<'a>(all: &'a [Target], words: &[String]) -> Result<Vec<&'a Target>> {
    for word in words {
        if !all.iter().any(|target| target.name().contains(word)) {
            let names: Vec<String> = all.iter().map(Target::name).collect();
            let names = names.join("\n  ");
            bail!("fuzz: no target is named like {word}; there are:\n  {names}");
        }
    }
    let wanted = |target: &&Target| {
        words.is_empty() || words.iter().any(|word| target.name().contains(word))
    };
    Ok(all.iter().filter(wanted).collect())
}

/// The table, the sum, and the verdict.
fn conclude(ran: &[Ran]) -> Result<()> {
    let heading = [
        "target",
        "executions",
        "per second",
        "memory",
        "seconds",
        "",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(ran.iter().map(Ran::row));
    say("");
    table(&rows).iter().for_each(say);
    let executions: u64 = ran.iter().map(|ran| ran.executions).sum();
    let failed = ran
        .iter()
        .filter(|ran| ran.outcome != Outcome::Clean)
        .count();
    say("");
    say(format_args!(
        "{} targets, {executions} executions, {failed} failed",
        ran.len()
    ));
    if failed > 0 {
        bail!("fuzz: {failed} of {} targets failed", ran.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_a_part_of_their_name_and_a_wrong_one_is_named() {
        let target = |test: &str| Target {
            package: "p".to_owned(),
            folder: PathBuf::new(),
            binary: PathBuf::new(),
            test: test.to_owned(),
            selection: vec!["--lib".to_owned()],
        };
        let all = [target("wire::fuzz_frames"), target("session::random")];
        let chosen = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            choose(&all, &words)
                .map(|chosen| chosen.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&[]), Ok(2));
        assert_eq!(chosen(&["wire"]), Ok(1));
        assert_eq!(chosen(&["p::session::random", "frames"]), Ok(2));
        let error = chosen(&["wire", "wirre"]).unwrap_err();
        assert!(error.contains("named like wirre") && error.contains("p::wire::fuzz_frames"));
    }

    #[test]
    fn one_failure_fails_the_whole() {
        let ran = |outcome| Ran {
            target: "t".to_owned(),
            executions: 3,
            per_second: 1.0,
            resident: 1 << 20,
            took: Duration::from_secs(3),
            outcome,
        };
        assert!(conclude(&[ran(Outcome::Clean)]).is_ok());
        let failed = Outcome::Failed("x".to_owned());
        let error = conclude(&[ran(Outcome::Clean), ran(failed)]).unwrap_err();
        assert_eq!(error.to_string(), "fuzz: 1 of 2 targets failed");
    }
}
