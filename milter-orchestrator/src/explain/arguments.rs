//! What `explain` is told of a message on the command line. What is not given is not known, and
//! `explain` says what depends on it.

use std::net::IpAddr;
use std::process::ExitCode;

use milter_proto::daemon::config::{Size, nearest};
use milter_proto::daemon::exit::EX_USAGE;
use milter_proto::daemon::{CommandContext, Failure};

use super::{Case, Profiles, explain};
use crate::commands::{ask, print, profiles, unexpected};
use crate::control::{Answer, Question};
use crate::orchestrator::Orchestrator;
use crate::route::clock::Moment;
use crate::route::{Client, Fact, Facts, Given};

/// What `explain` is told of a message.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The listener that it comes in by; may be left out when there is only one.
    #[arg(long)]
    listen: Option<String>,
    /// Address of the client.
    #[arg(long)]
    client: Option<IpAddr>,
    /// Name of the client, as the MTA finds it.
    #[arg(long)]
    host: Option<String>,
    /// Name that the client gives itself.
    #[arg(long)]
    helo: Option<String>,
    /// The client logged in.
    #[arg(long, conflicts_with = "no_auth")]
    auth: bool,
    /// The client did not log in.
    #[arg(long, conflicts_with = "login")]
    no_auth: bool,
    /// The name that it logged in by.
    #[arg(long)]
    login: Option<String>,
    /// The client's connection is encrypted.
    #[arg(long, conflicts_with = "no_tls")]
    tls: bool,
    /// The client's connection is not encrypted.
    #[arg(long)]
    no_tls: bool,
    /// The sender; "<>" for the empty one.
    #[arg(long)]
    sender: Option<String>,
    /// A recipient; may be given several times.
    #[arg(long)]
    rcpt: Vec<String>,
    /// Bytes of the message, such as 10MB or 5000.
    #[arg(long)]
    size: Option<String>,
    /// Clients in hand.
    #[arg(long)]
    load: Option<u64>,
    /// The time, such as 22:30 or "sat 22:30".
    #[arg(long)]
    time: Option<Moment>,
    /// A macro, such as cipher_bits=256; may be given several times.
    #[arg(long = "macro", value_name = "NAME=VALUE")]
    macros: Vec<String>,
}

impl Explain {
    /// Asks the running orchestrator what filters negotiate, if there is one, and explains.
    pub(crate) fn run(
        &self,
        context: &CommandContext<'_, Orchestrator>,
    ) -> Result<ExitCode, Failure> {
        let orchestrator = &context.prepare()?;
        let given = self.given()?;
        let facts = self.facts(self.listener(orchestrator)?, &given)?;
        let recipients: Vec<Vec<u8>> = self.rcpt.iter().map(|one| one.clone().into()).collect();
        let case = Case {
            facts,
            recipients: &recipients,
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
        print(&(explain(routes, &case, &known) + &note))
    }

    fn facts<'a>(&'a self, listen: &'a str, given: &'a Given) -> Result<Facts<'a>, Failure> {
        let text = |text: &'a Option<String>| {
            text.as_ref()
                .map_or(Fact::NotYet, |text| Fact::Known(text.as_bytes()))
        };
        let either = |yes: bool, no: bool| match (yes, no) {
            (true, _) => Fact::Known(true),
            (false, true) => Fact::Known(false),
            (false, false) => Fact::NotYet,
        };
        let size = self.size.as_deref().map(size).transpose()?;
        Ok(Facts {
            client: self
                .client
                .map_or(Fact::NotYet, |ip| Fact::Known(Client::Ip(ip))),
            host: text(&self.host),
            load: self.load.map_or(Fact::NotYet, Fact::Known),
            time: self.time.map_or(Fact::NotYet, Fact::Known),
            helo: text(&self.helo),
            authenticated: either(self.auth || self.login.is_some(), self.no_auth),
            login: match (&self.login, self.no_auth) {
                (None, true) => Fact::Known(b""),
                (login, _) => text(login),
            },
            tls: either(self.tls, self.no_tls),
            sender: text(&self.sender),
            size: size.map_or(Fact::NotYet, Fact::Known),
            lookup: given,
            ..Facts::at(listen)
        })
    }

    fn given(&self) -> Result<Given, Failure> {
        let mut given = Given::default();
        for text in &self.macros {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                let message = format!("{text:?} is no macro; write NAME=VALUE");
                Failure::new(EX_USAGE, message)
            })?;
            let name = name.trim_start_matches('{').trim_end_matches('}');
            given.macros.insert(name.to_owned(), value.into());
        }
        Ok(given)
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

fn size(written: &str) -> Result<u64, Failure> {
    let size = written.parse::<Size>().map(Size::get);
    written.parse().or(size).map_err(|error| {
        let message = format!("--size {written}: {error}");
        Failure::new(EX_USAGE, message)
    })
}
