//! From a filter, through the real orchestrator: whatever it does wrong costs the messages that it
//! should have seen what its `on_failure` says, and no other message anything. Nothing of what it
//! said reaches the MTA, its connection is closed at once, and one line of the log says which
//! filter it was, and what.

use std::time::Duration;

use milter_proto::net::Address;
use milter_proto::testkit::{FilterScript, FilterServer};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Steps};
use milter_tests::mta::{Delivery, Envelope, Message, Mta, deliver};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;

use super::hostile::{Hostile, Misdeed, Then};

/// Both listeners, and a route for each.
const CONFIGURATION: &str = r#"
listen.test.socket = "unix:{folder}/milter.sock"
listen.other.socket = "unix:{folder}/other.sock"
control.socket = "unix:{folder}/control.sock"
supervisor.directory = "{folder}/children"
route = [{ chain = ["bad"], match = { listen = "test" } }, { chain = ["good"] }]

[milter.good]
socket = "GOOD"

[milter.bad]
socket = "BAD"
on_failure = "POLICY"
command_timeout = "TIME"
end_of_message_timeout = "TIME"
"#;

/// How long a connection lives after a misdeed at most, beyond what a silent filter has time: much
/// less than others have.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long one is waited for that is silent.
const SILENT_TIME: Duration = Duration::from_secs(1);
/// How often a row is tried: on a machine with other things to do, a second may pass once.
const TRIES: usize = 5;
/// What the log says of silence.
const SILENT: &str = "no answer";

/// What comes of a misdeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The filter has failed: its policy speaks for it.
    Fails,
    /// The message is taken with edits that are harmless now.
    MadeHarmless,
}

/// A row: what it does, at which command, the bytes, what follows, and what the log says.
struct Row {
    what: &'static str,
    misdeed: Misdeed,
    outcome: Outcome,
    log: &'static str,
}

fn row(what: &'static str, at: u8, say: &[u8], then: Then, log: &'static str) -> Row {
    Row {
        what,
        misdeed: Misdeed {
            at,
            say: say.to_vec(),
            then,
            actions: Actions::empty(),
            steps: Steps::empty(),
        },
        outcome: Outcome::Fails,
        log,
    }
}

/// A frame with this code and payload.
fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[code], payload].concat()
}

/// One that may make edits, at the end of the message.
fn editing(what: &'static str, say: &[u8], outcome: Outcome, log: &'static str) -> Row {
    let then = match outcome {
        Outcome::Fails => Then::Hangs,
        Outcome::MadeHarmless => Then::GoesOn,
    };
    let mut row = row(what, b'E', say, then, log);
    row.misdeed.actions = Actions::all() - Actions::SET_MACRO_LIST;
    row.outcome = outcome;
    row
}

/// What is no frame, or none of the protocol.
fn frames() -> Vec<Row> {
    use Then::{Closes, Drips, Hangs};
    vec![
        row("length 0", b'R', &[0; 4], Hangs, "frame of length 0"),
        row(
            "2^31",
            b'E',
            &[0x80, 0, 0, 0, b'c'],
            Hangs,
            "over the limit",
        ),
        row("2^32-1", b'M', &[0xff; 5], Hangs, "over the limit"),
        row("16 MB", b'L', &[1, 0, 0, 0, b'c'], Hangs, "over the limit"),
        row(
            "1 MB announced",
            b'E',
            &[0, 0x10, 0, 0, b'b'],
            Hangs,
            SILENT,
        ),
        row("drips", b'E', &[0, 0, 0xff, 0, b'h'], Drips, SILENT),
        row("drips early", b'M', &[0, 0, 0xff, 0, b'y'], Drips, SILENT),
        row("cut off", b'E', &[0, 0, 0, 9, b'h'], Closes, "closed"),
        row(
            "unknown code",
            b'N',
            &[0, 0, 0, 1, b'?'],
            Hangs,
            "unknown frame type",
        ),
        row(
            "SMTP",
            b'E',
            b"220 mx.example.org ESMTP\r\n",
            Hangs,
            "not milter",
        ),
        row(
            "HTTP",
            b'C',
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            Hangs,
            "not milter",
        ),
        row(
            "a log line",
            b'M',
            b"UNKNOWN COMMAND\n",
            Hangs,
            "not milter",
        ),
        row(
            "TLS",
            b'H',
            &[0x15, 3, 1, 0, 2, 2, 70],
            Hangs,
            "over the limit",
        ),
    ]
}

