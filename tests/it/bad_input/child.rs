//! From a filter, through the real orchestrator: whatever it does wrong costs the messages that it
//! should have seen what its `on_failure` says, and no other message anything.

use milter_proto::net::Address;
use milter_proto::verdict::Verdict;
use milter_tests::mta::{Envelope, Message, deliver};
use milter_tests::programs::Daemon;
use milter_tests::scripted::{Script, Scripted};

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
command_timeout = "300ms"
end_of_message_timeout = "300ms"
"#;

/// What goes wrong, and what the log says of it.
const FAULTS: &[(u8, &[u8], bool, &str)] = &[
    (b'M', b"", false, "closed"),
    (b'L', b"", false, "closed"),
    (b'E', b"", false, "closed"),
    (b'L', b"", true, "no answer"),
    (b'E', b"", true, "no answer"),
    (b'R', &[0; 4], true, "frame of length 0"),
    (b'E', &[0x80, 0, 0, 0, b'c'], true, "over the limit"),
    (b'E', &[0, 0, 0, 9, b'h'], false, "closed"),
    (b'E', b"220 mx.example.org ESMTP\r\n", true, "text"),
    (b'N', &[0, 0, 0, 1, b'?'], true, "unknown frame type"),
    (
        b'L',
        &[0, 0, 0, 5, b'h', b'A', 0, b'b', 0],
        true,
        "before the end of the message",
    ),
    (
        b'E',
        &[0, 0, 0, 5, b'h', b'A', 0, b'b', 0],
        true,
        "not negotiated",
    ),
    (b'E', &[0, 0, 0, 3, b'h', b'A', 0], true, "malformed"),
    (b'E', &[0, 0, 0, 3, b'y', b'x', 0], true, "reply"),
];

fn configuration(good: &Scripted, bad: &Scripted, policy: &str) -> String {
    CONFIGURATION
        .replace("GOOD", &good.address.to_string())
        .replace("BAD", &bad.address.to_string())
        .replace("POLICY", policy)
}

async fn check(fault: &(u8, &'static [u8], bool, &str), policy: &str) {
    let (at, say, hang, log) = *fault;
    let what = format!("{} at {}, {policy}", say.escape_ascii(), char::from(at));
    let script = Script {
        at,
        say: say.to_vec(),
        hang,
    };
    let good = Scripted::start(Script::default()).unwrap();
    let bad = Scripted::start(script).unwrap();
    let configuration = configuration(&good, &bad, policy);
    let daemon = Daemon::configured("milter-orchestrator", &configuration).unwrap();
    let other = Address::Unix(daemon.directory().join("other.sock"));
    let envelope = Envelope::default();
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    let through_bad = deliver(&daemon.address, &envelope, &message);
    let through_good = deliver(&other, &envelope, &message);
    let (bad_one, good_one) = tokio::join!(through_bad, through_good);
    let (bad_one, good_one) = (bad_one.unwrap(), good_one.unwrap());
    let output = daemon.process.output();
    assert!(good_one.is_taken(), "{what}: {good_one:?}\n{output}");
    match policy {
        "accept" => assert!(bad_one.is_taken(), "{what}: {bad_one:?}\n{output}"),
        _ => {
            let later = bad_one.reply().is_some_and(|reply| reply.starts_with('4'));
            let later = later || bad_one.verdict == Verdict::TempFail;
            assert!(later, "{what}: {bad_one:?}\n{output}");
        }
    }
    assert!(output.contains(log), "{what}: {log:?} is not in\n{output}");
    assert!(!output.contains("panicked"), "{what}:\n{output}");
}

#[tokio::test]
async fn a_filter_that_breaks_off_or_talks_nonsense_costs_nobody_else_anything() {
    for fault in FAULTS {
        check(fault, "tempfail").await;
        check(fault, "accept").await;
    }
}
