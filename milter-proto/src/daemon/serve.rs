//! A filter's life between ready and stopped: [`Host::serve`].
//!
//! Connections run in tasks of the runtime; here somebody waits for signals meanwhile. A reload
//! counts for new connections, those that are open keep the filter that they began with. A stop
//! lets messages in hand finish within `stop_timeout`; a second stop does not wait for them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::config::Server;
use super::exit::{EX_OSERR, EX_SOFTWARE};
use super::watch::{self as watching, Exposition, Health, Watched};
use super::{Failure, Host, Program, Signal, SocketFile};
use crate::filter::Filter;
use crate::net::{self, Limits, Listener, Served};

impl<P: Program> Host<P> {
    /// Serves the sockets of a filter until told to stop; a reload makes a new filter for new
    /// connections from the program that [`Program::prepare`] returns.
    ///
    /// # Errors
    /// When the sockets cannot be served.
    pub async fn serve<F>(mut self, filter: F) -> Result<(), Failure>
    where
        F: Filter + From<P>,
    {
        // The files of the sockets go when this function ends.
        let (listeners, _files) = self.listeners()?;
        let limits = limits(self.common().server.as_ref());
        let filters = Filters::new(filter);
        let metrics = self.take_metrics();
        let _watching = metrics
            .map(|bound| watching::start(bound, P::NAME, Arc::new(filters.clone())))
            .transpose()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn({
            let filters = filters.clone();
            let stopped = async { drop(stopped.await) };
            net::serve(listeners, move || filters.next(), limits, stopped)
        });
        let mut server = Running {
            task: server,
            watchdog: self.watchdog().map(ticks),
        };
        self.ready();
        if let Some(ended) = server.until_stop(&mut self, &filters).await {
            return ended.map(drop);
        }
        self.stopping();
        drop(stop);
        server.finish(&mut self).await
    }

    fn listeners(&mut self) -> Result<(Vec<Listener>, Vec<SocketFile>), Failure> {
        let mut listeners = Vec::new();
        let mut files = Vec::new();
        for bound in self.take_sockets() {
            let address = bound.address.clone();
            let (listener, file) = bound
                .into_listener()
                .map_err(|error| Failure::new(EX_OSERR, format!("{address}: {error}")))?;
            listeners.push(listener);
            files.extend(file);
        }
        Ok((listeners, files))
    }
}

/// The limits of the server that `[server]` asks for.
fn limits(server: Option<&Server>) -> Limits {
    let Some(server) = server else {
        return Limits::default();
    };
    Limits {
        connections: usize::try_from(server.max_connections).unwrap_or(usize::MAX),
        idle: server.idle_timeout.get(),
        frame_time: server.stall_timeout.get(),
        write_time: server.stall_timeout.get(),
        stage: server.stage_timeout.get(),
        finish: server.finish_timeout.get(),
        grace: server.stop_timeout.get(),
        ..Limits::default()
    }
}

/// The filter for the next connection, exchanged by a reload.
#[derive(Debug)]
struct Filters<F> {
    current: watch::Sender<Arc<F>>,
    connections: Arc<AtomicU64>,
}

impl<F> Clone for Filters<F> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
            connections: Arc::clone(&self.connections),
        }
    }
}

impl<F> Filters<F> {
    fn new(filter: F) -> Self {
        Self {
            current: watch::Sender::new(Arc::new(filter)),
            connections: Arc::default(),
        }
    }

    /// For a connection.
    fn next(&self) -> Arc<F> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.current.borrow())
    }

    /// After a reload.
    fn exchange(&self, filter: F) {
        self.current.send_replace(Arc::new(filter));
    }
}

impl<F: Send + Sync + 'static> Watched for Filters<F> {
    fn measure(&self, page: &mut Exposition) {
        page.counter("milter_sessions", "Connections of MTAs.")
            .sample(&[], self.connections.load(Ordering::Relaxed));
    }

    /// It listens, or this would not be answered.
    fn health(&self) -> Health {
        Vec::new().into()
    }
}

/// The server while it runs.
struct Running {
    task: JoinHandle<Served>,
    watchdog: Option<Interval>,
}

impl Running {
    /// Obeys signals until the stop; returns earlier when the server ends by itself.
    async fn until_stop<P: Program, F: Filter + From<P>>(
        &mut self,
        host: &mut Host<P>,
        filters: &Filters<F>,
    ) -> Option<Result<Served, Failure>> {
        let since = Instant::now();
        loop {
            let signal = tokio::select! {
                ended = &mut self.task => return Some(ended.map_err(broken)),
                signal = host.next_signal() => signal,
                () = tick(&mut self.watchdog) => {
                    host.alive();
                    continue;
                }
            };
            match signal {
                Signal::Stop => return None,
                Signal::Reload => {
                    match host.reload().await {
                        Ok((program, waiting)) => {
                            for what in waiting {
                                warn!("{what}");
                            }
                            filters.exchange(F::from(program));
                            info!("configuration reloaded");
                        }
                        Err(failure) => error!("the old configuration stays: {failure}"),
                    }
                    host.reloaded();
                }
                Signal::Report => info!(
                    connections = filters.connections.load(Ordering::Relaxed),
                    seconds = since.elapsed().as_secs(),
                    "running"
                ),
            }
        }
    }

    /// Waits for the messages in hand; the server itself keeps the deadline.
    async fn finish<P: Program>(&mut self, host: &mut Host<P>) -> Result<(), Failure> {
        loop {
            tokio::select! {
                ended = &mut self.task => {
                    let served = ended.map_err(broken)?;
                    info!(connections = served.connections, cut = served.cut, "stopped");
                    return Ok(());
                }
                signal = host.next_signal() => if signal == Signal::Stop {
                    warn!("told to stop twice: messages in hand are dropped");
                    self.task.abort();
                    return Ok(());
                },
                () = tick(&mut self.watchdog) => host.alive(),
            }
        }
    }
}

fn broken(error: tokio::task::JoinError) -> Failure {
    Failure::new(EX_SOFTWARE, format!("the server ended: {error}"))
}

fn ticks(every: std::time::Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn tick(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(ticks) => drop(ticks.tick().await),
        None => pending().await,
    }
}
