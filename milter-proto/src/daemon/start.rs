//! From the command line to a running program or a finished sub-command.
//!
//! Mistakes in the command line and the configuration are printed plainly on stderr, whatever fails
//! later goes to the log: in both cases once.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use tracing::{error, info, warn};

use super::args::{self, Arguments, Verb};
use super::config::load::Source;
use super::config::{self, Common, Level};
use super::exit::{EX_IOERR, EX_OSERR};
use super::host::Host;
use super::ready::Notifier;
use super::{Failure, Program, listen, log, privileges, signals};

/// The whole life of a daemon or of one of its sub-commands.
#[must_use]
pub fn main<P: Program>() -> ExitCode {
    let arguments = match args::parse::<P>(env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    dispatch::<P>(arguments).unwrap_or_else(|failure| {
        let _ = writeln!(io::stderr().lock(), "{}: {failure}", P::NAME);
        failure.into()
    })
}

fn dispatch<P: Program>(arguments: Arguments<P::Command>) -> Result<ExitCode, Failure> {
    let Arguments {
        config,
        log_level,
        verb,
    } = arguments;
    let given = config.is_some();
    let path = config.unwrap_or_else(|| PathBuf::from(P::CONFIG));
    match verb.unwrap_or(Verb::Run) {
        Verb::Run => run::<P>(&path, log_level),
        Verb::Check { print } => {
            log::plain(P::NAME, log_level);
            check::<P>(&path, print)
        }
        Verb::DefaultConfig => print(&config::default_file::<P>()?),
        Verb::Own(command) => {
            log::plain(P::NAME, log_level);
            let context = CommandContext {
                path: &path,
                given,
                program: std::marker::PhantomData,
            };
            P::command(command, context)
        }
    }
}

/// The daemon. Mistakes in the configuration are told as `check` tells them.
fn run<P: Program>(path: &Path, log_level: Option<Level>) -> Result<ExitCode, Failure> {
    let source = Source::read::<P>(path)?;
    let settings = match source.settings::<P>() {
        Ok(settings) => settings,
        // What is wrong with the meaning of the rest belongs to it.
        Err(failure) => return Err(source.program::<P>().err().unwrap_or(failure)),
    };
    let common = P::common(&settings);
    let log = log::start(P::NAME, &common.log, log_level);
    let version = env!("CARGO_PKG_VERSION");
    info!(version, config = %path.display(), "{} starts", P::NAME);
    if let Some(warning) = source.warnings() {
        warn!("{warning}");
    }
    let program = source.program::<P>()?;
    for remark in source.remarks(&program, &settings) {
        warn!("{remark}");
    }
    let code = match live(program, &source, common, log.clone()) {
        Ok(()) => {
            info!("{} ends", P::NAME);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            error!("{failure}");
            failure.into()
        }
    };
    log.settle();
    Ok(code)
}

/// Everything between the configuration and the end, in the order that this module's parent tells.
fn live<P: Program>(
    mut program: P,
    source: &Source,
    common: Common,
    log: log::Handle,
) -> Result<(), Failure> {
    let signals = signals::catch()?;
    let listeners = common.listeners.iter().chain(&common.metrics).cloned();
    let (bound, predecessor) = listen::all(&listeners.collect::<Vec<_>>())?;
    let notifier = Notifier::from_env();
    program.furnish(predecessor.is_some())?;
    privileges::settle(&common)?;
    program.confine(predecessor.is_some())?;
    // A thread of its own, so not before all that must be done with a single one.
    log.let_go();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(EX_OSERR, format!("no runtime: {error}")))?;
    let mut host = Host::new(source, common, log, bound, signals, notifier);
    host.predecessor = predecessor;
    let outcome = runtime.block_on(program.run(host));
    // What still blocks a worker now is not waited for: the deadline has passed.
    runtime.shutdown_background();
    outcome
}

/// `check`: all that can be known without opening a socket.
fn check<P: Program>(path: &Path, print_it: bool) -> Result<ExitCode, Failure> {
    let source = Source::read::<P>(path)?;
    if let Some(warning) = source.warnings() {
        warn!("{warning}");
    }
    let program = source.fitting_program::<P>()?;
    for odd in source.oddities(&program) {
        warn!("{odd}");
    }
    if print_it {
        return print(&config::effective::<P>(&source)?);
    }
    print(&format!("{}: no mistakes\n", path.display()))
}

/// Writes to stdout. A reader that has seen enough is no failure.
fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            EX_IOERR,
            format!("writing to stdout: {error}"),
        )),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What a sub-command can ask for.
#[derive(Debug)]
pub struct CommandContext<'a, P: Program> {
    path: &'a Path,
    /// Whether `--config` was given.
    given: bool,
    program: std::marker::PhantomData<P>,
}

impl<P: Program> CommandContext<'_, P> {
    /// Where the configuration is, or would be.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        self.path
    }

    /// The settings of the configuration file; the defaults when the file does not exist and
    /// `--config` was not given.
    ///
    /// # Errors
    /// When the file cannot be read or holds a mistake; already worded for the operator.
    pub fn settings(&self) -> Result<P::Settings, Failure> {
        self.source()?.settings::<P>()
    }

    /// One section of the configuration file, whatever is wrong elsewhere in it; the default when
    /// it is not there, or cannot be read.
    #[must_use]
    pub fn section<T: DeserializeOwned + Default>(&self, name: &str) -> T {
        let source = self.source().ok();
        source
            .and_then(|source| source.section(name))
            .unwrap_or_default()
    }

    /// The program that the settings make, checked as a start does.
    ///
    /// # Errors
    /// As [`Self::settings`], and when the program refuses them.
    pub fn prepare(&self) -> Result<P, Failure> {
        self.source()?.program::<P>()
    }

    fn source(&self) -> Result<Source, Failure> {
        match self.path.try_exists() {
            Ok(false) if !self.given => Ok(Source::absent(self.path)),
            _ => Source::read::<P>(self.path),
        }
    }
}
