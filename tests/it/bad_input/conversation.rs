//! From an MTA: what is no milter conversation ends the connection that it came on, with a line in
//! the log that says what was wrong, and costs nobody else anything: a second connection, opened
//! before, goes on taking mail.

use std::time::{Duration, Instant};

use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tokio::io::AsyncWriteExt;

use super::subject::{After, SUBJECTS, begin, frame, offer, read_frame};

/// Within so long the connection must be closed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How often that is tried: on a machine with other things to do, a second may pass once.
const TRIES: usize = 5;

/// What must come of it.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The daemon closes the connection.
    Closed,
    /// The daemon answers with a temporary failure; the conversation goes on.
    Tempfail,
    /// The conversation goes on up to our good-bye, and nothing is refused.
    Taken,
    /// Whatever is answered up to our good-bye, where an answer was agreed at all, is a temporary
    /// failure.
    Refused,
    /// We close the connection.
    Gone,
}

#[derive(Debug, Clone)]
struct Case {
    what: &'static str,
    after: After,
    bytes: Vec<u8>,
    then: Then,
    /// In the log; empty where there is nothing to complain about.
    log: &'static str,
}

fn case(what: &'static str, after: After, bytes: &[u8], then: Then, log: &'static str) -> Case {
    Case {
        what,
        after,
        bytes: bytes.to_vec(),
        then,
        log,
    }
}

/// What is no frame, or no frame of the protocol.
fn broken_frames() -> Vec<Case> {
    use After::{Header, Nothing};
    use Then::{Closed, Gone};
    let over = [0x80, 0, 0, 0, b'O'];
    vec![
        case("length 0", Nothing, &[0; 4], Closed, "frame of length 0"),
        case(
            "length 0 later",
            Header,
            &[0; 4],
            Closed,
            "frame of length 0",
        ),
        case("over the cap", Nothing, &over, Closed, "over the limit"),
        case(
            "over the cap later",
            Header,
            &over,
            Closed,
            "over the limit",
        ),
        case(
            "cut off",
            Nothing,
            &[0, 0, 0, 13, b'O'],
            Gone,
            "closed inside a frame",
        ),
        case("cut off later", Header, &[0, 0, 0, 9, b'L'], Gone, "closed"),
        case(
            "SMTP",
            Nothing,
            b"EHLO client.example.net\r\n",
            Closed,
            "sends text",
        ),
        case(
            "HTTP",
            Nothing,
            b"GET / HTTP/1.1\r\n\r\n",
            Closed,
            "sends text",
        ),
        case(
            "unknown",
            Nothing,
            &frame(b'?', b""),
            Closed,
            "unknown frame type",
        ),
        case(
            "unknown later",
            Header,
            &frame(b'z', b""),
            Closed,
            "unknown frame type",
        ),
    ]
}

/// Frames of the protocol with payloads that are none.
fn broken_payloads() -> Vec<Case> {
    use After::{Header, Negotiation, Nothing};
    use Then::Closed;
    let no_end = frame(b'L', b"A\0b");
    let family = frame(b'C', b"x\0Z\0\0");
    vec![
        case(
            "short offer",
            Nothing,
            &frame(b'O', &[0; 5]),
            Closed,
            "too short",
        ),
        case(
            "no NUL",
            Negotiation,
            &frame(b'H', b"x"),
            Closed,
            "does not end in NUL",
        ),
        case(
            "NUL in HELO",
            Negotiation,
            &frame(b'H', b"x\0y\0"),
            Closed,
            "holds a NUL",
        ),
        case(
            "field without end",
            Header,
            &no_end,
            Closed,
            "does not end in NUL",
        ),
        case(
            "field without name",
            Header,
            &frame(b'L', b"\0b\0"),
            Closed,
            "no name",
        ),
        case(
            "unknown family",
            Negotiation,
            &family,
            Closed,
            "unknown address family",
        ),
    ]
}