/// Good frames where they do not belong, silence, and closing.
fn order() -> Vec<Row> {
    use Then::{Closes, Hangs};
    let edit: &[u8] = &[0, 0, 0, 5, b'h', b'A', 0, b'b', 0];
    let twice: &[u8] = b"\0\0\0\x01c\0\0\0\x01c";
    let half: &[u8] = b"\0\0\0\x01c\0\0";
    let answer: &[u8] = b"\0\0\0\x01c";
    let offer: &[u8] = b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\0\0";
    let mut unasked = row("answers in spite of NR", b'L', answer, Hangs, SILENT);
    unasked.misdeed.steps = Steps::NR_HEADER;
    vec![
        row("closes at MAIL", b'M', b"", Closes, "closed"),
        row("closes in the header", b'L', b"", Closes, "closed"),
        row("closes at the end", b'E', b"", Closes, "closed"),
        row("hangs in the header", b'L', b"", Hangs, SILENT),
        row("hangs at the end", b'E', b"", Hangs, SILENT),
        row("two answers", b'M', twice, Hangs, "nothing asked for"),
        row(
            "two answers at the end",
            b'E',
            twice,
            Hangs,
            "nothing asked for",
        ),
        row(
            "half an answer more",
            b'R',
            half,
            Hangs,
            "nothing asked for",
        ),
        row(
            "edit before the end",
            b'L',
            edit,
            Hangs,
            "before the end of the message",
        ),
        row("edit not negotiated", b'E', edit, Hangs, "not negotiated"),
        row("a second offer", b'M', offer, Hangs, "'O'"),
        row("shutdown", b'R', b"\0\0\0\x014", Hangs, "cut off"),
        row("connection failed", b'E', b"\0\0\0\x01f", Hangs, "cut off"),
        row("skip at the end", b'E', b"\0\0\0\x01s", Hangs, "'s'"),
        unasked,
    ]
}

/// Payloads that are none.
fn payloads() -> Vec<Row> {
    use Then::Hangs;
    let short = frame(b'O', b"\0\0\0\x06");
    let version = frame(b'O', b"\0\0\0\x07\0\0\0\0\0\0\0\0");
    let old = frame(b'O', b"\0\0\0\x01\0\0\0\0\0\0\0\0");
    let lines = frame(b'y', b"550 EVIL\n250 EVIL\0");
    let no_end = frame(b'y', b"550 EVIL");
    let positive = frame(b'y', b"250 EVIL\0");
    vec![
        row("short offer", b'O', &short, Hangs, "malformed"),
        row("version 7", b'O', &version, Hangs, "version 7"),
        row("version 1", b'O', &old, Hangs, "version 1"),
        row(
            "another answer to the offer",
            b'O',
            b"\0\0\0\x01c",
            Hangs,
            "'c'",
        ),
        row(
            "edit without end",
            b'E',
            &[0, 0, 0, 3, b'h', b'A', 0],
            Hangs,
            "malformed",
        ),
        row(
            "no reply code",
            b'E',
            &[0, 0, 0, 3, b'y', b'x', 0],
            Hangs,
            "reply",
        ),
        row("reply of two lines", b'M', &lines, Hangs, "malformed"),
        row("reply without NUL", b'M', &no_end, Hangs, "malformed"),
        row("reply 250", b'M', &positive, Hangs, "reply"),
    ]
}

