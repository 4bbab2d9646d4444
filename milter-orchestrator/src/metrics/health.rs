//! Whether mail is filtered as it is meant to be, and what keeps it from that.
//!
//! A filter that does not answer is a reason in any case. It blocks where mail waits or is refused
//! because of it; under `on_failure = "accept"`, and for a shadow, we are ready without it.

use milter_proto::daemon::watch::{Health, Reason};

use crate::member::{OnFailure, Readiness};
use crate::status::{MilterStatus, Snapshot};
use crate::supervisor::keeper::consequence;

/// The answer of `/readyz`.
#[must_use]
pub fn health(snapshot: &Snapshot) -> Health {
    let draining = snapshot.draining.then(|| Reason {
        about: "orchestrator".to_owned(),
        state: "draining".to_owned(),
        since: snapshot.now,
        blocks: true,
        breaker_open: false,
        message: "it takes no more mail until `drain --undo`".to_owned(),
    });
    let reload = snapshot.reload.error.as_ref().map(|error| Reason {
        about: "configuration".to_owned(),
        state: "refused".to_owned(),
        since: snapshot.reload.at,
        blocks: false,
        breaker_open: false,
        message: format!(
            "the old one stays: {}",
            error.lines().next().unwrap_or_default()
        ),
    });
    let milters = snapshot.milters.iter().filter_map(reason);
    let ours = draining.into_iter().chain(reload);
    ours.chain(milters).collect::<Vec<_>>().into()
}

fn reason(milter: &MilterStatus) -> Option<Reason> {
    if milter.readiness == Readiness::Ready {
        return None;
    }
    let meanwhile = match milter.shadow {
        true => "it only watches",
        false => consequence(milter.on_failure),
    };
    let error = milter.last_error.as_ref();
    let error = error.map_or_else(String::new, |error| format!("; {}", error.message));
    Some(Reason {
        about: format!("filter {}", milter.name),
        state: milter.word().to_owned(),
        since: milter.since,
        blocks: !milter.shadow && milter.on_failure != OnFailure::Accept,
        breaker_open: milter.readiness == Readiness::Open,
        message: format!("{meanwhile}{error}"),
    })
}
