//! No child outlives the orchestrator, however that ends; and what a child is given.

use std::time::Duration;

use milter_orchestrator::supervisor::child::State;
use nix::sys::signal::Signal;

use super::filter;
use super::house::{House, send, within_patience};

/// A filter, a shell with something behind it, and one that will not end when asked.
fn family() -> String {
    let good = filter::milter(Duration::ZERO);
    format!(
        "[milter.good]\n{good}
         [milter.shell]\ncommand = [\"sh\", \"-c\", \"sleep 1000 & sleep 1000; true\"]
         [milter.deaf]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; sleep 1000 & wait; wait\"]
         stop_timeout = \"200ms\"
         [[route]]\nchain = [\"good\", \"shell\", \"deaf\"]\n"
    )
}

/// Starts the family and waits until all of it is there: the orchestrator and its nurseries, a
/// filter, a shell with two sleeps, another one with one.
fn start() -> House {
    let house = House::start(&family());
    house.wait_until_up("good");
    house.wait_for("the whole family", || house.inhabitants().len() >= 9);
    house
}

/// Waits until nobody is left.
fn assert_deserted(house: &House) {
    let gone = within_patience(|| house.inhabitants().is_empty());
    assert!(gone, "left: {:?}\n{}", house.inhabitants(), house.log());
}

#[test]
fn sigterm_ends_children_and_grandchildren() {
    let mut house = start();
    house.signal(Signal::SIGTERM);
    assert!(house.end().success(), "{}", house.log());
    assert_deserted(&house);
    house.wait_for_log(&["deaf", "has not ended in time; killed"]);
    for good in ["good", "shell"] {
        house.wait_for_log(&[good, "killed by SIGTERM"]);
    }
    for socket in ["inbound.sock", "control.sock", "children/good.sock"] {
        assert!(!house.path().join(socket).exists(), "{socket} is left");
    }
}

#[test]
fn sigkill_leaves_nobody_behind() {
    let mut house = start();
    house.signal(Signal::SIGKILL);
    house.end();
    assert_deserted(&house);
}

/// The processes of a house that are nurseries: the parents of children, and the spare ones.
fn nurseries(house: &House) -> Vec<i32> {
    let is_nursery = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"nursery")
    };
    house.inhabitants().into_iter().filter(is_nursery).collect()
}

/// The parent of a process.
fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

#[test]
fn a_nursery_that_was_killed_is_replaced_and_its_children_with_it() {
    let mut house = start();
    // Once, when a spare one is there, and once more, since there is another spare one then.
    for _ in 0..2 {
        house.wait_for("a spare nursery", || nurseries(&house).len() == 2);
        let child = house.wait_until_up("good").unwrap();
        let before = house.inhabitants();
        let nursery = parent(child).unwrap();
        assert!(nurseries(&house).contains(&nursery), "{nursery}");
        // Only this one does it any harm.
        for nursery in nurseries(&house) {
            for harmless in [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGALRM] {
                send(nursery, harmless);
            }
        }
        send(nursery, Signal::SIGKILL);
        house.wait_for("another child", || {
            let good = house.milter("good");
            good.state == State::Up && good.pid.is_some_and(|pid| pid != child)
        });
        house.wait_for_log(&["nursery", "has ended", "replacing it"]);
        house.wait_for_log(&["good", "ended with its nursery"]);
        // Shells and what was behind them included.
        house.wait_for("the end of the first family", || {
            let now = house.inhabitants();
            let left = before.iter().filter(|pid| now.contains(pid));
            // The orchestrator, and the spare nursery that has become the first.
            left.count() == 2
        });
        house.wait_for("the whole family", || house.inhabitants().len() >= 9);
    }
    house.signal(Signal::SIGKILL);
    house.end();
    assert_deserted(&house);
}

/// In its sandbox it could not start another nursery: somebody else has to start it.
#[test]
fn without_any_nursery_it_ends_in_order() {
    let mut house = start();
    house.wait_for("a spare nursery", || nurseries(&house).len() == 2);
    house.wait_for("the end of all nurseries", || {
        for nursery in nurseries(&house) {
            send(nursery, Signal::SIGKILL);
        }
        house.log().contains("cannot be replaced")
    });
    // EX_OSERR, so that nobody takes it for a wish.
    assert_eq!(house.end().code(), Some(71));
    house.wait_for_log(&["ending in order"]);
    // What a filter has forked was for the next nursery to end.
    for left in house.inhabitants() {
        send(left, Signal::SIGKILL);
    }
}

#[test]
fn whoever_leaves_its_group_ends_with_the_others() {
    let mut house = House::start(
        "[milter.parent]\ncommand = [\"sh\", \"-c\", \"setsid sleep 1000 & sleep 1000\"]
         [[route]]\nchain = [\"parent\"]\n",
    );
    house.wait_for("the stray", || house.inhabitants().len() >= 6);
    house.signal(Signal::SIGKILL);
    house.end();
    assert_deserted(&house);
}

#[test]
fn a_stop_while_children_start_or_crash_is_clean() {
    let mut house = House::start(
        "[milter.silent]\ncommand = [\"sleep\", \"1000\"]
         [milter.ends]\ncommand = [\"false\"]
         [[route]]\nchain = [\"silent\", \"ends\"]\n",
    );
    house.signal(Signal::SIGTERM);
    assert!(house.end().success(), "{}", house.log());
    assert_deserted(&house);
}

#[test]
fn a_child_is_given_its_socket_and_nothing_else() {
    let script = "echo pid $LISTEN_PID is $$; echo fds $LISTEN_FDS names $LISTEN_FDNAMES; \
                  echo notify ${NOTIFY_SOCKET-unset}; echo mine $MINE in $PWD; \
                  ls /proc/$$/fd; echo listed; sleep 1000";
    let house = House::start(&format!(
        "[milter.curious]\ncommand = [\"sh\", \"-c\", \"{script}\"]
         environment = {{ MINE = \"yes\" }}\ndirectory = \"/\"
         [[route]]\nchain = [\"curious\"]\n"
    ));
    let pid = || house.milter("curious").pid;
    house.wait_for("a process", || pid().is_some());
    let pid = pid().unwrap();
    house.wait_for_log(&[&format!("pid {pid} is {pid}")]);
    house.wait_for_log(&["fds 1 names milter"]);
    house.wait_for_log(&["notify unset"]);
    house.wait_for_log(&["mine yes in /"]);
    house.wait_for_log(&["listed"]);
    let log = house.log();
    let given: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("capture: "))
        .filter_map(|(_, message)| message.split_whitespace().next())
        .filter(|word| word.parse::<u32>().is_ok())
        // A shell may keep a descriptor from 10 on for itself.
        .filter(|word| word.len() == 1)
        .collect();
    assert_eq!(given, ["0", "1", "2", "3"], "{log}");
}
