//! `cargo xtask faults`: mail flows through a real Postfix, the orchestrator and filters, while
//! something is broken on purpose; what became of every letter is counted and held against limits.
//!
//! Each fault is a row of [`rows::TABLE`]. All of them are shown and written down before one that
//! was missed fails the command. Everything runs in folders of its own and ends with the command,
//! also when it is interrupted.

mod cpu;
mod flow;
mod judge;
mod ledger;
mod letter;
mod office;
mod proxy;
mod report;
mod rows;
mod scene;

use anyhow::{Context, Result, bail, ensure};

use self::judge::Judged;
use self::office::Office;
use crate::interrupt::Interrupt;
use crate::setup::{self, POSTFIX, Tool};
use crate::terminal::say;
use crate::workspace::{self, Profile};

/// What no fault can do without.
const TOOLS: &[Tool] = &[POSTFIX];
/// What is run.
const PROGRAMS: &[&str] = &[
    "milter-orchestrator",
    "milter-dkim",
    "milter-spam",
    "milter-fault",
];

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Which faults (default: all)
    names: Vec<String>,
    /// Name the faults and their limits, inject none
    #[arg(long)]
    list: bool,
    /// Use the quickly built daemons
    #[arg(long)]
    dev: bool,
    /// Install no Debian packages; say what is missing
    #[arg(long)]
    no_install: bool,
    /// Keep the folder with logs, mail and configuration, and say where it is
    #[arg(long)]
    keep: bool,
}

/// Injects faults; an error when one is missed.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        report::list();
        return Ok(());
    }
    let interrupt = Interrupt::watch()?;
    let judged = perform(options, &interrupt)?;
    let missed: Vec<&str> = judged
        .iter()
        .filter(|judged| !judged.held())
        .map(|judged| judged.fault.name)
        .collect();
    match missed.is_empty() {
        true => Ok(()),
        false => bail!("faults: missed: {}", missed.join(", ")),
    }
}

/// What came of each.
fn perform(options: &Options, interrupt: &Interrupt) -> Result<Vec<Judged>> {
    let faults = rows::chosen(&options.names)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a private Postfix needs root"
    );
    let tools: Vec<Tool> = TOOLS
        .iter()
        .chain(faults.iter().flat_map(|fault| fault.tools))
        .copied()
        .collect();
    let missing = setup::ensure(&tools, !options.no_install)?;
    ensure!(missing.is_empty(), "{}", setup::advice(&missing));
    let profile = match options.dev {
        true => Profile::Dev,
        false => Profile::Release,
    };
    let built = workspace::build_programs(profile, PROGRAMS)?;
    let mut office = Office::open(&built, PROGRAMS, interrupt)?;
    if options.keep {
        office.keep();
    }
    let calm = rows::calm(&office).context("without any fault")?;
    let mut judged = vec![Judged::new(&rows::CALM, Ok(calm), None)];
    report::progress(&judged[0]);
    let noise = judged[0].p99();
    for fault in faults {
        interrupt.check()?;
        let measured = (fault.inject)(&office);
        interrupt.check()?;
        let one = Judged::new(fault, measured, noise);
        report::progress(&one);
        judged.push(one);
        office.settle()?;
    }
    let folder = report::write(&judged)?;
    say("");
    report::show(&judged);
    say(format_args!("written to {}", folder.display()));
    Ok(judged)
}
