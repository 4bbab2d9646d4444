//! `cargo xtask integration`: random chains of filters on real mail servers, with the orchestrator
//! and without; everything that can be seen must be equal.
//!
//! The work is done by a program of the package of tests, which this builds and starts; a script
//! that differs comes out smaller, as text, with the command that repeats it. A server that cannot
//! run here is an error: nothing is passed over in silence.

use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;
use crate::workspace::{self, Profile};

/// The program, and the package that it is part of.
const PROGRAM: (&str, &str) = ("equivalence", "milter-tests");

/// A mail server that chains are compared on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mta {
    /// Debian's Postfix
    Postfix,
    /// Debian's sendmail
    Sendmail,
}

impl Mta {
    const ALL: [Self; 2] = [Self::Postfix, Self::Sendmail];

    /// How the program calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Sendmail => "sendmail",
        }
    }

    /// Scripts at the same time at most: sendmail knows 25 filters, and each lane takes 12.
    fn lanes(self) -> u8 {
        match self {
            Self::Postfix => u8::MAX,
            Self::Sendmail => 2,
        }
    }

    /// Scripts when nobody says how many.
    fn scripts(self) -> u64 {
        match self {
            Self::Postfix => 2000,
            Self::Sendmail => 500,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// On which server; on all of them without it.
    pub(crate) mta: Option<Mta>,
    /// The seed of the first script; the others follow.
    pub(crate) seed: u64,
    /// How many scripts; a number for each server without it.
    pub(crate) scripts: Option<u64>,
    /// How many at the same time.
    pub(crate) lanes: u8,
}

/// Runs the scripts; an error when one differs, or a server cannot run.
pub(crate) fn run(options: Options) -> Result<()> {
    let folder = workspace::build_daemons(Profile::Dev)?;
    let (program, package) = PROGRAM;
    workspace::succeed(workspace::cargo().args(["build", "--package", package, "--bin", program]))?;
    let interrupt = Interrupt::watch()?;
    let mut differ = Vec::new();
    for mta in Mta::ALL {
        if options.mta.is_some_and(|wanted| wanted != mta) {
            continue;
        }
        let scripts = options.scripts.unwrap_or_else(|| mta.scripts());
        let mut compare = Command::new(folder.join(program));
        compare.arg(mta.name());
        let lanes = options.lanes.min(mta.lanes());
        compare.args([options.seed, scripts, u64::from(lanes)].map(|n| n.to_string()));
        let status = finish(&mut compare, &interrupt)?;
        interrupt.check()?;
        if !status.success() {
            differ.push(format!("{} ended with {status}", mta.name()));
        }
    }
    ensure!(differ.is_empty(), "{}", differ.join("; "));
    Ok(())
}

/// Waits for the program, which clears up after itself when a signal that came here reaches it.
fn finish(compare: &mut Command, interrupt: &Interrupt) -> Result<ExitStatus> {
    let mut program = compare.spawn().context("the program cannot be started")?;
    let mut told = false;
    loop {
        if let Some(status) = program.try_wait()? {
            return Ok(status);
        }
        if interrupt.raised() && !told {
            told = true;
            // It has not been waited for: the number is still its own.
            kill(Pid::from_raw(program.id().try_into()?), Signal::SIGTERM)?;
        }
        thread::sleep(Duration::from_millis(50));
    }
}