/// Good frames where they do not belong, and lines where there are none in SMTP.
fn broken_order() -> Vec<Case> {
    use After::{Header, Negotiation, Nothing};
    use Then::{Closed, Gone, Taken, Tempfail};
    let version_1 = frame(b'O', &[0, 0, 0, 1, 0, 0, 1, 0xff, 0, 0, 0, 0]);
    let lines = [
        frame(b'C', b"x\r\ny\x004\0\x19192.0.2.1\r\n\0"),
        frame(b'H', b"x\r\nEvil: y\0"),
        frame(b'M', b"<a@example.net>\r\nDATA\0A=1\r\n\0"),
        frame(b'R', b"<b@example.org>\n\0"),
        frame(b'T', b""),
        frame(b'L', b"Subject\r\nEvil\0 x\r\n.\r\nQUIT\0"),
        frame(b'L', b"X\0 \n\n\r\r\0"),
        frame(b'N', b""),
        frame(b'B', b"a\0b\r.\n.\n"),
        frame(b'E', b""),
    ];
    let strings = frame(b'L', b"A\0b\0c\0");
    vec![
        case("version 1", Nothing, &version_1, Closed, "version 1"),
        case(
            "no offer",
            Nothing,
            &frame(b'H', b"x\0"),
            Closed,
            "'H' is out of order",
        ),
        case(
            "two offers",
            Negotiation,
            &offer(),
            Closed,
            "'O' is out of order",
        ),
        case(
            "end at once",
            Negotiation,
            &frame(b'E', b""),
            Tempfail,
            "'E' is out of order",
        ),
        case("more strings than two", Header, &strings, Taken, ""),
        case(
            "lines in everything",
            Negotiation,
            &lines.concat(),
            Taken,
            "",
        ),
        case("close", Nothing, b"", Gone, ""),
        case("close later", Negotiation, b"", Gone, ""),
        case("close in a message", Header, b"", Gone, ""),
    ]
}

/// Does a case, and looks at what comes back; how long after the bytes the end came.
async fn play(daemon: &Daemon, case: &Case) -> Duration {
    let mut stream = begin(&daemon.address, case.after).await;
    let written = Instant::now();
    // Where the daemon has closed already, the write may fail.
    let _ = stream.write_all(&case.bytes).await;
    match case.then {
        Then::Gone => drop(stream),
        Then::Taken => {
            stream.write_all(&frame(b'Q', b"")).await.unwrap();
            while let Some(answer) = read_frame(&mut stream, case.what).await {
                assert_ne!(answer, b"t", "{}", case.what);
            }
        }
        Then::Refused => {
            stream.write_all(&frame(b'Q', b"")).await.unwrap();
            while let Some(answer) = read_frame(&mut stream, case.what).await {
                assert_eq!(answer, b"t", "{}", case.what);
            }
        }
        Then::Closed => while read_frame(&mut stream, case.what).await.is_some() {},
        Then::Tempfail => loop {
            match read_frame(&mut stream, case.what).await.as_deref() {
                Some(b"t") => break,
                Some(b"c") => {}
                other => panic!("{}: {other:?}", case.what),
            }
        },
    }
    written.elapsed()
}

/// Does a case, and again when it took long; one line of the log says each time who and what.
async fn check(daemon: &Daemon, case: &Case) {
    let before = daemon.process.output().len();
    let mut took = Vec::new();
    while took.is_empty() || took.last().is_some_and(|took| *took > AT_ONCE) {
        assert!(took.len() < TRIES, "{}: {took:?}", case.what);
        took.push(play(daemon, case).await);
        wait_for_log(daemon, before, case, took.len()).await;
    }
}

