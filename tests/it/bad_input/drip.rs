//! From an MTA that takes its time: a command that is begun has to be completed, and what is
//! written to it taken, within `stall_timeout`, however many bytes come meanwhile; between
//! commands it may be silent for as long as it likes.

use std::time::{Duration, Instant};

use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::subject::{After, SUBJECTS, begin, frame};

/// What is configured, and as long again for a machine that has other things to do.
const STALL: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_secs(2);
/// How often a row is tried until it took no longer.
const TRIES: usize = 5;

/// Bytes that are sent one by one, each after so long.
#[derive(Debug, Clone, Copy)]
struct Drip {
    what: &'static str,
    after: After,
    bytes: &'static [u8],
    every: Duration,
}

const DRIPS: &[Drip] = &[
    Drip {
        what: "a length",
        after: After::Nothing,
        bytes: b"\0\0",
        every: Duration::from_millis(10),
    },
    Drip {
        what: "half an offer",
        after: After::Nothing,
        bytes: b"\0\0\0\x0dO\0\0",
        every: Duration::from_millis(1),
    },
    Drip {
        what: "a field",
        after: After::Header,
        bytes:
            b"\0\0\xff\xffLX\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        every: Duration::from_millis(100),
    },
    Drip {
        what: "a body",
        after: After::Header,
        bytes: &[0, 0, 0xff, 0xff, b'B', b'x', b'x'],
        every: Duration::from_millis(300),
    },
];

/// Sends the bytes until the connection is closed; how long that took, counted from the first of
/// them.
async fn drip(mut stream: UnixStream, drip: Drip) -> Duration {
    let begun = Instant::now();
    let mut bytes = drip.bytes.iter();
    loop {
        let mut read = [0; 1024];
        // Answers to what came before.
        match timeout(drip.every, stream.read(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return begun.elapsed(),
            Err(_) => {
                assert!(begun.elapsed() < PATIENCE, "{}: still open", drip.what);
                if let Some(byte) = bytes.next()
                    && stream.write_all(&[*byte]).await.is_err()
                {
                    return begun.elapsed();
                }
            }
        }
    }
}

/// Not before its time, and soon after it in one of a few tries.
async fn check(daemon: &Daemon, row: Drip) {
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took > AT_MOST) {
        assert!(took.len() < TRIES, "{}: {took:?}", row.what);
        let stream = begin(&daemon.address, row.after).await;
        let lived = drip(stream, row).await;
        assert!(lived >= STALL, "{}: {lived:?}", row.what);
        took.push(lived);
    }
}

#[tokio::test]
async fn a_command_that_drips_is_not_waited_for() {
    let envelope = Envelope::default();
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    for subject in SUBJECTS {
        let running = subject.with_stall_timeout("1s").await;
        let daemon = &running.daemon;
        let mut innocent = Mta::connect(&daemon.address).await.unwrap();
        innocent.greet(&envelope).await.unwrap();
        let [first, second, third, fourth] = DRIPS else {
            panic!("four rows");
        };
        tokio::join!(
            check(daemon, *first),
            check(daemon, *second),
            check(daemon, *third),
            check(daemon, *fourth),
        );
        // It has said nothing for longer than that, and is welcome.
        let delivery = innocent.send(&envelope, &message).await.unwrap();
        assert!(delivery.is_taken(), "{}: {delivery:?}", subject.name);
        innocent.quit().await;
        let says = [
            "a frame was not complete after 1 s",
            "did not complete a command, for 1 s",
        ];
        let told = |line: &&str| says.iter().any(|says| line.contains(says));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = daemon.process.output();
            let lines: Vec<&str> = log.lines().filter(told).collect();
            if lines.len() >= DRIPS.len() && lines.iter().all(|line| line.contains("\"peer\":")) {
                break;
            }
            assert!(Instant::now() < deadline, "{}:\n{log}", subject.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Asks and asks, and takes no answer: what is kept for it is bounded, and its time too.
#[tokio::test]
async fn an_mta_that_takes_no_answers_is_not_waited_for() {
    for subject in SUBJECTS {
        let mut running = subject.with_stall_timeout("1s").await;
        let stream = begin(&running.daemon.address, After::Header).await;
        let (_read, mut write) = stream.into_split();
        let name = frame(b'H', b"client.example.net\0");
        let mail = [
            frame(b'M', b"<a@example.net>\0"),
            frame(b'R', b"<b@example.org>\0"),
        ];
        let end = [frame(b'N', b""), frame(b'E', b"")];
        let message = [name, mail.concat(), end.concat()].concat();
        let questions = message.repeat(1000);
        let closed = timeout(PATIENCE, async {
            while write.write_all(&questions).await.is_ok() {}
        });
        assert!(closed.await.is_ok(), "{}: still open", subject.name);
        let process = &mut running.daemon.process;
        process.wait_until_said("took nothing").unwrap();
    }
}
