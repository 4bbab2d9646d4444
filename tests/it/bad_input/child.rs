//! From a filter, through the real orchestrator: whatever it does wrong costs the messages that it
//! should have seen what its `on_failure` says, and no other message anything.

use bytes::Bytes;
use milter_proto::net::Address;
use milter_proto::testkit::{Act, At, FilterScript, FilterServer};
use milter_proto::verdict::Verdict;
use milter_tests::mta::{Envelope, Message, deliver};
use milter_tests::programs::Daemon;

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

/// Where it goes wrong, what is said there, whether it hangs then or closes, and what the log says
/// of it.
const FAULTS: &[(At, &[u8], bool, &str)] = &[
    (At::Mail, b"", false, "closed"),
    (At::Header, b"", false, "closed"),
    (At::EndOfMessage, b"", false, "closed"),
    (At::Header, b"", true, "no answer"),
    (At::EndOfMessage, b"", true, "no answer"),
    (At::Rcpt, &[0; 4], true, "frame of length 0"),
    (
        At::EndOfMessage,
        &[0x80, 0, 0, 0, b'c'],
        true,
        "over the limit",
    ),
    (At::EndOfMessage, &[0, 0, 0, 9, b'h'], false, "closed"),
    (
        At::EndOfMessage,
        b"220 mx.example.org ESMTP\r\n",
        true,
        "text",
    ),
    (
        At::EndOfHeaders,
        &[0, 0, 0, 1, b'?'],
        true,
        "unknown frame type",
    ),
    (
        At::Header,
        &[0, 0, 0, 5, b'h', b'A', 0, b'b', 0],
        true,
        "before the end of the message",
    ),
    (
        At::EndOfMessage,
        &[0, 0, 0, 5, b'h', b'A', 0, b'b', 0],
        true,
        "not negotiated",
    ),
    (
        At::EndOfMessage,
        &[0, 0, 0, 3, b'h', b'A', 0],
        true,
        "malformed",
    ),
    (
        At::EndOfMessage,
        &[0, 0, 0, 3, b'y', b'x', 0],
        true,
        "reply",
    ),
];

fn configuration(good: &Address, bad: &Address, policy: &str) -> String {
    CONFIGURATION
        .replace("GOOD", &good.to_string())
        .replace("BAD", &bad.to_string())
        .replace("POLICY", policy)
}

async fn check(fault: &(At, &'static [u8], bool, &str), policy: &str) {
    let (at, say, hang, log) = *fault;
    let what = format!("{} at {}, {policy}", say.escape_ascii(), at.name());
    let last = if hang { Act::Hang } else { Act::Close };
    let fault = FilterScript::new("bad").at(at, [Act::Raw(Bytes::from_static(say)), last]);
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| Address::Unix(folder.path().join(name));
    let good = FilterServer::start(&socket("good"), FilterScript::new("good")).await;
    let good = good.unwrap();
    let bad = FilterServer::start(&socket("bad"), fault).await.unwrap();
    let configuration = configuration(good.address(), bad.address(), policy);
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
