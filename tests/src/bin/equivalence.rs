//! `cargo xtask integration` runs this: random scenarios on a real mail server, with the
//! orchestrator and without.
//!
//! It prints how far it is, what differs as a script, and a line with the counts; it ends with 1
//! when something differs, with 2 when it cannot run or is interrupted (SIGINT, SIGTERM). Whatever
//! the end, no process and no folder is left.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use milter_tests::equivalence::campaign::{self, Watch};
use milter_tests::equivalence::mta::{Entry, Mta};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::rig::{Rig, StartMta};
use tokio::signal::unix::{SignalKind, signal};

/// What is asked for: the mail server, the first seed, how many scripts, how many at a time.
struct Asked {
    start: StartMta,
    seed: u64,
    scripts: u64,
    lanes: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "equivalence: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<bool> {
    let asked = asked()?;
    let rig = tokio::select! {
        rig = Rig::start(asked.lanes, asked.start) => rig?,
        () = stopped() => bail!("interrupted"),
    };
    let printer = Printer {
        start: Instant::now(),
        scripts: asked.scripts,
    };
    let summary = tokio::select! {
        summary = campaign::run(&rig, asked.seed, asked.scripts, &printer) => summary?,
        // With the rig everything goes that it has started.
        () = stopped() => bail!("interrupted"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {} scripts from seed {} on, {} differ, {:.0} s",
        rig.mta.name(),
        summary.ran,
        asked.seed,
        summary.failures.len(),
        printer.start.elapsed().as_secs_f64()
    )?;
    Ok(summary.failures.is_empty())
}

/// A signal asks to end.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Prints what happens as it happens.
struct Printer {
    start: Instant,
    scripts: u64,
}

impl Watch for Printer {
    fn progress(&self, ran: usize, differ: usize) {
        if !ran.is_multiple_of(100) {
            return;
        }
        let rate = ran as f64 / self.start.elapsed().as_secs_f64();
        let of = self.scripts;
        let mut out = std::io::stdout().lock();
        // Nobody reads it any more: the exit code says it all.
        let _ = writeln!(
            out,
            "{ran} of {of} scripts, {differ} differ, {rate:.1} a second"
        );
    }

    fn differs(&self, told: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{told}");
    }
}

/// Arguments: `MTA SEED SCRIPTS LANES`.
fn asked() -> Result<Asked> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mta, seed, scripts, lanes] = &arguments[..] else {
        bail!("arguments are MTA SEED SCRIPTS LANES; cargo xtask integration gives them");
    };
    let start: StartMta = match mta.as_str() {
        "postfix" => start_postfix,
        "sendmail" => milter_tests::sendmail::start_mta,
        other => bail!("no mail server is called {other}: say postfix or sendmail"),
    };
    Ok(Asked {
        start,
        seed: seed.parse().context("the seed is no number")?,
        scripts: scripts.parse().context("how many scripts is no number")?,
        lanes: lanes.parse().context("how many lanes is no number")?,
    })
}

fn start_postfix(entries: &[Entry], sink: SocketAddr) -> Result<Arc<dyn Mta>> {
    if let Some(why) = Postfix::missing() {
        bail!("{why}");
    }
    Ok(Arc::new(Postfix::start(entries, sink)?))
}
