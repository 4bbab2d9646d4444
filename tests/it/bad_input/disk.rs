//! When bodies cannot be kept: a file of the spool that may not grow, as on a full disk, costs the
//! message that needs it a temporary failure, and nobody else anything; once there is room again,
//! the same session goes on.

use std::process::Command;

use milter_proto::net::Address;
use milter_proto::testkit::{FilterScript, FilterServer};
use milter_tests::mta::{Envelope, Message, Mta};
use milter_tests::process::PATIENCE;
use milter_tests::programs::Daemon;

/// No memory for bodies beyond 64 KB.
const CONFIGURATION: &str = r#"
listen.test.socket = "unix:{folder}/milter.sock"
control.socket = "unix:{folder}/control.sock"
supervisor.directory = "{folder}/children"
limits.spool_directory = "{folder}"
limits.spool_memory = "64KB"
limits.spool_memory_shared = "0B"
route = [{ chain = ["good"] }]
milter.good.socket = "GOOD"
"#;

/// Bytes that a file may have while there is no room.
const ROOM: usize = 1 << 20;

/// A message whose body has about so many bytes.
fn message(bytes: usize) -> Message {
    let line = "x".repeat(98) + "\n";
    let body = line.repeat(bytes / 100);
    Message::parse(format!("From: <a@example.net>\nSubject: x\n\n{body}").as_bytes())
}

/// Limits the files of a running process, or no longer.
fn limit_files(daemon: &Daemon, limit: &str) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={limit}:"));
    command.arg(format!("--pid={}", daemon.process.id()));
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Whether the message is taken.
async fn is_taken(mta: &mut Mta, daemon: &Daemon, message: &Message) -> bool {
    let sent = tokio::time::timeout(PATIENCE, mta.send(&Envelope::default(), message)).await;
    let output = daemon.process.output();
    let delivery = sent.unwrap_or_else(|_| panic!("no answer:\n{output}"));
    delivery
        .unwrap_or_else(|error| panic!("{error:#}\n{output}"))
        .is_taken()
}

#[tokio::test]
async fn a_full_spool_defers_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let socket = Address::Unix(folder.path().join("good"));
    let good = FilterServer::start(&socket, FilterScript::new("good")).await;
    let _good = good.unwrap();
    let configuration = CONFIGURATION.replace("GOOD", &socket.to_string());
    // Without the signal for it, a write beyond the limit is an error, as on a full disk.
    let shell = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let daemon = Daemon::behind(&shell, "milter-orchestrator", &configuration).unwrap();
    let (large, small) = (message(3 * ROOM), message(ROOM / 2));
    let mut mtas = Vec::new();
    for _ in 0..2 {
        let mut mta = Mta::connect(&daemon.address).await.unwrap();
        mta.greet(&Envelope::default()).await.unwrap();
        mtas.push(mta);
    }
    let [mta, innocent] = &mut mtas[..] else {
        panic!("two sessions");
    };
    assert!(is_taken(mta, &daemon, &large).await);
    limit_files(&daemon, &ROOM.to_string());
    for _ in 0..3 {
        let (taken, beside) = tokio::join!(
            is_taken(mta, &daemon, &large),
            is_taken(innocent, &daemon, &small),
        );
        assert!(
            !taken && beside,
            "{taken} {beside}\n{}",
            daemon.process.output()
        );
    }
    assert!(is_taken(mta, &daemon, &small).await);
    limit_files(&daemon, "unlimited");
    assert!(is_taken(mta, &daemon, &large).await);
    assert!(is_taken(innocent, &daemon, &large).await);
    let log = daemon.process.output();
    let full = |line: &&str| line.contains("refused for now") && line.contains("spool file in");
    assert_eq!(log.lines().filter(full).count(), 3, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    // Files without a name: nothing is left of them.
    let left = std::fs::read_dir(daemon.directory()).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() <= 4, "{names:?}");
    for mta in mtas {
        mta.quit().await;
    }
}
