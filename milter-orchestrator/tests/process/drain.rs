//! Draining: messages in hand are finished, nobody new is let in, and it can be undone.

use std::thread;
use std::time::Duration;

use super::filter;
use super::house::House;
use super::mta::Session;

fn house() -> House {
    let good = filter::milter(Duration::ZERO);
    let house = House::start(&format!(
        "[milter.good]\n{good}[[route]]\nchain = [\"good\"]\n"
    ));
    house.wait_until_up("good");
    house
}

#[track_caller]
fn run(house: &House, arguments: &[&str]) -> String {
    let output = house.run(arguments);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_drain_finishes_what_is_in_hand_and_lets_nobody_in_until_it_is_undone() {
    let house = house();
    let inbound = house.path().join("inbound.sock");
    let mut between = Session::open(&inbound).unwrap();
    between.send().unwrap();
    let mut in_hand = Session::open(&inbound).unwrap();
    let sent = in_hand.send_and(|| {
        let said = run(&house, &["drain"]);
        assert!(said.contains("no more connections are taken"), "{said}");
        house.wait_for("the end of the other", || house.status().connections() == 1);
    });
    sent.unwrap();
    assert!(between.send().is_err(), "it had been closed");
    run(&house, &["drain", "--wait"]);
    assert_eq!(house.status().connections(), 0);
    let table = run(&house, &["status"]);
    assert!(table.contains("draining"), "{table}");

    let waiting = thread::spawn(move || Session::open(&inbound).unwrap().send());
    assert!(house.status().draining);
    let said = run(&house, &["drain", "--undo"]);
    assert!(said.contains("connections are taken again"), "{said}");
    waiting.join().unwrap().unwrap();
    assert!(!house.status().draining);
}

#[test]
fn a_drain_with_no_connection_is_done_at_once() {
    let house = house();
    run(&house, &["drain", "--wait"]);
    let said = run(&house, &["drain", "--undo"]);
    assert!(said.contains("again"), "{said}");
}
