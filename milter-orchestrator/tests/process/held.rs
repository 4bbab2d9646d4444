//! Sockets that somebody else holds, as systemd does: who connects while the orchestrator is gone
//! waits for the next one.

use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::filter;
use super::house::House;
use super::mta::Session;

#[test]
fn after_a_sigkill_those_who_connect_wait_for_the_next_orchestrator() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inbound.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let sections = format!(
        "[milter.good]\n{}[[route]]\nchain = [\"good\"]\n",
        filter::stamping("one")
    );
    let mut house = House::start_holding(directory, &socket, &sections);
    house.wait_until_up("good");
    Session::open(&path).unwrap().send().unwrap();
    for _ in 0..3 {
        let before = house.inhabitants();
        let killed = Instant::now();
        house.signal(Signal::SIGKILL);
        let waiting = thread::spawn({
            let path = path.clone();
            move || {
                let sent = Session::open(&path).unwrap().send().unwrap();
                (sent, killed.elapsed())
            }
        });
        house.start_again(&socket);
        let (sent, gap) = waiting.join().unwrap();
        assert_eq!(sent, "one");
        println!("{} ms until the next message passed", gap.as_millis());
        house.wait_for("the end of all that was before", || {
            let now = house.inhabitants();
            before.iter().all(|pid| !now.contains(pid))
        });
        house.wait_until_up("good");
    }
    // An upgrade takes over a socket that is not ours, and leaves its file alone.
    let output = house.run(&["upgrade"]);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    assert_eq!(Session::open(&path).unwrap().send().unwrap(), "one");
    house.end();
    let last = house.orchestrators();
    last.into_iter()
        .for_each(|pid| super::house::send(pid, Signal::SIGTERM));
    house.wait_for("an empty house", || house.inhabitants().is_empty());
    assert!(path.exists());
}
