//! One Postfix with several ways in: the filters themselves, and the same filters behind the
//! orchestrator in each of some chains. A letter goes in by every way; what is seen of it must be
//! the same, but for queue ids, times, and what a signature makes of the time.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Command;

use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::member::Readiness;
use milter_tests::equivalence::mta::{Entry, Fate, Mta, free_ports, private_address};
use milter_tests::equivalence::postfix::Postfix;
use milter_tests::equivalence::sink::Sink;
use milter_tests::foreign::sendmail_style;
use milter_tests::mta::Message;
use milter_tests::process::Process;
use milter_tests::programs::binary;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// A message and who sends it.
#[derive(Debug, Clone)]
pub(super) struct Letter<'a> {
    /// The client's address; without one, it is a client on this machine.
    pub(super) client: Option<&'a str>,
    /// The sender.
    pub(super) from: &'a str,
    /// The only recipient.
    pub(super) to: &'a str,
    /// Header and body, with LF.
    pub(super) text: &'a str,
}

/// What came of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The server's replies, from the greeting on.
    pub(super) replies: Vec<String>,
    /// Sender, recipients and message as the next hop was given them, or as they are held; `None`
    /// when the server did not take the message.
    pub(super) delivered: Option<(String, Vec<String>, Message)>,
    /// Whether it is held in quarantine.
    pub(super) held: bool,
}

impl Outcome {
    /// The reply to the message.
    pub(super) fn verdict(&self) -> &str {
        // Behind it there is only the reply to QUIT.
        &self.replies[self.replies.len() - 2]
    }

    /// The message, which must have been delivered.
    pub(super) fn message(&self) -> &Message {
        match &self.delivered {
            Some((_, _, message)) => message,
            None => panic!("not delivered: {self:#?}"),
        }
    }
}

/// Postfix, the orchestrator, and the ways between them.
pub(super) struct Both {
    postfix: Postfix,
    sink: Sink,
    orchestrator: Process,
    ways: Vec<String>,
    _folder: TempDir,
}

impl Both {
    /// Starts everything: `filters` with their names in the order in which Postfix asks them,
    /// and `chains` as they are written in the orchestrator's configuration.
    pub(super) async fn start(filters: &[(&str, SocketAddr)], chains: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::start().await.unwrap();
        let ip = private_address();
        let ports = free_ports(ip, chains.len()).unwrap();
        let listeners: Vec<SocketAddr> = ports
            .into_iter()
            .map(|port| SocketAddr::from((ip, port)))
            .collect();
        let direct = filters.iter().map(|(_, address)| *address).collect();
        let mut entries = vec![Entry {
            name: "direct".to_owned(),
            milters: direct,
        }];
        for (number, listener) in listeners.iter().enumerate() {
            entries.push(Entry {
                name: format!("behind{number}"),
                milters: vec![*listener],
            });
        }
        let text = configuration(filters, chains, &listeners);
        let orchestrator = start_orchestrator(&folder, &text);
        let postfix = Postfix::start(&entries, sink.address()).unwrap();
        let ways = entries.into_iter().map(|entry| entry.name).collect();
        Self {
            postfix,
            sink,
            orchestrator,
            ways,
            _folder: folder,
        }
    }

    /// Sends the letter by every way, and returns what came of it when that is the same for all.
    pub(super) async fn send(&self, letter: &Letter<'_>) -> Outcome {
        let direct = self.send_by(0, letter).await;
        for (way, name) in self.ways.iter().enumerate().skip(1) {
            let behind = self.send_by(way, letter).await;
            assert_eq!(
                plain(&direct),
                plain(&behind),
                "{name}\n{}\n{}",
                self.postfix.log(),
                self.orchestrator.output()
            );
        }
        direct
    }

    /// No filter said anything that Postfix did not expect, and none was given up.
    pub(super) fn assert_nobody_complained(&self) {
        let log = self.postfix.whole_log();
        for line in log.lines() {
            let complaint = line.contains("unexpected filter response")
                || line.contains("bogus")
                || line.contains("warning:") && line.contains("milter");
            assert!(!complaint, "{line}\n{}", self.orchestrator.output());
        }
        assert!(
            log.contains("milter-reject") || log.contains("postfix/direct/smtpd"),
            "{log}"
        );
        let orchestrator = self.orchestrator.output();
        assert!(
            !orchestrator.contains("\"level\":\"ERROR\""),
            "{orchestrator}"
        );
        assert!(!orchestrator.contains("panicked"), "{orchestrator}");
    }

