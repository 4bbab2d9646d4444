//! Many random scenarios, several at a time; what differs is made smaller and told as a script.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::Result;
use tokio::sync::Mutex;

use super::deviations;
use super::generate::scenario;
use super::rig::Rig;
use super::shrink::shrink;

/// How many scenarios that differ are told before it is given up.
const FAILURES_MAX: usize = 10;

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Summary {
    /// Scenarios that ran.
    pub ran: usize,
    /// One text for each that differed.
    pub failures: Vec<String>,
}

/// What happens meanwhile.
pub trait Watch: Sync {
    /// So many scenarios have run, and so many of them differed.
    fn progress(&self, ran: usize, differ: usize);
    /// One differs: its script and both outcomes.
    fn differs(&self, told: &str);
}

/// Runs the scenarios of `count` seeds from `first` on.
///
/// # Errors
/// When something else fails than what is compared; with the seed.
pub async fn run(rig: &Rig, first: u64, count: u64, watch: &impl Watch) -> Result<Summary> {
    let next = AtomicU64::new(0);
    let ran = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let worker = || async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let failed = failures.lock().await.len();
            if number >= count || failed >= FAILURES_MAX {
                return anyhow::Ok(());
            }
            let seed = first.wrapping_add(number);
            if let Some(told) = check(rig, seed).await? {
                watch.differs(&told);
                failures.lock().await.push(told);
            }
            watch.progress(ran.fetch_add(1, Ordering::Relaxed) + 1, failed);
        }
    };
    let mut workers = Vec::new();
    for _ in 0..rig.lanes() {
        workers.push(worker());
    }
    futures_joined(workers).await?;
    Ok(Summary {
        ran: ran.into_inner(),
        failures: failures.into_inner(),
    })
}

/// Waits for all of them; the first error.
async fn futures_joined(workers: Vec<impl Future<Output = Result<()>>>) -> Result<()> {
    let mut workers: Vec<_> = workers.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut open = false;
        let mut error = None;
        workers.retain_mut(|worker| match worker.as_mut().poll(context) {
            std::task::Poll::Pending => {
                open = true;
                true
            }
            std::task::Poll::Ready(done) => {
                error = error.take().or_else(|| done.err());
                false
            }
        });
        match error {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if open => std::task::Poll::Pending,
            None => std::task::Poll::Ready(Ok(())),
        }
    })
    .await
}

/// Runs the scenario of a seed; what differs, as text.
///
/// # Errors
/// As [`run`].
pub async fn check(rig: &Rig, seed: u64) -> Result<Option<String>> {
    let mut scenario = scenario(seed);
    deviations::leave_out(&mut scenario, rig.mta.name());
    let context = |error: anyhow::Error| error.context(format!("seed {seed}:\n{scenario}"));
    let Some(found) = rig.compare(&scenario).await.map_err(context)? else {
        return Ok(None);
    };
    let (smallest, difference) = shrink(rig, scenario.clone(), found)
        .await
        .map_err(context)?;
    let mut text = String::new();
    let mta = rig.mta.name();
    write!(
        text,
        "seed {seed} on {mta}: {difference}\n{smallest}\n\
         again: cargo xtask integration --mta {mta} --seed {seed} --scripts 1\n"
    )?;
    Ok(Some(text))
}
