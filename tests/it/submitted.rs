//! Mail that never came by SMTP: what a program on the machine hands to Postfix.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::message::{self, Connection, Path};
use milter_proto::net::Address;
use milter_proto::testkit::{FilterServer, Scenario, Told};
use milter_proto::wire::Command;
use milter_tests::equivalence::mta::{free_ports, private_address};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::sink::Sink;
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use milter_tests::skip::skip;
use tokio::time::timeout;

const CONFIGURATION: &str = r#"
[listen.mta]
socket = "<inbound>"
[milter.first]
socket = "<first>"
[milter.second]
socket = "<second>"
[[route]]
chain = ["first", "second"]
"#;

/// With everything that Postfix would make up.
const MESSAGE: &str = "From: Joe <joe@example.org>\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n\
    Message-Id: <1@example.org>\nSubject: greetings\n\nHello.\n";

/// Words of Postfix's log that say what it made of a message; with one of the last two it is done.
const WORDS: [&str; 5] = [
    "milter-reject: RCPT",
    "can't reject recipient in non-smtpd(8) submission",
    "status=sent",
    "message not accepted, try again later",
    ": removed",
];

/// What was seen of one message.
#[derive(Debug, PartialEq)]
struct Seen {
    said: Vec<&'static str>,
    /// Recipients that got it, and whether with the first filter's mark.
    delivered: Vec<(Vec<String>, bool)>,
    /// What each filter was told, without macros, negotiation, and who says good-bye how.
    told: Vec<Vec<Command>>,
}

/// The filters, in order.
struct Filters(Vec<FilterServer>);

impl Filters {
    async fn start(text: &str) -> Self {
        let any = Address::Inet {
            host: private_address().to_string(),
            port: 0,
        };
        let mut servers = Vec::new();
        for script in Scenario::parse("submitted", text).unwrap().filters {
            servers.push(FilterServer::start(&any, script).await.unwrap());
        }
        Self(servers)
    }

    fn addresses(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|server| server.address().to_string())
            .collect()
    }

    /// What they were told on the first connection with a client: Postfix tries again what it could
    /// not take.
    async fn take(&self) -> Vec<Vec<Command>> {
        let mut all = Vec::new();
        for server in &self.0 {
            assert!(
                timeout(PATIENCE, server.idle()).await.is_ok(),
                "still connected"
            );
            let told = server.take_transcript();
            let is_client = |told: &&Told| matches!(told.command, Ok(Command::Connect(_)));
            let first = told.iter().find(is_client).map(|told| told.connection);
            let told = told
                .into_iter()
                .filter(|told| Some(told.connection) == first);
            let told = told.filter_map(|told| told.command.ok());
            let between = |command: &Command| {
                matches!(
                    command,
                    Command::Negotiate(_) | Command::Macros(_) | Command::Abort | Command::Quit
                )
            };
            all.push(told.filter(|command| !between(command)).collect());
        }
        all
    }
}

/// Has Postfix ask these filters about a message for two, and sees what becomes of it.
async fn submit(milters: String, filters: &Filters, sink: &Sink) -> Seen {
    let to = sink.address();
    let talk = move || {
        let setting = format!("non_smtpd_milters = {milters}\n");
        let postfix = Postfix::configured(&[], to, &setting).unwrap();
        let recipients = ["one@example.org", "two@example.org"];
        let id = postfix.submit(&recipients, MESSAGE).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = postfix.whole_log();
            let of_message = |word: &&str| {
                let mut lines = log.lines();
                lines.any(|line| line.contains(&id) && line.contains(*word))
            };
            let said: Vec<&str> = WORDS.into_iter().filter(of_message).collect();
            if said.iter().any(|word| WORDS[3..].contains(word)) {
                return (id, said);
            }
            assert!(Instant::now() < deadline, "nothing becomes of {id}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Postfix has ended then, and asks the filters no more.
    let (id, said) = tokio::task::spawn_blocking(talk).await.unwrap();
    let told = filters.take().await;
    let taken = sink.take(&id).into_iter();
    let delivered = taken.map(|taken| {
        let text = String::from_utf8_lossy(&taken.message).into_owned();
        (taken.to, text.contains("X-Seen: yes"))
    });
    let delivered = delivered.collect();
    Seen {
        said,
        delivered,
        told,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_192_mail_from_a_program_is_as_without_us() {
    if let Some(reason) = Postfix::missing() {
        skip("case_192_mail_from_a_program", reason);
        return;
    }
    let sink = Sink::start().await.unwrap();
    let mark = "at end: add \"X-Seen\" \"yes\"; continue";
    for (second, last) in [("", WORDS[4]), ("at rcpt 2: reject", WORDS[3])] {
        let text = format!("filter first\nactions add-headers\n{mark}\nfilter second\n{second}");
        let filters = Filters::start(&text).await;
        let addresses = filters.addresses();
        let ip = private_address();
        let inbound = SocketAddr::from((ip, free_ports(ip, 1).unwrap()[0]));
        let text = CONFIGURATION.replace("<first>", &addresses[0]);
        let text = text.replace("<second>", &addresses[1]);
        let text = text.replace("<inbound>", &format!("inet:{}@{ip}", inbound.port()));
        let orchestrator = Daemon::orchestrator(&text).unwrap();
        filters.take().await;
        let at = |address: &str| {
            let (port, host) = address.split_once('@').unwrap();
            format!("inet:{host}:{}", port.trim_start_matches("inet:"))
        };
        let direct = [at(&addresses[0]), at(&addresses[1])].join(", ");
        let direct = submit(direct, &filters, &sink).await;
        let behind = format!("inet:{}:{}", inbound.ip(), inbound.port());
        let behind = submit(behind, &filters, &sink).await;
        let log = orchestrator.process.output();
        assert_eq!(direct, behind, "{second}\n{log}");
        assert_eq!(direct.said.last(), Some(&last), "{second}: {direct:?}");
        let no_port = Command::Connect(Connection {
            hostname: Bytes::from_static(b"localhost"),
            address: message::Address::Inet(([127, 0, 0, 1], 0).into()),
        });
        let path = |address| Path {
            address: Bytes::from_static(address),
            args: Vec::new(),
        };
        for command in [
            no_port,
            Command::Mail(path(b"")),
            Command::Rcpt(path(b"two@example.org")),
        ] {
            let told = behind.told.iter().filter(|told| told.contains(&command));
            assert_eq!(told.count(), 2, "{command:?}: {behind:?}");
        }
        assert_eq!(behind.delivered.len(), usize::from(second.is_empty()));
    }
}
