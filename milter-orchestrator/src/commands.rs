//! The sub-commands: `status`, `explain`, `restart`, and the two hidden ones that the orchestrator
//! runs itself as.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use milter_proto::daemon::config::nearest;
use milter_proto::daemon::exit::{EX_IOERR, EX_OSERR, EX_UNAVAILABLE, EX_USAGE};
use milter_proto::daemon::{CommandContext, Failure};

use crate::config::Settings;
use crate::control::{self, Answer, Question};
use crate::explain::{Profiles, explain};
use crate::orchestrator::Orchestrator;
use crate::route::{Client, Fact, Facts};
use crate::status;
use crate::supervisor::nursery::{exec, serve};

/// How often it is looked whether a drain is done.
const WAIT_EVERY: Duration = Duration::from_millis(200);

/// Sub-commands beside those that every program has.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the milters and listeners of the running orchestrator.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
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
    /// End the process of a milter and start a fresh one.
    Restart {
        /// Its name in the configuration.
        milter: String,
    },
    /// Becomes a filter; the orchestrator runs it, nobody else.
    #[command(hide = true, name = exec::NAME)]
    ChildExec(exec::Arguments),
    /// Starts and ends filters; the orchestrator runs it, nobody else.
    #[command(hide = true, name = serve::NAME)]
    Nursery(serve::Arguments),
}

/// What `explain` is told of a message.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The listener that it comes in by; may be left out when there is only one.
    #[arg(long)]
    listen: Option<String>,
    /// Address of the client.
    #[arg(long)]
    client: Option<IpAddr>,
    /// The client logged in.
    #[arg(long, conflicts_with = "no_auth")]
    auth: bool,
    /// The client did not log in.
    #[arg(long)]
    no_auth: bool,
}

impl Command {
    /// Does it.
    pub(crate) fn run(
        self,
        context: &CommandContext<'_, Orchestrator>,
    ) -> Result<ExitCode, Failure> {
        match self {
            Self::Status { json } => show_status(&ask(context, &Question::Status)?, json),
            Self::Explain(arguments) => arguments.run(context),
            Self::Restart { milter } => order(context, &Question::Restart { milter }),
            Self::Reload => order(context, &Question::Reload),
            Self::Drain { undo, wait } => {
                let done = order(context, &Question::Drain { undo })?;
                if wait {
                    wait_until_drained(context)?;
                }
                Ok(done)
            }
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
fn ask(context: &CommandContext<'_, Orchestrator>, question: &Question) -> Result<Answer, Failure> {
    let settings: Settings = context.settings()?;
    let socket = settings
        .control
        .socket
        .path()
        .map_or_else(PathBuf::new, PathBuf::from);
    control::ask(&socket, question).map_err(|error| Failure::new(EX_UNAVAILABLE, error.to_string()))
}

fn show_status(answer: &Answer, json: bool) -> Result<ExitCode, Failure> {
    let Answer::Status(snapshot) = answer else {
        return Err(unexpected(answer));
    };
    if !json {
        return print(&status::render(snapshot));
    }
    let text = serde_json::to_string_pretty(snapshot)
        .map_err(|error| Failure::new(EX_IOERR, error.to_string()))?;
    print(&text)
}

fn unexpected(answer: &Answer) -> Failure {
    match answer {
        Answer::Error(what) => Failure::new(EX_UNAVAILABLE, what.clone()),
        Answer::Status(_) | Answer::Done(_) => {
            Failure::new(EX_UNAVAILABLE, "the orchestrator answered another question")
        }
    }
}

/// What the running orchestrator's filters have negotiated.
fn profiles(snapshot: status::Snapshot) -> Profiles {
    snapshot
        .milters
        .into_iter()
        .filter_map(|milter| Some((milter.name, milter.negotiated?)))
        .collect()
}

impl Explain {
    fn run(&self, context: &CommandContext<'_, Orchestrator>) -> Result<ExitCode, Failure> {
        let orchestrator = &context.prepare()?;
        let facts = Facts {
            listen: self.listener(orchestrator)?,
            client: self
                .client
                .map_or(Fact::NotYet, |ip| Fact::Known(Client::Ip(ip))),
            authenticated: match (self.auth, self.no_auth) {
                (true, _) => Fact::Known(true),
                (false, true) => Fact::Known(false),
                (false, false) => Fact::NotYet,
            },
        };
        let (known, note) = match ask(context, &Question::Status) {
            Ok(Answer::Status(snapshot)) => (profiles(snapshot), String::new()),
            Ok(answer) => return Err(unexpected(&answer)),
            Err(_) => (
                Profiles::new(),
                "\nNo orchestrator is running that could be asked what filters negotiate.\n"
                    .to_owned(),
            ),
        };
        let routes = &orchestrator.blueprint().routes;
        print(&(explain(routes, &facts, &known) + &note))
    }

    fn listener<'a>(&'a self, orchestrator: &'a Orchestrator) -> Result<&'a str, Failure> {
        let listeners = &orchestrator.settings().listen;
        let mut names = listeners.keys().map(String::as_str);
        let all = || listeners.keys().cloned().collect::<Vec<_>>().join(", ");
        match (&self.listen, names.next(), names.next()) {
            (Some(name), ..) if listeners.contains_key(name) => Ok(name),
            (Some(name), ..) => {
                let known = listeners.keys().map(String::as_str);
                let meant = nearest(name, known).map_or_else(
                    || format!("there are: {}", all()),
                    |name| format!("did you mean {name}?"),
                );
                let message = format!("there is no listener {name:?}; {meant}");
                Err(Failure::new(EX_USAGE, message))
            }
            (None, Some(only), None) => Ok(only),
            (None, ..) => Err(Failure::new(
                EX_USAGE,
                format!("which listener? Write --listen with one of: {}", all()),
            )),
        }
    }
}

/// Writes to standard output; a reader that has seen enough is no failure.
fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(EX_IOERR, format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
