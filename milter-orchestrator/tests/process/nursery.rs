//! Nurseries as processes, held by this test in place of an orchestrator.

use std::path::Path;
use std::time::Duration;

use milter_orchestrator::supervisor::nursery::message::{End, Identity, Limits, Start};
use milter_orchestrator::supervisor::nursery::{Cradle, Nurseries};
use milter_orchestrator::supervisor::spawn::{Report, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time;

use super::house::PATIENCE;

const PROGRAM: &str = env!("CARGO_BIN_EXE_milter-orchestrator");

fn ours() -> Identity {
    Identity::default()
}

fn shell(script: &str) -> Start {
    Start {
        name: "shell".to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        ..Start::default()
    }
}

fn open(identity: Identity) -> Nurseries {
    let program = Path::new(PROGRAM);
    Nurseries::open(program, vec![Cradle::start(program, identity).unwrap()]).unwrap()
}

fn begin(nurseries: &Nurseries, identity: &Identity, start: Start) -> UnboundedReceiver<Report> {
    let (sender, reports) = mpsc::unbounded_channel();
    nurseries.start(identity, start, &[], sender);
    reports
}

async fn next(reports: &mut UnboundedReceiver<Report>) -> Report {
    let report = time::timeout(PATIENCE, reports.recv()).await.unwrap();
    report.unwrap()
}

async fn started(reports: &mut UnboundedReceiver<Report>) -> Running {
    match next(reports).await {
        Report::Started(running) => running,
        other => panic!("{other:?}"),
    }
}

/// Everything that a child says until it ends, and how it ends.
async fn say(nurseries: &Nurseries, identity: &Identity, start: Start) -> (String, End) {
    let mut reports = begin(nurseries, identity, start);
    let running = started(&mut reports).await;
    let pipe = std::fs::File::from(running.stdout.unwrap());
    let said = tokio::task::spawn_blocking(|| std::io::read_to_string(pipe).unwrap());
    match next(&mut reports).await {
        Report::Ended(end) => (said.await.unwrap(), end),
        other => panic!("{other:?}"),
    }
}

/// How far we stand back for others.
fn our_nice() -> i32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(16).unwrap().parse().unwrap()
}

fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

#[tokio::test]
async fn a_second_holder_takes_over_and_the_first_may_go() {
    let first = open(ours());
    let mut reports = begin(&first, &ours(), shell("echo hello; exec sleep 1000"));
    let running = started(&mut reports).await;
    let pid = running.group.id();

    let shares = first.share().unwrap();
    let cradles = shares.into_iter().map(Cradle::shared).collect();
    let second = Nurseries::open(Path::new(PROGRAM), cradles).unwrap();
    time::timeout(PATIENCE, second.introduced()).await.unwrap();
    let (sender, mut theirs) = mpsc::unbounded_channel();
    assert!(second.adopt(&ours(), "nobody", sender.clone()).is_none());
    let (start, adopted) = second.adopt(&ours(), "shell", sender.clone()).unwrap();
    assert_eq!(start, shell("echo hello; exec sleep 1000"));
    assert_eq!(adopted.group.id(), pid);
    assert!(
        second.adopt(&ours(), "shell", sender).is_none(),
        "there is one"
    );

    first.let_go();
    drop((first, running));
    // It lives, and what it has written is for the second one to read.
    assert!(lives(pid));
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(adopted.stdout.unwrap()).unwrap();
    let mut said = [0; 6];
    time::timeout(PATIENCE, pipe.readable())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pipe.try_read(&mut said).unwrap(), 6);
    assert_eq!(&said, b"hello\n");

    // Both can be commanded, and new ones be started.
    adopted.group.signal(Signal::SIGTERM);
    let ended = next(&mut theirs).await;
    assert!(
        matches!(ended, Report::Ended(End::Killed { signal: 15, .. })),
        "{ended:?}"
    );
    let (said, end) = say(&second, &ours(), shell("echo again")).await;
    assert_eq!((said.as_str(), end), ("again\n", End::Exited(0)));

    // The last one who goes takes the children along.
    let mut reports = begin(&second, &ours(), shell("exec sleep 1000"));
    let pid = started(&mut reports).await.group.id();
    second.let_go();
    drop(second);
    let gone = async {
        while lives(pid) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn every_end_is_told_also_by_a_signal_without_a_name() {
    let nurseries = open(ours());
    for signal in [9, 34, 40, 64, 15] {
        let (_, end) = say(&nurseries, &ours(), shell(&format!("kill -{signal} $$"))).await;
        assert!(
            matches!(end, End::Killed { signal: by, .. } if by == signal),
            "{signal}: {end:?}"
        );
    }
    nurseries.finish().await;
}

#[tokio::test]
async fn a_holder_that_goes_away_does_not_harm_the_other() {
    let first = open(ours());
    let mut reports = begin(&first, &ours(), shell("exec sleep 1000"));
    let pid = started(&mut reports).await.group.id();
    let second = first.share().unwrap();
    drop(second);
    let (said, _) = say(&first, &ours(), shell("echo here")).await;
    assert_eq!(said, "here\n");
    assert!(lives(pid));
    first.finish().await;
    assert!(!lives(pid));
}

#[tokio::test]
async fn limits_hold_in_the_child() {
    let nurseries = open(ours());
    let limits = Limits {
        memory: Some(64 << 20),
        open_files: Some(77),
        nice: Some(7),
    };
    let start = Start {
        limits,
        ..shell("ulimit -n; ulimit -d; cut -d' ' -f19 /proc/self/stat")
    };
    let (said, end) = say(&nurseries, &ours(), start).await;
    let expected = format!("77\n{}\n{}\n", 64 << 10, our_nice().max(7));
    assert_eq!((said, end), (expected, End::Exited(0)));

    // It is refused what is more.
    let hungry = Start {
        limits,
        ..shell("head -c 100000000 /dev/zero | tail -n 1 | wc -c")
    };
    let (said, _) = say(&nurseries, &ours(), hungry).await;
    assert_eq!(said, "0\n");
    nurseries.finish().await;
}
