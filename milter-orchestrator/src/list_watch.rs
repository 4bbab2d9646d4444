//! Looks at the lists of the routes, and reads those again that have changed.
//!
//! A bad list is logged once, with its file and line, and the values that it had go on to count.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, MissedTickBehavior};

use crate::entrance::Current;
use crate::route::{List, Refreshed};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);

/// For as long as the program runs. Routes that a reload has put into place are looked at from then
/// on.
pub(crate) async fn watch(rules: Arc<Current>) {
    let mut tick = time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let lists = rules.read().routes.lists();
        if lists.is_empty() {
            continue;
        }
        // A slow disk holds up nobody else. A panic in there is logged as one, and tried again.
        let look = || lists.into_iter().for_each(|list| look_at(&list));
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

fn look_at(list: &List) {
    match list.refresh() {
        Refreshed::Same => {}
        Refreshed::Anew { entries } => {
            let list = list.path().display();
            tracing::info!(%list, entries, "list read again");
        }
        Refreshed::Bad(error) => {
            tracing::error!(%error, "the values that the list had stay");
        }
    }
}
