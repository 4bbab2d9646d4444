//! One target, for a given time, watched from outside.
//!
//! The test program gets its time from bolero's environment variables and prints what it did to
//! its log, which is read here. It is killed when it does not end, or holds more memory than
//! [`RESIDENT_MAX`]; a limit of its address space ends it when it asks for far too much at once.

use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::targets::Target;
use crate::child;
use crate::interrupt::Interrupt;
use crate::terminal::{Tone, paint};

/// How much longer than asked a target may take: the last input, and shrinking what failed.
const GRACE: Duration = Duration::from_secs(60);

/// Bytes of memory that a target may ever hold. The largest inputs are a few kilobytes.
const RESIDENT_MAX: u64 = 256 << 20;

/// Bytes of address space that a target may ask for: an allocation by a declared length is not
/// touched, and would not show otherwise.
const ADDRESS_SPACE: u64 = 2 << 30;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ran for its time.
    Clean,
    /// It was stopped before that because somebody asked.
    Stopped,
    /// It found something, or broke: what, and how to repeat it.
    Failed(String),
}

/// A run.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) target: String,
    pub(super) executions: u64,
    pub(super) per_second: f64,
    /// The most memory that it ever held, in bytes.
    pub(super) resident: u64,
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

impl Ran {
    /// A row of the table.
    pub(super) fn row(&self) -> Vec<String> {
        let word = match &self.outcome {
            Outcome::Clean => paint(Tone::Good, "clean"),
            Outcome::Stopped => paint(Tone::Odd, "stopped"),
            Outcome::Failed(_) => paint(Tone::Bad, "FAILED"),
        };
        vec![
            self.target.clone(),
            self.executions.to_string(),
            format!("{:.0}", self.per_second),
            format!("{} MiB", self.resident >> 20),
            format!("{:.0}", self.took.as_secs_f64()),
            word,
        ]
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} executions, {:.0} per second",
            self.executions, self.per_second
        )?;
        match &self.outcome {
            Outcome::Clean => Ok(()),
            Outcome::Stopped => f.write_str(", stopped"),
            Outcome::Failed(why) => write!(f, "\n{} {why}", paint(Tone::Bad, "failed:")),
        }
    }
}

/// Runs `target` for `time`, its output in `log`.
pub(super) fn run(
    target: &Target,
    time: Duration,
    log: &Path,
    interrupt: &Interrupt,
) -> Result<Ran> {
    let begin = Instant::now();
    let mut process = start(target, time, log)?;
    let watched = watch(&mut process, begin + time + GRACE, interrupt)?;
    let said = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let (executions, per_second) = counted(&said);
    let outcome = match &watched.end {
        End::Exited(status) if status.success() && executions > 0 => Outcome::Clean,
        End::Exited(status) => Outcome::Failed(failure(target, *status, &said, log)),
        End::Interrupted => Outcome::Stopped,
        End::Late => Outcome::Failed(format!(
            "an input takes more than {} s; the output is in {}",
            GRACE.as_secs(),
            log.display()
        )),
        End::TooLarge => Outcome::Failed(format!(
            "holds more than {} MiB of memory; the output is in {}",
            RESIDENT_MAX >> 20,
            log.display()
        )),
    };
    Ok(Ran {
        target: target.short_name(),
        executions,
        per_second,
        resident: watched.resident,
        took: begin.elapsed(),
        outcome,
    })
}

fn start(target: &Target, time: Duration, log: &Path) -> Result<Child> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let out = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
    let mut command = Command::new(&target.binary);
    command
        .args([
            &target.test,
            "--exact",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .current_dir(&target.folder)
        .env("BOLERO_RANDOM_TEST_TIME_MS", time.as_millis().to_string())
        // Where a target has a number of its own: the time counts.
        .env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        // So that Ctrl-C reaches us alone, who say what was done until then.
        .process_group(0);
    // What we start inherits our own limit.
    let (soft, hard) = getrlimit(Resource::RLIMIT_AS)?;
    setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE.min(hard), hard)?;
    let started = command.spawn();
    setrlimit(Resource::RLIMIT_AS, soft, hard)?;
    started.with_context(|| format!("{} cannot be started", target.binary.display()))
}

/// Why a target is not running any more.
enum End {
    Exited(ExitStatus),
    Interrupted,
    Late,
    TooLarge,
}

struct Watched {
    end: End,
    resident: u64,
}

