//! One house after the other: what passes between them, on both sides, once it is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use milter_proto::daemon::{Bound, Host};
use milter_proto::net::Admission;
use nix::sys::signal::Signal;
use tokio::time;

use super::Orchestrator;
use super::handover::{ToHeir, ToPredecessor};
use super::house::{House, Metrics, another_stop};
use super::upgrade::Heir;
use crate::control::Answer;
use crate::entrance::Door;
use crate::member::Readiness;
use crate::supervisor::capture::Output;
use crate::supervisor::nursery::channel::Watched;
use crate::supervisor::nursery::message::Start;
use crate::supervisor::spawn::Running;

/// How long what nobody uses any more may take to end after SIGTERM.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);

/// The one whose place we take.
pub(super) struct Predecessor {
    pub(super) channel: Watched,
    /// Where monitoring will ask.
    pub(super) metrics: Option<Bound>,
    /// Milters that answer to it.
    pub(super) ready: Vec<String>,
    /// It has told us to go on: we are the one that counts.
    pub(super) has_left: bool,
    /// Filters that only its connections use, and their output.
    pub(super) left: Vec<(Start, Running, Output)>,
}

impl House {
    /// What would be worse with us: filters that answer to the predecessor, and not to us.
    pub(super) fn worse_than(&self, ready: &[String]) -> Option<String> {
        let milters = ready.iter().filter_map(|name| self.milters.get(name));
        let mut silent = milters.map(|generation| &generation.kept.member);
        let member = silent.find(|member| member.health.readiness() != Readiness::Ready)?;
        let error = member.health.last_error();
        let error = error.map_or_else(|| "it does not answer".into(), |error| error.message);
        Some(format!("[milter.{}] would be lost: {error}", member.name))
    }

