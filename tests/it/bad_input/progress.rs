//! From a filter that reports progress and never comes to an end, through the real orchestrator:
//! `end_of_message_timeout` starts anew with every report, `finish_timeout` in `[limits]` does not,
//! however many reports come.

use std::time::{Duration, Instant};

use milter_proto::net::Address;
use milter_proto::testkit::{FilterScript, FilterServer};
use milter_proto::wire::{Actions, Steps};
use milter_tests::mta::{Delivery, Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;

use super::hostile::{Hostile, Misdeed, Then};

const CONFIGURATION: &str = r#"
listen.test.socket = "unix:{folder}/milter.sock"
listen.other.socket = "unix:{folder}/other.sock"
control.socket = "unix:{folder}/control.sock"
supervisor.directory = "{folder}/children"
limits.finish_timeout = "4s"
route = [{ chain = ["bad"], match = { listen = "test" } }, { chain = ["good"] }]

[milter.good]
socket = "GOOD"

[milter.bad]
socket = "BAD"
on_failure = "POLICY"
command_timeout = "20s"
end_of_message_timeout = "3s"
"#;

/// All that the answer to the end of the message may take.
const TOTAL: Duration = Duration::from_secs(4);
/// And as long again for a machine that has other things to do, in one of a few tries.
const AT_MOST: Duration = Duration::from_secs(8);
const TRIES: usize = 5;

/// Sends a message; how long it took.
async fn send(mta: &mut Mta, what: &str) -> (Delivery, Duration) {
    let message = Message::parse(b"From: <a@example.net>\nSubject: x\n\nHello.\n");
    let begun = Instant::now();
    let sent = tokio::time::timeout(PATIENCE, mta.send(&Envelope::default(), &message)).await;
    let delivery = sent.unwrap_or_else(|_| panic!("{what}: no answer"));
    (delivery.unwrap(), begun.elapsed())
}

async fn greet(address: &Address) -> Mta {
    let mut mta = Mta::connect(address).await.unwrap();
    mta.greet(&Envelope::default()).await.unwrap();
    mta
}

/// Signs of progress, `at` a time, each so long after the one before.
async fn check(what: &str, at: usize, every: Duration, policy: &str) {
    let progress = b"\0\0\0\x01p".repeat(at);
    let misdeed = Misdeed {
        at: b'E',
        say: progress.clone(),
        then: Then::Repeats {
            say: progress,
            every,
        },
        actions: Actions::empty(),
        steps: Steps::empty(),
    };
    let bad = Hostile::start(misdeed).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = Address::Unix(folder.path().join("good"));
    let good = FilterServer::start(&socket, FilterScript::new("good")).await;
    let good = good.unwrap();
    let configuration = CONFIGURATION
        .replace("GOOD", &good.address().to_string())
        .replace("BAD", &bad.address.to_string())
        .replace("POLICY", policy);
    let daemon = Daemon::configured("milter-orchestrator", &configuration).unwrap();
    let other = Address::Unix(daemon.directory().join("other.sock"));
    let (mut mta, mut innocent) = tokio::join!(greet(&daemon.address), greet(&other));
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took > AT_MOST) {
        assert!(took.len() < TRIES, "{what}: {took:?}");
        // The same session goes on, and somebody else's beside it.
        let sent = tokio::join!(send(&mut mta, what), send(&mut innocent, what));
        let ((delivery, waited), (beside, _)) = sent;
        let log = daemon.process.output();
        assert!(beside.is_taken(), "{what}: {beside:?}\n{log}");
        assert_eq!(
            delivery.is_taken(),
            policy == "accept",
            "{what}: {delivery:?}\n{log}"
        );
        assert!(waited >= TOTAL, "{what}: {waited:?}\n{log}");
        took.push(waited);
    }
    let log = daemon.process.output();
    let says = |line: &&str| line.contains("filter failed") && line.contains("time was over");
    assert_eq!(
        log.lines().filter(says).count(),
        took.len(),
        "{what}:\n{log}"
    );
    assert!(!log.contains("panicked"), "{what}:\n{log}");
    tokio::join!(mta.quit(), innocent.quit());
}

#[tokio::test]
async fn progress_without_end_is_not_waited_for() {
    for policy in ["tempfail", "accept"] {
        tokio::join!(
            check("twice a second", 1, Duration::from_millis(500), policy),
            check("a thousand a second", 20, Duration::from_millis(20), policy),
            check("50,000 a second", 500, Duration::from_millis(10), policy),
        );
    }
}
