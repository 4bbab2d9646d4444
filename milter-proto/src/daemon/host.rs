//! A running program's view of its surroundings: bound sockets, signals, readiness, reload.
//!
//! A filter hands itself to [`Host::serve`] and is done. A program that serves by itself (the
//! orchestrator) takes the sockets and asks for signals one by one.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::info;

use super::config::Common;
use super::config::load::Source;
use super::exit::EX_SOFTWARE;
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
    /// The socket to the process whose place we take.
    pub(crate) predecessor: Option<OwnedFd>,
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
            predecessor: None,
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

    /// Takes the socket to the process whose place we take, where there is one.
    #[must_use]
    pub fn take_predecessor(&mut self) -> Option<OwnedFd> {
        self.predecessor.take()
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

    /// Tells the service manager that a reload is over, whatever came of it.
    pub fn reloaded(&self) {
        self.notifier.ready();
    }

    /// Tells the service manager that another process takes our place.
    pub fn succeeded_by(&self, pid: u32) {
        self.notifier.successor(pid);
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
    /// runtime; with it, what of the file counts after a restart only, one sentence each. The
    /// service manager waits for [`Self::reloaded`], once the program counts or was refused.
    ///
    /// # Errors
    /// A bad file changes nothing and is put as `check` would put it.
    pub async fn reload(&mut self) -> Result<(P, Vec<String>), Failure> {
        self.notifier.reloading();
        let path = self.path.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare_again::<P>(&path)).await;
        let (common, program) = prepared.map_err(|panicked| {
            Failure::new(EX_SOFTWARE, format!("the configuration: {panicked}"))
        })??;
        self.log.reconfigure(&common.log);
        Ok((program, self.waiting_for_restart(&common)))
    }

    /// What is taken once, at the start. A program without a `[server]` section sees to its own
    /// sockets.
    fn waiting_for_restart(&self, new: &Common) -> Vec<String> {
        let old = &self.common;
        let mut waiting = Vec::new();
        let listeners = new.server.is_some() && new.listeners != old.listeners;
        if listeners || new.metrics != old.metrics {
            waiting.push("sockets have changed: that counts after a restart".to_owned());
        }
        if (&new.user, &new.group) != (&old.user, &old.group) {
            waiting.push("user or group has changed: that counts after a restart".to_owned());
        }
        if new.log.format != old.log.format {
            waiting.push("the log format has changed: that counts after a restart".to_owned());
        }
        waiting
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        &self.path
    }
}

fn prepare_again<P: Program>(path: &Path) -> Result<(Common, P), Failure> {
    let source = Source::read::<P>(path)?;
    let program = source.fitting_program::<P>()?;
    let settings = source.settings::<P>()?;
    for remark in source.remarks(&program, &settings) {
        tracing::warn!("{remark}");
    }
    Ok((P::common(&settings), program))
}
