//! Our filters as sendmail's own, and all of them behind the orchestrator.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milter_orchestrator::member::Readiness;
use milter_tests::clamd::{Clamd, eicar};
use milter_tests::equivalence::mta::Mta as _;
use milter_tests::programs::{Daemon, run};
use milter_tests::skip::skip;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Site;
use crate::orchestrator::stack;

/// Without what sendmail itself would add, so that it does: Date and Message-Id.
const BARE: &str = "From: Joe <joe@example.org>\n\
    To: user@example.com\n\
    Subject: greetings\n\
    \n\
    Hello.\n\
    \n\
    .\n\
    caf\u{e9}\n";

/// The test pattern that every spam filter refuses, put together so that none stumbles here.
const GTUBE: [&str; 2] = [
    "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
    "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_dkim_signs_is_verified_after_sendmail_has_sent_it() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let genkey = [
        "genkey",
        "--domain",
        "example.org",
        "--selector",
        "s1",
        "--directory",
    ];
    let mut arguments: Vec<&OsStr> = genkey.map(OsStr::new).to_vec();
    arguments.push(folder.as_os_str());
    let (code, output) = run("milter-dkim", &arguments).unwrap();
    assert_eq!(code, 0, "{output}");
    let file = |kind: &str| folder.join(format!("example.org.s1.{kind}"));
    let signing = format!(
        "[[sign]]\ndomain = \"example.org\"\nselector = \"s1\"\nkey = \"{}\"\n",
        file("pem").display()
    );
    let verifying = format!(
        "mode = \"v\"\nauthserv_id = \"mx.example.org\"\n[dns]\nkey_file = \"{}\"\n",
        file("txt").display()
    );
    let signer = Daemon::start("milter-dkim", &signing).unwrap();
    let verifier = Daemon::configured("milter-dkim", &prefixed(&verifying)).unwrap();
    let entries = vec![
        signer.address.clone().into(),
        verifier.address.clone().into(),
    ];
    let Some(site) = Site::start("sendmail: dkim", entries).await else {
        return;
    };
    let signed = site.send(0, "joe@example.org", BARE.as_bytes()).await;
    let message = signed.message();
    assert_eq!(message.headers[0].name, "DKIM-Signature", "above Received");
    for name in ["DKIM-Signature", "Date", "Message-Id", "Received"] {
        assert_eq!(message.values(name).len(), 1, "{name}: {message:?}");
    }
    let bytes = signed.delivered.unwrap().message;
    let forged = [
        b"Authentication-Results: mx.example.org; dkim=pass\r\n",
        &bytes[..],
    ]
    .concat();
    for (sent, result) in [
        (bytes.clone(), "dkim=pass"),
        (forged, "dkim=pass"),
        (replace(&bytes, "Hello.", "Hallo."), "dkim=fail"),
    ] {
        let verified = site.send(1, "joe@example.org", &sent).await.message();
        let results = verified.values("Authentication-Results");
        assert_eq!(results.len(), 1, "{verified:?}");
        assert!(results[0].starts_with("mx.example.org;"), "{results:?}");
        assert!(results[0].contains(result), "{results:?}, not {result}");
    }
}

