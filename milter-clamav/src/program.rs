//! milter-clamav as a program: its start, and its sub-commands `ping` and `scan`.
//!
//! Both write one line for each clamd or file on stdout. `ping` fails when any clamd of the
//! configuration does not answer. `scan` ends with 1 when something was found, and fails when a
//! file could not be scanned, whatever the policy for mail is.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::BytesMut;
use clap::Subcommand;
use milter_proto::daemon::config::Common;
use milter_proto::daemon::exit::{EX_IOERR, EX_OSERR, EX_UNAVAILABLE};
use milter_proto::daemon::{CommandContext, ConfigError, Failure, Host, Program};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::runtime::Builder;

use crate::config::{Meaning, Settings};
use crate::filter::Clamav;
use crate::scan::{Finding, Scan};

/// Exit code of `scan` when something was found.
const FOUND: u8 = 1;

/// Sub-commands of its own.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Ask every clamd of the configuration whether it is there, and for its version
    Ping,
    /// Scan messages in files as if they came from an MTA
    Scan {
        /// Files with one message each
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

impl Program for Clamav {
    const NAME: &'static str = "milter-clamav";
    const ABOUT: &'static str = "Scans mail through clamd while it arrives";
    const CONFIG: &'static str = "/etc/milter/clamav.toml";
    type Settings = Settings;
    type Command = Command;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &settings.log).watched(&settings.metrics)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        settings.meaning().map(Self::new)
    }

    async fn run(self, host: Host<Self>) -> Result<(), Failure> {
        let servers = Arc::clone(&self.meaning().servers);
        tokio::spawn(async move { servers.greet().await });
        host.serve(self).await
    }

    fn command(command: Command, context: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        let program = context.prepare()?;
        let meaning = program.meaning();
        match command {
            Command::Ping => wait(ping(meaning)),
            Command::Scan { files } => wait(scan_files(meaning, &files)),
        }
    }
}

/// Runs a sub-command to its end.
fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(EX_OSERR, format!("no runtime: {error}")))?;
    runtime.block_on(work)
}

async fn ping(meaning: &Meaning) -> Result<ExitCode, Failure> {
    let deadlines = meaning.servers.deadlines();
    let mut missing = 0;
    for server in meaning.servers.all() {
        let answer = match server.version(deadlines).await {
            Ok(version) => version,
            Err(trouble) => {
                missing += 1;
                trouble.to_string()
            }
        };
        say(&format!("{}: {answer}", server.address))?;
    }
    if missing == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(
        EX_UNAVAILABLE,
        format!("{missing} clamd not available: is it running, and may this user connect?"),
    ))
}

async fn scan_files(meaning: &Meaning, files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let mut found = false;
    let mut unscanned = 0;
    for file in files {
        let finding = match scan_file(meaning, file).await {
            Ok(finding) => finding,
            Err(error) => Finding::Unscanned(error.to_string()),
        };
        let shown = match &finding {
            Finding::Clean => "clean".to_owned(),
            Finding::Infected(name) | Finding::Encrypted(name) => format!("found {name}"),
            Finding::TooLarge => "not scanned: too large".to_owned(),
            Finding::Exempt(_) | Finding::Forged => "not scanned".to_owned(),
            Finding::Unscanned(reason) => format!("not scanned: {reason}"),
        };
        found |= matches!(finding, Finding::Infected(_) | Finding::Encrypted(_));
        unscanned += usize::from(shown.starts_with("not scanned"));
        say(&format!("{}: {shown}", file.display()))?;
    }
    match (found, unscanned) {
        (false, 0) => Ok(ExitCode::SUCCESS),
        (true, 0) => Ok(ExitCode::from(FOUND)),
        (_, count) => Err(Failure::new(
            EX_UNAVAILABLE,
            format!("{count} of {} files not scanned", files.len()),
        )),
    }
}

async fn scan_file(meaning: &Meaning, path: &Path) -> io::Result<Finding> {
    const CHUNK: usize = 64 * 1024;
    let mut file = File::open(path).await?;
    let mut scan = Scan::new(Arc::clone(&meaning.servers), Arc::clone(&meaning.limits));
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        if file.read_buf(&mut chunk).await? == 0 {
            return Ok(scan.finish().await.finding);
        }
        scan.body(chunk.freeze()).await;
    }
}

fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{line}")
        .map_err(|error| Failure::new(EX_IOERR, format!("cannot write to stdout: {error}")))
}
