//! From an MTA, in great numbers: what is only announced costs nothing, what is sent costs no more
//! than a limit, and either is answered or ended while somebody else's mail goes through.

use std::fs;

use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::subject::{After, CLAMAV, DKIM, ORCHESTRATOR, SPAM, Subject, begin, envelope, frame};

const MB: u64 = 1 << 20;
/// Connections at a time: fewer than a daemon takes, and than a process may have open.
const CONNECTIONS: usize = 400;
/// How often they come anew.
const WAVES: usize = 5;
/// Resident memory may grow by so much, and stay so, whatever is sent.
const RESIDENT: u64 = 64 * MB;
/// What is reserved may grow by so much: far less than is announced at a time.
const RESERVED: u64 = 200 * MB;

/// Bytes of a process's memory: resident now, resident at most so far, and reserved.
#[derive(Debug, Clone, Copy)]
struct Memory {
    resident: u64,
    peak: u64,
    reserved: u64,
}

impl Memory {
    fn of(daemon: &Daemon) -> Self {
        let path = format!("/proc/{}/status", daemon.process.id());
        let status = fs::read_to_string(path).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap()
                * 1024
        };
        Self {
            resident: field("VmRSS:"),
            peak: field("VmHWM:"),
            reserved: field("VmData:"),
        }
    }

    /// Asserts that no more has been taken than may be.
    fn check_against(self, before: Self, what: &str) {
        let grown = self.peak.saturating_sub(before.resident);
        assert!(grown < RESIDENT, "{what}: {before:?}, then {self:?}");
    }
}

/// Somebody else, who was there before.
struct Innocent {
    mta: Mta,
    envelope: Envelope,
    message: Message,
}

impl Innocent {
    async fn arrive(daemon: &Daemon) -> Self {
        let mut mta = Mta::connect(&daemon.address).await.unwrap();
        let envelope = Envelope::default();
        mta.greet(&envelope).await.unwrap();
        let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
        Self {
            mta,
            envelope,
            message,
        }
    }

    /// Has a message taken.
    async fn check(&mut self, what: &str) {
        let sent = timeout(PATIENCE, self.mta.send(&self.envelope, &self.message)).await;
        let delivery = sent.expect(what).expect(what);
        assert!(delivery.is_taken(), "{what}: {delivery:?}");
    }
}

/// Hundreds of connections that each announce the largest frame there is, and send hardly any of
/// it, again and again.
async fn announce(subject: &Subject) {
    let running = subject.start().await;
    let daemon = &running.daemon;
    let mut innocent = Innocent::arrive(daemon).await;
    innocent.check("before").await;
    let before = Memory::of(daemon);
    for wave in 0..WAVES {
        let what = format!("{}, wave {wave}", subject.name);
        let mut streams = Vec::new();
        for number in 0..CONNECTIONS {
            let after = if number % 2 == 0 {
                After::Negotiation
            } else {
                After::Header
            };
            let mut stream = begin(&daemon.address, after).await;
            stream.write_all(b"\0\x10\0\x01Lx").await.unwrap();
            streams.push(stream);
        }
        innocent.check(&what).await;
        let now = Memory::of(daemon);
        now.check_against(before, &what);
        let reserved = now.reserved.saturating_sub(before.reserved);
        assert!(reserved < RESERVED, "{what}: {before:?}, then {now:?}");
    }
    innocent.check("after").await;
    innocent.mta.quit().await;
}

/// Writes `frames` and a good-bye without waiting for anything; the codes of what comes back.
async fn pour(stream: UnixStream, frames: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move {
        // The other side may have closed: what it said before counts.
        let _ = write.write_all(&frames).await;
        let _ = write.write_all(&frame(b'Q', b"")).await;
        write
    });
    let mut codes = Vec::new();
    while let Ok(length) = read.read_u32().await {
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        if read.read_exact(&mut answer).await.is_err() {
            break;
        }
        codes.extend(answer.first());
    }
    drop(writer.await);
    codes
}

/// What becomes of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It gets a verdict, however much of it was looked at.
    Verdict,
    /// It is refused for now.
    Tempfail,
}

/// A flood: the frames of a message, and what comes of it.
struct Flood {
    what: &'static str,
    frames: Vec<u8>,
    then: Then,
}

