//! What monitoring sees: metrics after mail, readiness while a filter is down, and who may ask.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use milter_orchestrator::control::Question;
use milter_orchestrator::status::Snapshot;
use milter_proto::daemon::watch::Health;
use milter_proto::testkit::exposition::{self, Metric};
use nix::sys::signal::Signal;

use super::filter;
use super::house::{House, JSON_LOG, PATIENCE, command, send};
use super::mta::Session;
use super::users::is_root;

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
fn whoever_takes_over_is_watched_at_the_same_place() {
    let mut house = house();
    house.wait_until_up("good");
    let output = house.run(&["upgrade"]);
    assert!(output.status.success(), "{output:?}\n{}", house.log());
    assert!(house.end().success(), "{}", house.log());
    house.wait_for("readiness", || health(&house).1.ready);
    let output = house.run(&["drain"]);
    assert!(output.status.success(), "{output:?}");
    let (status, health) = health(&house);
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(health.reasons[0].state, "draining");
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

/// Names of metrics in a text.
fn names_in(text: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    let is_name = |word: &&str| word.starts_with("milter_") || word.starts_with("process_");
    words.filter(is_name).collect()
}

const RULES: &str = "../deploy/prometheus/milter-orchestrator.rules.yml";
const DASHBOARD: &str = "../deploy/grafana/milter-orchestrator.json";

/// What is shipped for Prometheus and Grafana asks for nothing that is not there.
#[test]
fn alerts_and_dashboard_name_what_is_exported() {
    let house = house();
    let mut exported = BTreeSet::new();
    for Metric { name, kind, .. } in metrics(&house) {
        if kind == "histogram" {
            for part in ["bucket", "sum", "count"] {
                exported.insert(format!("{name}_{part}"));
            }
        }
        exported.insert(name);
    }
    let rules = std::fs::read_to_string(RULES).unwrap();
    let dashboard = std::fs::read_to_string(DASHBOARD).unwrap();
    let panels: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = BTreeSet::new();
    for panel in panels["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(names_in(target["expr"].as_str().unwrap()));
        }
    }
    let expressions = rules.lines().filter(|line| !line.contains(": \""));
    let of_rules = expressions.flat_map(names_in);
    asked.extend(of_rules.filter(|name| !name.ends_with("_orchestrator")));
    assert!(asked.len() > 25, "{asked:?}");
    let unknown: Vec<&str> = asked
        .into_iter()
        .filter(|name| !exported.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {exported:?}");
}

/// Prometheus' own tool finds nothing wrong with the rules and with a page of metrics.
#[test]
fn promtool_agrees() {
    let missing = Command::new("promtool").arg("--version").output().is_err();
    if missing {
        assert!(std::env::var_os("CI").is_none(), "promtool is not there");
        eprintln!("skipped: promtool_agrees: no promtool (Debian's package prometheus)");
        return;
    }
    let rules = Command::new("promtool")
        .args(["check", "rules", RULES])
        .output()
        .unwrap();
    assert!(rules.status.success(), "{rules:?}");
    let house = house();
    house.wait_until_up("good");
    let mut session = Session::open(&house.path().join("inbound.sock")).unwrap();
    session.send().unwrap();
    session.quit();
    let (_, text) = get(&house, "/metrics", "");
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = check.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The line of a message, in a log of the kind that `comment` asks for.
fn line(comment: &str) -> String {
    let good = filter::stamping("x");
    let house = House::start(&format!(
        "{comment}[milter.good]\n{good}[milter.gone]\nsocket = \"unix:{{dir}}/gone.sock\"\n\
         on_failure = \"accept\"\n[[route]]\nname = \"all\"\nchain = [\"good\", \"gone\"]\n"
    ));
    house.wait_until_up("good");
    let mut session = Session::open(&house.path().join("inbound.sock")).unwrap();
    session.send().unwrap();
    session.quit();
    house.wait_for_log(&["filters"]);
    let log = house.log();
    let mut lines = log.lines().filter(|line| line.contains("filters"));
    let line = lines.next().unwrap().to_owned();
    assert_eq!(lines.next(), None, "{log}");
    line
}

/// One line for each message, with the same in a text and in JSON.
#[test]
fn a_message_is_one_line_in_both_logs() {
    let text = line("");
    let json: serde_json::Value = serde_json::from_str(&line(JSON_LOG)).unwrap();
    for (words, pointer, value) in [
        (" INFO ", "/level", "INFO".into()),
        (": message ", "/message", "message".into()),
        (" queue_id=- ", "/queue_id", "-".into()),
        (" listen=inbound ", "/listen", "inbound".into()),
        (" route=\"all\" ", "/route", "all".into()),
        (
            " client=client.example.net[192.0.2.1] ",
            "/client",
            "client.example.net[192.0.2.1]".into(),
        ),
        (
            " sender=<a@example.net> ",
            "/sender",
            "<a@example.net>".into(),
        ),
        (" recipients=1 ", "/recipients", 1.into()),
        (" size=6 ", "/size", 6.into()),
        (" decision=continue ", "/decision", "continue".into()),
        (" by=every filter ", "/by", "every filter".into()),
        (
            " filters=good=continue+1/",
            "/filters/0/name",
            "good".into(),
        ),
        (
            " filters=good=continue+1/",
            "/filters/0/said",
            "continue".into(),
        ),
        (
            "ms gone=failed:accept/",
            "/filters/1/said",
            "failed:accept".into(),
        ),
        (
            "ms gone=failed:accept/",
            "/filters/1/error",
            "is down".into(),
        ),
        (" replays=0 ", "/replays", 0.into()),
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer} in {json}");
    }
    assert!(
        text.contains(" added_ms=") && text.contains(" ms="),
        "{text}"
    );
    for number in ["/added_ms", "/ms", "/filters/0/ms"] {
        let number = json.pointer(number).and_then(serde_json::Value::as_f64);
        assert!(number.is_some(), "{json}");
    }
}

/// A picture is enough for whoever closes the pipe; colours are for terminals.
#[test]
fn status_can_be_watched() {
    let house = house();
    house.wait_until_up("good");
    let mut watching = command(house.path())
        .args(["status", "--json", "--watch=1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let snapshot: Snapshot = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(snapshot.milters.len(), 3);
    }
    drop(lines);
    assert!(watching.wait().unwrap().success());

    let mut watching = command(house.path())
        .args(["status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("milter-orchestrator "), "{first:?}");
    send(i32::try_from(watching.id()).unwrap(), Signal::SIGINT);
    // What a shell calls 130.
    assert_eq!(watching.wait().unwrap().signal(), Some(2));
    assert!(!lines.any(|line| line.unwrap().contains('\x1b')));
    for nonsense in ["--watch=0", "--watch=x", "--watch=-1"] {
        let output = house.run(&["status", nonsense]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}

/// Needs root, to be somebody else for a moment.
#[test]
fn another_user_is_refused_at_the_control_socket() {
    if !is_root("another_user_is_refused_at_the_control_socket") {
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
