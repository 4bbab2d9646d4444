//! What can be asked on the command line beside serving.
//!
//! Each sub-command is a file: its arguments, what it prints, how it fails. They print to standard
//! output, and end with 0 only if all is well.

pub mod explain;
pub mod genkey;
pub mod sign;
pub mod verify;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use milter_proto::daemon::exit::{EX_CONFIG, EX_IOERR, EX_NOINPUT, EX_SOFTWARE};
use milter_proto::daemon::{CommandContext, ConfigError, Failure};
use tokio::runtime::{Builder, Runtime};

use crate::Dkim;
use crate::auth::header::crlf;

/// The sub-commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key, and the DNS record to publish for it
    Genkey(genkey::Arguments),
    /// Verify the signatures of message files
    Verify(verify::Arguments),
    /// Sign a message file and print it
    Sign(sign::Arguments),
    /// Say what would be done with a message, and why
    Explain(explain::Arguments),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &CommandContext<'_, Dkim>) -> Result<ExitCode, Failure> {
        match self {
            Self::Genkey(arguments) => genkey::run(&arguments),
            Self::Verify(arguments) => verify::run(&arguments, context),
            Self::Sign(arguments) => sign::run(&arguments, context),
            Self::Explain(arguments) => explain::run(&arguments, context),
        }
    }
}

/// Writes to standard output in one go.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(EX_IOERR, format!("cannot write: {error}")))
}

/// A message from a file, or from standard input for `-`. Lines that end in LF alone get CR LF,
/// unless CR LF occurs already.
fn read_message(path: &Path) -> Result<Vec<u8>, Failure> {
    let text = match path.as_os_str() == "-" {
        true => {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::stdin().lock(), &mut text).map(|_| text)
        }
        false => std::fs::read(path),
    };
    let text = text.map_err(|error| {
        Failure::new(
            EX_NOINPUT,
            format!("cannot read {}: {error}", path.display()),
        )
    })?;
    let has_crlf = text.windows(2).any(|pair| pair == b"\r\n");
    Ok(if has_crlf { text } else { crlf(&text) })
}

/// A mistake in settings of which a command has changed some, so that no line can be named.
fn mistaken(error: ConfigError) -> Failure {
    let ConfigError {
        path,
        message,
        help,
    } = error;
    let separator = if help.is_empty() { "" } else { "; " };
    Failure::new(EX_CONFIG, format!("{path}: {message}{separator}{help}"))
}

/// A runtime for a command that looks up names.
fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(EX_SOFTWARE, format!("cannot start: {error}")))
}
