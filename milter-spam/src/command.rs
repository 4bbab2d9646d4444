//! What can be asked on the command line beside serving: what a file scores, and which checks there
//! are.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Args;
use milter_proto::daemon::exit::{EX_IOERR, EX_NOINPUT, EX_SOFTWARE};
use milter_proto::daemon::{CommandContext, Failure, escaped};
use serde_json::{Map, Value, json};

use crate::Spam;
use crate::date::{self, Date};
use crate::envelope::{Envelope, Reverse};
use crate::facts::Message;
use crate::filter;
use crate::mailbox::Mailbox;
use crate::rules;
use crate::scan::Scanner;
use crate::score::Verdict;

/// The sub-commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what message files score, and why
    Scan(Scan),
    /// List the checks
    Symbols {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// What to scan, and what to take the envelope for.
#[derive(Debug, Args)]
pub struct Scan {
    /// Message files; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One JSON object a message
    #[arg(long)]
    json: bool,
    /// Envelope sender; empty for the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Envelope recipient; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Vec<String>,
    /// Address of the client
    #[arg(long)]
    ip: Option<IpAddr>,
    /// What the client calls itself
    #[arg(long)]
    helo: Option<String>,
    /// What the DNS calls the client; empty for nothing
    #[arg(long)]
    hostname: Option<String>,
    /// What the client logged in as
    #[arg(long)]
    user: Option<String>,
    /// Look at messages as of now, not as of their topmost Received header
    #[arg(long)]
    now: bool,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &CommandContext<'_, Spam>) -> Result<ExitCode, Failure> {
        match self {
            Self::Scan(arguments) => {
                let program = context.prepare()?;
                arguments.run(&program.meaning().scanner)
            }
            Self::Symbols { json } => print(&symbols(json)),
        }
    }
}

impl Scan {
    fn run(&self, scanner: &Scanner) -> Result<ExitCode, Failure> {
        for file in &self.files {
            let bytes = read(file)?;
            let message = Message::parse(&bytes, &scanner.reading.limits);
            let at = self.time_of(&message);
            let id = message
                .headers
                .first("Message-ID")
                .map(|id| escaped(id).to_string());
            let verdict = scanner
                .scan(
                    message,
                    self.envelope(scanner),
                    at,
                    self.judges_client(scanner),
                    &AtomicBool::new(false),
                )
                .map_err(|_| Failure::new(EX_SOFTWARE, "the scan was cancelled"))?;
            let name = file.display().to_string();
            let text = if self.json {
                let id = id.unwrap_or_default();
                format!("{}\n", as_json(&name, &id, &verdict))
            } else {
                as_text(&name, &verdict)
            };
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn judges_client(&self, scanner: &Scanner) -> bool {
        !self.envelope(scanner).is_ours()
    }

    fn envelope(&self, scanner: &Scanner) -> Envelope {
        let mailbox = |address: &String| Mailbox::address_only(address.as_bytes());
        Envelope {
            address: self.ip,
            reverse: match self.hostname.as_deref() {
                None => Reverse::Untold,
                Some("" | "unknown") => Reverse::Missing,
                Some(name) => Reverse::Verified(name.to_owned()),
            },
            helo: self.helo.clone(),
            sender: self.from.as_ref().map(mailbox),
            recipients: self.rcpt.iter().map(mailbox).collect(),
            login: self.user.clone(),
            local: self.ip.is_some_and(|address| scanner.is_local(address)),
        }
    }

    /// When the message came in: a file that lies there for years was not sent from the past.
    fn time_of(&self, message: &Message) -> i64 {
        let received = message.headers.first("Received");
        let stamp = received.and_then(|hop| hop.rsplit(|byte| *byte == b';').next());
        match date::parse(stamp.filter(|_| !self.now)) {
            Date::At(time) => time,
            Date::Missing | Date::Invalid => filter::now(),
        }
    }
}

/// For people: action, score, and what it is made of.
fn as_text(name: &str, verdict: &Verdict) -> String {
    let (action, score, required) = (verdict.action.name(), verdict.score, verdict.required);
    let mut text = format!("{name}: {action}, {score:.2} of {required:.2}\n");
    for symbol in &verdict.symbols {
        let options: Vec<String> = symbol
            .options
            .iter()
            .map(|option| escaped(option.as_bytes()).to_string())
            .collect();
        let options = match options.is_empty() {
            true => String::new(),
            false => format!(" [{}]", options.join(", ")),
        };
        let (name, about) = (symbol.name, symbol.description);
        text.push_str(&format!(
            "{:>8.2}  {name:<28} {about}{options}\n",
            symbol.score
        ));
    }
    text
}

/// For programs: as rspamd's `/checkv2` answers.
fn as_json(name: &str, id: &str, verdict: &Verdict) -> Value {
    let symbols: Map<String, Value> = verdict
        .symbols
        .iter()
        .map(|symbol| {
            let value = json!({
                "name": symbol.name,
                "score": symbol.score,
                "metric_score": symbol.score,
                "description": symbol.description,
                "options": symbol.options,
            });
            (symbol.name.to_owned(), value)
        })
        .collect();
    json!({
        "file": name,
        "message-id": id,
        "action": verdict.action.name(),
        "score": verdict.score,
        "required_score": verdict.required,
        "symbols": symbols,
    })
}

/// All checks, a line each.
fn symbols(json: bool) -> String {
    rules::all()
        .map(|rule| {
            let (group, stage) = (rule.group.name(), rule.stage.name());
            if json {
                let value = json!({
                    "symbol": rule.name,
                    "weight": rule.weight,
                    "group": group,
                    "stage": stage,
                    "description": rule.about,
                });
                return format!("{value}\n");
            }
            format!(
                "{:>6.2}  {:<30} {group:<10} {stage:<8} {}\n",
                rule.weight, rule.name, rule.about
            )
        })
        .collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = match file.as_os_str() == "-" {
        true => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        }
        false => std::fs::read(file),
    };
    bytes.map_err(|error| {
        let name = file.display();
        Failure::new(EX_NOINPUT, format!("cannot read {name}: {error}"))
    })
}

/// Writes to standard output in one go.
fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| Failure::new(EX_IOERR, format!("cannot write: {error}")))
}
