//! `cargo xtask demo`: the whole stack on private ports with a private Postfix and clamd, shown
//! message by message, and every promise checked.
//!
//! Nothing of the system's own mail is touched. Everything lives in one temporary folder and ends
//! with the command. It fails when one of the checks does, after showing all of them.

mod checks;
mod corpus;
mod decisions;
mod mail;
mod report;
mod sending;
mod signature;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::unistd::geteuid;
use tempfile::TempDir;

use self::sending::{Letter, Sent};
use crate::clamd::{Clamd, Signatures};
use crate::interrupt::Interrupt;
use crate::postfix::{DOMAIN, HOSTNAME, Postfix, free_port};
use crate::setup::{self, CLAMD, POSTFIX, Tool};
use crate::smtp::client::Guise;
use crate::smtp::sink::{Delivered, Sink};
use crate::stack::{Filter, Site, Stack};
use crate::terminal::say;
use crate::workspace::{self, Profile};

pub(crate) use self::checks::Check;
pub(crate) use self::corpus::ARCHIVE;

/// Messages sent in bulk.
const BULK: usize = 200;
/// What the demonstration cannot do without.
const TOOLS: &[Tool] = &[POSTFIX, CLAMD];
/// The four daemons.
const DAEMONS: &[&str] = &[
    "milter-clamav",
    "milter-dkim",
    "milter-orchestrator",
    "milter-spam",
];

/// How to demonstrate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Which build of the daemons.
    pub(crate) profile: Profile,
    /// Whether missing Debian packages may be installed.
    pub(crate) install: bool,
    /// The result as JSON instead of tables.
    pub(crate) json: bool,
    /// Whether the folder with logs, mail and configuration stays.
    pub(crate) keep: bool,
}

/// Demonstrates; an error when a check fails.
pub(crate) fn run(options: Options) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let checks = perform(options, &interrupt)?;
    let failed = checks.iter().filter(|check| check.failed()).count();
    match failed {
        0 => Ok(()),
        _ => bail!("demo: {failed} of {} checks failed", checks.len()),
    }
}

/// Why it cannot be done here, if it cannot.
pub(crate) fn obstacle(install: bool) -> Result<Option<String>> {
    if !geteuid().is_root() {
        return Ok(Some("a private Postfix needs root".to_owned()));
    }
    let missing = setup::ensure(TOOLS, install)?;
    Ok((!missing.is_empty()).then(|| setup::advice(&missing)))
}

/// Demonstrates and returns what was checked.
pub(crate) fn perform(options: Options, interrupt: &Interrupt) -> Result<Vec<Check>> {
    if let Some(obstacle) = obstacle(options.install)? {
        bail!("{obstacle}");
    }
    let built = workspace::build_daemons(options.profile)?;
    let folder = tempfile::Builder::new().prefix("milter-demo-").tempdir()?;
    let mut house = House::open(folder, &built, interrupt)?;
    if !options.json {
        house.introduce();
    }
    let evidence = house.demonstrate(interrupt)?;
    let mut checks = checks::judge(&evidence);
    if options.keep {
        house.folder.disable_cleanup(true);
        eprintln!("kept: {}", house.folder.path().display());
    }
    checks.push(house.close());
    if options.json {
        say(report::json(&evidence, &checks));
    } else {
        report::show(&evidence, &checks);
    }
    Ok(checks)
}

/// Everything that runs, in the order in which it is to be stopped.
struct House {
    postfix: Postfix,
    stack: Stack,
    clamd: Clamd,
    sink: Sink,
    site: Site,
    /// Gone with everything in it at the end.
    folder: TempDir,
}

/// What came to light.
struct Evidence {
    /// What was sent and answered, the special letters first.
    sent: Vec<Sent>,
    /// What reached the next hop.
    delivered: Vec<Delivered>,
    /// Who decided what, by Postfix's queue id or recipient.
    decisions: decisions::Decisions,
    /// The signature of outgoing mail, as judged by others.
    signature: Vec<signature::Opinion>,
    /// The filters that were killed, and the process that took over.
    kills: Vec<sending::Kill>,
    /// The filters at the end.
    filters: Vec<Filter>,
    /// What is still in Postfix's queue.
    queued: usize,
    /// Whether the bulk was from the archive of test mail.
    archived: bool,
}

impl House {
    fn open(folder: TempDir, built: &Path, interrupt: &Interrupt) -> Result<Self> {
        let base = folder.path();
        // The accounts that Postfix, clamd and the filters run under must get in.
        fs::set_permissions(base, fs::Permissions::from_mode(0o755))?;
        let binaries = copied(built, &base.join("bin"))?;
        let clamd = Clamd::start(&base.join("clamd"), Signatures::Test, interrupt)?;
        let port = free_port()?;
        let site = Site {
            folder: base.to_owned(),
            binaries,
            listen: format!("inet:{port}@127.0.0.1"),
            clamd: Some(clamd.socket().to_owned()),
            closed_as: Some(HOSTNAME.to_owned()),
            domain: DOMAIN.to_owned(),
        };
        site.furnish()?;
        let stack = Stack::start(&site, interrupt)?;
        let sink = Sink::start()?;
        let milter = format!("inet:127.0.0.1:{port}");
        let postfix = Postfix::start(&base.join("postfix"), &milter, sink.address(), interrupt)?;
        Ok(Self {
            postfix,
            stack,
            clamd,
            sink,
            site,
            folder,
        })
    }

