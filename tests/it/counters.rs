//! What `status` counts, held against what mail through the daemon did.

use std::collections::BTreeMap;
use std::time::Duration;

use milter_orchestrator::counters::{Change, Counts, Failure, Phase, Word};
use milter_orchestrator::member::OnFailure;
use milter_proto::net::Stream;
use milter_proto::testkit::{Scenario, converse};
use milter_tests::process::Process;
use milter_tests::scripts::Stage;

const PATIENCE: Duration = Duration::from_secs(30);

/// A word at every place where there is one, and a filter behind that hears of what is left.
const WORDS: &str = r#"
filter first
  actions add-headers change-body add-recipient quarantine
  at end in-message 1: wait 20ms; add "X-A" "1"; add "X-A" "2"; replace-body "new\r\n";
    add-recipient "<copy@x>"; quarantine "why"; continue
  at mail in-message 2: accept
  at end in-message 3: reject
  at mail in-message 4: tempfail
  at data in-message 5: reply "550 5.7.1 no"
  at end in-message 6: discard
filter second
  actions add-headers
  at end: add "X-B" "1"; continue
mta
  > negotiate
  < any negotiate
  > connect "client.test" 192.0.2.1:1234
  < continue
  > helo "client.test"
  < continue
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < continue
  > header "Subject" " s"
  < continue
  > end-of-headers
  < continue
  > body "old\r\n"
  < continue
  > end
  < add "X-A" " 1"; add "X-A" " 2"; add "X-B" " 1"; replace-body "new\r\n";
    add-recipient "<copy@x>"; quarantine "why"; continue
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < continue
  > end-of-headers
  < continue
  > end
  < add "X-B" " 1"; continue
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < continue
  > end-of-headers
  < continue
  > end
  < reject
  > mail "<s@x>"
  < tempfail
  > abort
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < reply "550 5.7.1 no"
  > abort
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < continue
  > end-of-headers
  < continue
  > end
  < discard
  > quit
  < closed
"#;

/// Filters that fail, each in its way and every time; none keeps mail from passing.
const FAILURES: &str = r#"
filter closes
  at end: close
filter hangs
  at mail: hang
filter garbles
  at rcpt: frame "?"
filter answers-twice
  at data: continue; continue
filter gone
chain closes hangs garbles answers-twice gone
  on-failure closes accept
  on-failure hangs accept
  on-failure garbles accept
  on-failure answers-twice quarantine
  on-failure gone accept
  timeout hangs 2s
mta
  > negotiate
  < any negotiate
  > connect "client.test" 192.0.2.1:1234
  < continue
  > helo "client.test"
  < continue
  > mail "<s@x>"
  < continue
  > rcpt "<r@x>"
  < continue
  > data
  < continue
  > end-of-headers
  < continue
  > end
  < quarantine "not checked, filter answers-twice failed"; continue
  > quit
  < closed
"#;

/// The filters of a scenario behind a daemon, and its first MTA's conversation.
async fn run(text: &str, meanwhile: impl FnOnce(&mut Stage)) -> (Stage, Process) {
    let stage = Stage::new(Scenario::parse("case_199", text).unwrap());
    let mut stage = stage.await.unwrap();
    let daemon = stage.start_daemon().unwrap();
    meanwhile(&mut stage);
    let stream = Stream::connect(&stage.address()).await.unwrap();
    let outcome = converse(&stage.scenario.mtas[0], stream, PATIENCE).await;
    if let Err(mismatch) = outcome {
        panic!("{mismatch}\n{}", daemon.output());
    }
    (stage, daemon)
}

fn counts(stage: &Stage, name: &str) -> Counts {
    let milters = stage.status().unwrap();
    let milter = milters.into_iter().find(|milter| milter.name == name);
    milter.unwrap().counts
}

/// The numbers that are not 0.
fn counted<L: Copy + Ord>(counts: &BTreeMap<L, u64>) -> Vec<(L, u64)> {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    counts.map(|(label, count)| (*label, *count)).collect()
}