    /// We are the one that counts from now on.
    pub(super) fn take_over(&mut self, host: &Host<Orchestrator>) {
        self.keep_what_is_left();
        self.control.arm();
        self.doors.values_mut().for_each(Door::arm);
        let sockets = self.milters.values_mut();
        sockets
            .filter_map(|generation| generation.socket.as_mut())
            .for_each(Bound::arm);
        if let Err(failure) = self.answer_questions() {
            tracing::error!("the control socket is not served: {failure}");
        }
        let mut metrics = self.predecessor.as_mut().and_then(|one| one.metrics.take());
        metrics.iter_mut().for_each(Bound::arm);
        if let Err(failure) = self.be_watched(metrics) {
            tracing::error!("monitoring is not answered: {failure}");
        }
        self.admit(self.admission());
        host.ready();
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.has_left = true;
            let _ = predecessor.channel.send(&ToPredecessor::Serving, &[]);
        }
    }

    /// By now everybody has the filter that it wants; the others serve connections of the
    /// predecessor, and are to be heard meanwhile.
    pub(super) fn keep_what_is_left(&mut self) {
        let unclaimed = self.supervisor.nurseries().unclaimed();
        let Some(predecessor) = &mut self.predecessor else {
            return;
        };
        for (start, mut running) in unclaimed {
            let pipes = (running.stdout.take(), running.stderr.take());
            let mut output = Output::new(&start.name, pipes.0, pipes.1);
            output.listen();
            predecessor.left.push((start, running, output));
        }
    }

    /// The predecessor has ended, and its last connection: what only that used is not needed.
    pub(super) fn inherit_all(&mut self) {
        tracing::info!("upgrade: the old process has ended");
        let left = self.predecessor.take().map(|predecessor| predecessor.left);
        let left = left.unwrap_or_default();
        for (start, running, _) in &left {
            tracing::info!(child = start.name, "nobody uses it any more");
            running.group.signal(Signal::SIGTERM);
            running.group.signal(Signal::SIGCONT);
        }
        tokio::spawn(async move {
            time::sleep(LEFT_OVER_MAX).await;
            for (_, running, _) in left {
                running.group.signal(Signal::SIGKILL);
            }
        });
    }

    /// Leaves everything to the one that has taken our place, and finishes the connections that are
    /// open, for as long as they may take. So do those before us, for whom we wait: who comes after
    /// us takes our end for the end of all of them.
    pub(super) async fn leave(mut self, heir: Heir, host: &mut Host<Orchestrator>) {
        self.control.leave();
        if let Some(Metrics { bound, watching }) = self.metrics.take() {
            drop(watching);
            bound.leave();
        }
        for generation in std::mem::take(&mut self.milters).into_values() {
            generation.leave();
        }
        for (_, door) in std::mem::take(&mut self.doors) {
            self.closed.push((door.hand_over(), Instant::now()));
        }
        let members = self.supervisor.kept().iter();
        let members: Vec<_> = members.map(|kept| Arc::clone(&kept.member)).collect();
        self.supervisor.release().await;
        for member in members {
            // Nobody here tells any more how it is: it is worth a try.
            member.health.set_readiness(Readiness::Unknown);
        }
        self.wishes.close();
        while let Ok(wish) = self.wishes.try_recv() {
            let what = "another process has taken over; ask again";
            wish.answer(Answer::Error(what.to_owned()));
        }
        tracing::info!(
            heir = heir.pid,
            "upgrade: replaced; open connections are finished here"
        );
        let stop = || {
            for (order, _) in &self.closed {
                order.send_replace(Admission::Stopping);
            }
        };
        let handover = self.settings.supervisor.handover_timeout.get();
        let predecessor = self.predecessor.take();
        let ended = async {
            while self.serving.join_next().await.is_some() {}
            // Whoever has asked for the upgrade is told of it.
            self.asking.gone().await;
            outlive(predecessor.as_ref()).await;
        };
        let heir_ends = async {
            match heir.channel.watched() {
                Ok(channel) => while let Ok(Some(_)) = channel.receive::<ToPredecessor>().await {},
                Err(_) => std::future::pending().await,
            }
        };
        tokio::pin!(heir_ends);
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => return,
            () = time::sleep(handover) => {
                tracing::warn!("connections have stayed for too long after an upgrade");
            }
            // With it the filters go.
            () = &mut heir_ends => tracing::warn!("the new process ends; so do we"),
            () = another_stop(host) => {}
        }
        stop();
        if let Some(predecessor) = &predecessor {
            predecessor.channel.hang_up();
        }
        tokio::select! {
            () = &mut ended => {}
            () = another_stop(host) => {}
        }
        // Whoever took over is told by our end.
    }

    /// Ends without having been anything; all that runs belongs to somebody else.
    pub(super) async fn give_up(mut self) {
        tracing::warn!("upgrade: not wanted any more");
        let metrics = self.predecessor.take().and_then(|one| one.metrics);
        if let Some(bound) = metrics {
            bound.leave();
        }
        self.control.leave();
        for generation in std::mem::take(&mut self.milters).into_values() {
            generation.leave();
        }
        for (_, door) in std::mem::take(&mut self.doors) {
            drop(door.hand_over());
        }
        self.supervisor.release().await;
    }
}

/// Waits for the end of the predecessor, where there is one.
pub(super) async fn outlive(predecessor: Option<&Predecessor>) {
    if predecessor.is_some() {
        while hear(predecessor).await.is_some() {}
    }
}

/// The same for one that is told to end.
pub(super) async fn ending(predecessor: Option<&Predecessor>) {
    if let Some(predecessor) = predecessor {
        predecessor.channel.hang_up();
    }
    outlive(predecessor).await;
}

/// What the predecessor says: `None` when it has ended, and never where there is none.
pub(super) async fn hear(predecessor: Option<&Predecessor>) -> Option<ToHeir> {
    let Some(predecessor) = predecessor else {
        return std::future::pending().await;
    };
    match predecessor.channel.receive().await {
        Ok(said) => said.map(|(said, _)| said),
        Err(error) => {
            tracing::warn!(%error, "the old process is not understood");
            None
        }
    }
}
