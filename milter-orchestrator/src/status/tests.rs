//! A snapshot of much that can be wrong, as tables and as JSON.

use std::time::Duration;

use super::table::age;
use super::*;
use crate::counters::{Change, Counters, Failure, Phase, Word};

fn milter(name: &str) -> MilterStatus {
    MilterStatus {
        name: name.to_owned(),
        kind: Kind::Spawned,
        state: State::Up,
        readiness: Readiness::Ready,
        socket: format!("unix:/run/x/{name}.sock"),
        on_failure: OnFailure::TempFail,
        shadow: false,
        pid: Some(4711),
        since: 960,
        restarts: 0,
        ends: Vec::new(),
        backoff_ms: None,
        probe_us: Some(1500),
        last_error: None,
        messages: 12,
        fallbacks: 0,
        negotiated: Some(Negotiated {
            actions: 1,
            steps: 0x400,
        }),
        counts: counts(),
    }
}

/// Of one that has said a few things, and once too much.
fn counts() -> Counts {
    let counters = Counters::default();
    let ms = Duration::from_millis;
    counters.answer(Phase::Mail, Word::Continue, ms(2));
    counters.answer(Phase::EndOfMessage, Word::Reply, ms(400));
    counters.answer(Phase::EndOfMessage, Word::Continue, ms(1900));
    counters.answer(Phase::Unknown, Word::Continue, ms(60_000));
    counters.answer(Phase::Connect, Word::Continue, ms(60_000));
    counters.message(Word::Continue);
    counters.message(Word::Reply);
    counters.changes(Change::Header, 2);
    counters.changes(Change::Quarantine, 1);
    counters.failure(Failure::Desync);
    counters.failure(Failure::Timeout);
    counters.replay();
    counters.read()
}

pub(crate) fn snapshot() -> Snapshot {
    let crashing = MilterStatus {
        state: State::Backoff,
        readiness: Readiness::Open,
        pid: None,
        since: 999,
        restarts: 17,
        ends: vec![EndStatus {
            cause: "signal".to_owned(),
            signal: Some(11),
            count: 17,
        }],
        backoff_ms: Some(3200),
        fallbacks: 3,
        on_failure: OnFailure::Accept,
        last_error: Some(ErrorStatus {
            at: 940,
            message: "status 1".to_owned(),
        }),
        ..milter("spam")
    };
    let foreign = MilterStatus {
        kind: Kind::Foreign,
        state: State::Down,
        readiness: Readiness::Open,
        pid: None,
        shadow: true,
        counts: Counts::default(),
        ..milter("old")
    };
    Snapshot {
        version: "0.1.0".to_owned(),
        pid: 42,
        draining: false,
        since: 0,
        now: 1000,
        listeners: vec![ListenerStatus {
            name: "inbound".to_owned(),
            socket: "inet:10025@127.0.0.1".to_owned(),
            connections: 7,
            traffic: TrafficCounts::default(),
        }],
        spool: SpoolStatus::default(),
        reload: ReloadStatus::default(),
        milters: vec![milter("dkim"), crashing, foreign],
    }
}

#[test]
fn the_table_is_aligned_and_says_what_is_wrong() {
    let expected = "\
milter-orchestrator 0.1.0, process 42, up 16m 40s: ready
  filter spam crashing for 1s: mail passes without it; status 1
  filter old down for 40s: it only watches

LISTENER  SOCKET                CONNECTIONS
inbound   inet:10025@127.0.0.1  7

MILTER  KIND             STATE     BREAKER  PID   SINCE  RESTARTS  MESSAGES  FALLBACKS  \
ON FAILURE  LAST ERROR
dkim    spawned          up        closed   4711  40s    0         12        0          \
tempfail    -
spam    spawned          crashing  open     -     1s     17        12        3          \
accept      1m 0s ago: status 1
old     foreign, shadow  down      open     -     40s    0         12        0          \
tempfail    -

MILTER  CONTINUE  ACCEPT  REJECT  TEMPFAIL  REPLY  DISCARD  CHANGES  QUARANTINE  REPLAYS  FAILURES
dkim    1         0       0       0         1      0        3        1           1        \
timeout 1, desync 1
spam    1         0       0       0         1      0        3        1           1        \
timeout 1, desync 1
old     0         0       0       0         0      0        0        0           0        -

95% WITHIN  CONNECT  HELO  MAIL  RCPT  DATA  HEADER  EOH  BODY  EOM
dkim        longer   -     2ms   -     -     -       -    -     2s
spam        longer   -     2ms   -     -     -       -    -     2s
old         -        -     -     -     -     -       -    -     -
";
    assert_eq!(render(&snapshot()), expected);
}

#[test]
fn who_is_down_stands_out() {
    let text = render_in(&snapshot(), Paint::Colours);
    for part in [
        "\x1b[32mready\x1b[0m",
        "\x1b[1;31mcrashing\x1b[0m",
        "\x1b[32mup\x1b[0m",
        "\x1b[33mtimeout 1, desync 1\x1b[0m",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!render(&snapshot()).contains('\x1b'));
}

#[test]
fn json_gives_back_the_same_snapshot() {
    let text = serde_json::to_string(&snapshot()).unwrap();
    assert!(!text.contains('\n'));
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot());
}

#[test]
fn ages() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (3600, "1h 0m"),
        (90_061, "1d 1h"),
    ] {
        assert_eq!(age(1_000_000, 1_000_000 - seconds), text);
    }
    assert_eq!(age(5, 10), "0s", "a clock that was set back");
}