fn answers(counts: &Counts, phase: Phase) -> Vec<(Word, u64)> {
    let in_phase = counts.phases.get(&phase);
    in_phase.map_or_else(Vec::new, |in_phase| counted(&in_phase.answers_total))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_199_every_word_and_change_is_counted_and_timed() {
    let (stage, _daemon) = run(WORDS, |_| {}).await;
    let (first, second) = (counts(&stage, "first"), counts(&stage, "second"));
    let every = [
        Word::Continue,
        Word::Accept,
        Word::Reject,
        Word::Tempfail,
        Word::Reply,
        Word::Discard,
    ];
    assert_eq!(counted(&first.messages_total), every.map(|word| (word, 1)));
    assert_eq!(counted(&second.messages_total), [(Word::Continue, 2)]);
    let changed = [
        (Change::Header, 2),
        (Change::Envelope, 1),
        (Change::Body, 1),
        (Change::Quarantine, 1),
    ];
    assert_eq!(counted(&first.changes_total), changed);
    assert_eq!(counted(&second.changes_total), [(Change::Header, 2)]);

    let passed = |count| vec![(Word::Continue, count)];
    let with = |word: Word| vec![(Word::Continue, 3), (word, 1)];
    for (phase, expected) in [
        (Phase::Connect, passed(1)),
        (Phase::Helo, passed(1)),
        (Phase::Unknown, Vec::new()),
        (
            Phase::Mail,
            vec![(Word::Continue, 4), (Word::Accept, 1), (Word::Tempfail, 1)],
        ),
        (Phase::Rcpt, passed(4)),
        (Phase::Data, with(Word::Reply)),
        (Phase::Header, passed(1)),
        (Phase::EndOfHeaders, passed(3)),
        (Phase::Body, passed(1)),
        (
            Phase::EndOfMessage,
            vec![(Word::Continue, 1), (Word::Reject, 1), (Word::Discard, 1)],
        ),
    ] {
        assert_eq!(answers(&first, phase), expected, "{phase:?}");
        let Some(in_phase) = first.phases.get(&phase) else {
            continue;
        };
        let seconds = &in_phase.answer_seconds;
        let answered: u64 = in_phase.answers_total.values().sum();
        assert_eq!(seconds.count, answered, "{phase:?}");
        assert_eq!(seconds.buckets.last().unwrap().count, answered, "{phase:?}");
    }
    // One of the three took 20 ms.
    let end = &first.phases[&Phase::EndOfMessage].answer_seconds;
    assert!(end.sum_us >= 20_000, "{end:?}");
    let below = end.buckets.iter().find(|bucket| bucket.le_ms == Some(10));
    assert!(below.unwrap().count <= 2, "{end:?}");
    check_what_is_shown(&stage);
}

/// The same numbers, as the sub-command prints them.
fn check_what_is_shown(stage: &Stage) {
    let text = stage.told_by(&["status", "--json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (path, expected) in [
        ("/name", "first".into()),
        ("/counts/messages_total/reply", 1.into()),
        ("/counts/failures_total/desync", 0.into()),
        ("/counts/changes_total/envelope", 1.into()),
        ("/counts/phases/mail/answers_total/tempfail", 1.into()),
        (
            "/counts/phases/end_of_message/answer_seconds/count",
            3.into(),
        ),
    ] {
        let value = json.pointer(&format!("/milters/0{path}"));
        assert_eq!(
            value,
            Some::<&serde_json::Value>(&expected),
            "{path}: {text}"
        );
    }
    let text = stage.told_by(&["status"]).unwrap();
    let row = |title: &str| {
        let mut lines = text.lines().skip_while(|line| !line.contains(title));
        let row = lines.find(|line| line.starts_with("first "));
        let row = row.unwrap_or_else(|| panic!("{title}: {text}"));
        row.split_whitespace().skip(1).collect::<Vec<_>>()
    };
    let said = ["1", "1", "1", "1", "1", "1", "5", "1", "0", "-"];
    assert_eq!(row("QUARANTINE"), said, "{text}");
    assert_eq!(row("95% WITHIN").len(), 9, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_199_every_failure_is_counted_by_its_kind() {
    let (stage, daemon) = run(FAILURES, |stage| drop(stage.servers.pop())).await;
    let log = daemon.output();
    for (name, failure, policy) in [
        ("closes", Failure::Closed, OnFailure::Accept),
        ("garbles", Failure::Desync, OnFailure::Accept),
        ("answers-twice", Failure::Desync, OnFailure::Quarantine),
    ] {
        let counts = counts(&stage, name);
        // The second time when it was told all again.
        assert_eq!(
            counted(&counts.failures_total),
            [(failure, 2)],
            "{name}: {log}"
        );
        assert_eq!(counts.replays_total, 1, "{name}: {log}");
        assert_eq!(
            counted(&counts.fallback_total),
            [(policy, 1)],
            "{name}: {log}"
        );
        assert_eq!(counted(&counts.messages_total), [], "{name}: {log}");
    }
    // How often it is late depends on how busy the machine is; `gone` is called for the client and
    // again for the message.
    for (name, failure) in [("hangs", Failure::Timeout), ("gone", Failure::Connect)] {
        let counts = counts(&stage, name);
        let kinds = counted(&counts.failures_total);
        assert!(
            matches!(kinds[..], [(kind, 1..=2)] if kind == failure),
            "{name}: {kinds:?}\n{log}"
        );
        let fallbacks = counted(&counts.fallback_total);
        assert_eq!(fallbacks, [(OnFailure::Accept, 1)], "{name}: {log}");
    }
    let milters = stage.status().unwrap();
    assert!(milters.iter().all(|milter| milter.last_error.is_some()));
    let text = stage.told_by(&["status"]).unwrap();
    for row in ["closes ", "garbles "] {
        let words = if row == "closes " {
            "closed 2"
        } else {
            "desync 2"
        };
        let mut rows = text.lines().filter(|line| line.starts_with(row));
        assert!(rows.any(|line| line.ends_with(words)), "{row}: {text}");
    }
}
