//! Reloads: what is new counts, what is old ends with its last session, a bad file changes nothing.

use std::fs;
use std::time::Duration;

use milter_orchestrator::member::OnFailure;
use milter_orchestrator::supervisor::child::State;
use nix::sys::signal::Signal;

use super::filter;
use super::house::House;
use super::mta::{Flow, Session};

const ROUTE: &str = "[[route]]\nchain = [\"good\"]\n";

fn stamped(stamp: &str) -> String {
    format!("[milter.good]\n{}{ROUTE}", filter::stamping(stamp))
}

fn open(house: &House) -> Session {
    Session::open(&house.path().join("inbound.sock")).unwrap()
}

/// Has the configuration read again, and returns what was said of it.
#[track_caller]
fn reload(house: &House) -> String {
    let output = house.run(&["reload"]);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same for a configuration that is refused.
#[track_caller]
fn refused(house: &House) -> String {
    let output = house.run(&["reload"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn policies_count_at_once_and_a_bad_file_changes_nothing() {
    let house = House::start(&stamped("one"));
    let before = house.wait_until_up("good");
    let good = filter::stamping("one");

    house.rewrite(&format!(
        "[milter.good]\n{good}on_failure = \"accept\"\n{ROUTE}"
    ));
    house.signal(Signal::SIGHUP);
    house.wait_for("the new policy", || {
        house.milter("good").on_failure == OnFailure::Accept
    });

    house.rewrite(&format!(
        "[milter.good]\n{good}on_failure = \"reject\"\n[[route]]\nchain = [\"god\"]\n"
    ));
    let error = refused(&house);
    for words in [
        "the old configuration stays",
        "orchestrator.toml:",
        "no milter \"god\"",
        "did you mean \"good\"?",
    ] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    house.rewrite("[milter.good\n");
    let error = refused(&house);
    assert!(error.contains("orchestrator.toml:"), "{error}");
    assert!(
        house.run(&["status"]).status.success(),
        "the file is broken"
    );

    let good = house.milter("good");
    assert_eq!(good.on_failure, OnFailure::Accept);
    assert_eq!((good.pid, good.restarts), (before, 0), "{}", house.log());
}

#[test]
fn a_changed_filter_runs_beside_the_old_one_until_that_is_not_used_any_more() {
    let house = House::start(&stamped("one"));
    let before = house.wait_until_up("good").unwrap();
    let mut session = open(&house);
    assert_eq!(session.send().unwrap(), "one");

    house.rewrite(&stamped("two"));
    let said = reload(&house);
    assert!(said.contains("with a new process: good"), "{said}");
    let after = house.wait_until_up("good").unwrap();
    assert_ne!(before, after);
    let mut other = open(&house);
    assert_eq!(other.send().unwrap(), "two");
    assert_eq!(session.send().unwrap(), "one");
    assert!(house.inhabitants().contains(&before), "{}", house.log());

    session.quit();
    house.wait_for("the end of the old process", || {
        !house.inhabitants().contains(&before)
    });
    assert_eq!(other.send().unwrap(), "two");
    assert_eq!(house.milter("good").messages, 4, "the numbers go on");
}

#[test]
fn a_replacement_that_does_not_get_ready_changes_nothing() {
    let house = House::start(&stamped("one"));
    let before = house.wait_until_up("good");
    house.rewrite(&format!(
        "[milter.good]\ncommand = [\"false\"]\nstart_timeout = \"500ms\"\n{ROUTE}"
    ));
    let error = refused(&house);
    for words in ["[milter.good]", "does not get ready", "status 1"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    assert_eq!(house.milter("good").pid, before);
    assert_eq!(open(&house).send().unwrap(), "one");
}

#[test]
fn a_spool_that_nobody_may_write_to_changes_nothing() {
    let house = House::start(&stamped("one"));
    house.wait_until_up("good");
    // No file can be made there, whoever one is.
    house.rewrite(&format!(
        "[limits]\nspool_directory = \"/proc\"\n{}",
        stamped("two")
    ));
    let error = refused(&house);
    for words in ["spool_directory", "/proc", "restart"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    assert_eq!(open(&house).send().unwrap(), "one");
}

#[test]
fn a_filter_that_binds_its_socket_is_restarted_in_place() {
    let binding = |stamp: &str| {
        let own = filter::binding("{dir}/own.sock", stamp);
        let socket = "socket = \"unix:{dir}/own.sock\"\nbinds_itself = true";
        // It leaves its socket behind when it is ended.
        let own = own.replace(
            "command = [\"",
            "command = [\"sh\", \"-c\", \"rm -f {dir}/own.sock; exec \\\"$@\\\"\", \"sh\", \"",
        );
        format!("[milter.good]\n{own}{socket}\n{ROUTE}")
    };
    let house = House::start(&binding("one"));
    let before = house.wait_until_up("good");
    assert_eq!(open(&house).send().unwrap(), "one");
    house.rewrite(&binding("two"));
    let said = reload(&house);
    assert!(said.contains("restarted in place: good"), "{said}");
    assert_ne!(house.wait_until_up("good"), before);
    assert_eq!(open(&house).send().unwrap(), "two");
}

#[test]
fn milters_and_listeners_come_and_go_while_sessions_stay() {
    let first = filter::stamping("first");
    let house = House::start(&stamped("one"));
    house.wait_until_up("good");
    let mut session = open(&house);
    house.rewrite(&format!(
        "[milter.new]\n{first}[listen.other]\nsocket = \"unix:{{dir}}/other.sock\"\n\
         [[route]]\nchain = [\"new\"]\n"
    ));
    let config = house.path().join("orchestrator.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("inbound.sock", "moved.sock")).unwrap();
    let said = reload(&house);
    for words in [
        "new milters: new",
        "last connection: good",
        "new listeners: other",
        "moved: inbound",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    for socket in ["other.sock", "moved.sock"] {
        let mut session = Session::open(&house.path().join(socket)).unwrap();
        assert_eq!(session.send().unwrap(), "first");
    }
    assert_eq!(session.send().unwrap(), "one");
    assert!(!house.path().join("inbound.sock").exists());
    session.quit();
    house.wait_for_log(&["good", "not needed any more"]);
    assert_eq!(house.milter("new").state, State::Up);
}

#[test]
fn mail_flows_through_any_number_of_reloads() {
    let house = House::start(&stamped("0"));
    house.wait_until_up("good");
    let mut session = open(&house);
    let flow = Flow::start(house.path().join("inbound.sock"));
    for number in 1..=15 {
        let flowing = flow.taken() + 3;
        if number % 5 == 0 {
            house.rewrite("[milter.good]\ncommand = 3\n");
            refused(&house);
        } else {
            house.rewrite(&stamped(&number.to_string()));
            reload(&house);
        }
        assert_eq!(session.send().unwrap(), "0");
        house.wait_for("mail", || flow.taken() > flowing);
    }
    let refused = flow.stop();
    assert!(refused.is_empty(), "{refused:?}\n{}", house.log());
    session.quit();
    // The orchestrator, its nursery and a spare one, one filter.
    house.wait_for("the end of old filters", || house.inhabitants().len() <= 4);
    assert_eq!(open(&house).send().unwrap(), "14");
}

#[test]
fn a_stop_during_a_reload_is_clean() {
    let mut house = House::start(&stamped("one"));
    house.wait_until_up("good");
    house.rewrite(&format!(
        "[milter.slow]\n{}[listen.other]\nsocket = \"unix:{{dir}}/other.sock\"\n\
         [[route]]\nchain = [\"slow\"]\n",
        filter::milter(Duration::from_secs(1000))
    ));
    house.signal(Signal::SIGHUP);
    house.wait_for_log(&["slow", "started"]);
    house.signal(Signal::SIGTERM);
    assert!(house.end().success(), "{}", house.log());
    assert!(house.inhabitants().is_empty());
}
