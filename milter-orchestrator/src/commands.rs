//! The sub-commands: `status`, `explain`, `restart`, and the two hidden ones that the orchestrator
//! runs itself as.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use milter_proto::daemon::exit::{EX_IOERR, EX_OSERR, EX_UNAVAILABLE};
use milter_proto::daemon::{CommandContext, Failure};

use crate::config::Settings;
use crate::control::{self, Answer, Question};
use crate::explain::{Explain, Profiles};
use crate::import;
use crate::orchestrator::Orchestrator;
use crate::status;
use crate::supervisor::nursery::{exec, serve};

/// How often it is looked whether a drain is done.
const WAIT_EVERY: Duration = Duration::from_millis(200);

/// Sub-commands beside those that every program has.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the milters and listeners of the running orchestrator.
    Status(status::Show),
    /// Show which filters a message would go through, and why; nothing is sent.
    Explain(Explain),
    /// Have the running orchestrator read its configuration again, and show what came of it. A bad
    /// file changes nothing.
    Reload,
    /// Have the running orchestrator take no more connections, finish the messages in hand, and
    /// close its connections.
    Drain {
        /// Take connections again.
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
        /// Wait until no connection is left.
        #[arg(long)]
        wait: bool,
    },
    /// Have another binary take the place of the running orchestrator, with its sockets and its
    /// filters. Open connections are finished by the old one. If anything goes wrong the old one
    /// goes on.
    Upgrade {
        /// Full path of the binary; without it, what is now at the path that the running one was
        /// started from.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// End the process of a milter and start a fresh one.
    Restart {
        /// Its name in the configuration.
        milter: String,
    },
    /// Turn the configuration of milter-manager, or the filters of a Postfix, into one of ours; it
    /// is printed, with what could not be translated as comments.
    Import(import::Arguments),
    /// Becomes a filter; the orchestrator runs it, nobody else.
    #[command(hide = true, name = exec::NAME)]
    ChildExec(exec::Arguments),
    /// Starts and ends filters; the orchestrator runs it, nobody else.
    #[command(hide = true, name = serve::NAME)]
    Nursery(serve::Arguments),
}

impl Command {
    /// Does it.
    pub(crate) fn run(
        self,
        context: &CommandContext<'_, Orchestrator>,
    ) -> Result<ExitCode, Failure> {
        match self {
            Self::Status(show) => show.run(|| match ask(context, &Question::Status)? {
                Answer::Status(snapshot) => Ok(snapshot),
                answer => Err(unexpected(&answer)),
            }),
            Self::Explain(arguments) => arguments.run(context),
            Self::Restart { milter } => order(context, &Question::Restart { milter }),
            Self::Reload => order(context, &Question::Reload),
            Self::Upgrade { binary } => order(context, &Question::Upgrade { binary }),
            Self::Drain { undo, wait } => {
                let done = order(context, &Question::Drain { undo })?;
                if wait {
                    wait_until_drained(context)?;
                }
                Ok(done)
            }
            Self::Import(arguments) => import::run(&arguments),
            Self::ChildExec(arguments) => match exec::run(&arguments) {
                Ok(never) => match never {},
                Err(error) => Err(Failure::new(EX_OSERR, format!("child: {error}"))),
            },
            Self::Nursery(arguments) => serve::run(&arguments).map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Has the running orchestrator do something, and shows what it says of it.
fn order(
    context: &CommandContext<'_, Orchestrator>,
    question: &Question,
) -> Result<ExitCode, Failure> {
    match ask(context, question)? {
        Answer::Done(what) => print(&what),
        answer => Err(unexpected(&answer)),
    }
}

/// Waits until the last connection has gone. Whoever gets tired of it interrupts us.
fn wait_until_drained(context: &CommandContext<'_, Orchestrator>) -> Result<(), Failure> {
    loop {
        let snapshot = match ask(context, &Question::Status)? {
            Answer::Status(snapshot) => snapshot,
            answer => return Err(unexpected(&answer)),
        };
        if !snapshot.draining {
            let message = "somebody has undone it; connections are taken again";
            return Err(Failure::new(EX_UNAVAILABLE, message));
        }
        if snapshot.connections() == 0 {
            return Ok(());
        }
        thread::sleep(WAIT_EVERY);
    }
}

/// Asks the running orchestrator of this configuration.
pub(crate) fn ask(
    context: &CommandContext<'_, Orchestrator>,
    question: &Question,
) -> Result<Answer, Failure> {
    let settings: Result<Settings, Failure> = context.settings();
    // What runs can be asked also while somebody has broken the file.
    let control = match &settings {
        Ok(settings) => settings.control.clone(),
        Err(_) => context.section("control"),
    };
    let socket = control.socket.path().unwrap_or_else(|| Path::new(""));
    control::ask(socket, question).map_err(|error| match settings {
        Ok(_) => Failure::new(EX_UNAVAILABLE, error.to_string()),
        Err(mistake) => mistake,
    })
}

pub(crate) fn unexpected(answer: &Answer) -> Failure {
    match answer {
        Answer::Error(what) => Failure::new(EX_UNAVAILABLE, what.clone()),
        Answer::Status(_) | Answer::Done(_) => {
            Failure::new(EX_UNAVAILABLE, "the orchestrator answered another question")
        }
    }
}

/// What the running orchestrator's filters have negotiated.
pub(crate) fn profiles(snapshot: status::Snapshot) -> Profiles {
    snapshot
        .milters
        .into_iter()
        .filter_map(|milter| Some((milter.name, milter.negotiated?)))
        .collect()
}

/// Writes to standard output; a reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(EX_IOERR, format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
