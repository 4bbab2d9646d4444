//! `milter-dkim verify`: what the milter would report on message files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use milter_proto::daemon::exit::{EX_DATAERR, EX_NOINPUT, EX_USAGE};
use milter_proto::daemon::{CommandContext, Failure};

use crate::Dkim;
use crate::auth::dkim::report::{DkimResult, Report};
use crate::auth::dkim::verify_message;
use crate::auth::dns::KeyFile;
use crate::auth::resolver::{Options, Resolver, Source};
use crate::config::{Meaning, name_server};

/// What is verified, and with which keys.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Message files; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Take public keys from this file instead of DNS
    #[arg(long, value_name = "FILE", conflicts_with = "nameserver")]
    keys: Option<PathBuf>,
    /// Ask this name server: IP or IP:PORT
    #[arg(long, value_name = "IP:PORT")]
    nameserver: Option<String>,
    /// Verify as if it were this time, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    now: Option<u64>,
}

/// Prints a line for each signature; ends well if each file has a signature that passes.
pub(super) fn run(
    arguments: &Arguments,
    context: &CommandContext<'_, Dkim>,
) -> Result<ExitCode, Failure> {
    let mut settings = context.settings()?;
    // Whoever verifies need not be able to read private keys.
    settings.sign.clear();
    let runtime = super::runtime()?;
    let _entered = runtime.enter();
    let meaning = match source(arguments)? {
        Some(source) => settings.mean_asking(source),
        None => settings
            .dns
            .mean()
            .and_then(|source| settings.mean_asking(source)),
    };
    let meaning = meaning.map_err(super::mistaken)?;
    let now = arguments.now.unwrap_or_else(|| (meaning.clock)());
    let mut all = true;
    for path in &arguments.files {
        let reports = runtime.block_on(verify(path, &meaning, now))?;
        all &= reports.iter().any(|report| report.outcome.is_ok());
        super::print(lines(path, &reports).as_bytes())?;
    }
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Where keys come from, if the arguments say so.
fn source(arguments: &Arguments) -> Result<Option<Source>, Failure> {
    if let Some(path) = &arguments.keys {
        let show = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(EX_NOINPUT, format!("cannot read {show}: {error}")))?;
        let file = KeyFile::parse(&text)
            .map_err(|error| Failure::new(EX_DATAERR, format!("{show}: {error}")))?;
        return Ok(Some(Source::File(file)));
    }
    let Some(text) = &arguments.nameserver else {
        return Ok(None);
    };
    let usage = |why: String| Failure::new(EX_USAGE, format!("--nameserver: {why}"));
    let address = name_server(text)
        .ok_or_else(|| usage(format!("{text:?} is neither an address nor address:port")))?;
    let options = Options {
        name_servers: vec![address],
        ..Options::default()
    };
    let resolver = Resolver::new(&options).map_err(|error| usage(error.to_string()))?;
    Ok(Some(Source::Network(resolver)))
}

/// The reports on one file.
async fn verify(path: &Path, meaning: &Meaning, now: u64) -> Result<Vec<Report>, Failure> {
    let message = super::read_message(path)?;
    verify_message(
        &message,
        &meaning.dns,
        &meaning.policy,
        meaning.keys_within,
        now,
    )
    .await
    .map_err(|error| Failure::new(EX_DATAERR, format!("{}: {error}", path.display())))
}

/// A line for each signature, or one that says that there is none.
fn lines(path: &Path, reports: &[Report]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for report in reports {
        let _ = writeln!(out, "{}: {report}", path.display());
    }
    if reports.is_empty() {
        let _ = writeln!(out, "{}: {}", path.display(), DkimResult::None);
    }
    out
}