/// A message with many of everything; `limited` is what comes of the ones that have a limit in the
/// daemon.
fn floods(limited: Then) -> Vec<Flood> {
    let flood = |what, frames: &[&[u8]], then| Flood {
        what,
        frames: frames.concat(),
        then,
    };
    let client = frame(b'C', b"client.example.net\x004\x61\xc1192.0.2.1\0");
    let mail = frame(b'M', b"<a@example.net>\0");
    let end = [
        frame(b'L', b"From\0 <a@example.net>\0"),
        frame(b'L', b"Subject\0 x\0"),
        frame(b'N', b""),
        frame(b'B', b"Hello.\r\n"),
        frame(b'E', b""),
    ];
    let end = end.concat();
    let data = frame(b'T', b"");
    let recipients = frame(b'R', b"<b@example.org>\0").repeat(100_000);
    let padding = [b"<b@example.org>\0".to_vec(), vec![b'x'; 65_000], vec![0]].concat();
    let heavy = frame(b'R', &padding).repeat(1_500);
    let fields = frame(b'L', b"X-Field\0 value\0").repeat(100_000);
    let value = [b"X-Field\0 ".to_vec(), vec![b'x'; 100_000], vec![0]].concat();
    let large = frame(b'L', &value).repeat(1_000);
    let word = b"=?utf-8?q?=41=42=43=44=45=46=47=48?= ".repeat(1_900);
    let words = frame(b'L', &[&b"Subject\0 "[..], &word, b"\0"].concat());
    let pairs: Vec<u8> = (0..1000)
        .flat_map(|at| format!("{{m{at}}}\0v\0").into_bytes())
        .collect();
    let macros = frame(b'D', &[b"M".to_vec(), pairs].concat()).repeat(500);
    let before = envelope();
    vec![
        flood(
            "recipients",
            &[&client, &mail, &recipients, &data, &end],
            limited,
        ),
        flood(
            "100 MB of recipients",
            &[&client, &mail, &heavy, &data, &end],
            limited,
        ),
        flood("fields", &[&before, &fields, &end], limited),
        flood("100 MB of fields", &[&before, &large, &end], limited),
        flood("encoded words", &[&before, &words, &end], Then::Verdict),
        flood("macros", &[&macros, &before, &end], Then::Verdict),
    ]
}

/// Each flood, with somebody's mail beside it and after it.
async fn overflow(subject: &Subject, limited: Then) {
    let running = subject.start().await;
    let daemon = &running.daemon;
    let mut innocent = Innocent::arrive(daemon).await;
    innocent.check("before").await;
    let before = Memory::of(daemon);
    for flood in floods(limited) {
        let what = format!("{}: {}", subject.name, flood.what);
        let stream = begin(&daemon.address, After::Negotiation).await;
        let poured = timeout(PATIENCE * 4, pour(stream, flood.frames));
        let (codes, ()) = tokio::join!(poured, innocent.check(&what));
        let codes = codes.unwrap_or_else(|_| panic!("{what}: no end"));
        let log = daemon.process.output();
        assert_eq!(
            codes.contains(&b't'),
            flood.then == Then::Tempfail,
            "{what}:\n{log}"
        );
        assert!(!log.contains("panicked"), "{what}:\n{log}");
        // The word on the message, whatever was said before.
        let word = codes.last().map(|code| char::from(*code));
        let expected = if flood.then == Then::Tempfail {
            "t"
        } else {
            "cary"
        };
        let fits = word.is_some_and(|word| expected.contains(word));
        assert!(fits, "{what}: {word:?}\n{log}");
        innocent.check(&what).await;
        Memory::of(daemon).check_against(before, &what);
    }
    innocent.mta.quit().await;
}

#[tokio::test]
async fn what_is_announced_to_clamav_costs_nothing() {
    announce(&CLAMAV).await;
}

#[tokio::test]
async fn what_is_announced_to_dkim_costs_nothing() {
    announce(&DKIM).await;
}

#[tokio::test]
async fn what_is_announced_to_the_orchestrator_costs_nothing() {
    announce(&ORCHESTRATOR).await;
}

#[tokio::test]
async fn what_is_announced_to_spam_costs_nothing() {
    announce(&SPAM).await;
}

#[tokio::test]
async fn clamav_is_not_filled() {
    overflow(&CLAMAV, Then::Verdict).await;
}

#[tokio::test]
async fn dkim_is_not_filled() {
    overflow(&DKIM, Then::Verdict).await;
}

#[tokio::test]
async fn the_orchestrator_is_not_filled() {
    overflow(&ORCHESTRATOR, Then::Tempfail).await;
}

#[tokio::test]
async fn spam_is_not_filled() {
    overflow(&SPAM, Then::Verdict).await;
}
