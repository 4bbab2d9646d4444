//! What monitoring sees: metrics after mail, readiness while a filter is down, and who may ask.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use milter_orchestrator::control::Question;
use milter_proto::daemon::watch::Health;
use milter_proto::testkit::exposition::{self, Metric};
use nix::unistd::Uid;

use super::filter;
use super::house::{House, PATIENCE};
use super::mta::Session;

fn house() -> House {
    let good = filter::milter(Duration::ZERO);
    House::start(&format!(
        "[metrics]\nsocket = \"unix:{{dir}}/metrics.sock\"\n[milter.good]\n{good}\
         [milter.ends]\ncommand = [\"false\"]\non_failure = \"accept\"\n\
         [milter.watches]\ncommand = [\"false\"]\nshadow = true\n\
         [[route]]\nname = \"all\"\nchain = [\"good\", \"ends\", \"watches\"]\n"
    ))
}

/// Status line and body.
fn get(house: &House, path: &str, fields: &str) -> (String, String) {
    let mut stream = UnixStream::connect(house.path().join("metrics.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n{fields}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn metrics(house: &House) -> Vec<Metric> {
    let (status, text) = get(house, "/metrics", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let (_, open) = get(house, "/metrics", accept);
    exposition::read(&open, true).unwrap();
    exposition::read(&text, false).unwrap()
}

fn health(house: &House) -> (String, Health) {
    let (status, body) = get(house, "/readyz", "");
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn mail_shows_in_the_metrics() {
    let house = house();
    house.wait_until_up("good");
    house.wait_for("readiness", || health(&house).1.ready);
    let mut session = Session::open(&house.path().join("inbound.sock")).unwrap();
    session.send().unwrap();
    session.send().unwrap();
    let metrics = metrics(&house);
    let value = |name, labels: &[_]| exposition::value(&metrics, name, labels);
    let (good, ends, inbound) = (
        ("filter", "good"),
        ("filter", "ends"),
        ("listen", "inbound"),
    );
    let end = [good, ("phase", "end_of_message"), ("verdict", "continue")];
    for (name, labels, expected) in [
        ("milter_message_seconds_count", &end[..], 2.0),
        (
            "milter_messages_total",
            &[good, ("verdict", "continue")],
            2.0,
        ),
        ("milter_fallback_total", &[ends, ("action", "accept")], 2.0),
        ("milter_unscanned_accepted_total", &[ends], 2.0),
        ("milter_unscanned_accepted_total", &[good], 0.0),
        (
            "milter_decisions_total",
            &[inbound, ("verdict", "accept")],
            2.0,
        ),
        ("milter_bytes_total", &[inbound], 12.0),
        ("milter_added_latency_seconds_count", &[inbound], 2.0),
        ("milter_sessions_total", &[inbound], 1.0),
        ("milter_sessions_open", &[inbound], 1.0),
        ("milter_child_up", &[good], 1.0),
        (
            "milter_build_info",
            &[("program", "milter-orchestrator")],
            1.0,
        ),
    ] {
        assert_eq!(value(name, labels), Some(expected), "{name} {labels:?}");
    }
    session.quit();
}

#[test]
fn readiness_names_who_is_down_and_draining() {
    let house = house();
    house.wait_until_up("good");
    // What nobody waits for does not block, but shows, within two seconds of its breaker.
    house.wait_for("the breaker of what ends at once", || {
        let (_, health) = health(&house);
        let mut reasons = health.reasons.iter();
        let ends = reasons.find(|reason| reason.about == "filter ends");
        ends.is_some_and(|reason| reason.breaker_open && !reason.blocks)
    });
    house.wait_for("readiness", || health(&house).0 == "HTTP/1.1 200 OK");
    let broken = exposition::value(
        &metrics(&house),
        "milter_breaker_state",
        &[("filter", "ends")],
    );
    assert!(broken.is_some_and(|state| state > 0.0));
    let (_, health) = health(&house);
    let watches = health
        .reasons
        .iter()
        .find(|one| one.about == "filter watches");
    assert!(!watches.unwrap().blocks, "{health:?}");

    house.run(&["drain"]);
    house.wait_for("draining", || {
        let (status, health) = self::health(&house);
        let states = health.reasons.iter().map(|reason| &*reason.state);
        status.contains("503") && states.collect::<Vec<_>>().contains(&"draining")
    });
    assert_eq!(get(&house, "/livez", "").0, "HTTP/1.1 200 OK");
}

/// Needs root, to be somebody else for a moment.
#[test]
fn another_user_is_refused_at_the_control_socket() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: another_user_is_refused_at_the_control_socket: not root");
        return;
    }
    let house = house();
    // Even where the files would let it in.
    let open = |path: &std::path::Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(house.path());
    open(&house.path().join("control.sock"));
    // Where everybody may run it.
    let program = house.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_milter-orchestrator"), &program).unwrap();
    let config = house.path().join("orchestrator.toml");
    let ask = |uid: u32| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).arg("status");
        command.uid(uid).output().unwrap()
    };
    let refused = ask(65_534);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(69), "{error}\n{}", house.log());
    assert!(
        error.contains("only root and the user it runs as"),
        "{error}"
    );
    assert!(ask(0).status.success());
    house.wait_for_log(&["65534", "refused at the control socket"]);
    assert!(house.ask(&Question::Status).is_some());
}
