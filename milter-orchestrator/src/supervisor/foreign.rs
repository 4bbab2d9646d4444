//! A milter that somebody else runs: watched by the same probes, never started or ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::child::State;
use super::keeper::consequence;
use super::probe::{self, Judgement, Streak};
use super::vitals::Vitals;
use super::{Order, Pace};
use crate::member::{Member, Readiness};

/// Watches a milter until told to stop. `first_word` is told after the first answer, or the first
/// failure to get one.
pub async fn watch(
    member: Arc<Member>,
    pace: Pace,
    vitals: Arc<Vitals>,
    first_word: oneshot::Sender<()>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut streak = Streak::default();
    let mut first_word = Some(first_word);
    loop {
        let outcome = tokio::select! {
            outcome = probe::negotiate(&member.address, pace.probe_timeout) => {
                outcome.map(|negotiated| member.health.note_negotiated(negotiated))
            }
            // The only order that makes sense here is to stop.
            _ = orders.recv() => return,
        };
        let judgement = match (streak.record(outcome.is_ok()), member.health.readiness()) {
            // The first outcome is all there is to go by.
            (Judgement::Wait, Readiness::Unknown) if outcome.is_ok() => Judgement::Risen,
            (Judgement::Wait, Readiness::Unknown) => Judgement::Fallen,
            (judgement, _) => judgement,
        };
        match (judgement, member.health.readiness()) {
            (Judgement::Risen, Readiness::Unknown | Readiness::Down | Readiness::Open) => {
                tracing::info!(milter = member.name, address = %member.address, "answers");
                member.health.set_readiness(Readiness::Ready);
                vitals.moved(State::Up, None);
            }
            (Judgement::Fallen, Readiness::Unknown | Readiness::Down | Readiness::Ready) => {
                let error = outcome
                    .err()
                    .map_or_else(String::new, |error| error.to_string());
                tracing::warn!(
                    milter = member.name, address = %member.address,
                    "does not answer: {error}; until it does, {} (on_failure). It is not ours to \
                     start",
                    consequence(member.on_failure)
                );
                member.health.note_error(&error);
                member.health.set_readiness(Readiness::Open);
                vitals.moved(State::Down, None);
            }
            (Judgement::Risen, Readiness::Ready)
            | (Judgement::Fallen, Readiness::Open)
            | (Judgement::Wait, _) => {}
        }
        // Nobody may wait for it any more; that is no failure.
        let _ = first_word.take().map(|waiting| waiting.send(()));
        tokio::select! {
            () = pause(&member, pace.probe_interval) => {}
            _ = orders.recv() => return,
        }
    }
}

/// Waits until it is time to look again: the interval, or less when the proxy suspects something.
async fn pause(member: &Member, interval: Duration) {
    tokio::select! {
        () = tokio::time::sleep(interval) => {}
        () = member.health.suspected() => {
            // One look soon is enough, however many messages had trouble.
            tokio::time::sleep(interval / 4).await;
        }
    }
}
