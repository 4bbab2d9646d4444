//! What an operator sees of a running orchestrator: status, explain.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use milter_orchestrator::status::Snapshot;
use nix::sys::signal::Signal;

use super::filter;
use super::house::House;

fn house() -> House {
    let good = filter::milter(Duration::ZERO);
    House::start(&format!(
        "[milter.good]\n{good}[[route]]\nname = \"all\"\nchain = [\"good\"]\n"
    ))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn status_is_a_table_for_people_and_json_for_programs() {
    let house = house();
    house.wait_until_up("good");
    let table = house.run(&["status"]);
    assert!(table.status.success(), "{table:?}");
    let table = text(&table.stdout);
    for words in ["MILTER", "good", "spawned", "up", "inbound", "tempfail"] {
        assert!(table.contains(words), "no {words:?} in\n{table}");
    }
    let json = house.run(&["status", "--json"]);
    let snapshot: Snapshot = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(snapshot.milters[0].pid, house.milter("good").pid);
    assert_eq!(snapshot.pid, u32::try_from(house.pid()).unwrap());

    let socket = std::fs::metadata(house.path().join("control.sock")).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    let children = std::fs::metadata(house.path().join("children")).unwrap();
    assert_eq!(children.mode() & 0o777, 0o700);
}

#[test]
fn status_of_nobody_says_where_it_looked() {
    let mut house = house();
    house.signal(Signal::SIGTERM);
    house.end();
    let output = house.run(&["status"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let error = text(&output.stderr);
    assert!(error.contains("control.sock"), "{error}");
    assert!(error.contains("does the orchestrator run"), "{error}");
}

#[test]
fn explain_names_route_filters_and_what_they_negotiated() {
    let mut house = house();
    house.wait_until_up("good");
    let output = house.run(&["explain", "--client", "192.0.2.1", "--no-auth"]);
    let said = text(&output.stdout);
    for words in ["route all: matches", "1. live", "- good at unix:", "reads "] {
        assert!(said.contains(words), "no {words:?} in\n{said}");
    }
    assert!(!said.contains("assumed"), "{said}");
    let output = house.run(&["explain", "--listen", "inbund"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(text(&output.stderr).contains("did you mean inbound?"));

    house.signal(Signal::SIGTERM);
    house.end();
    let said = text(&house.run(&["explain"]).stdout);
    assert!(
        said.contains("may change header and body (assumed"),
        "{said}"
    );
    assert!(said.contains("No orchestrator is running"), "{said}");
}
