//! The filter in C as a process, and an MTA that speaks to it and notes every answer.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::counters::Counts;
use milter_proto::edit::Edit;
use milter_proto::message::{self, Connection, Header};
use milter_proto::net::{Address, Client, Timeouts};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, MacroStage, Offer, Steps, VERSION};
use milter_tests::compiled;
use milter_tests::mta::Message;
use milter_tests::process::{PATIENCE, Process};
use milter_tests::programs::binary;
use milter_tests::skip::skip;
use tempfile::TempDir;

/// The filter, and an orchestrator with the same filter once more.
pub(super) struct Sample {
    folder: TempDir,
    _direct: Process,
    orchestrator: Process,
}

/// One of the two ways to the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight to it.
    Direct,
    /// Through the orchestrator.
    Behind,
}

/// What an MTA and the filter saw of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// What the filter was told, as it wrote it down.
    pub(super) told: Vec<String>,
    /// What the MTA was answered: stage, verdict, edits.
    pub(super) answered: Vec<String>,
}

impl Sample {
    /// Starts both, or says why not. `own` is what the orchestrator is told of its filter besides
    /// the command; `{folder}` and `{sample}` stand for paths.
    pub(super) fn start(test: &str, own: &str) -> Option<Self> {
        Self::start_chain(test, own, false)
    }

    /// The same in a chain that may be strict.
    pub(super) fn start_chain(test: &str, own: &str, strict: bool) -> Option<Self> {
        if compiled::libmilter().is_none() {
            skip(test, "libmilter-dev is not installed");
            return None;
        }
        let program = compiled::milter("sample.c").unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("script"), "").unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut command = Command::new(&program);
        command
            .arg("-p")
            .arg(path("direct.sock"))
            .arg("-s")
            .arg(path("script"));
        command.arg("-l").arg(path("direct.log"));
        let mut direct = Process::start(&mut command).unwrap();
        let socket = path("direct.sock");
        let listens = || UnixStream::connect(&socket).is_ok();
        direct.wait_until("listening", listens).unwrap();

