//! Upgrades: another process takes the place of the running one, and nobody notices.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;

use super::filter;
use super::house::{House, send};
use super::mta::{Flow, Session};

const ROUTE: &str = "[[route]]\nchain = [\"good\"]\n";

fn stamped(stamp: &str) -> String {
    format!("[milter.good]\n{}{ROUTE}", filter::stamping(stamp))
}

fn open(house: &House) -> Session {
    Session::open(&house.path().join("inbound.sock")).unwrap()
}

/// Has the orchestrator replaced by another process of the same binary.
#[track_caller]
fn upgrade(house: &House) {
    let before = house.status().pid;
    let output = house.run(&["upgrade"]);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    let after = house.status().pid;
    assert_ne!(before, after, "{}", house.log());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("process {after} ")), "{said}");
}

#[test]
fn long_sessions_and_new_ones_go_on_through_upgrades() {
    let house = House::start(&stamped("one"));
    let filter = house.wait_until_up("good");
    let mut sessions: Vec<Session> = (0..20).map(|_| open(&house)).collect();
    let flow = Flow::start(house.path().join("inbound.sock"));
    for _ in 0..10 {
        let flowing = flow.taken() + 3;
        upgrade(&house);
        for session in &mut sessions {
            assert_eq!(session.send().unwrap(), "one");
        }
        house.wait_for("mail", || flow.taken() > flowing);
    }
    let refused = flow.stop();
    assert!(refused.is_empty(), "{refused:?}\n{}", house.log());
    assert_eq!(house.wait_until_up("good"), filter, "the filter went on");
    assert_eq!(house.milter("good").restarts, 0);
    for session in sessions {
        session.quit();
    }
    house.wait_for("the end of the old processes", || {
        house.orchestrators().len() == 1
    });
    assert_eq!(open(&house).send().unwrap(), "one");
}

#[test]
fn whoever_took_over_supervises_reloads_and_ends_in_order() {
    let mut house = House::start(&stamped("one"));
    let before = house.wait_until_up("good").unwrap();
    let mut session = open(&house);
    upgrade(&house);

    send(before, Signal::SIGKILL);
    house.wait_for("another filter", || {
        house.milter("good").pid.is_some_and(|pid| pid != before)
    });
    house.wait_until_up("good");
    assert_eq!(session.send().unwrap(), "one");

    house.rewrite(&stamped("two"));
    let output = house.run(&["reload"]);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    assert_eq!(open(&house).send().unwrap(), "two");
    upgrade(&house);
    assert_eq!(open(&house).send().unwrap(), "two");
    // It began before all that; its filter stays for as long as it does.
    assert_eq!(session.send().unwrap(), "one");
    session.quit();
    assert!(house.end().success(), "{}", house.log());

    let last = i32::try_from(house.status().pid).unwrap();
    house.wait_for_log(&["upgrade: the old process has ended"]);
    send(last, Signal::SIGTERM);
    house.wait_for("an empty house", || house.inhabitants().is_empty());
    for socket in ["inbound.sock", "control.sock"] {
        assert!(
            !house.path().join(socket).exists(),
            "{socket} is left\n{}",
            house.log()
        );
    }
    let left = fs::read_dir(house.path().join("children")).unwrap().count();
    assert_eq!(left, 0, "{}", house.log());
}

#[test]
fn sigkill_after_an_upgrade_leaves_nobody_behind() {
    let mut house = House::start(&stamped("one"));
    house.wait_until_up("good");
    upgrade(&house);
    house.end();
    send(i32::try_from(house.status().pid).unwrap(), Signal::SIGKILL);
    house.wait_for("an empty house", || house.inhabitants().is_empty());
}

/// A program that passes for a new version until it is run.
fn script(house: &House, run: &str) -> String {
    let path = house.path().join("new-version");
    let text = format!("#!/bin/sh\ncase \"$*\" in *check) exit 0;; esac\n{run}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_broken_new_version_changes_nothing() {
    let house = House::start(&stamped("one"));
    let filter = house.wait_until_up("good");
    let (pid, mut session) = (house.status().pid, open(&house));
    let refused = |binary: &str, words: &str| {
        let output = house.run(&["upgrade", "--binary", binary]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{binary}: {said}");
        assert!(said.contains("nothing has changed"), "{binary}: {said}");
        assert!(said.contains(words), "{binary}: {said}");
    };
    refused("/bin/false", "ended with status 1");
    refused("/nonexistent", "No such file");
    refused("relative", "full path");
    let ends = script(&house, "exit 7");
    refused(&ends, "ended with status 7");

    let running = env!("CARGO_BIN_EXE_milter-orchestrator");
    let good = fs::read(house.path().join("orchestrator.toml")).unwrap();
    house.rewrite("[milter.good]\ncomand = [\"x\"]\n[[route]]\nchain = [\"good\"]\n");
    let output = house.run(&["upgrade", "--binary", running]);
    assert!(!output.status.success(), "{output:?}");
    fs::write(house.path().join("orchestrator.toml"), good).unwrap();

    assert_eq!(house.status().pid, pid);
    assert_eq!(house.milter("good").pid, filter);
    assert_eq!(session.send().unwrap(), "one");
    assert_eq!(open(&house).send().unwrap(), "one");
    // It still looks after its filter.
    send(filter.unwrap(), Signal::SIGKILL);
    house.wait_for("another filter", || {
        let pid = house.milter("good").pid;
        pid.is_some() && pid != filter
    });
    house.wait_until_up("good");
    upgrade(&house);
    assert_eq!(open(&house).send().unwrap(), "one");
}

#[test]
fn one_that_would_lose_a_filter_or_a_socket_changes_nothing() {
    let house = House::start(&stamped("one"));
    let filter = house.wait_until_up("good");
    let pid = house.status().pid;
    let taken = UnixListener::bind(house.path().join("taken.sock")).unwrap();
    let chain = "[[route]]\nchain = [\"good\", \"more\"]\n";
    let more =
        "[milter.more]\ncommand = [\"sleep\", \"1000\"]\nsocket = \"unix:{dir}/taken.sock\"\n";
    let good = filter::stamping("one");
    house.rewrite(&format!("[milter.good]\n{good}{more}{chain}"));
    let output = house.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("taken.sock") && said.contains("in use"),
        "{said}"
    );
    drop(taken);
    assert_eq!(house.status().pid, pid);
    assert_eq!(house.milter("good").pid, filter);
    // Its sockets are where they were.
    assert_eq!(open(&house).send().unwrap(), "one");
    house.rewrite(&stamped("one"));
    upgrade(&house);
    assert_eq!(open(&house).send().unwrap(), "one");
}

#[test]
fn who_ends_soon_after_an_upgrade_takes_the_old_process_along() {
    let mut house = House::start(&stamped("one"));
    house.wait_until_up("good");
    let mut session = open(&house);
    upgrade(&house);
    let last = i32::try_from(house.status().pid).unwrap();
    assert_eq!(session.send().unwrap(), "one");
    send(last, Signal::SIGTERM);
    assert!(house.end().success(), "{}", house.log());
    house.wait_for("an empty house", || house.inhabitants().is_empty());
    assert!(session.send().is_err());
}
