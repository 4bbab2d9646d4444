//! Cases of the proxy that a script cannot tell: how often something is written, what a reload
//! leaves alone, and many messages.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use milter_orchestrator::proxy::Proxy;
use milter_proto::edit::Edit;
use milter_proto::message::{Address, Connection, Header, Path};
use milter_proto::net::{Peer, Stop, Stream};
use milter_proto::testkit::{
    Act, At, Chain, Cue, Exchange, Expect, FilterScript, Mismatch, MtaScript, Scenario, Turn,
    converse,
};
use milter_proto::verdict::SmtpReply;
use milter_proto::wire::{Actions, Command, Offer, Reply};
use milter_tests::scripts::{self, Stage};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PATIENCE: Duration = Duration::from_secs(20);

/// A stream that counts how often it is written to.
struct Counting<S> {
    stream: S,
    writes: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Plays an MTA against a proxy; how often the proxy wrote to it.
async fn play(proxy: &Proxy, mta: &MtaScript) -> Result<(Vec<Exchange>, usize), Mismatch> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counting {
        stream: theirs,
        writes: Arc::clone(&writes),
    };
    let proxy = proxy.clone();
    let server = tokio::spawn(async move {
        proxy
            .serve(stream, &Peer::from("test"), Stop::never())
            .await
    });
    let record = converse(mta, ours, PATIENCE).await?;
    let ended = tokio::time::timeout(PATIENCE, server).await;
    assert!(ended.is_ok(), "the proxy does not end with the connection");
    Ok((record, writes.load(Ordering::SeqCst)))
}

fn path(address: &'static str) -> Path {
    Path {
        address: Bytes::from_static(address.as_bytes()),
        args: Vec::new(),
    }
}

fn expect(reply: Reply) -> Turn {
    Turn::Expect(vec![Expect::Reply(reply)])
}

/// A command that is let pass.
fn passes(command: Command) -> [Turn; 2] {
    [Turn::Send(command), expect(Reply::Continue)]
}

/// Negotiation, and the client.
fn opening() -> Vec<Turn> {
    let mut turns = vec![
        Turn::Send(Command::Negotiate(Offer::full())),
        Turn::Expect(vec![Expect::Kind(b'O')]),
    ];
    turns.extend(passes(Command::Connect(Connection {
        hostname: Bytes::from_static(b"client.test"),
        address: Address::Unknown,
    })));
    turns.extend(passes(Command::Helo(Bytes::from_static(b"client.test"))));
    turns
}

fn end() -> Command {
    Command::EndOfMessage(Bytes::new())
}

#[tokio::test]
async fn case_188_header_fields_without_replies_cost_no_writes() {
    let text = "filter a\nsteps nr-header\nfilter b\nsteps nr-header";
    let scenario = Scenario::parse("case_188", text).unwrap();
    let stage = Stage::new(scenario).await.unwrap();
    let proxy = stage.proxy().unwrap();
    let count = async |fields: usize| {
        let mut turns = opening();
        turns.extend(passes(Command::Mail(path("<s@x>"))));
        turns.extend(passes(Command::Rcpt(path("<r@x>"))));
        turns.extend(passes(Command::Data));
        turns.extend(
            (0..fields)
                .map(|number| Turn::Send(Command::Header(Header::new("X", format!(" {number}"))))),
        );
        turns.extend(passes(Command::EndOfHeaders));
        turns.extend(passes(end()));
        turns.push(Turn::Send(Command::Quit));
        play(&proxy, &MtaScript { turns }).await.unwrap().1
    };
    let without = count(0).await;
    assert_eq!(count(30).await, without);
    // One for each of O, C, H, M, R, T, N and E.
    assert!(without <= 8, "{without}");
}

/// A filter that adds a field with the number of each message, and has a word of its own on some.
fn marker(name: &str, own: impl Fn(u32) -> Option<Cue>) -> FilterScript {
    (1..=200).fold(
        FilterScript::new(name).actions(Actions::ADD_HEADERS),
        |script, number| {
            let mark = Edit::add(format!("X-{name}"), number.to_string());
            let marks = Act::edits([mark], Reply::Continue);
            let script = script.cue(Cue::new(At::EndOfMessage, marks).message(number));
            match own(number) {
                Some(cue) => script.cue(cue.message(number)),
                None => script,
            }
        },
    )
}

fn mark(name: &str, number: u32) -> Expect {
    let edit = Edit::add(format!("X-{name}"), format!(" {number}"));
    Expect::Reply(Reply::Edit(edit))
}

/// The message of that number: its turns, as the three filters treat it.
fn message(number: u32, refused: &Reply) -> Vec<Turn> {
    let mut turns = Vec::new();
    turns.extend(passes(Command::Mail(path("<s@x>"))));
    turns.push(Turn::Send(Command::Rcpt(path("<r@x>"))));
    if number % 5 == 3 {
        turns.push(expect(refused.clone()));
        turns.push(Turn::Send(Command::Abort));
        return turns;
    }
    turns.push(expect(Reply::Continue));
    turns.extend(passes(Command::Data));
    turns.extend(passes(Command::Header(Header::new("Subject", " s"))));
    turns.extend(passes(Command::EndOfHeaders));
    turns.push(Turn::Send(end()));
    let mut expected = match number % 5 {
        1 => vec![Expect::Reply(Reply::Reject)],
        2 => vec![Expect::Reply(Reply::TempFail)],
        // The second has accepted it before it could add anything.
        4 => vec![mark("a", number), mark("c", number)],
        _ => vec![mark("a", number), mark("b", number), mark("c", number)],
    };
    if matches!(number % 5, 0 | 4) {
        expected.push(Expect::Reply(Reply::Continue));
    }
    turns.push(Turn::Expect(expected));
    turns.push(Turn::Send(Command::Abort));
    turns
}