    async fn send_by(&self, way: usize, letter: &Letter<'_>) -> Outcome {
        let replies = converse(self.postfix.address(way), letter).await;
        let end = replies.iter().rev().nth(1);
        let id = end.and_then(|reply| self.postfix.queue_id(reply));
        let Some(id) = id else {
            return Outcome {
                replies,
                delivered: None,
                held: false,
            };
        };
        let fate = self.postfix.fate(&id).unwrap();
        let hide = |text: &str| text.replace(&id, "QUEUEID");
        let replies = replies.iter().map(|reply| hide(reply)).collect();
        let (delivered, held) = match fate {
            Fate::Gone => {
                let taken = self.sink.take(&id).pop();
                let deliver = |taken: milter_tests::equivalence::sink::Delivery| {
                    let text = hide(&String::from_utf8_lossy(&taken.message));
                    let from = taken.from.split(" SIZE=").next().unwrap_or_default();
                    (from.to_owned(), taken.to, Message::parse(text.as_bytes()))
                };
                (taken.map(deliver), false)
            }
            Fate::Held(_) => (None, true),
            Fate::Deferred(text) => panic!("{}", String::from_utf8_lossy(&text)),
        };
        Outcome {
            replies,
            delivered,
            held,
        }
    }
}

/// One listener for each chain.
fn configuration(filters: &[(&str, SocketAddr)], chains: &[&str], at: &[SocketAddr]) -> String {
    let mut text = "[control]\nsocket = \"unix:{folder}/control.sock\"\n\
         [supervisor]\ndirectory = \"{folder}/children\"\nprobe_interval = \"500ms\"\n"
        .to_owned();
    for (name, address) in filters {
        let socket = sendmail_style(*address);
        let _ = write!(text, "[milter.{name}]\nsocket = \"{socket}\"\n");
    }
    for (number, (chain, listener)) in chains.iter().zip(at).enumerate() {
        let socket = sendmail_style(*listener);
        let _ = write!(
            text,
            "[listen.in{number}]\nsocket = \"{socket}\"\n\
             [[route]]\nchain = {chain}\nmatch.listen = \"in{number}\"\n"
        );
    }
    text
}

/// Starts it and waits until it finds all filters ready.
fn start_orchestrator(folder: &TempDir, text: &str) -> Process {
    let path = folder.path().to_str().unwrap();
    let file = folder.path().join("orchestrator.toml");
    std::fs::write(&file, text.replace("{folder}", path)).unwrap();
    let mut command = Command::new(binary("milter-orchestrator").unwrap());
    command.arg("--config").arg(&file).arg("run");
    let mut process = Process::start(&mut command).unwrap();
    let control = folder.path().join("control.sock");
    let ready = || {
        UnixStream::connect(&control).is_ok()
            && match control::ask(&control, &Question::Status) {
                Ok(Answer::Status(status)) => {
                    let mut milters = status.milters.iter();
                    milters.all(|milter| milter.readiness == Readiness::Ready)
                }
                _ => false,
            }
    };
    process.wait_until("ready", ready).unwrap();
    process
}

/// Sends the letter; every reply, the one to QUIT last.
async fn converse(server: SocketAddr, letter: &Letter<'_>) -> Vec<String> {
    let mut stream = BufStream::new(TcpStream::connect(server).await.unwrap());
    let mut replies = vec![reply(&mut stream).await];
    let mut commands = vec!["EHLO client.example.net".to_owned()];
    if let Some(client) = letter.client {
        commands.push(format!("XCLIENT NAME=client.example.net ADDR={client}"));
        commands.push("EHLO client.example.net".to_owned());
    }
    commands.push(format!("MAIL FROM:<{}>", letter.from));
    commands.push(format!("RCPT TO:<{}>", letter.to));
    commands.push("DATA".to_owned());
    for command in commands {
        say(&mut stream, format!("{command}\r\n").as_bytes()).await;
        replies.push(reply(&mut stream).await);
        if replies
            .iter()
            .next_back()
            .is_some_and(|last| last > &"4".to_owned())
        {
            break;
        }
    }
    if replies
        .iter()
        .next_back()
        .is_some_and(|last| last.starts_with("354"))
    {
        let text = letter.text.replace("\n.", "\n..").replace('\n', "\r\n");
        say(&mut stream, format!("{text}.\r\n").as_bytes()).await;
        replies.push(reply(&mut stream).await);
    }
    say(&mut stream, b"QUIT\r\n").await;
    replies.push(reply(&mut stream).await);
    replies
}

async fn say(stream: &mut BufStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// All lines of a reply.
async fn reply(stream: &mut BufStream<TcpStream>) -> String {
    let mut reply = String::new();
    loop {
        let start = reply.len();
        let read = stream.read_line(&mut reply).await.unwrap();
        if read == 0 || reply.as_bytes().get(start + 3) != Some(&b'-') {
            return reply.trim_end().to_owned();
        }
    }
}

/// Without what the time makes different.
fn plain(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let Some((_, _, message)) = &mut outcome.delivered {
        for header in &mut message.headers {
            let value = String::from_utf8_lossy(&header.value).into_owned();
            if header.is("Received") {
                let timeless = value.rsplit_once(';').map_or(value.as_str(), |(by, _)| by);
                header.value = timeless.to_owned().into();
            } else if header.is("DKIM-Signature") {
                header.value = without_time(&value).into();
            }
        }
    }
    outcome
}

/// A signature without its time, and what follows from that.
fn without_time(signature: &str) -> String {
    let tags = signature.split(';').filter(|tag| {
        let tag = tag.trim_start();
        !tag.starts_with("t=") && !tag.starts_with("b=")
    });
    tags.collect::<Vec<_>>().join(";")
}
