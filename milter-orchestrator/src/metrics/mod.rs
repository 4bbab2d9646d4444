//! A snapshot as metrics for Prometheus, and as an answer to whether we are ready.
//!
//! Pure: [`write()`] and [`health`] only read what [`status`](crate::status) shows. Values of
//! labels are names from the configuration and words of our own, never anything that came with
//! mail; so there are as many series as there are filters and listeners, times a constant.

mod health;
#[cfg(test)]
mod tests;

use milter_proto::daemon::watch::{Exposition, Family, Labels};
use serde::Serialize;

use crate::counters::{Counts, Failure, Histogram};
use crate::member::Readiness;
use crate::status::{Kind, ListenerStatus, MilterStatus, ReloadStatus, Snapshot, SpoolStatus};
use crate::supervisor::child::State;

pub use health::health;

/// Writes everything.
pub fn write(snapshot: &Snapshot, page: &mut Exposition) {
    latencies(snapshot, page);
    traffic(&snapshot.listeners, page);
    words(&snapshot.milters, page);
    errors(snapshot, page);
    children(&snapshot.milters, page);
    spool(snapshot.spool, page);
    reloads(&snapshot.reload, page);
}

fn latencies(snapshot: &Snapshot, page: &mut Exposition) {
    let mut family = page.histogram(
        "milter_message_seconds",
        "How long answers of a filter took, by what it was asked about and what it said.",
    );
    for milter in &snapshot.milters {
        for (phase, counts) in &milter.counts.phases {
            for (word, histogram) in &counts.answer_seconds_by_word {
                let (phase, verdict) = (name(phase), name(word));
                let labels = [
                    ("filter", &*milter.name),
                    ("phase", &phase),
                    ("verdict", &verdict),
                ];
                buckets(&mut family, &labels, histogram);
            }
        }
    }
    let mut family = page.histogram(
        "milter_added_latency_seconds",
        "How long messages took beyond what the slowest filter of each segment took.",
    );
    for listener in &snapshot.listeners {
        let histogram = &listener.traffic.added_latency_seconds;
        buckets(&mut family, &[("listen", &listener.name)], histogram);
    }
}

fn buckets(family: &mut Family<'_>, labels: Labels<'_>, histogram: &Histogram) {
    let bounded = histogram.buckets.iter();
    let bounded = bounded.filter_map(|bucket| Some((seconds(bucket.le_ms?), bucket.count)));
    let bounded: Vec<(f64, u64)> = bounded.collect();
    let sum = std::time::Duration::from_micros(histogram.sum_us).as_secs_f64();
    family.buckets(labels, &bounded, sum, histogram.count);
}

fn seconds(milliseconds: u64) -> f64 {
    std::time::Duration::from_millis(milliseconds).as_secs_f64()
}

/// What came in, and what became of it.
fn traffic(listeners: &[ListenerStatus], page: &mut Exposition) {
    let mut family = page.counter("milter_sessions", "Clients that MTAs told of.");
    for ListenerStatus { name, traffic, .. } in listeners {
        for (mta, count) in &traffic.sessions_total {
            family.sample(&[("listen", name), ("mta", &self::name(mta))], *count);
        }
    }
    let mut family = page.gauge("milter_sessions_open", "Connections of MTAs.");
    for listener in listeners {
        family.sample(&[("listen", &listener.name)], listener.connections);
    }
    let mut family = page.counter("milter_decisions", "Messages by what became of them.");
    for ListenerStatus { name, traffic, .. } in listeners {
        for (decision, count) in &traffic.messages_total {
            let verdict = self::name(decision);
            family.sample(&[("listen", name), ("verdict", &verdict)], *count);
        }
    }
    let mut family = page.counter("milter_bytes", "Bytes of the bodies of messages.");
    for ListenerStatus { name, traffic, .. } in listeners {
        family.sample(&[("listen", name)], traffic.bytes_total);
    }
}

