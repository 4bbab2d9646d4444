//! Children that run as other users, and what is left of root then: nothing.

use std::fs;

use milter_orchestrator::supervisor::child::State;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User, chown};

use super::filter;
use super::house::{House, send};

/// Whether this test can be had here; where it cannot, that is said.
pub(crate) fn is_root(test: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root");
        eprintln!("skipped: {test}: it needs root");
    }
    root
}

fn user(name: &str) -> User {
    User::from_name(name).unwrap().unwrap()
}

/// A line of `/proc/PID/status`, as words.
fn status(pid: i32, line: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let words = found.unwrap_or_default().split_whitespace();
    words.map(str::to_owned).collect()
}

/// Real, effective, saved and file system id alike, and no capability that could be had.
fn assert_is(pid: i32, name: &str) {
    let user = user(name);
    let ids = |id: u32| vec![id.to_string(); 4];
    assert_eq!(status(pid, "Uid:"), ids(user.uid.as_raw()), "{pid}");
    assert_eq!(status(pid, "Gid:"), ids(user.gid.as_raw()), "{pid}");
    for set in ["CapPrm:", "CapEff:"] {
        assert_eq!(status(pid, set), ["0000000000000000"], "{pid} {set}");
    }
    assert_eq!(status(pid, "NoNewPrivs:"), ["1"], "{pid}");
}

/// Without root no process is left that has it, and a child comes back as the same user after it
/// was killed, and after the nursery was.
#[test]
fn each_child_has_its_user_and_nobody_stays_root() {
    if !is_root("each_child_has_its_user_and_nobody_stays_root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let daemon = user("daemon");
    chown(directory.path(), Some(daemon.uid), Some(daemon.gid)).unwrap();
    let good = filter::milter(std::time::Duration::ZERO);
    let house = House::start_in(
        directory,
        "",
        &format!(
            "[process]\nuser = \"daemon\"
             [milter.good]\n{good}
             [milter.other]\nuser = \"nobody\"
             command = [\"sh\", \"-c\", \"echo I am $USER, $$; sleep 1000\"]
             [[route]]\nchain = [\"good\", \"other\"]\n"
        ),
    );
    let before = house.wait_until_up("good").unwrap();
    let other = || house.milter("other").pid;
    house.wait_for("a process", || other().is_some());
    let first = other().unwrap();
    house.wait_for_log(&["other", "I am nobody"]);
    assert_is(before, "daemon");
    assert_is(first, "nobody");
    let ids = [daemon.uid, user("nobody").uid].map(|uid| uid.to_string());
    for pid in house.inhabitants() {
        let uids = status(pid, "Uid:");
        assert!(uids.iter().all(|uid| ids.contains(uid)), "{pid}: {uids:?}");
    }

    send(first, Signal::SIGKILL);
    house.wait_for("another process", || {
        other().is_some_and(|pid| pid != first)
    });
    let second = other().unwrap();
    assert_is(second, "nobody");

    let nursery: i32 = status(second, "PPid:")[0].parse().unwrap();
    assert_is(nursery, "nobody");
    send(nursery, Signal::SIGKILL);
    house.wait_for("one from another nursery", || {
        other().is_some_and(|pid| pid != second)
    });
    let third = other().unwrap();
    assert_is(third, "nobody");
    house.wait_for_log(&["other", &format!("I am nobody, {third}")]);
    // Nobody else has noticed.
    let good = house.milter("good");
    assert_eq!((good.pid, good.state), (Some(before), State::Up));
}

#[test]
fn limits_are_those_of_the_configuration() {
    let house = House::start(
        "[milter.small]\ncommand = [\"sh\", \"-c\", \"echo $(ulimit -n) $(ulimit -d); sleep 1000\"]
         memory = \"64MB\"\nopen_files = 77\nnice = 19
         [[route]]\nchain = [\"small\"]\n",
    );
    house.wait_for_log(&["small", &format!("77 {}", 64 << 10)]);
    let pid = house.milter("small").pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    assert_eq!(fields.split_whitespace().nth(16), Some("19"), "{stat}");
}