/// A filter's configuration with the socket that [`Daemon::configured`] waits for. Keys of no
/// section come first.
fn prefixed(sections: &str) -> String {
    let (top, rest) = sections.split_once('[').unwrap_or((sections, ""));
    format!("{top}[server]\nsocket = \"unix:{{folder}}/milter.sock\"\n[{rest}")
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|part| part == from.as_bytes());
    let (before, after) = bytes.split_at(at.unwrap());
    [before, to.as_bytes(), &after[from.len()..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn spam_marks_and_refuses() {
    let daemon = Daemon::start("milter-spam", "").unwrap();
    let entries = vec![daemon.address.clone().into()];
    let Some(site) = Site::start("sendmail: spam", entries).await else {
        return;
    };
    let forged = format!("X-Spamd-Result: default: False [-99.00 / 15.00]\n{BARE}");
    let marked = site
        .send(0, "joe@example.net", forged.as_bytes())
        .await
        .message();
    let results = marked.values("X-Spamd-Result");
    assert_eq!(results.len(), 1, "{results:?}");
    assert!(!results[0].contains("-99"), "{results:?}");
    let spam = BARE.replace("Hello.", &GTUBE.concat());
    let refused = site.send(0, "joe@example.net", spam.as_bytes()).await;
    assert!(refused.is_refused_with("554 5.7.1"), "{refused:?}");
    let log = daemon.process.output();
    assert!(log.contains("GTUBE"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clamav_marks_and_refuses() {
    if Clamd::program().is_none() {
        skip("sendmail: clamav", "clamd is not installed");
        return;
    }
    let clamd = Clamd::start("").unwrap();
    let servers = format!("[clamd]\nservers = [\"{}\"]\n", clamd.address);
    let daemon = Daemon::start("milter-clamav", &servers).unwrap();
    let entries = vec![daemon.address.clone().into()];
    let Some(site) = Site::start("sendmail: clamav", entries).await else {
        return;
    };
    let forged = format!("X-Virus-Status: Clean\nX-Virus-Status: Clean\n{BARE}");
    let marked = site
        .send(0, "joe@example.net", forged.as_bytes())
        .await
        .message();
    assert_eq!(marked.values("X-Virus-Status"), ["Clean"]);
    let infected = BARE.replace("Hello.", &eicar());
    let refused = site.send(0, "joe@example.net", infected.as_bytes()).await;
    assert!(refused.is_refused_with("550 5.7.1"), "{refused:?}");
    drop(clamd);
    let deferred = site.send(0, "joe@example.net", BARE.as_bytes()).await;
    assert!(deferred.is_refused_with("451 4.7.1"), "{deferred:?}");
}

/// Messages that are sent while filters are killed.
const MESSAGES: usize = 40;
/// Filters that are killed meanwhile; too many, and the orchestrator would wait longer and longer.
const KILLS: usize = 6;
/// How long filters live at least.
const BETWEEN_KILLS: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_orchestrator_nothing_is_lost_while_filters_are_killed() {
    let filters = stack::Site::new();
    if !filters.has_clamd() {
        skip(
            "sendmail: orchestrator",
            "clamd is not installed: clamav is left out",
        );
    }
    let names = filters.filters();
    let chain = filters.chain(false);
    let stack = filters.start(&chain);
    let entries = vec![stack.address.clone().into()];
    let Some(site) = Site::start("sendmail: orchestrator", entries).await else {
        return;
    };
    let spam = BARE.replace("Hello.", &GTUBE.concat());
    let refused = site.send(0, "joe@example.net", spam.as_bytes()).await;
    assert!(refused.is_refused_with("554 5.7.1"), "{refused:?}");

    let stack = Arc::new(stack);
    let over = Over::default();
    let killer = tokio::task::spawn_blocking({
        let (stack, names, over) = (Arc::clone(&stack), names.clone(), Arc::clone(&over.0));
        move || {
            let mut left = KILLS;
            for name in names.iter().cycle() {
                std::thread::sleep(BETWEEN_KILLS);
                if left == 0 || over.load(Ordering::Relaxed) {
                    break;
                }
                let milter = stack.milter(name);
                if let (Some(pid), Readiness::Ready) = (milter.pid, milter.readiness) {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                    left -= 1;
                }
            }
        }
    });
    let (taken, deferred) = send_all(&site, &names).await;
    drop(over);
    killer.await.unwrap();
    let log = stack.process.output();
    assert_eq!(taken, MESSAGES, "{deferred} deferred\n{log}");
    assert_eq!(
        site.sendmail.queued().unwrap(),
        0,
        "{}",
        site.sendmail.log()
    );
    let restarts: u64 = stack.milters().iter().map(|milter| milter.restarts).sum();
    assert!(restarts > 0, "nobody was killed");
}

/// Ends the killing, also when the test fails.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends messages until so many are taken, or as many were deferred; how many of both.
/// Each that is taken is delivered, with the marks of all filters; each other is not.
async fn send_all(site: &Site, filters: &[&str]) -> (usize, usize) {
    let (mut taken, mut deferred) = (0, 0);
    while taken < MESSAGES && deferred < MESSAGES {
        let sent = site.send(0, "joe@example.net", BARE.as_bytes()).await;
        if sent.is_refused_with("4") {
            deferred += 1;
            continue;
        }
        taken += 1;
        let message = sent.message();
        for filter in filters {
            let mark = match *filter {
                "dkim" => "DKIM-Signature",
                "clamav" => "X-Virus-Status",
                _ => "X-Spamd-Result",
            };
            assert_eq!(message.values(mark).len(), 1, "{filter}: {message:?}");
        }
    }
    (taken, deferred)
}