/// Edits that must not reach the MTA as they are.
fn edits() -> Vec<Row> {
    use Outcome::{Fails, MadeHarmless};
    let edit = |code: u8, payload: &[u8]| [frame(code, payload), frame(b'c', b"")].concat();
    let lines = edit(b'h', b"X\0a\r\nEvil: b\r\n\r\nbody\0");
    let name = edit(b'h', b"X\r\nEvil: b\0v\0");
    let colon = edit(b'h', b"A:B\0v\0");
    let no_name = edit(b'h', b"\0v\0");
    let recipient = edit(b'+', b"<a@x>\r\nDATA\r\nx\0");
    let brackets = edit(b'+', b"<a@x> <b@x>\0");
    let sender = edit(b'e', b"<a@x>\0A=\n\0");
    let reason = edit(b'q', b"a\r\nEvil:\0");
    vec![
        editing("lines in a value", &lines, MadeHarmless, ""),
        editing("lines in a name", &name, Fails, "name"),
        editing("a colon in a name", &colon, Fails, "name"),
        editing("no name", &no_name, Fails, "name"),
        editing("lines in a recipient", &recipient, Fails, "address"),
        editing("two pairs of brackets", &brackets, Fails, "address"),
        editing("a line in a parameter", &sender, Fails, "arg"),
        editing("lines in a reason", &reason, MadeHarmless, ""),
    ]
}

/// Edits that are in order, and then what is not: none of them counts.
fn half_done() -> Vec<Row> {
    use Then::{Closes, Hangs};
    let edits = [
        frame(b'h', b"Evil\0header\0"),
        frame(b'i', b"\0\0\0\0Evil\0header\0"),
        frame(b'+', b"<evil@example.net>\0"),
        frame(b'b', b"EVIL body\r\n"),
    ];
    let then = |bytes: &[u8]| [&edits.concat(), bytes].concat();
    let half = |what, bytes: &[u8], after: Then, log| {
        let mut row = editing(what, &then(bytes), Outcome::Fails, log);
        row.misdeed.then = after;
        row
    };
    vec![
        half("edits, then closes", b"", Closes, "closed"),
        half("edits, then hangs", b"", Hangs, "no answer"),
        half("edits, then length 0", &[0; 4], Hangs, "frame of length 0"),
        half("edits, then 4 GB", &[0xff; 5], Hangs, "over the limit"),
        half(
            "edits, then no code",
            &frame(b'?', b""),
            Hangs,
            "unknown frame",
        ),
        half(
            "edits, then text",
            b"250 2.0.0 EVIL\r\n",
            Hangs,
            "not milter",
        ),
        half(
            "edits, then half a frame",
            &[0, 0, 0, 9, b'h'],
            Closes,
            "closed",
        ),
        half("edits, then an offer", &frame(b'O', &[0; 12]), Hangs, "'O'"),
        half("edits, then gives up", &frame(b'4', b""), Hangs, "cut off"),
        half(
            "edits, two words",
            b"\0\0\0\x01c\0\0\0\x01c",
            Hangs,
            "nothing asked for",
        ),
    ]
}

fn configuration(good: &Address, bad: &Address, policy: &str, row: &Row) -> String {
    let time = if row.log == SILENT { "1s" } else { "30s" };
    CONFIGURATION
        .replace("GOOD", &good.to_string())
        .replace("BAD", &bad.to_string())
        .replace("POLICY", policy)
        .replace("TIME", time)
}

/// A row, and again when its connection was not closed at once.
async fn check(row: &Row, policy: &str) {
    let limit = if row.log == SILENT {
        AT_ONCE + SILENT_TIME
    } else {
        AT_ONCE
    };
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took > limit) {
        assert!(
            took.len() < TRIES,
            "{}, {policy}: closed after {took:?}",
            row.what
        );
        took.push(play(row, policy).await);
    }
}

