//! A running program's view of its surroundings: bound sockets, signals, readiness, reload.
//!
//! A filter hands itself to [`Host::serve`] and is done. A program that serves by itself (the
//! orchestrator) takes the sockets and asks for signals one by one.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::config::Common;
use super::config::load::Source;
use super::listen::Bound;
use super::ready::Notifier;
use super::{Failure, Program, Signal, log};

/// A running program's view of its surroundings: bound sockets, signals, readiness.
#[derive(Debug)]
pub struct Host<P: Program> {
    path: PathBuf,
    common: Common,
    log: log::Handle,
    bound: Vec<Bound>,
    metrics: Option<Bound>,
    signals: mpsc::Receiver<Signal>,
    notifier: Notifier,
    program: PhantomData<P>,
}

impl<P: Program> Host<P> {
    pub(crate) fn new(
        source: &Source,
        common: Common,
        log: log::Handle,
        mut bound: Vec<Bound>,
        signals: mpsc::Receiver<Signal>,
        notifier: Notifier,
    ) -> Self {
        // Bound behind the others.
        let metrics = common.metrics.as_ref().and_then(|_| bound.pop());
        Self {
            path: source.path().to_owned(),
            common,
            log,
            bound,
            metrics,
            signals,
            notifier,
            program: PhantomData,
        }
    }

    /// What the start-up took from the settings.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.common
    }

    /// Takes the sockets that were bound or inherited, in the order of [`Common::listeners`].
    #[must_use]
    pub fn take_sockets(&mut self) -> Vec<Bound> {
        std::mem::take(&mut self.bound)
    }

    /// Takes the socket of `[metrics]`, for [`watch::start`](super::watch::start); `None` where
    /// nobody is to be answered.
    #[must_use]
    pub fn take_metrics(&mut self) -> Option<Bound> {
        self.metrics.take()
    }

    /// The next signal. Cancelling loses none.
    pub async fn next_signal(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(signal) => signal,
            // The thread behind it never ends; if it did, nobody could stop us in order any more.
            None => Signal::Stop,
        }
    }

    /// Tells the service manager that connections are served.
    pub fn ready(&self) {
        info!("ready");
        self.notifier.ready();
    }

    /// Tells the service manager that the program is about to end.
    pub fn stopping(&self) {
        info!("stopping");
        self.notifier.stopping();
    }

    /// How often [`Self::alive`] is wanted; `None` when the service manager does not watch.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.notifier.watchdog()
    }

    /// Tells the service manager that the program still makes progress.
    pub fn alive(&self) {
        self.notifier.alive();
    }

    /// Reads the configuration file again and prepares the program anew, without holding up the
    /// runtime. A bad file changes nothing and is logged as `check` would put it.
    pub async fn reload(&mut self) -> Option<P> {
        self.notifier.reloading();
        let path = self.path.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare_again::<P>(&path)).await;
        self.notifier.ready();
        match prepared {
            Ok(Ok((common, program))) => {
                self.log.reconfigure(&common.log);
                self.warn_of_restart(&common);
                info!("configuration reloaded");
                Some(program)
            }
            Ok(Err(failure)) => {
                error!("the old configuration stays: {failure}");
                None
            }
            Err(panicked) => {
                error!("the old configuration stays: {panicked}");
                None
            }
        }
    }

    /// Sockets and user are taken once; a change of them waits for a restart.
    fn warn_of_restart(&self, new: &Common) {
        let old = &self.common;
        if (&new.listeners, &new.metrics) != (&old.listeners, &old.metrics) {
            warn!("sockets have changed in the configuration: they count after a restart");
        }
        if (&new.user, &new.group) != (&old.user, &old.group) {
            warn!("user or group has changed in the configuration: it counts after a restart");
        }
        if new.log.format != old.log.format {
            warn!("the log format has changed in the configuration: it counts after a restart");
        }
    }
}

fn prepare_again<P: Program>(path: &Path) -> Result<(Common, P), Failure> {
    let source = Source::read::<P>(path)?;
    let settings = source.settings::<P>()?;
    let common = P::common(&settings);
    Ok((common, source.prepare::<P>(settings)?))
}