        let text = CONFIGURATION.replace("{own}", own);
        let text = text.replace("{strict}", &strict.to_string());
        let text = text.replace("{sample}", program.to_str().unwrap());
        let text = text.replace("{folder}", folder.path().to_str().unwrap());
        fs::write(path("orchestrator.toml"), text).unwrap();
        let mut command = Command::new(binary("milter-orchestrator").unwrap());
        command.arg("--config").arg(path("orchestrator.toml"));
        let orchestrator = Process::start(&mut command).unwrap();
        let mut sample = Self {
            folder,
            _direct: direct,
            orchestrator,
        };
        // The first probe of the orchestrator: the filter is up.
        let log = sample.log(Way::Behind);
        let probed = || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("close") && log.ends_with('\n'))
        };
        sample.orchestrator.wait_until("probed", probed).unwrap();
        Some(sample)
    }

    /// What the orchestrator wrote.
    pub(super) fn output(&self) -> String {
        self.orchestrator.output()
    }

    /// What the orchestrator has counted of it.
    pub(super) fn counts(&self) -> Counts {
        let socket = self.folder.path().join("control.sock");
        match control::ask(&socket, &Question::Status).unwrap() {
            Answer::Status(mut status) => status.milters.remove(0).counts,
            other => panic!("{other:?}"),
        }
    }

    /// Sets what the filter does on connections from now on.
    pub(super) fn set_script(&self, script: &str) {
        fs::write(self.folder.path().join("script"), script).unwrap();
    }

    /// Where the MTA connects.
    pub(super) fn address(&self, way: Way) -> Address {
        let name = match way {
            Way::Direct => "direct.sock",
            Way::Behind => "inbound.sock",
        };
        Address::Unix(self.folder.path().join(name))
    }

    fn log(&self, way: Way) -> PathBuf {
        let name = match way {
            Way::Direct => "direct.log",
            Way::Behind => "behind.log",
        };
        self.folder.path().join(name)
    }

    /// Holds the whole conversation, and waits until the filter has heard its end.
    pub(super) async fn run(&self, way: Way) -> Run {
        let log = self.log(way);
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let answered = converse(&self.address(way)).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text[before..].lines().collect();
            // A line that crosses a page of the file can be read before its end is there.
            let whole = text.ends_with('\n');
            if whole && lines.last().is_some_and(|last| last.starts_with("close")) {
                let told = lines.iter().map(|line| (*line).to_owned()).collect();
                return Run { told, answered };
            }
            assert!(
                Instant::now() < deadline,
                "{way:?}: the filter does not hear the end: {lines:?}\n{}",
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Probes come once: further ones would be in the log.
const CONFIGURATION: &str = r#"
[listen.inbound]
socket = "unix:{folder}/inbound.sock"
[control]
socket = "unix:{folder}/control.sock"
[supervisor]
directory = "{folder}/children"
probe_interval = "1h"
[milter.sample]
{own}
[[route]]
chain = ["sample"]
strict = {strict}
"#;

/// The MTA's side of a connection.
struct Talk {
    client: Client,
    answered: Vec<String>,
}

/// The header of every message, with the space behind the colon.
const HEADER: [(&str, &str); 5] = [
    ("Subject", " greetings"),
    ("X-Test", "none before"),
    ("X-Test", "  two before"),
    ("To", " one@example.org,\n\ttwo@example.org"),
    ("X-Empty", ""),
];

/// What an MTA does after a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    MessageEnds,
    ConnectionEnds,
}

/// Three messages, the second given up, with a command between them that nobody knows.
async fn converse(address: &Address) -> Vec<String> {
    let offer = Offer {
        version: VERSION,
        actions: Actions::all(),
        steps: Steps::all() - Steps::MDS_256K - Steps::MDS_1M,
        macros: Vec::new(),
    };
    let connected = Client::connect(address, &offer, Timeouts::default()).await;
    let (client, warnings) = connected.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let mut talk = Talk {
        client,
        answered: Vec::new(),
    };
    talk.whole().await;
    talk.client.quit().await;
    talk.answered
}

impl Talk {
    async fn whole(&mut self) {
        let connection = Connection {
            hostname: Bytes::from_static(b"client.example.net"),
            address: message::Address::Inet(([192, 0, 2, 1], 25_025).into()),
        };
        let macros = [("j", "mx.example.org"), ("{daemon_name}", "test")];
        if self.tell(Event::Connect(connection), &macros).await != Next::GoOn {
            return;
        }
        let helo = Event::Helo(Bytes::from_static(b"client.example.net"));
        if self.tell(helo, &[]).await != Next::GoOn {
            return;
        }
        let unknown = |line| Event::Unknown(Bytes::from_static(line));
        if self.tell(unknown(b"FIRST"), &[]).await == Next::ConnectionEnds {
            return;
        }
        let body = "Hello.\r\n".repeat(3);
        // A filter that has accepted a message hears of no unknown command before the next one.
        if self.message("4TEST1", body, false).await == Next::GoOn
            && self.tell(unknown(b"XYZZY  one two"), &[]).await == Next::ConnectionEnds
        {
            return;
        }
        self.message("4TEST2", String::new(), true).await;
        self.message("4TEST3", "0123456789abcdef\r\n".repeat(8_000), false)
            .await;
    }

    /// One message, to its end or to the first verdict that ends it.
    async fn message(&mut self, id: &str, body: String, given_up: bool) -> Next {
        let mut events = self.envelope(id);
        events.extend(self.content(body, given_up));
        let ended = events.len();
        for (number, (event, macros)) in events.into_iter().enumerate() {
            let macros: Vec<(&str, &str)> = macros.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let next = self.tell(event, &macros).await;
            if next != Next::GoOn {
                if number + 1 < ended {
                    self.tell(Event::Abort, &[]).await;
                }
                return next;
            }
        }
        if given_up {
            self.tell(Event::Abort, &[]).await;
        }
        Next::GoOn
    }

    fn envelope(&self, id: &str) -> Vec<(Event, Vec<(&'static str, String)>)> {
        let path = |address: &str, args: &[&'static str]| message::Path {
            address: Bytes::from(address.to_owned()),
            args: args
                .iter()
                .map(|arg| Bytes::from_static(arg.as_bytes()))
                .collect(),
        };
        let mut events = vec![(
            Event::Mail(path("<stranger@example.net>", &["BODY=8BITMIME", "SIZE=1"])),
            vec![
                ("i", id.to_owned()),
                ("{mail_addr}", "stranger@example.net".to_owned()),
            ],
        )];
        for (address, mailer) in [("one@example.org", "smtp"), ("no@example.org", "error")] {
            // Recipients that the MTA refuses itself are told to those who asked.
            let asked = self.client.options().steps.contains(Steps::RCPT_REJECTED);
            if mailer == "error" && !asked {
                continue;
            }
            let rcpt = Event::Rcpt(path(&format!("<{address}>"), &["NOTIFY=NEVER"]));
            let macros = vec![
                ("{rcpt_addr}", address.to_owned()),
                ("{rcpt_mailer}", mailer.to_owned()),
            ];
            events.push((rcpt, macros));
        }
        let two = path("<two@example.org>", &[]);
        events.push((
            Event::Rcpt(two),
            vec![("{rcpt_addr}", "two@example.org".to_owned())],
        ));
        events.push((Event::Data, Vec::new()));
        events
    }

    fn content(&self, body: String, given_up: bool) -> Vec<(Event, Vec<(&'static str, String)>)> {
        let exact = self.client.options().steps.contains(Steps::LEADING_SPACE);
        let mut events = Vec::new();
        for (name, value) in HEADER {
            let value = match value.strip_prefix(' ') {
                Some(rest) if !exact => rest,
                _ => value,
            };
            events.push((Event::Header(Header::new(name, value)), Vec::new()));
        }
        if given_up {
            return events;
        }
        events.push((Event::EndOfHeaders, Vec::new()));
        let mut body = Bytes::from(body);
        while !body.is_empty() {
            let piece = body.split_to(body.len().min(65_535));
            events.push((Event::Body(piece), Vec::new()));
        }
        events.push((Event::EndOfMessage, Vec::new()));
        events
    }

    /// Those of the macros that an MTA sends: all, or what was asked for at that stage.
    fn asked_for(&self, event: &Event, macros: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
        let stage = MacroStage::from_code(event.clone().into_command().code());
        let lists = self.client.options().macros.iter();
        let list = lists
            .filter(|(named, _)| Some(*named) == stage)
            .map(|(_, list)| list);
        let list = list
            .map(|list| String::from_utf8_lossy(list).into_owned())
            .next();
        let bare = |name: &str| name.trim_matches(['{', '}']).to_owned();
        let asked = |name: &str| {
            list.as_ref().is_none_or(|list| {
                let mut names = list.split_ascii_whitespace();
                names.any(|asked| bare(asked) == bare(name))
            })
        };
        let owned = |text: &str| Bytes::from(text.to_owned());
        macros
            .iter()
            .filter(|(name, _)| asked(name))
            .map(|(name, value)| (owned(name), owned(value)))
            .collect()
    }

    /// Tells one thing and notes what is answered to it, unless that is "go on".
    async fn tell(&mut self, event: Event, macros: &[(&str, &str)]) -> Next {
        let what = format!("{event:?}");
        let stage: String = what.chars().take_while(char::is_ascii_alphabetic).collect();
        let macros = self.asked_for(&event, macros);
        let macros = (!macros.is_empty()).then_some(&macros[..]);
        let response = match self.client.send(event, macros).await {
            Ok(response) => response,
            Err(error) => {
                self.answered.push(format!("{stage}: broken: {error}"));
                return Next::ConnectionEnds;
            }
        };
        if response.verdict != Verdict::Continue || response.skip {
            let skip = if response.skip { " skip" } else { "" };
            self.answered
                .push(format!("{stage}: {:?}{skip}", response.verdict));
        }
        if !response.edits.is_empty() {
            let exact = self.client.options().steps.contains(Steps::LEADING_SPACE);
            self.answered.extend(effects(&response.edits, exact));
        }
        next(&stage, &response.verdict)
    }
}

fn next(stage: &str, verdict: &Verdict) -> Next {
    match (stage, verdict) {
        (_, Verdict::Continue) => Next::GoOn,
        ("Connect" | "Helo", _) => Next::ConnectionEnds,
        // A refused recipient or command is refused alone.
        ("Rcpt" | "Unknown", Verdict::Reject | Verdict::TempFail | Verdict::Reply(_)) => Next::GoOn,
        _ => Next::MessageEnds,
    }
}

/// What the edits make of the header, and what they do besides. The orchestrator writes the net
/// difference, which need not be the same list.
fn effects(edits: &[Edit], exact: bool) -> Vec<String> {
    let mut message = Message::default();
    for (name, value) in HEADER {
        message.headers.push(Header::new(name, value));
    }
    let spaced = |value: &Bytes| match exact || value.is_empty() {
        true => value.clone(),
        false => [b" ", &value[..]].concat().into(),
    };
    let mut effects = Vec::new();
    let mut list = edits.to_vec();
    for edit in &mut list {
        match edit {
            Edit::AddHeader { value, .. }
            | Edit::InsertHeader { value, .. }
            | Edit::ChangeHeader { value, .. } => *value = spaced(value),
            Edit::ReplaceBody(_) => {}
            Edit::Quarantine { reason } => {
                // The orchestrator says whose reason it is.
                let reason = reason.strip_prefix(b"sample: ").unwrap_or(reason);
                effects.push(format!("quarantine {reason:?}"));
            }
            edit => effects.push(format!("{edit:?}")),
        }
    }
    effects.sort();
    let text = String::from_utf8_lossy(&message.edited(&list).to_bytes()).into_owned();
    effects.push(text.trim_end().to_owned());
    effects
}

impl Run {
    /// The first thing that is not the same on both ways, this one's first.
    pub(super) fn difference(&self, other: &Self) -> Option<(String, String)> {
        // Where a message is over for a filter, an MTA may abort it or not; and of what is given up
        // the orchestrator need not tell everything.
        let told = |run: &Self| {
            let mut told = run.told.clone();
            told.retain(|line| !line.starts_with("abort") && !line.contains(" i=4TEST2"));
            told
        };
        first_difference(&told(self), &told(other))
            .or_else(|| first_difference(&self.answered, &other.answered))
    }
}

fn first_difference(one: &[String], other: &[String]) -> Option<(String, String)> {
    let line = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
    let mut all = (0..one.len().max(other.len())).map(|at| (line(one, at), line(other, at)));
    all.find(|(one, other)| one != other)
}