/// Sends mail through the bad filter; how long its connections lived after the misdeed.
async fn play(row: &Row, policy: &str) -> Duration {
    let what = format!("{}, {policy}", row.what);
    let folder = tempfile::tempdir().unwrap();
    let socket = Address::Unix(folder.path().join("good"));
    let good = FilterServer::start(&socket, FilterScript::new("good")).await;
    let good = good.unwrap();
    let bad = Hostile::start(row.misdeed.clone()).unwrap();
    let configuration = configuration(good.address(), &bad.address, policy, row);
    let daemon = Daemon::configured("milter-orchestrator", &configuration).unwrap();
    let other = Address::Unix(daemon.directory().join("other.sock"));
    let envelope = Envelope::default();
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    // Somebody else was there before, has mail taken meanwhile, and again afterwards.
    let mut innocent = Mta::connect(&other).await.unwrap();
    innocent.greet(&envelope).await.unwrap();
    let through_bad = deliver(&daemon.address, &envelope, &message);
    let through_good = innocent.send(&envelope, &message);
    let (bad_one, good_one) = tokio::join!(through_bad, through_good);
    let good_ones = [good_one, innocent.send(&envelope, &message).await];
    innocent.quit().await;
    let output = daemon.process.output();
    for good_one in good_ones {
        let good_one = good_one.unwrap();
        let untouched = good_one.is_taken() && good_one.edits.is_empty();
        assert!(untouched, "{what}: {good_one:?}\n{output}");
    }
    check_delivery(row, policy, &bad_one.unwrap(), &message, &output);
    let mut slowest = Duration::ZERO;
    if !matches!(row.misdeed.then, Then::Closes | Then::GoesOn) {
        let lived = bad.closed().await;
        let longest = lived.iter().max();
        slowest = *longest.unwrap_or_else(|| panic!("{what}: still open\n{output}"));
    }
    wait_for_line(&daemon, row.log, &what).await;
    assert!(!daemon.process.output().contains("panicked"), "{what}");
    slowest
}

/// What the MTA is told, and what it is not.
fn check_delivery(row: &Row, policy: &str, told: &Delivery, message: &Message, output: &str) {
    let what = format!("{}, {policy}: {told:?}\n{output}", row.what);
    let reply = told.reply().unwrap_or_default();
    assert!(!reply.contains("EVIL"), "{what}");
    if row.outcome == Outcome::MadeHarmless || policy == "accept" {
        assert!(told.is_taken(), "{what}");
    } else {
        let later = reply.starts_with('4') || told.verdict == Verdict::TempFail;
        assert!(later, "{what}");
    }
    if row.outcome == Outcome::Fails {
        assert!(told.edits.is_empty(), "{what}");
    }
    let edited = message.edited(&told.edits);
    assert!(edited.values("Evil").is_empty(), "{what}");
    assert_eq!(edited.body, message.body, "{what}");
    for edit in &told.edits {
        let bytes = format!("{edit:?}");
        assert!(!bytes.contains("\\r"), "{what}");
    }
}

/// One line says which filter, and what.
async fn wait_for_line(daemon: &Daemon, log: &str, what: &str) {
    let said = |output: &str| {
        output
            .lines()
            .any(|line| line.contains("\":\"bad\"") && line.contains(log))
    };
    let mut waited = Duration::ZERO;
    while !log.is_empty() && !said(&daemon.process.output()) {
        let output = daemon.process.output();
        assert!(
            waited < PATIENCE,
            "{what}: no line with {log:?} in\n{output}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += Duration::from_millis(20);
    }
}

async fn check_all(rows: Vec<Row>) {
    for row in rows {
        tokio::join!(check(&row, "tempfail"), check(&row, "accept"));
    }
}

#[tokio::test]
async fn frames_that_are_none() {
    check_all(frames()).await;
}

#[tokio::test]
async fn edits_that_are_not_brought_to_an_end() {
    check_all(half_done()).await;
}

#[tokio::test]
async fn frames_out_of_order() {
    check_all(order()).await;
}

#[tokio::test]
async fn payloads_that_are_none() {
    check_all(payloads()).await;
}

#[tokio::test]
async fn edits_that_must_not_arrive_as_they_are() {
    check_all(edits()).await;
}