/// What filters said of messages, and did to them.
fn words(milters: &[MilterStatus], page: &mut Exposition) {
    let mut family = page.counter(
        "milter_messages",
        "Messages by a filter's own word on them; failures and shadows are not among them.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (word, count) in &counts.messages_total {
            let verdict = self::name(word);
            family.sample(&[("filter", name), ("verdict", &verdict)], *count);
        }
    }
    let mut family = page.counter(
        "milter_changes",
        "Changes to messages that the filter let pass.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (change, count) in &counts.changes_total {
            family.sample(&[("filter", name), ("change", &self::name(change))], *count);
        }
    }
    let mut family = page.counter(
        "milter_shadow_words",
        "Messages by what was decided about them, and by what a shadow said.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (decision, words) in &counts.shadow_words_total {
            let decision = self::name(decision);
            for (word, count) in words {
                let word = self::name(word);
                let labels = [
                    ("filter", &**name),
                    ("decision", &decision),
                    ("verdict", &word),
                ];
                family.sample(&labels, *count);
            }
        }
    }
    let mut family = page.counter(
        "milter_shadow_differs",
        "Messages that would have ended otherwise by a shadow's word.",
    );
    for milter in milters.iter().filter(|milter| milter.shadow) {
        family.sample(&[("filter", &milter.name)], milter.counts.shadow_differs());
    }
    let mut family = page.counter(
        "milter_shadow_missed",
        "Messages of which a shadow had not heard all when they were over, or on which it failed.",
    );
    for milter in milters.iter().filter(|milter| milter.shadow) {
        family.sample(
            &[("filter", &milter.name)],
            milter.counts.shadow_missed_total,
        );
    }
    let mut family = page.counter(
        "milter_filter_connections",
        "Connections to a filter, new ones and kept ones.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (link, count) in &counts.connections_total {
            family.sample(&[("filter", name), ("link", &self::name(link))], *count);
        }
    }
}

/// What went wrong, and what became of the message.
fn errors(snapshot: &Snapshot, page: &mut Exposition) {
    let milters = &snapshot.milters;
    let mut family = page.counter(
        "milter_fallback",
        "Messages on which on_failure spoke for a filter: why, and what it said.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (failure, actions) in &counts.fallback_reasons_total {
            for (action, count) in actions {
                let action = self::name(action);
                let labels = [
                    ("filter", &**name),
                    ("reason", reason(*failure)),
                    ("action", &action),
                ];
                family.sample(&labels, *count);
            }
        }
    }
    let mut family = page.counter(
        "milter_unscanned_accepted",
        "Messages that passed without a word of the filter, since on_failure allows it.",
    );
    for MilterStatus { name, counts, .. } in milters {
        family.sample(&[("filter", name)], counts.unscanned_accepted_total);
    }
    let mut family = page.counter(
        "milter_failures",
        "What went wrong with a filter, whatever became of the message.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (failure, count) in &counts.failures_total {
            family.sample(&[("filter", name), ("reason", reason(*failure))], *count);
        }
    }
    let mut family = page.counter(
        "milter_replays",
        "Messages that were told to a filter a second time, by what came of it.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (result, count) in &counts.replay_results_total {
            let result = self::name(result);
            family.sample(&[("filter", name), ("result", &result)], *count);
        }
    }
    let mut family = page.counter(
        "milter_crashes",
        "What crashes of a filter in the middle of a message led to, beside replays.",
    );
    for MilterStatus { name, counts, .. } in milters {
        for (crash, count) in &counts.crashes_total {
            family.sample(&[("filter", name), ("outcome", &self::name(crash))], *count);
        }
    }
    protocol_errors(snapshot, page);
}

fn protocol_errors(snapshot: &Snapshot, page: &mut Exposition) {
    let mut family = page.counter(
        "milter_protocol_errors",
        "Connections of MTAs, and of ours to filters, on which something was said out of order.",
    );
    for ListenerStatus { name, traffic, .. } in &snapshot.listeners {
        for (fault, count) in &traffic.protocol_errors_total {
            let kind = self::name(fault);
            let labels = [("side", "mta"), ("name", &**name), ("kind", &kind)];
            family.sample(&labels, *count);
        }
    }
    for MilterStatus { name, counts, .. } in &snapshot.milters {
        for failure in [Failure::Desync, Failure::Oversize] {
            let labels = [
                ("side", "filter"),
                ("name", &**name),
                ("kind", reason(failure)),
            ];
            family.sample(&labels, failures(counts, failure));
        }
    }
}

fn failures(counts: &Counts, failure: Failure) -> u64 {
    let count = counts.failures_total.get(&failure);
    count.copied().unwrap_or_default()
}