fn watch(process: &mut Child, until: Instant, interrupt: &Interrupt) -> Result<Watched> {
    let status = format!("/proc/{}/status", process.id());
    let mut resident = 0;
    loop {
        if let Some(status) = process.try_wait()? {
            let end = End::Exited(status);
            return Ok(Watched { end, resident });
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        resident = peak(&text).unwrap_or(0).max(resident);
        let end = if interrupt.raised() {
            End::Interrupted
        } else if Instant::now() > until {
            End::Late
        } else if resident > RESIDENT_MAX {
            End::TooLarge
        } else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        process.kill()?;
        process.wait()?;
        return Ok(Watched { end, resident });
    }
}

/// The most memory that a process ever held, from its `status` in /proc.
fn peak(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Executions, and how many a second, from what bolero says when it ends.
fn counted(said: &str) -> (u64, f64) {
    let number = |line: &str, label: &str| -> Option<f64> {
        let (_, rest) = line.split_once(label)?;
        rest.split(" | ").next()?.trim().parse().ok()
    };
    let mut executions = 0.0;
    let mut per_second = 0.0;
    for line in said
        .lines()
        .filter(|line| line.contains("| iterations/s: "))
    {
        let inputs = number(line, "corpus inputs: ").unwrap_or(0.0)
            + number(line, "rng inputs: ").unwrap_or(0.0);
        executions += inputs;
        per_second = number(line, "iterations/s: ").unwrap_or(0.0);
    }
    // Whole numbers, as bolero prints them.
    (format!("{executions:.0}").parse().unwrap_or(0), per_second)
}

/// What failed, and the command that shows it again.
fn failure(target: &Target, status: ExitStatus, said: &str, log: &Path) -> String {
    let seed = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("BOLERO_RANDOM_SEED="))
        .next_back();
    let tail = child::tail(log, 0, 40);
    let repeat = match seed {
        Some(seed) => format!(
            "repeat it with:\n  BOLERO_RANDOM_SEED={seed} BOLERO_RANDOM_ITERATIONS=0 \
             cargo test -p {} {} -- --exact --nocapture {}",
            target.package,
            target.selection.join(" "),
            target.test
        ),
        None => "it left no seed: it did not fail by itself".to_owned(),
    };
    format!("{status}; the end of {}:\n{tail}\n{repeat}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bolero_says_is_counted() {
        let said = "running 1 test\n\
            test a::b ...\trun time: 2.0s | iterations/s: 1536 | corpus inputs: 2 | \
            rng inputs: 3072 | exit reason: max duration (2s) exceeded\n\
            test a::c ...\trun time: 10s | iterations/s: 0.50 | rng inputs: 5\n";
        assert_eq!(counted(said), (3079, 0.5));
        assert_eq!(counted("test a ... ok"), (0, 0.0));
    }

    #[test]
    fn memory_is_read_from_proc() {
        assert_eq!(
            peak("Name: x\nVmHWM:\t    2048 kB\nVmRSS: 1 kB\n"),
            Some(2 << 20)
        );
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(peak(&own).unwrap() > 1 << 20);
    }

    /// A shell that plays a test program.
    fn shell(script: &str, time: Duration) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("program");
        std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&binary, mode).unwrap();
        let target = Target {
            package: "p".to_owned(),
            folder: folder.path().to_owned(),
            binary,
            test: "a::b".to_owned(),
            selection: vec!["--lib".to_owned()],
        };
        let log = folder.path().join("logs/log");
        run(&target, time, &log, &Interrupt::default()).unwrap()
    }

    #[test]
    fn a_failure_is_told_with_the_command_that_repeats_it() {
        let second = Duration::from_secs(1);
        let clean = shell(
            "echo \"test $1 ... run time: 1s | iterations/s: 7 | rng inputs: 9\"",
            second,
        );
        assert_eq!((clean.executions, clean.outcome), (9, Outcome::Clean));
        let broken = shell(
            "echo BOLERO_RANDOM_SEED=42; echo the reason; exit 101",
            second,
        );
        let Outcome::Failed(why) = broken.outcome else {
            panic!("a failure passed");
        };
        assert!(why.contains("the reason"), "{why}");
        assert!(
            why.contains("SEED=42") && why.contains("-p p --lib -- --exact"),
            "{why}"
        );
        let nothing = shell("exit 0", second);
        assert!(
            matches!(nothing.outcome, Outcome::Failed(_)),
            "nothing was run"
        );
    }
}
