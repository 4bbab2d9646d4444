//! Real mail servers with one scripted filter, in their own list and behind the orchestrator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::net::Address;
use milter_proto::testkit::{Dialogue, FilterScript, FilterServer, Scenario, SmtpStep};
use milter_proto::wire::Command;
use milter_tests::equivalence::client::converse;
use milter_tests::equivalence::mta::{self, Fate, Mta, free_ports, private_address};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::sink::Sink;
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use milter_tests::sendmail::{self, Installation, Sendmail};
use milter_tests::skip::skip;
use tokio::time::timeout;

/// Beside the listener that tells when the daemon is there.
const CONFIGURATION: &str = r#"
[listen.mta]
socket = "<inbound>"
[milter.filter]
socket = "<filter>"
end_of_message_timeout = "60s"
[[route]]
chain = ["filter"]
"#;

/// Both servers, and what is patient with slow filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postfix,
    /// With these timeouts for filters.
    Sendmail(&'static str),
}

/// A mail server with the filter listed at its first entry, and the orchestrator at its second.
struct Live {
    mta: Arc<dyn Mta>,
    /// One for each entry.
    filters: [FilterServer; 2],
    orchestrator: Daemon,
    sink: Sink,
}

/// What came of a message.
struct Sent {
    /// The last reply before that to QUIT.
    reply: String,
    fate: Option<Fate>,
}

impl Live {
    /// `None`, said aloud, where the server cannot run.
    async fn start(test: &str, kind: Kind) -> Option<Self> {
        let missing = match kind {
            Kind::Postfix => Postfix::missing().map(str::to_owned),
            Kind::Sendmail(_) => Installation::find().err().map(|why| format!("{why:#}")),
        };
        if let Some(reason) = missing {
            skip(test, &reason);
            return None;
        }
        let ip = private_address();
        let any = Address::Inet {
            host: ip.to_string(),
            port: 0,
        };
        let idle = || FilterScript::new("idle");
        let filters = [
            FilterServer::start(&any, idle()).await.unwrap(),
            FilterServer::start(&any, idle()).await.unwrap(),
        ];
        let sink = Sink::start().await.unwrap();
        let inbound = SocketAddr::from((ip, free_ports(ip, 1).unwrap()[0]));
        let text = CONFIGURATION.replace("<inbound>", &format!("inet:{}@{ip}", inbound.port()));
        let text = text.replace("<filter>", &filters[1].address().to_string());
        let orchestrator = Daemon::orchestrator(&text).unwrap();
        let entries = [socket_address(filters[0].address()), inbound];
        let to = sink.address();
        let start = move || start(kind, entries, to);
        let mta = tokio::task::spawn_blocking(start).await.unwrap();
        Some(Self {
            mta,
            filters,
            orchestrator,
            sink,
        })
    }

    /// Sets what the filter does, on both ways.
    fn set_script(&self, text: &str) {
        let scenario = Scenario::parse("live", &format!("filter filter\n{text}"));
        let script = scenario.unwrap().filters.remove(0);
        for filter in &self.filters {
            filter.set_script(script.clone());
        }
    }

