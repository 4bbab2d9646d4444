//! Scripts of our own for miltertest, a client that others wrote, against each daemon and against
//! the orchestrator: the folder `miltertest` next to this one.

use std::path::Path;
use std::process::Command;

use milter_proto::net::Address;
use milter_tests::clamd::Clamd;
use milter_tests::process::Process;
use milter_tests::programs::Daemon;
use milter_tests::skip::skip;

use crate::orchestrator::stack::Site;

/// Runs a script against the daemon that listens at `address`; its exit code and what it wrote.
/// `None` after saying why not.
fn run(script: &str, address: &Address) -> Option<(i32, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("miltertest");
    let mut command = Command::new("miltertest");
    if command.arg("-V").output().is_err() {
        skip(
            &format!("miltertest {script}"),
            "miltertest is not installed",
        );
        return None;
    }
    let mut command = Command::new("miltertest");
    command.arg("-D").arg(format!("socket={address}"));
    command
        .arg("-D")
        .arg(format!("folder={}", folder.display()));
    command.arg("-s").arg(folder.join(script)).arg("-v");
    let mut process = Process::start(&mut command).unwrap();
    let status = process.wait().unwrap();
    Some((status.code().unwrap(), process.output()))
}

fn passes(script: &str, address: &Address, daemon: &Process) {
    if let Some((code, output)) = run(script, address) {
        assert_eq!(code, 0, "{script}\n{output}\n{}", daemon.output());
        let log = daemon.output();
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn case_088_dkim() {
    let site = Site::without_clamd();
    let sections = std::fs::read_to_string(site.file("dkim")).unwrap();
    let server = "[server]\nsocket = \"unix:{folder}/milter.sock\"\n";
    let daemon = Daemon::configured("milter-dkim", &format!("{sections}{server}")).unwrap();
    passes("dkim.lua", &daemon.address, &daemon.process);
}

#[test]
fn case_088_spam() {
    let daemon = Daemon::start("milter-spam", "").unwrap();
    passes("spam.lua", &daemon.address, &daemon.process);
}

#[test]
fn case_088_clamav() {
    if Clamd::program().is_none() {
        skip("case_088_clamav", "clamd is not installed");
        return;
    }
    let clamd = Clamd::start("").unwrap();
    let sections = format!("[clamd]\nservers = [\"{}\"]\n", clamd.address);
    let daemon = Daemon::start("milter-clamav", &sections).unwrap();
    passes("clamav.lua", &daemon.address, &daemon.process);
}

#[test]
fn case_088_orchestrator() {
    for parallel in [false, true] {
        let site = Site::new();
        if !site.has_clamd() {
            skip("case_088_orchestrator", "clamd is not installed");
            return;
        }
        let chain = site.chain(parallel);
        let stack = site.start(&chain);
        passes("orchestrator.lua", &stack.address, &stack.process);
    }
}

/// The scripts can fail.
#[test]
fn a_check_that_fails_is_noticed() {
    let daemon = Daemon::start("milter-spam", "").unwrap();
    if let Some((code, output)) = run("broken.lua", &daemon.address) {
        assert_ne!(code, 0, "{output}");
        assert!(output.contains("failed: an ordinary message"), "{output}");
    }
}