/// The supervisor's side.
fn children(milters: &[MilterStatus], page: &mut Exposition) {
    let mut family = page.gauge(
        "milter_child_up",
        "Whether the filter's process runs; of one that is not ours, whether it answers.",
    );
    for milter in milters {
        let up = match milter.kind {
            Kind::Spawned => milter.pid.is_some(),
            Kind::Foreign => milter.state == State::Up,
        };
        family.sample(&[("filter", &milter.name)], up);
    }
    let mut family = page.gauge(
        "milter_child_ready",
        "Whether the filter answers, and mail goes to it.",
    );
    for milter in milters {
        let ready = milter.readiness == Readiness::Ready;
        family.sample(&[("filter", &milter.name)], ready);
    }
    let mut family = page.gauge(
        "milter_breaker_state",
        "0: mail goes to the filter. 1: none does, a fresh process is being tried. 2: none does.",
    );
    for milter in milters {
        let state: u64 = match (milter.readiness, milter.state) {
            (Readiness::Open, State::Starting | State::Sick) => 1,
            (Readiness::Open, _) => 2,
            (Readiness::Unknown | Readiness::Ready | Readiness::Down, _) => 0,
        };
        family.sample(&[("filter", &milter.name)], state);
    }
    let mut family = page.counter("milter_child_starts", "Starts, the first one too.");
    for milter in milters.iter().filter(|milter| milter.kind == Kind::Spawned) {
        family.sample(&[("filter", &milter.name)], milter.restarts + 1);
    }
    let mut family = page.counter(
        "milter_child_restarts",
        "How often the filter's process ended or could not be started, by why.",
    );
    for milter in milters {
        for end in &milter.ends {
            let signal = end
                .signal
                .map_or_else(String::new, |signal| signal.to_string());
            let labels = [
                ("filter", &*milter.name),
                ("reason", &end.cause),
                ("signal", &signal),
            ];
            family.sample(&labels, end.count);
        }
    }
    waits(milters, page);
}

fn waits(milters: &[MilterStatus], page: &mut Exposition) {
    let mut family = page.gauge(
        "milter_child_backoff_seconds",
        "How long the next start is put off; 0: it is not.",
    );
    for milter in milters {
        let wait = seconds(milter.backoff_ms.unwrap_or_default());
        family.sample(&[("filter", &milter.name)], wait);
    }
    let mut family = page.gauge(
        "milter_probe_seconds",
        "How long the latest probe took that was answered.",
    );
    for milter in milters {
        if let Some(micros) = milter.probe_us {
            let took = std::time::Duration::from_micros(micros).as_secs_f64();
            family.sample(&[("filter", &milter.name)], took);
        }
    }
}

fn spool(spool: SpoolStatus, page: &mut Exposition) {
    page.gauge(
        "milter_memory_budget_bytes",
        "Memory for bodies that all messages share: what is taken of it.",
    )
    .sample(&[], spool.memory);
    page.gauge(
        "milter_memory_budget_limit_bytes",
        "Memory for bodies that all messages share.",
    )
    .sample(&[], spool.memory_limit);
    page.gauge("milter_spill_bytes", "Bytes of bodies that are in files.")
        .sample(&[], spool.files);
}

fn reloads(reload: &ReloadStatus, page: &mut Exposition) {
    page.gauge(
        "milter_config_last_reload_success",
        "Whether the configuration that was read last counts.",
    )
    .sample(&[], reload.error.is_none());
    page.gauge(
        "milter_config_last_reload_timestamp_seconds",
        "When it was read, in seconds since 1970; 0: at the start.",
    )
    .sample(&[], reload.at);
    let mut family = page.counter("milter_config_reloads", "Reloads, by what came of them.");
    for (result, count) in [("ok", reload.succeeded), ("refused", reload.failed)] {
        family.sample(&[("result", result)], count);
    }
}

/// A word as `status --json` writes it.
fn name(word: &impl Serialize) -> String {
    let value = serde_json::to_value(word);
    // Every word is written as a string.
    let text = value
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()));
    text.unwrap_or_default()
}

/// Why something failed, in the words that alerts use.
fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::Timeout => "timeout",
        Failure::Closed => "crash",
        Failure::Desync => "garbage",
        Failure::Oversize => "oversize",
        Failure::Breaker => "breaker",
    }
}
