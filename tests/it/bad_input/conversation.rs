//! From an MTA: what is no milter conversation ends the connection that it came on, with a line in
//! the log that says what was wrong, and costs nobody else anything: a second connection, opened
//! before, goes on taking mail.

use std::time::Duration;

use bytes::BytesMut;
use milter_proto::net::Address;
use milter_proto::wire::{Command, Offer};
use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A daemon, and a configuration with which it takes any ordinary message.
struct Subject {
    name: &'static str,
    configuration: &'static str,
}

const SUBJECTS: &[Subject] = &[
    Subject {
        name: "milter-clamav",
        configuration: r#"
            server.socket = "unix:{folder}/milter.sock"
            clamd.servers = ["unix:/nonexistent/clamd"]
            policy.on_error = "accept"
        "#,
    },
    Subject {
        name: "milter-dkim",
        configuration: r#"server.socket = "unix:{folder}/milter.sock""#,
    },
    Subject {
        name: "milter-orchestrator",
        configuration: r#"
            listen.test.socket = "unix:{folder}/milter.sock"
            control.socket = "unix:{folder}/control.sock"
            supervisor.directory = "{folder}/children"
            route = [{ chain = [] }]
        "#,
    },
    Subject {
        name: "milter-spam",
        configuration: r#"server.socket = "unix:{folder}/milter.sock""#,
    },
];

/// How far a conversation is when the bad bytes come.
#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    Negotiation,
    /// A message with a recipient, its header begun.
    Header,
}

/// What must come of it.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The daemon closes the connection.
    Closed,
    /// The daemon answers with a temporary failure; the conversation goes on.
    Tempfail,
    /// The conversation goes on up to our good-bye.
    Taken,
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

/// A frame with this code and payload.
fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[code], payload].concat()
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

fn offer() -> Vec<u8> {
    let mut out = BytesMut::new();
    Command::Negotiate(Offer::full()).encode(&mut out).unwrap();
    out.to_vec()
}

/// A conversation by hand, up to the place where the case begins.
async fn begin(address: &Address, after: After) -> UnixStream {
    let mut stream = UnixStream::connect(address.path().unwrap()).await.unwrap();
    if matches!(after, After::Nothing) {
        return stream;
    }
    stream.write_all(&offer()).await.unwrap();
    let answer = read_frame(&mut stream, "negotiation").await;
    assert_eq!(
        answer.as_deref().and_then(|answer| answer.first()),
        Some(&b'O')
    );
    if matches!(after, After::Header) {
        let bytes = [
            frame(b'C', b"client.example.net\x004\x61\xc1192.0.2.1\0"),
            frame(b'H', b"client.example.net\0"),
            frame(b'M', b"<a@example.net>\0"),
            frame(b'R', b"<b@example.org>\0"),
            frame(b'T', b""),
            frame(b'L', b"Subject\0 x\0"),
        ];
        stream.write_all(&bytes.concat()).await.unwrap();
    }
    stream
}

/// The next frame without its length; `None` at the end of the stream.
async fn read_frame(stream: &mut UnixStream, what: &str) -> Option<Vec<u8>> {
    let read = async {
        let length = stream.read_u32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut frame).await.ok()?;
        Some(frame)
    };
    let read = timeout(PATIENCE, read).await;
    read.unwrap_or_else(|_| panic!("{what}: neither an answer nor an end of the connection"))
}

/// Does a case, and looks at what comes back.
async fn play(daemon: &Daemon, case: &Case) {
    let mut stream = begin(&daemon.address, case.after).await;
    // Where the daemon has closed already, the write may fail.
    let _ = stream.write_all(&case.bytes).await;
    match case.then {
        Then::Gone => drop(stream),
        Then::Taken => {
            stream.write_all(&frame(b'Q', b"")).await.unwrap();
            while read_frame(&mut stream, case.what).await.is_some() {}
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
}

async fn wait_for_log(daemon: &Daemon, before: usize, case: &Case) {
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(10);
    loop {
        let log = daemon.process.output();
        if log[before..].contains(case.log) {
            return;
        }
        assert!(
            waited < PATIENCE,
            "{}: {:?} is not in\n{}",
            case.what,
            case.log,
            &log[before..]
        );
        tokio::time::sleep(step).await;
        waited += step;
    }
}

#[tokio::test]
async fn every_daemon_survives_every_bad_conversation() {
    let envelope = Envelope::default();
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    for subject in SUBJECTS {
        let mut daemon = Daemon::configured(subject.name, subject.configuration).unwrap();
        let mut innocent = Mta::connect(&daemon.address).await.unwrap();
        innocent.greet(&envelope).await.unwrap();
        for case in [broken_frames(), broken_payloads(), broken_order()].concat() {
            let before = daemon.process.output().len();
            play(&daemon, &case).await;
            wait_for_log(&daemon, before, &case).await;
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
