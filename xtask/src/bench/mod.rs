//! `cargo xtask bench`: how fast we are, beside how fast anybody could be, in one run.
//!
//! Absolute times say more about the machine than about us, so everything is measured in rounds, in
//! which ours and what it is held against take turns, and judged by the medians of their ratios and
//! differences. Figures beyond their limits fail the command, after all of them have been shown;
//! a quick run judges nothing and only proves that it can be measured.

mod figures;
mod peers;
mod plot;
mod proxy;

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::figures::Figure;
use crate::interrupt::Interrupt;
use crate::terminal::say;
use crate::workspace::{self, Profile};

/// What is run.
const PROGRAMS: &[&str] = &["milter-orchestrator", "milter-bench"];

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// The orchestrator's proxy, beside no proxy at all and a relay that copies bytes
    Proxy,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
        }
    }
}

/// How thoroughly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// Prove that it works, with the quickly built programs, and judge nothing.
    pub(crate) quick: bool,
}

/// Measures, shows, and writes table and plot down.
pub(crate) fn run(subject: Subject, effort: Effort) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let figures = perform(subject, effort, &interrupt)?;
    let beyond = figures.iter().filter(|figure| figure.is_beyond()).count();
    if beyond > 0 && !effort.quick {
        bail!("bench: {beyond} figures are beyond their limits");
    }
    Ok(())
}

/// The same for a command that has the signals in hand already; the figures.
pub(crate) fn perform(
    subject: Subject,
    effort: Effort,
    interrupt: &Interrupt,
) -> Result<Vec<Figure>> {
    let profile = if effort.quick {
        Profile::Dev
    } else {
        Profile::Release
    };
    let binaries = workspace::build_programs(profile, PROGRAMS)?;
    let mut measured = match subject {
        Subject::Proxy => proxy::measure(&binaries, effort, interrupt)?,
    };
    if effort.quick {
        let remark = "a quick run: fewer and smaller messages than the names say, debug builds";
        measured.remarks.push(remark.to_owned());
    }
    let folder = folder(subject)?;
    let table = figures::table(&measured.figures, !effort.quick);
    let text = format!("{}\n\n{}\n", table.join("\n"), measured.remarks.join("\n"));
    fs::write(folder.join("figures.txt"), &text)?;
    fs::write(folder.join("figures.svg"), plot::svg(&measured.figures))?;
    say("");
    say(text);
    say(format_args!("written to {}", folder.display()));
    Ok(measured.figures)
}

/// What a subject yields.
struct Measured {
    figures: Vec<Figure>,
    /// Lines below the table.
    remarks: Vec<String>,
}

/// A new folder for the results, named by the time.
fn folder(subject: Subject) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = workspace::target()?.join("bench");
    let folder = folder.join(format!("{}-{now}", subject.name()));
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}
