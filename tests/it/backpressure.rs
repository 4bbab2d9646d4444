//! A large body and a filter that does not read: what the daemon keeps of it, and who has to wait.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milter_proto::message::{Address, Connection, Path};
use milter_proto::wire::{Command, Decoder, Offer, Reply, Steps};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// The body, in pieces as an MTA makes them.
const PIECE: usize = 65_535;
const PIECES: usize = 320;
/// Some 20 MB.
const BODY: usize = PIECE * PIECES;

/// 1 MB of a body is kept in memory.
const CONFIGURATION: &str = r#"
[limits]
spool_memory = "256KB"
spool_memory_shared = "768KB"
spool_directory = "{folder}"
[milter.slow]
socket = "unix:<socket>"
[[route]]
chain = ["slow"]
"#;

/// What an MTA can be ahead of a filter that reads nothing: by half a megabyte, and by what is in
/// buffers on the way. It is a fifth of the body.
const AHEAD_MAX: usize = 4 * 1024 * 1024;

/// What the daemon's memory may grow by: by the spool, and by buffers.
const GROWTH_MAX: usize = 6 * 1024 * 1024;

/// The piece of that number, unlike its neighbours.
fn piece(number: usize) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; PIECE]
}

/// One end of a conversation.
struct Peer {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    input: BytesMut,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let input = BytesMut::new();
        Self { read, write, input }
    }

    /// The next frame; `None` at the end.
    async fn frame(&mut self) -> Option<milter_proto::wire::Frame> {
        loop {
            if let Some(frame) = Decoder::default().decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.read.read_buf(&mut self.input)).await;
            if !matches!(read.expect("nothing is said"), Ok(1..)) {
                return None;
            }
        }
    }

    async fn say(&mut self, command: &Command) {
        let mut output = BytesMut::new();
        command.encode(&mut output).unwrap();
        self.write.write_all(&output).await.unwrap();
    }

    async fn ask(&mut self, command: &Command) -> Reply {
        self.say(command).await;
        loop {
            let frame = self.frame().await.expect("the daemon has hung up");
            match Reply::parse(frame).unwrap() {
                Reply::Progress => {}
                reply => return reply,
            }
        }
    }
}

/// A filter that reads nothing from the body on until it is told to; then how much there was. Of
/// what is not as it was sent it complains at once.
async fn filter(listener: UnixListener, go_on: oneshot::Receiver<()>) -> usize {
    let mut go_on = Some(go_on);
    let (mut length, mut pieces) = (0, Vec::new());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::new(stream);
        while let Some(frame) = peer.frame().await {
            let reply = match Command::parse(frame).unwrap() {
                Command::Negotiate(offer) => Reply::Negotiate(Offer {
                    steps: offer.steps & (Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY),
                    ..Offer::full()
                }),
                Command::EndOfHeaders => {
                    if let Some(go_on) = go_on.take() {
                        go_on.await.unwrap();
                    }
                    continue;
                }
                Command::Body(piece) => {
                    length += piece.len();
                    pieces.extend_from_slice(&piece);
                    continue;
                }
                Command::Header(_) | Command::Macros(_) | Command::Abort => continue,
                Command::Quit => break,
                Command::EndOfMessage(_) => {
                    let whole = pieces.chunks(PIECE).eq((0..PIECES).map(piece));
                    assert!(whole, "{length} bytes that differ from what was sent");
                    Reply::Continue
                }
                _ => Reply::Continue,
            };
            let mut output = BytesMut::new();
            reply.encode(&mut output).unwrap();
            peer.write.write_all(&output).await.unwrap();
        }
        if length > 0 {
            return length;
        }
    }
}

/// A line of the daemon's `/proc/PID/status`, in bytes.
fn memory(daemon: &Daemon, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.unwrap().split_whitespace();
    words.next().unwrap().parse::<usize>().unwrap() * 1024
}

/// A session up to the body.
async fn begin(address: &std::path::Path) -> Peer {
    let mut mta = Peer::new(UnixStream::connect(address).await.unwrap());
    let agreed = mta.ask(&Command::Negotiate(Offer::full())).await;
    let Reply::Negotiate(agreed) = agreed else {
        panic!("{agreed:?}");
    };
    assert!(agreed.steps.contains(Steps::NR_BODY), "{agreed:?}");
    let path = |address| Path {
        address: Bytes::from_static(address),
        args: Vec::new(),
    };
    for command in [
        Command::Connect(Connection {
            hostname: Bytes::from_static(b"client.test"),
            address: Address::Unknown,
        }),
        Command::Helo(Bytes::from_static(b"client.test")),
        Command::Mail(path(b"<s@x>")),
        Command::Rcpt(path(b"<r@x>")),
        Command::Data,
    ] {
        assert_eq!(mta.ask(&command).await, Reply::Continue, "{command:?}");
    }
    mta.say(&Command::EndOfHeaders).await;
    mta
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_189_a_filter_that_does_not_read_makes_the_mta_wait() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("slow.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (go_on, wait) = oneshot::channel();
    let filter = tokio::spawn(filter(listener, wait));
    let text = CONFIGURATION.replace("<socket>", socket.to_str().unwrap());
    let daemon = Daemon::orchestrator(&text).unwrap();
    let mut mta = begin(&daemon.directory().join("milter.sock")).await;
    let before = memory(&daemon, "VmHWM:");

    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        for number in 0..PIECES {
            let mut frame = BytesMut::new();
            let piece = Command::Body(Bytes::from(piece(number)));
            piece.encode(&mut frame).unwrap();
            mta.write.write_all(&frame).await.unwrap();
            counted.fetch_add(PIECE, Ordering::SeqCst);
        }
        let answer = mta.ask(&Command::EndOfMessage(Bytes::new())).await;
        (answer, mta)
    });
    // Until nothing moves any more. However long that takes, it is the daemon that does not read.
    let mut seen = usize::MAX;
    while seen != sent.load(Ordering::SeqCst) {
        seen = sent.load(Ordering::SeqCst);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(seen < AHEAD_MAX, "{seen} of {BODY} bytes were taken");
    let grown = memory(&daemon, "VmHWM:") - before;
    assert!(grown < GROWTH_MAX, "{grown} bytes with {seen} of the body");

    go_on.send(()).unwrap();
    let (answer, mut mta) = writer.await.unwrap();
    assert_eq!(answer, Reply::Continue, "{}", daemon.process.output());
    mta.say(&Command::Quit).await;
    let length = timeout(PATIENCE, filter).await.unwrap().unwrap();
    assert_eq!(length, BODY);
    let grown = memory(&daemon, "VmHWM:") - before;
    assert!(grown < GROWTH_MAX, "{grown} bytes after the whole body");
}
