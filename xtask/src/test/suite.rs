//! Runs the tests of the workspace, shows what matters of their output, and counts.
//!
//! A test that cannot run here prints `skipped: name: reason` and returns. Its runner calls that
//! passed and would not show it; so the output of passed tests is asked for, searched, and kept
//! from the screen.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::Tally;
use crate::terminal::say;
use crate::workspace;

/// Which program runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runner {
    /// `cargo nextest run`: a process for each test.
    Nextest,
    /// `cargo test`.
    Cargo,
}

/// Runs the tests that `selection` names.
pub(super) fn run(runner: Runner, selection: &[&str]) -> Result<Tally> {
    let mut tests = workspace::cargo();
    match runner {
        Runner::Nextest => {
            tests.args(["nextest", "run", "--locked", "--color", "never"]);
            tests.args([
                "--success-output",
                "immediate",
                "--failure-output",
                "immediate",
            ]);
            tests.args(selection);
        }
        Runner::Cargo => {
            tests.args(["test", "--locked"]).args(selection);
            tests.args(["--", "--show-output"]);
        }
    }
    let mut running = tests
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = running.stdout.take().context("no output to read")?;
    let errors = running.stderr.take().context("no output to read")?;
    let tally = std::thread::scope(|scope| {
        let other = scope.spawn(|| read(runner, errors));
        let mut reader = read(runner, out);
        if let Ok(other) = other.join() {
            reader.tally.add(other.tally);
            reader.skipped_themselves += other.skipped_themselves;
        }
        reader.finish()
    });
    let status = running.wait()?;
    if !status.success() && tally.failed == 0 {
        bail!("{tests:?} ended with {status}");
    }
    Ok(tally)
}

fn read(runner: Runner, stream: impl std::io::Read) -> Reader {
    let mut reader = Reader::new(runner);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if reader.take(&line) {
            say(line);
        }
    }
    reader
}

/// Goes through the output of a runner line by line.
struct Reader {
    runner: Runner,
    tally: Tally,
    /// Inside the output of a test that passed.
    inside: bool,
    /// That test has said already that it skips.
    skips: bool,
    /// Inside the output of tests that failed (`cargo test` alone).
    failures: bool,
    /// How many did: their runner counts them among the passed.
    skipped_themselves: usize,
}

impl Reader {
    fn new(runner: Runner) -> Self {
        Self {
            runner,
            tally: Tally::default(),
            inside: false,
            skips: false,
            failures: false,
            skipped_themselves: 0,
        }
    }

    /// Takes a line; returns whether it is worth showing.
    fn take(&mut self, line: &str) -> bool {
        let boundary = match self.runner {
            Runner::Nextest => self.nextest_boundary(line),
            Runner::Cargo => self.cargo_boundary(line),
        };
        if boundary {
            return true;
        }
        if let Some(reason) = line.trim().strip_prefix("skipped: ") {
            self.skip(reason);
        }
        !self.inside
    }

    /// A test says that it skips. Said twice in one output it still is one test.
    fn skip(&mut self, reason: &str) {
        // `cargo test` lets what tests write around its capture through at any moment.
        let counts = match self.runner {
            Runner::Nextest => self.inside && !self.skips,
            Runner::Cargo => !(self.failures || self.inside && self.skips),
        };
        if counts {
            self.skips = self.inside;
            self.skipped_themselves += 1;
            self.tally.skipped.push(reason.to_owned());
        }
    }

    /// `PASS [   0.008s] …` begins the output of a test that passed; `Summary […] …` counts.
    fn nextest_boundary(&mut self, line: &str) -> bool {
        let word = line.trim_start();
        let indented = line.len() - word.len();
        // The output of tests is indented by four blanks, status words stand further right.
        let status = indented > 4 && word.contains(" [") && word.starts_with(char::is_uppercase);
        if !status && !word.starts_with("────") {
            return false;
        }
        self.inside = word.starts_with("PASS [");
        self.skips = false;
        if word.starts_with("Summary [") {
            let count = |what| number_before(word, what);
            self.count(
                count("passed"),
                count("failed") + count("timed") + count("exec"),
                count("skipped"),
            );
        }
        true
    }

    /// `successes:` begins the output of all that passed; `test result: …` counts.
    fn cargo_boundary(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.inside = true;
            return false;
        }
        if line.starts_with("---- ") {
            self.skips = false;
            return false;
        }
        let result = line.starts_with("test result: ");
        if result {
            let count = |what| number_before(line, what);
            self.count(count("passed"), count("failed"), count("ignored"));
        }
        if result || line == "failures:" {
            self.inside = false;
            self.failures = !result;
        }
        result
    }

    fn finish(mut self) -> Tally {
        self.tally.passed = self.tally.passed.saturating_sub(self.skipped_themselves);
        self.tally
    }

    fn count(&mut self, passed: usize, failed: usize, ignored: usize) {
        self.tally.passed += passed;
        self.tally.failed += failed;
        let ignored = (0..ignored).map(|_| "a test that is marked to be ignored".to_owned());
        self.tally.skipped.extend(ignored);
    }
}

/// The number in front of a word: 3 for `failed` in `9 passed, 3 failed`.
fn number_before(line: &str, what: &str) -> usize {
    let words: Vec<&str> = line
        .split([' ', ',', ';', '(', ')'])
        .filter(|word| !word.is_empty())
        .collect();
    let number = |pair: &[&str]| (pair[1] == what).then(|| pair[0].parse().ok()).flatten();
    words.windows(2).find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(runner: Runner, text: &str) -> (Tally, String) {
        let mut reader = Reader::new(runner);
        let shown: Vec<&str> = text.lines().filter(|line| reader.take(line)).collect();
        let shown = shown.join("\n");
        (reader.finish(), shown)
    }

    #[test]
    fn nextest() {
        let text = "        PASS [   0.008s] (1/3) a::b c\n  stdout ───\n\n    running 1 test\n    \
                    skipped: c: no archive\n    skipped: c: again\n    test result: ok. 1 passed\n\
                    \x20       FAIL [   0.008s] (2/3) a::b d\n  stdout ───\n    skipped: not this\n\
                    \x20   the reason\n────────────\n     Summary [   9.4s] 4 tests run: \
                    2 passed (1 slow), 1 failed, 1 timed out, 1 skipped\n";
        let (tally, shown) = read_text(Runner::Nextest, text);
        assert_eq!((tally.passed, tally.failed), (1, 2));
        assert_eq!(
            tally.skipped,
            ["c: no archive", "a test that is marked to be ignored"]
        );
        assert!(
            shown.contains("the reason") && !shown.contains("no archive"),
            "{shown}"
        );
    }

    #[test]
    fn cargo() {
        let text = "running 2 tests\nskipped: c: around\ntest a ... ok\n\nsuccesses:\n\n\
                    ---- a stdout ----\nskipped: a: no archive\n\nsuccesses:\n    a\n\n\
                    failures:\n\n---- b stdout ----\nthe reason\nskipped: not this\n\n\
                    test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured\n\
                    test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured\n";
        let (tally, shown) = read_text(Runner::Cargo, text);
        assert_eq!((tally.passed, tally.failed), (6, 1));
        assert_eq!(tally.skipped.len(), 4);
        assert!(
            shown.contains("the reason") && !shown.contains("no archive"),
            "{shown}"
        );
    }
}