    /// Sends a message by that entry, and waits until the filter has heard the end.
    async fn send(&self, entry: usize) -> Sent {
        let command = |line: &str| SmtpStep::Command(line.to_owned().into());
        let lines = ["Subject: greetings", "", "Hello."];
        let steps = vec![
            command("EHLO client.example.net"),
            command("MAIL FROM:<joe@example.org>"),
            command("RCPT TO:<user@example.com>"),
            command("DATA"),
            SmtpStep::Message(lines.map(|line| line.to_owned().into()).to_vec()),
            command("QUIT"),
        ];
        let spoken = converse(self.mta.address(entry), &Dialogue { steps }).await;
        let spoken = spoken.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
        let replies = spoken.iter().filter_map(|one| one.reply.clone());
        let reply = replies.rev().nth(1).unwrap_or_default();
        let fate = self.mta.queue_id(&reply).map(|id| {
            let fate = self.mta.fate(&id);
            fate.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()))
        });
        let idle = timeout(PATIENCE, self.filters[entry].idle()).await;
        assert!(idle.is_ok(), "the filter's connection stays open");
        Sent { reply, fate }
    }

    /// The macros of CONNECT as the filter was told them, since the script was set.
    fn macros_of_connect(&self, entry: usize) -> Vec<(String, String)> {
        let told = self.filters[entry].take_transcript().into_iter();
        let of_connect = told.filter_map(|told| match told.command {
            Ok(Command::Macros(macros)) if macros.stage == b'C' => Some(macros.pairs),
            _ => None,
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut pairs: Vec<_> = of_connect
            .flatten()
            .map(|(name, value)| (text(&name), text(&value)))
            .collect();
        pairs.sort();
        pairs
    }

    fn log(&self) -> String {
        format!("{}\n{}", self.mta.log(), self.orchestrator.process.output())
    }
}

fn socket_address(address: &Address) -> SocketAddr {
    let Address::Inet { host, port } = address else {
        panic!("{address}");
    };
    SocketAddr::new(host.parse().unwrap(), *port)
}

/// Starts the server with an entry for each of the filters.
fn start(kind: Kind, filters: [SocketAddr; 2], sink: SocketAddr) -> Arc<dyn Mta> {
    let names = ["direct", "behind"];
    match kind {
        Kind::Postfix => {
            let entries = names.iter().zip(filters).map(|(name, filter)| mta::Entry {
                name: (*name).to_owned(),
                milters: vec![filter],
            });
            let entries: Vec<_> = entries.collect();
            Arc::new(Postfix::start(&entries, sink).unwrap())
        }
        Kind::Sendmail(equates) => {
            let entries = filters.map(|filter| sendmail::Entry {
                filters: vec![sendmail::Filter {
                    socket: Address::Inet {
                        host: filter.ip().to_string(),
                        port: filter.port(),
                    },
                    equates,
                }],
            });
            Arc::new(Sendmail::start(&entries, sink).unwrap())
        }
    }
}

const ORDINARY: Kind = Kind::Sendmail("F=T");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_of_the_mail_server_reaches_a_filter_that_asks() {
    for (kind, begins) in [(Kind::Postfix, "Postfix 3."), (ORDINARY, "8.")] {
        let Some(live) = Live::start(&format!("macro v: {kind:?}"), kind).await else {
            continue;
        };
        for (script, asked) in [
            ("actions set-macro-list\nmacros connect \"v j\"", true),
            ("", false),
        ] {
            live.set_script(script);
            let mut told = Vec::new();
            for entry in [0, 1] {
                let sent = live.send(entry).await;
                assert_eq!(
                    sent.fate,
                    Some(Fate::Gone),
                    "{}\n{}",
                    sent.reply,
                    live.log()
                );
                told.push(live.macros_of_connect(entry));
            }
            let [direct, behind] = &told[..] else {
                panic!("{told:?}");
            };
            // One that names no macros may hear of more than directly, of which nobody takes harm.
            let missing = direct.iter().find(|pair| !behind.contains(pair));
            assert_eq!(missing, None, "{kind:?} {script:?}: {told:?}");
            if asked {
                let names: Vec<&str> = behind.iter().map(|(name, _)| &**name).collect();
                assert_eq!(names, ["j", "v"], "{kind:?}: {told:?}");
                assert!(behind[1].1.starts_with(begins), "{kind:?}: {told:?}");
                assert_eq!(direct, behind, "{kind:?}");
            }
        }
        live.sink.clear();
    }
}

/// Sendmail gives a filter up that says nothing for so long; the orchestrator says for the filter
/// that it is still at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_slower_than_sendmail_waits_survives_behind() {
    let kind = Kind::Sendmail("F=T, T=S:8s;R:8s;E:2m");
    let Some(live) = Live::start("slower than sendmail waits", kind).await else {
        return;
    };
    live.set_script("actions add-headers\nat end: wait 12s; add \"X-Slow\" \"1\"; continue");
    let (direct, behind) = tokio::join!(live.send(0), live.send(1));
    assert!(
        direct.reply.starts_with("451"),
        "{}\n{}",
        direct.reply,
        live.log()
    );
    assert_eq!(
        behind.fate,
        Some(Fate::Gone),
        "{}\n{}",
        behind.reply,
        live.log()
    );
    let id = live.mta.queue_id(&behind.reply).unwrap();
    let taken = live.sink.take(&id).pop().unwrap();
    let message = String::from_utf8_lossy(&taken.message).into_owned();
    assert!(message.contains("X-Slow: 1\r\n"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_message_is_held_with_its_reason() {
    for kind in [Kind::Postfix, ORDINARY] {
        let Some(live) = Live::start(&format!("quarantine: {kind:?}"), kind).await else {
            continue;
        };
        live.set_script("actions quarantine\nat end: quarantine \"looks odd\"; continue");
        for entry in [0, 1] {
            let sent = live.send(entry).await;
            let Some(Fate::Held(held)) = sent.fate else {
                panic!(
                    "{kind:?} {entry}: {} {:?}\n{}",
                    sent.reply,
                    sent.fate,
                    live.log()
                );
            };
            let held = String::from_utf8_lossy(&held).into_owned();
            assert!(held.contains("Hello."), "{held}");
            let id = live.mta.queue_id(&sent.reply).unwrap();
            assert!(
                live.sink.take(&id).is_empty(),
                "held, and delivered as well"
            );
            // Postfix says of no message why a filter had it held.
            let visible = match kind {
                Kind::Postfix => "milter-hold: END-OF-MESSAGE",
                Kind::Sendmail(_) => "quarantine=looks odd",
            };
            let said = |line: &str| line.contains(&id) && line.contains(visible);
            // Postfix's log is written by a process of its own.
            let deadline = Instant::now() + PATIENCE;
            while !live.mta.log().lines().any(said) {
                let log = live.mta.log();
                assert!(Instant::now() < deadline, "{kind:?} {entry}: {log}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
