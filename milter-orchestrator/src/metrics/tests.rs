//! Every number of a snapshot under its name.

use std::collections::BTreeSet;
use std::time::Duration;

use milter_proto::daemon::watch::Syntax;
use milter_proto::testkit::exposition::{self, Metric};

use super::*;
use crate::counters::{
    Change, Counters, Crash, Decision, Link, Mta, MtaFault, Phase, Replay, Traffic, Word,
};
use crate::member::OnFailure;
use crate::status::tests::snapshot;

/// Of a filter that has done everything once.
fn counts() -> Counts {
    let counters = Counters::default();
    let ms = Duration::from_millis;
    counters.answer(Phase::Mail, Word::Continue, ms(2));
    counters.answer(Phase::EndOfMessage, Word::Reply, ms(400));
    counters.answer(Phase::EndOfMessage, Word::Reply, ms(60_000));
    counters.message(Word::Reply);
    counters.fallback(OnFailure::Accept, Failure::Closed);
    counters.unseen();
    counters.failure(Failure::Desync);
    counters.replayed(Replay::Ok);
    counters.crash(Crash::Poison);
    counters.changes(Change::Header, 2);
    counters.link(Link::Kept);
    counters.read()
}

fn page(snapshot: &Snapshot, syntax: Syntax) -> String {
    let mut page = Exposition::new(syntax);
    write(snapshot, &mut page);
    page.finish()
}

fn busy() -> Snapshot {
    let mut snapshot = snapshot();
    let traffic = Traffic::default();
    traffic.session(Mta::Sendmail);
    traffic.message(Decision::Quarantine, 700);
    traffic.fault(MtaFault::Stalled);
    traffic.added(Duration::from_micros(300));
    for listener in &mut snapshot.listeners {
        listener.traffic = traffic.read();
    }
    for milter in &mut snapshot.milters {
        milter.counts = counts();
    }
    snapshot.spool = SpoolStatus {
        memory: 5,
        memory_limit: 10,
        files: 3,
    };
    snapshot.reload = ReloadStatus {
        failed: 1,
        at: 990,
        error: Some("o.toml:1: unknown key\nmore of it".to_owned()),
        ..ReloadStatus::default()
    };
    let reasons = health(&snapshot).reasons;
    let refused = &reasons[0];
    assert_eq!((refused.since, refused.blocks), (990, false));
    assert!(refused.message.ends_with("unknown key"), "{refused:?}");
    snapshot
}

#[test]
fn every_number_has_its_name() {
    let snapshot = busy();
    for (syntax, open) in [(Syntax::Text, false), (Syntax::OpenMetrics, true)] {
        let metrics = exposition::read(&page(&snapshot, syntax), open).unwrap();
        let spam = ("filter", "spam");
        let inbound = ("listen", "inbound");
        let end = [spam, ("phase", "end_of_message"), ("verdict", "reply")];
        for (name, labels, expected) in [
            ("milter_message_seconds_count", &end[..], 2.0),
            ("milter_message_seconds_sum", &end, 60.4),
            ("milter_messages_total", &[spam, ("verdict", "reply")], 1.0),
            ("milter_messages_total", &[spam, ("verdict", "accept")], 0.0),
            (
                "milter_fallback_total",
                &[spam, ("reason", "crash"), ("action", "accept")],
                1.0,
            ),
            ("milter_unscanned_accepted_total", &[spam], 1.0),
            ("milter_failures_total", &[spam, ("reason", "garbage")], 1.0),
            ("milter_protocol_errors_total", &[("name", "spam")], 1.0),
            ("milter_protocol_errors_total", &[("kind", "stalled")], 1.0),
            ("milter_replays_total", &[spam, ("result", "ok")], 1.0),
            ("milter_crashes_total", &[spam, ("outcome", "poison")], 1.0),
            ("milter_changes_total", &[spam, ("change", "header")], 2.0),
            (
                "milter_filter_connections_total",
                &[("link", "kept"), spam],
                1.0,
            ),
            (
                "milter_sessions_total",
                &[inbound, ("mta", "sendmail")],
                1.0,
            ),
            ("milter_sessions_open", &[inbound], 7.0),
            ("milter_decisions_total", &[("verdict", "quarantine")], 1.0),
            ("milter_bytes_total", &[inbound], 700.0),
            ("milter_added_latency_seconds_count", &[inbound], 1.0),
            ("milter_child_up", &[("filter", "dkim")], 1.0),
            ("milter_child_up", &[spam], 0.0),
            ("milter_child_ready", &[("filter", "dkim")], 1.0),
            ("milter_child_ready", &[spam], 0.0),
            ("milter_breaker_state", &[("filter", "dkim")], 0.0),
            ("milter_breaker_state", &[spam], 2.0),
            (
                "milter_child_restarts_total",
                &[spam, ("reason", "signal"), ("signal", "11")],
                17.0,
            ),
            ("milter_child_starts_total", &[spam], 18.0),
            ("milter_child_backoff_seconds", &[spam], 3.2),
            ("milter_probe_seconds", &[("filter", "dkim")], 0.0015),
            ("milter_memory_budget_bytes", &[], 5.0),
            ("milter_memory_budget_limit_bytes", &[], 10.0),
            ("milter_spill_bytes", &[], 3.0),
            ("milter_config_last_reload_success", &[], 0.0),
            ("milter_config_reloads_total", &[("result", "refused")], 1.0),
        ] {
            let value = exposition::value(&metrics, name, labels);
            assert_eq!(value, Some(expected), "{name} {labels:?}");
        }
    }
}

/// As many series as there are filters and listeners, times a constant: mail adds none.
#[test]
fn labels_are_words_of_ours_and_names_of_the_configuration() {
    let snapshot = busy();
    let metrics = exposition::read(&page(&snapshot, Syntax::Text), false).unwrap();
    let samples = metrics.iter().flat_map(|metric: &Metric| &metric.samples);
    let names: BTreeSet<&str> = samples
        .flat_map(|sample| sample.labels.keys())
        .map(String::as_str)
        .collect();
    let known = [
        "action", "change", "filter", "kind", "le", "link", "listen", "mta", "name", "outcome",
        "phase", "reason", "result", "side", "signal", "verdict",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), known);
}

#[test]
fn who_is_down_is_a_reason_and_blocks_where_mail_is_refused_for_it() {
    let all = snapshot();
    let of = |name: &str, policy, shadow| {
        let mut snapshot = all.clone();
        snapshot.milters.retain(|milter| milter.name == name);
        snapshot.milters[0].on_failure = policy;
        snapshot.milters[0].shadow = shadow;
        health(&snapshot)
    };
    assert_eq!(of("dkim", OnFailure::TempFail, false).reasons, []);
    let draining = Snapshot {
        draining: true,
        milters: Vec::new(),
        ..all.clone()
    };
    let draining = health(&draining);
    assert_eq!(
        (draining.ready, &*draining.reasons[0].state),
        (false, "draining")
    );
    for (policy, shadow, ready) in [
        (OnFailure::TempFail, false, false),
        (OnFailure::Reject, false, false),
        (OnFailure::Quarantine, false, false),
        (OnFailure::Accept, false, true),
        (OnFailure::TempFail, true, true),
    ] {
        let health = of("spam", policy, shadow);
        assert_eq!(health.ready, ready, "{policy:?} {shadow}");
        let reason = &health.reasons[0];
        assert_eq!(
            (&*reason.about, &*reason.state),
            ("filter spam", "crashing")
        );
        assert!(reason.breaker_open && reason.since == 999);
        assert!(reason.message.ends_with("; status 1"), "{}", reason.message);
    }
}