#[tokio::test]
async fn case_194_many_messages_with_verdicts_of_their_own() {
    let refused = Reply::SmtpReply(SmtpReply::new(550, "5.1.1", "who").unwrap());
    let says = |at, reply: &Reply| Some(Cue::new(at, [Act::Say(reply.clone())]));
    let filters = vec![
        marker("a", |number| match number % 5 {
            1 => says(At::EndOfMessage, &Reply::Reject),
            _ => None,
        }),
        marker("b", |number| match number % 5 {
            2 => says(At::EndOfMessage, &Reply::TempFail),
            4 => says(At::Rcpt, &Reply::Accept),
            _ => None,
        }),
        marker("c", |number| match number % 5 {
            3 => says(At::Rcpt, &refused),
            _ => None,
        }),
    ];
    for segments in [
        Chain::of(["a", "b", "c"]),
        Scenario::parse("", "filter a\nfilter b\nfilter c\nchain [a b c]")
            .unwrap()
            .chain,
    ] {
        let stage = Stage::new(Scenario {
            filters: filters.clone(),
            chain: segments,
            ..Scenario::default()
        });
        let stage = stage.await.unwrap();
        let mut turns = opening();
        turns.extend((1..=200).flat_map(|number| message(number, &refused)));
        turns.push(Turn::Send(Command::Quit));
        let outcome = play(&stage.proxy().unwrap(), &MtaScript { turns }).await;
        if let Err(mismatch) = outcome {
            panic!("{mismatch}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_191_a_connection_keeps_its_filters_over_a_reload() {
    let text = "filter first\nfilter second\nchain first second";
    let stage = Stage::new(Scenario::parse("case_191", text).unwrap())
        .await
        .unwrap();
    let mut daemon = stage.start_daemon().unwrap();
    let opened = MtaScript { turns: opening() };
    let mut turns = opening();
    turns.extend(passes(Command::Mail(path("<old@x>"))));
    turns.push(Turn::Wait(Duration::from_secs(1)));
    turns.extend(passes(Command::Rcpt(path("<r@x>"))));
    turns.push(Turn::Send(Command::Abort));
    turns.extend(passes(Command::Mail(path("<older@x>"))));
    turns.push(Turn::Send(Command::Quit));
    let old = Stream::connect(&stage.address()).await.unwrap();
    let old = tokio::spawn(async move { converse(&MtaScript { turns }, old, PATIENCE).await });
    let told = |filter: usize, address: &'static str| {
        let wanted = Ok(Command::Mail(path(address)));
        let transcript = stage.servers[filter].transcript();
        transcript.iter().any(|told| told.command == wanted)
    };
    daemon
        .wait_until("told of the sender", || told(1, "<old@x>"))
        .unwrap();
    stage.configure(&Chain::of(["second"])).unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    daemon
        .wait_until_said("the new configuration counts")
        .unwrap();

    let mut turns = opened.turns.clone();
    turns.extend(passes(Command::Mail(path("<new@x>"))));
    turns.push(Turn::Send(Command::Quit));
    let new = Stream::connect(&stage.address()).await.unwrap();
    converse(&MtaScript { turns }, new, PATIENCE).await.unwrap();
    old.await.unwrap().unwrap();
    for server in &stage.servers {
        tokio::time::timeout(PATIENCE, server.idle()).await.unwrap();
    }
    assert!(told(0, "<older@x>") && told(1, "<older@x>"));
    assert!(!told(0, "<new@x>") && told(1, "<new@x>"));
}

/// What a filter that asked for no leading space must be told of what an MTA says: everything but
/// the negotiation and the goodbye, which are between neighbours, macros of commands that have none
/// of their own (Postfix repeats the queue id there), and an abort of a message that is over.
fn to_be_told(commands: impl Iterator<Item = Command>) -> Vec<Command> {
    let mut kept = Vec::new();
    for command in commands {
        match (command, kept.last()) {
            (Command::Negotiate(_) | Command::Quit, _)
            | (Command::Abort, Some(Command::EndOfMessage(_))) => {}
            (Command::Macros(macros), _) if b"LBU".contains(&macros.stage) => {}
            (Command::Header(mut field), _) => {
                if field.value.starts_with(b" ") {
                    field.value = field.value.slice(1..);
                }
                kept.push(Command::Header(field));
            }
            (command, _) => kept.push(command),
        }
    }
    kept
}

#[tokio::test]
async fn case_195_recorded_sessions_arrive_as_they_were_sent() {
    for name in [
        "case_195_postfix_as_recorded",
        "case_195_sendmail_as_recorded",
    ] {
        let file = scripts::directory().join(format!("{name}.milter"));
        let text = std::fs::read_to_string(file).unwrap();
        let stage = Stage::new(Scenario::parse(name, &text).unwrap())
            .await
            .unwrap();
        let script = stage.scenario.mtas[0].clone();
        let outcome = play(&stage.proxy().unwrap(), &script).await;
        if let Err(mismatch) = outcome {
            panic!("{name}: {mismatch}");
        }
        stage.servers[0].idle().await;
        let sent = script.turns.into_iter().filter_map(|turn| match turn {
            Turn::Send(command) => Some(command),
            Turn::Raw(_) | Turn::Wait(_) | Turn::Close | Turn::Expect(_) => None,
        });
        let told = stage.servers[0].transcript().into_iter();
        let told: Vec<Command> = told
            .filter_map(|told| told.command.ok())
            .filter(|command| !matches!(command, Command::Negotiate(_) | Command::Quit))
            .collect();
        assert_eq!(told, to_be_told(sent), "{name}");
    }
}
