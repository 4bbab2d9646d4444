//! Filters that are killed, stopped, or crash.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{Dice, pause};
use crate::faults::cpu;
use crate::faults::flow::{Flow, USUAL, send_alone};
use crate::faults::judge::Measured;
use crate::faults::ledger::percentile;
use crate::faults::letter::Letter;
use crate::faults::office::Office;
use crate::faults::scene::{Cast, Plan, Scene, Talk, negotiated};

/// How often a filter is killed.
const KILLS: u32 = 100;
/// A filter that is killed more often than so is taken for one that crashes, and held back.
const BREATH: Duration = Duration::from_millis(2500);
/// How often the gap is measured.
const GAPS: u32 = 40;
/// How long anything may take that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The word that a filter dies of.
const POISON: &str = "DEADLY-POISON";

/// SIGKILL to one filter after the other, at random moments.
pub(super) fn kill(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("kill");
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "kill", USUAL);
    let mut dice = Dice(1);
    let mut killed = vec![None; plan.cast.len()];
    let mut kills = 0;
    while kills < KILLS {
        pause(office, Duration::from_millis(300 + dice.roll(700)))?;
        let rested = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() > BREATH);
        let ready: Vec<usize> = (0..killed.len()).filter(|n| rested(&killed[*n])).collect();
        let roll = dice.roll(ready.len() as u64);
        let Some(&victim) = ready.get(usize::try_from(roll)?) else {
            continue;
        };
        scene.signal(plan.cast[victim].name, Signal::SIGKILL)?;
        killed[victim] = Some(Instant::now());
        kills += 1;
    }
    pause(office, BREATH)?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    Ok(measured.figure("kills", f64::from(kills)))
}

/// How long nobody answers behind the socket of a killed filter.
pub(super) fn gap(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("gap");
    let scene = Scene::start(office, &plan)?;
    let mut gaps = Vec::new();
    for turn in 0..GAPS {
        let name = ["dkim", "victim"][usize::try_from(turn % 2)?];
        let socket = scene.socket(name)?;
        scene.signal(name, Signal::SIGKILL)?;
        let connect = || UnixStream::connect(&socket).map(Talk::Unix);
        gaps.push(negotiated(connect, PATIENCE)?);
        pause(office, BREATH / 2)?;
    }
    scene.stop()?;
    gaps.sort_unstable();
    let p99 = percentile(&gaps, 99).context("no gaps")?;
    let p50 = percentile(&gaps, 50).context("no gaps")?;
    Ok(Measured::default()
        .figure("kills", f64::from(GAPS))
        .figure("gap p50", p50)
        .figure("gap p99", p99))
}

/// SIGSTOP: nobody is told, and nothing is closed.
pub(super) fn stop(office: &Office) -> Result<Measured> {
    let mut plan = Plan::usual("stop");
    for cast in &mut plan.cast {
        let limits = "command_timeout = \"8s\"\nend_of_message_timeout = \"8s\"";
        *cast = cast.clone().with(limits);
    }
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "stop", USUAL);
    pause(office, Duration::from_secs(3))?;
    let stopped = scene.signal("victim", Signal::SIGSTOP)?;
    let begun = Instant::now();
    office.interrupt.until("another process", PATIENCE, || {
        let filters = scene.filters()?;
        let victim = filters.iter().find(|filter| filter.name == "victim");
        let other = |pid: i32| pid != stopped.as_raw();
        Ok(victim.is_some_and(|victim| victim.up && victim.pid.is_some_and(other)))
    })?;
    let replaced = begun.elapsed();
    pause(office, Duration::from_secs(3))?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    // Connecting and sending are answered each for itself.
    let longest = sent.iter().map(|sent| sent.step).max();
    let longest = longest.context("nothing was sent")?.as_secs_f64() * 1000.0;
    Ok(measured
        .figure("longest", longest)
        .figure("replaced", replaced.as_secs_f64() * 1000.0))
}

/// A message that a filter crashes of comes again and again, among others.
pub(super) fn poison(office: &Office) -> Result<Measured> {
    let mut plan = Plan::usual("poison");
    plan.cast[2] = Cast::scripted("victim", &["--poison", POISON]);
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "poison", USUAL);
    pause(office, Duration::from_secs(2))?;
    let letter = Letter {
        id: "poisoned".to_owned(),
        size: 500,
        token: POISON,
    };
    let mut notes = Vec::new();
    for _ in 0..4 {
        let sent = send_alone(office.server(), letter.clone());
        notes.push(format!("the poisoned letter: {:?}", sent.answer));
        pause(office, Duration::from_secs(2))?;
    }
    let crashes = scene.restarts("victim")?;
    let sent = flow.stop();
    let arrived = office.delivered()?;
    let through = arrived.iter().filter(|one| one.to.contains(&letter.to()));
    let through = through.count();
    let mut measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    measured.notes = notes;
    Ok(measured
        .figure("crashes", crashes)
        .figure("poison delivered", through as f64))
}

/// A filter that never comes up, and is started again and again.
pub(super) fn useless(office: &Office) -> Result<Measured> {
    let mut plan = Plan::usual("useless");
    plan.cast[2] = Cast::scripted("victim", &["--useless"]).with("on_failure = \"accept\"");
    let begun = Instant::now();
    let mut scene = Scene::launch(office, &plan, None)?;
    office
        .interrupt
        .until("/readyz tells of it", PATIENCE, || {
            let ended = |answer: String| {
                answer.contains("victim")
                    && (answer.contains("restarting") || answer.contains("crashing"))
            };
            Ok(scene.readyz().is_ok_and(ended))
        })?;
    let shown = begun.elapsed();
    scene.listening(&plan)?;
    // The first starts follow each other closely; what counts is what it costs for ever.
    pause(office, Duration::from_secs(10))?;
    let before = cpu::of_tree(scene.pid()?)?;
    let idle = Duration::from_secs(20);
    pause(office, idle)?;
    let used = cpu::of_tree(scene.pid()?)?.saturating_sub(before);
    let flow = Flow::start(office.server(), "useless", USUAL);
    pause(office, Duration::from_secs(8))?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&["victim"]))?);
    let all = cpu::tree(scene.pid()?)?;
    scene.stop()?;
    let left = all.into_iter().filter(|pid| cpu::is_alive(*pid)).count();
    Ok(measured
        .figure("cpu %", 100.0 * used.as_secs_f64() / idle.as_secs_f64())
        .figure("shown", shown.as_secs_f64() * 1000.0)
        .figure("orphans", left as f64))
}