/// Waits for as many lines with what the case says, each with who it was.
async fn wait_for_log(daemon: &Daemon, before: usize, case: &Case, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while !case.log.is_empty() {
        let log = daemon.process.output();
        let new = log.get(before..).unwrap_or_default();
        let lines: Vec<&str> = new.lines().filter(|line| line.contains(case.log)).collect();
        let named = lines.iter().all(|line| line.contains("\"peer\":"));
        if lines.len() == count && named {
            return;
        }
        let what = format!("{}: {:?}, {count} times in\n{new}", case.what, case.log);
        assert!(lines.len() <= count && Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the daemon is told before it has said what it can do.
fn early() -> Vec<Case> {
    use After::Nothing;
    use Then::{Closed, Taken};
    let version = |version: u8| frame(b'O', &[0, 0, 0, version, 0, 0, 1, 0xff, 0, 0, 0, 0]);
    vec![
        case("version 0", Nothing, &version(0), Closed, "version 0"),
        case("version 2", Nothing, &version(2), Taken, ""),
        // Ours is the newest that there is.
        case("version 99", Nothing, &version(99), Taken, ""),
        case(
            "body first",
            Nothing,
            &frame(b'B', b"x"),
            Closed,
            "'B' is out of order",
        ),
        case(
            "RCPT first",
            Nothing,
            &frame(b'R', b"<a@x>\0"),
            Closed,
            "'R' is out of order",
        ),
        case(
            "end first",
            Nothing,
            &frame(b'E', b""),
            Closed,
            "'E' is out of order",
        ),
        case("quit first", Nothing, &frame(b'Q', b""), Closed, ""),
        case(
            "macros first",
            Nothing,
            &frame(b'D', b"Cj\0x\0"),
            Closed,
            "out of order",
        ),
    ]
}

/// What belongs to a message, before there is one.
fn without_mail() -> Vec<Case> {
    use After::Negotiation;
    use Then::{Closed, Refused, Taken};
    vec![
        case(
            "RCPT before MAIL",
            Negotiation,
            &frame(b'R', b"<a@x>\0"),
            Refused,
            "'R' is out of",
        ),
        case(
            "body before MAIL",
            Negotiation,
            &frame(b'B', b"x"),
            Refused,
            "'B' is out of order",
        ),
        case(
            "DATA before MAIL",
            Negotiation,
            &frame(b'T', b""),
            Refused,
            "'T' is out of order",
        ),
        case(
            "field before MAIL",
            Negotiation,
            &frame(b'L', b"A\0b\0"),
            Refused,
            "'L' is out of",
        ),
        case(
            "ends without end",
            Negotiation,
            &frame(b'E', b"").repeat(500),
            Closed,
            "more than 100",
        ),
        case(
            "abort, abort, abort",
            Negotiation,
            &frame(b'A', b"").repeat(3),
            Taken,
            "",
        ),
    ]
}

/// What is announced far too large, or is nothing like a frame.
fn large_frames() -> Vec<Case> {
    use After::{Header, Nothing};
    use Then::Closed;
    let ascending: Vec<u8> = (0..=255u8).rev().cycle().take(64 << 10).collect();
    vec![
        case("4 GB", Nothing, &[0xff; 5], Closed, "over the limit"),
        case("4 GB later", Header, &[0xff; 5], Closed, "over the limit"),
        case(
            "16 MB",
            Nothing,
            &[1, 0, 0, 0, b'O'],
            Closed,
            "over the limit",
        ),
        case(
            "16 MB later",
            Header,
            &[1, 0, 0, 0, b'B'],
            Closed,
            "over the limit",
        ),
        case(
            "64 KB of garbage",
            Nothing,
            &ascending,
            Closed,
            "over the limit",
        ),
        case(
            "64 KB of zeroes",
            Nothing,
            &[0; 64 << 10],
            Closed,
            "length 0",
        ),
        case(
            "a hello of TLS",
            Nothing,
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
            Closed,
            "over the",
        ),
    ]
}

/// What is far too much of something.
fn large_payloads() -> Vec<Case> {
    use After::{Header, Negotiation};
    use Then::{Closed, Taken};
    let pairs = [b"C".to_vec(), b"\0\0".repeat(2000)].concat();
    let value = [b"Cj\0".to_vec(), vec![b'x'; 100_000], vec![0]].concat();
    let arguments = [b"<a@x>\0".to_vec(), b"\0".repeat(2000)].concat();
    let address = [vec![b'x'; 100_000], vec![0]].concat();
    let field = [b"X\0".to_vec(), vec![b'x'; (1 << 20) - 4], vec![0]].concat();
    vec![
        case(
            "macros beyond number",
            Negotiation,
            &frame(b'D', &pairs),
            Closed,
            "more than 1024",
        ),
        case(
            "a large macro",
            Negotiation,
            &frame(b'D', &value),
            Closed,
            "longer than 65535",
        ),
        case(
            "arguments",
            Negotiation,
            &frame(b'M', &arguments),
            Closed,
            "more than 1024",
        ),
        case(
            "a large address",
            Header,
            &frame(b'R', &address),
            Closed,
            "longer than 65535",
        ),
        case("a field of 1 MB", Header, &frame(b'L', &field), Taken, ""),
        case(
            "macros again and again",
            Negotiation,
            &frame(b'D', b"Cj\0mx.example.org\0{x}\0y\0").repeat(20_000),
            Taken,
            "",
        ),
    ]
}

/// Strings without their end, and letters that no command has.
fn unfinished() -> Vec<Case> {
    let no_end = |what, code, payload: &[u8]| {
        let bytes = frame(code, payload);
        let log = "does not end in NUL";
        case(what, After::Negotiation, &bytes, Then::Closed, log)
    };
    let letter = |code: &u8| {
        let bytes = frame(*code, b"x\0");
        let (what, log) = ("a letter of no command", "unknown frame type");
        case(what, After::Negotiation, &bytes, Then::Closed, log)
    };
    let mut cases = vec![
        no_end("C without NUL", b'C', b"x"),
        no_end("M without NUL", b'M', b"<a@x>"),
        no_end("an argument without NUL", b'M', b"<a@x>\0SIZE=1"),
        no_end("R without NUL", b'R', b"<a@x>"),
        no_end("U without NUL", b'U', b"BDAT"),
        no_end("D without NUL", b'D', b"Cj"),
    ];
    let letters = b"\0\x01\x20\r\n0Pbcot~\x7f\x80\xff";
    cases.extend(letters.iter().map(letter));
    cases
}

async fn check_all(cases: Vec<Case>) {
    let envelope = Envelope::default();
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    for subject in SUBJECTS {
        let mut running = subject.start().await;
        let daemon = &mut running.daemon;
        let mut innocent = Mta::connect(&daemon.address).await.unwrap();
        innocent.greet(&envelope).await.unwrap();
        for case in &cases {
            check(daemon, case).await;
            let delivery = innocent.send(&envelope, &message).await;
            let what = format!("{}: after {}", subject.name, case.what);
            assert!(delivery.expect(&what).is_taken(), "{what}");
        }
        innocent.quit().await;
        daemon
            .process
            .signal(nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        let status = daemon.process.wait().unwrap();
        let log = daemon.process.output();
        assert!(status.success(), "{}: {status}\n{log}", subject.name);
        assert!(!log.contains("panicked"), "{}:\n{log}", subject.name);
        // Whatever was sent, a line of the log is a line of ours.
        let ours = log.lines().all(|line| line.starts_with("{\"timestamp\":"));
        assert!(ours, "{}:\n{log}", subject.name);
    }
}

#[tokio::test]
async fn frames_that_are_none() {
    check_all(broken_frames()).await;
}

#[tokio::test]
async fn payloads_that_are_none() {
    check_all([broken_payloads(), unfinished()].concat()).await;
}

#[tokio::test]
async fn frames_out_of_order() {
    check_all([broken_order(), early(), without_mail()].concat()).await;
}

#[tokio::test]
async fn frames_that_are_too_large_or_too_many() {
    check_all([large_frames(), large_payloads()].concat()).await;
}
