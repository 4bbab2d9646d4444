//! The orchestrator itself is killed.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};

use super::pause;
use crate::faults::cpu;
use crate::faults::flow::{Flow, USUAL};
use crate::faults::judge::Measured;
use crate::faults::office::Office;
use crate::faults::scene::{Plan, Scene, Talk, negotiated};

/// How often it is killed.
const KILLS: usize = 5;
/// How long systemd waits before it starts a unit again (`RestartSec`).
const RESTART: Duration = Duration::from_millis(100);
/// How long anything may take that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Within this time what it has started must be gone.
const ORPHANS: Duration = Duration::from_secs(2);

/// SIGKILL, and a fresh start on the same socket, which somebody else holds as systemd would.
pub(super) fn kill_orchestrator(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("whole");
    let held = TcpListener::bind(office.milter)?;
    let mut scene = Scene::start_held(office, &plan, &held)?;
    let flow = Flow::start(office.server(), "whole", USUAL);
    let mut gaps = Vec::new();
    let mut orphans = 0;
    for _ in 0..KILLS {
        pause(office, Duration::from_secs(4))?;
        let all = cpu::tree(scene.pid()?)?;
        kill(scene.pid()?, Signal::SIGKILL)?;
        let killed = Instant::now();
        scene.must_have_ended()?;
        pause(office, RESTART)?;
        scene = Scene::start_held(office, &plan, &held)?;
        let connect = || TcpStream::connect(office.milter).map(Talk::Tcp);
        negotiated(connect, PATIENCE)?;
        gaps.push(killed.elapsed());
        pause(office, ORPHANS.saturating_sub(killed.elapsed()))?;
        orphans += all.into_iter().filter(|pid| cpu::is_alive(*pid)).count();
        scene.all_up()?;
    }
    pause(office, Duration::from_secs(2))?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    let longest = gaps.iter().max().map_or(0.0, Duration::as_secs_f64);
    // Postfix keeps one connection to its milter for each SMTP session: what is in flight at a kill
    // is one letter of each.
    let in_flight = KILLS * USUAL.sessions;
    let beyond = measured.ledger.deferred.saturating_sub(in_flight);
    Ok(measured
        .figure("gap", longest * 1000.0)
        .figure("deferred beyond flight", beyond as f64)
        .figure("orphans", orphans as f64))
}
