//! `cargo xtask run`: the stack on this machine, ready to be put into a mail server's
//! configuration, until Ctrl-C.
//!
//! Configuration and keys are written where there are none, and left alone where there are. The
//! mail server itself is not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clamd::{Clamd, Signatures};
use crate::interrupt::Interrupt;
use crate::postfix::DOMAIN;
use crate::setup::{self, CLAMD};
use crate::stack::{Site, Stack};
use crate::terminal::{Tone, paint, say};
use crate::workspace::{self, Profile};

/// Where the MTA connects, as Sendmail writes it.
const LISTEN: &str = "inet:10025@127.0.0.1";
/// The same as Postfix writes it.
const LISTEN_POSTFIX: &str = "inet:127.0.0.1:10025";

/// Runs until Ctrl-C, or until something that must run has ended.
pub(crate) fn run(folder: Option<PathBuf>, install: bool) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let missing = setup::ensure(&[CLAMD], install)?;
    let binaries = workspace::build_daemons(Profile::Release)?;
    let folder = folder.unwrap_or_else(|| workspace::root().join("run"));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let folder = folder.canonicalize()?;

    let mut clamd = if missing.is_empty() {
        Some(start_clamd(&folder, &interrupt)?)
    } else {
        let advice = setup::advice(&missing);
        note(&format!("no virus scanning: clamd is {advice}"));
        None
    };
    let site = Site {
        listen: LISTEN.to_owned(),
        clamd: clamd.as_ref().map(|clamd| clamd.socket().to_owned()),
        closed_as: None,
        domain: DOMAIN.to_owned(),
        binaries,
        folder,
    };
    let written = site.furnish()?;
    mention_old_choices(&site, &written)?;
    let mut stack = Stack::start(&site, &interrupt)?;
    introduce(&site, &stack, &written);
    while !interrupt.raised() {
        stack.must_run()?;
        if let Some(clamd) = &mut clamd {
            clamd.must_run()?;
        }
        thread::sleep(Duration::from_millis(200));
    }
    say("stopping");
    stack.stop()
}

fn start_clamd(folder: &Path, interrupt: &Interrupt) -> Result<Clamd> {
    let signatures = Signatures::best();
    match signatures {
        Signatures::System => say("Starting a private clamd with the system's signatures …"),
        Signatures::Test => note(
            "there is no database of virus signatures in /var/lib/clamav: clamd runs with one \
             test signature (EICAR) and finds no real virus; get the database with freshclam",
        ),
    }
    Clamd::start(&folder.join("clamd"), signatures, interrupt)
}

/// An older configuration may have been written when clamd was there, or was not.
fn mention_old_choices(site: &Site, written: &[PathBuf]) -> Result<()> {
    let file = site.configuration();
    if written.contains(&file) {
        return Ok(());
    }
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let scans = text.lines().any(|line| line.starts_with("[milter.clamav]"));
    let name = file.display();
    match (scans, site.clamd.is_some()) {
        (true, false) => note(&format!(
            "{name} names the virus filter, which has no clamd now: its policy decides"
        )),
        (false, true) => note(&format!(
            "{name} was written without the virus filter: remove the file to have it written anew"
        )),
        (true, true) | (false, false) => {}
    }
    Ok(())
}

fn introduce(site: &Site, stack: &Stack, written: &[PathBuf]) {
    for file in written {
        say(format_args!("written: {}", file.display()));
    }
    if site.account().is_none() && nix::unistd::geteuid().is_root() {
        note(
            "everything runs as root, because other accounts cannot reach this folder; choose \
             one that they can with --dir",
        );
    }
    let filters: Vec<String> = match stack.filters() {
        Ok(filters) => filters.into_iter().map(|filter| filter.name).collect(),
        Err(_) => Vec::new(),
    };
    let mut lines = vec![
        String::new(),
        paint(
            Tone::Strong,
            &format!("Filters ({}) on {LISTEN}.", filters.join(", ")),
        ),
        String::new(),
        "For Postfix, in main.cf (then: postfix reload):".to_owned(),
        format!("    smtpd_milters = {LISTEN_POSTFIX}"),
        format!("    non_smtpd_milters = {LISTEN_POSTFIX}"),
        "    milter_default_action = tempfail".to_owned(),
        String::new(),
        "The state of everything:".to_owned(),
        format!("    {}", stack.status_command()),
        format!("Configuration: {}", site.folder.join("etc").display()),
        format!("Log:           {}", site.log().display()),
    ];
    let key = site.folder.join("keys");
    lines.push(format!(
        "Outgoing mail of {DOMAIN} is signed; the records for DNS are in {}",
        key.display()
    ));
    lines.push("Ctrl-C stops everything.".to_owned());
    lines.iter().for_each(say);
}

fn note(text: &str) {
    say(format_args!("{} {text}", paint(Tone::Odd, "note:")));
}