    fn introduce(&self) {
        say(format_args!(
            "A private Postfix on {}, the orchestrator on {}, clamd with one test signature, all \
             in {}.",
            self.postfix.address(),
            self.site.listen,
            self.folder.path().display()
        ));
    }

    /// Sends everything, waits until it has gone where it goes, and gathers what can be seen.
    fn demonstrate(&mut self, interrupt: &Interrupt) -> Result<Evidence> {
        let target = workspace::target()?;
        let bulk = corpus::bulk(&workspace::root(), &target, BULK, DOMAIN)?;
        let letters = letters(bulk.messages);
        let (special, many) = letters.split_at(letters.len() - BULK.min(letters.len()));
        let server = self.postfix.address();
        let mut sent = sending::one_by_one(server, special, interrupt)?;
        let (more, kills) = sending::side_by_side(server, many, &self.stack, interrupt)?;
        sent.extend(more);
        self.stack.must_run()?;
        self.clamd.must_run()?;
        let queued = self.drain(interrupt)?;
        let delivered = self.sink.delivered();
        let signature = signature::opinions(&self.site, &delivered)?;
        Ok(Evidence {
            decisions: decisions::read(&self.site.log(), &self.postfix.log_file())?,
            filters: self.stack.filters()?,
            sent,
            delivered,
            signature,
            kills,
            queued,
            archived: bulk.archived,
        })
    }

    /// Waits for Postfix's queue to run empty; returns how many messages stay.
    fn drain(&self, interrupt: &Interrupt) -> Result<usize> {
        let mut queued = 0;
        let waited = interrupt.until("the queue is empty", Duration::from_secs(60), || {
            queued = self.postfix.queued()?;
            Ok(queued == 0)
        });
        interrupt.check()?;
        // What stays is for the checks to judge, not an error of the run.
        drop(waited);
        Ok(queued)
    }

    /// Stops everything and looks whether a filter stayed behind.
    fn close(self) -> Check {
        let pids: Vec<i32> = self
            .stack
            .filters()
            .unwrap_or_default()
            .iter()
            .filter_map(|f| f.pid)
            .collect();
        drop(self.postfix);
        let stopped = self.stack.stop();
        let left = pids.iter().filter(|pid| alive(**pid)).count();
        let result = stopped.and_then(|()| {
            ensure!(left == 0, "{left} filters outlive the orchestrator");
            Ok(())
        });
        Check::new(
            "the orchestrator ends well and leaves no filter behind",
            result,
        )
    }
}

fn alive(pid: i32) -> bool {
    // A zombie is no more than an entry in the table of its parent.
    let state = |status: String| status.lines().any(|line| line.starts_with("State:\tZ"));
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !state(status))
}

/// Copies of the daemons where any account can run them.
fn copied(built: &Path, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    for daemon in DAEMONS {
        fs::copy(built.join(daemon), folder.join(daemon))?;
    }
    Ok(folder.to_owned())
}

/// The letters of the demonstration: the special ones, then the bulk.
fn letters(bulk: Vec<(String, Vec<u8>)>) -> Vec<Letter> {
    let (name, address) = mail::CLIENT;
    let outside = Guise {
        name: name.to_owned(),
        address: address.to_owned(),
    };
    let here = |id: &str| format!("{id}@{DOMAIN}");
    let incoming = |what: &'static str, id: &str, message: fn(&str) -> Vec<u8>| Letter {
        what,
        from: mail::SENDER.to_owned(),
        to: here(id),
        guise: Some(outside.clone()),
        message: message(&here(id)),
    };
    let mut letters = vec![
        incoming(checks::ORDINARY, "ordinary", mail::ordinary),
        Letter {
            what: checks::OUTGOING,
            from: here("berta"),
            to: mail::SENDER.to_owned(),
            guise: None,
            message: mail::outgoing(&here("berta")),
        },
        incoming(checks::FORGED, "forged", mail::forged),
        incoming(checks::SPAM, "spam", mail::spam),
        incoming(checks::VIRUS, "virus", mail::infected),
        incoming(checks::BIG, "big", mail::big),
    ];
    letters.extend(
        bulk.into_iter()
            .enumerate()
            .map(|(index, (id, message))| Letter {
                what: checks::BULK,
                from: format!("writer{index}@sender.test"),
                to: here(&id),
                guise: Some(outside.clone()),
                message,
            }),
    );
    letters
}
