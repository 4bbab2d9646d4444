//! milter-clamav on a connection that is kept for one client after the other.

use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::counters::{Counts, Link, Word};
use milter_proto::verdict::Verdict;
use milter_tests::clamd::{Clamd, eicar};
use milter_tests::mta::{Envelope, Message, deliver};
use milter_tests::programs::Daemon;
use milter_tests::skip::skip;

const CONFIGURATION: &str = r#"
[milter.clamav]
socket = "<clamav>"
pool = 1
[[route]]
chain = ["clamav"]
"#;

fn counts(orchestrator: &Daemon) -> Counts {
    let socket = orchestrator.directory().join("control.sock");
    match control::ask(&socket, &Question::Status).unwrap() {
        Answer::Status(mut status) => status.milters.remove(0).counts,
        other => panic!("{other:?}"),
    }
}

/// Infected mail, and clean mail of others before and behind it, with marks that others made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clamav_carries_nothing_over_on_a_kept_connection() {
    if Clamd::program().is_none() {
        skip("clamav on a kept connection", "clamd is not installed");
        return;
    }
    let clamd = Clamd::start("").unwrap();
    let servers = format!("[clamd]\nservers = [\"{}\"]\n", clamd.address);
    let clamav = Daemon::start("milter-clamav", &servers).unwrap();
    let text = CONFIGURATION.replace("<clamav>", &clamav.address.to_string());
    let orchestrator = Daemon::orchestrator(&text).unwrap();
    let infected = eicar();
    let bodies = [
        "Hello.", "Hello.", &infected, "Hello.", &infected, "Hello.", "Hello.",
    ];
    let clients = bodies.len() as u64;
    for (number, body) in bodies.iter().enumerate() {
        let sender = format!("client{number}@example.net");
        let forged = if number % 2 == 0 {
            "X-Virus-Status: Clean\n"
        } else {
            ""
        };
        let message = format!("From: {sender}\n{forged}Subject: {number}\n\n{body}\n");
        let message = Message::parse(message.as_bytes());
        let envelope = Envelope {
            sender,
            ..Envelope::default()
        };
        // What is done must not depend on who came before.
        let direct = deliver(&clamav.address, &envelope, &message).await.unwrap();
        let behind = deliver(&orchestrator.address, &envelope, &message).await;
        let context = || format!("{number}\n{}", orchestrator.process.output());
        let behind = behind.unwrap_or_else(|error| panic!("{error:#}\n{}", context()));
        assert_eq!(behind.verdict, direct.verdict, "{}", context());
        let passes = behind.verdict == Verdict::Continue;
        assert_eq!(passes, *body == "Hello.", "{}", context());
        let behind = message.edited(&behind.edits);
        assert_eq!(behind, message.edited(&direct.edits), "{}", context());
        if passes {
            assert_eq!(behind.values("X-Virus-Status"), ["Clean"], "{}", context());
        }
    }
    let counts = counts(&orchestrator);
    let links = &counts.connections_total;
    assert!(
        links[&Link::New] + links[&Link::Kept] >= clients,
        "{counts:?}"
    );
    // The first is new, and those behind the two that were refused.
    assert!(links[&Link::Kept] >= 2, "{counts:?}");
    assert_eq!(
        counts.messages_total[&Word::Continue],
        clients - 2,
        "{counts:?}"
    );
    assert_eq!(counts.messages_total[&Word::Reply], 2, "{counts:?}");
    let failed: u64 = counts.failures_total.values().sum();
    assert_eq!(failed, 0, "{counts:?}\n{}", orchestrator.process.output());
}
