//! Descriptors, disk, memory and a reader of the log run out.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pause;
use crate::faults::cpu;
use crate::faults::flow::{Flow, Sent, USUAL, send_alone};
use crate::faults::judge::Measured;
use crate::faults::letter::Letter;
use crate::faults::office::Office;
use crate::faults::scene::{Cast, OFFER, Plan, Scene, Talk, negotiated};

/// How long anything may take that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that use up 64 descriptors.
const FLOOD: usize = 100;
/// The word that makes a filter take memory without end.
const HOARD: &str = "ENDLESS-MEMORY";
/// So much such a filter gets.
const MEMORY: &str = "memory = \"600MB\"";
/// The disk that a spool fills at once.
const DISK: &str = "size=64k,mode=1777";

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a shell does before it becomes the orchestrator.
fn shell(before: &str) -> Vec<String> {
    let script = format!("{before}\nexec \"$@\"");
    ["sh", "-c", &script, "sh"].map(str::to_owned).into()
}

/// 64 descriptors, and more connections than that.
pub(super) fn descriptors(office: &Office) -> Result<Measured> {
    let mut plan = Plan::of(
        "descriptors",
        vec![Cast::marker("first"), Cast::marker("last")],
    );
    plan.wrapper = shell("ulimit -n 64");
    let scene = Scene::start(office, &plan)?;
    let flood: Vec<TcpStream> = (0..FLOOD)
        .map(|_| {
            let mut stream = TcpStream::connect(office.milter)?;
            stream.write_all(&OFFER)?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    pause(office, Duration::from_secs(2))?;
    let before = cpu::of_tree(scene.pid()?)?;
    let full = Duration::from_secs(5);
    pause(office, full)?;
    let used = cpu::of_tree(scene.pid()?)?.saturating_sub(before);
    let flow = Flow::start(office.server(), "descriptors", USUAL);
    pause(office, Duration::from_secs(2))?;
    drop(flood);
    let connect = || TcpStream::connect(office.milter).map(Talk::Tcp);
    let recovery = negotiated(connect, PATIENCE)?;
    pause(office, Duration::from_secs(6))?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    Ok(measured
        .figure("cpu %", 100.0 * used.as_secs_f64() / full.as_secs_f64())
        .figure("recovery", milliseconds(recovery)))
}

/// Messages that the disk of the spool has no room for, among small ones.
pub(super) fn spool(office: &Office) -> Result<Measured> {
    let folder = office.folder("spool")?.join("disk");
    std::fs::create_dir_all(&folder)?;
    let disk = folder.display();
    let mut plan = Plan::usual("spool");
    // In a mount namespace of its own, so that the disk goes with the process.
    let mount = format!("mount -t tmpfs -o {DISK} tmpfs {disk} || exit 71");
    plan.wrapper = ["unshare", "--mount"].map(str::to_owned).into();
    plan.wrapper.extend(shell(&mount));
    plan.sections = format!(
        "[limits]\nspool_memory = \"16KB\"\nspool_memory_shared = \"1B\"\n\
         spool_directory = \"{disk}\"\n"
    );
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "spool", USUAL);
    let mut big = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let letter = |kind: &str, size| Letter {
            id: format!("spool-{kind}-{number}"),
            size,
            token: "",
        };
        big.push(send_alone(office.server(), letter("big", 600_000)));
        let small = send_alone(office.server(), letter("small", 2000));
        slowest = slowest.max(small.took);
        big.push(small);
        pause(office, Duration::from_millis(300))?;
    }
    let mut sent = flow.stop();
    let deferred = |sent: &&Sent| sent.answer.as_ref().is_ok_and(|answer| answer.deferred());
    let refused = big.iter().filter(deferred).count();
    let small = sent.iter().filter(deferred).count();
    sent.extend(big);
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    Ok(measured
        .figure("big deferred", refused as f64)
        .figure("small deferred", small as f64)
        .figure("recovery", milliseconds(slowest)))
}

/// The log goes into a pipe that nobody reads.
pub(super) fn log(office: &Office) -> Result<Measured> {
    let pipe = office.folder("log")?.join("pipe");
    let mut plan = Plan::usual("log");
    // Opened for both, so that opening it waits for nobody.
    plan.wrapper = shell(&format!("mkfifo -m 666 {0}; exec 2<>{0}", pipe.display()));
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "log", USUAL);
    pause(office, Duration::from_secs(15))?;
    let before = cpu::of_tree(scene.pid()?)?;
    pause(office, Duration::from_secs(5))?;
    let used = cpu::of_tree(scene.pid()?)?.saturating_sub(before);
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    Ok(measured.figure("cpu %", 100.0 * used.as_secs_f64() / 5.0))
}

/// A filter that a message makes take more memory than it may.
pub(super) fn memory(office: &Office) -> Result<Measured> {
    let mut plan = Plan::usual("memory");
    plan.cast[2] = Cast::scripted("victim", &["--hoard", HOARD]).with(MEMORY);
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "memory", USUAL);
    pause(office, Duration::from_secs(2))?;
    let socket = scene.socket("victim")?;
    let mut slowest = Duration::ZERO;
    let mut answers = Vec::new();
    for number in 0..3 {
        let letter = Letter {
            id: format!("hoard-{number}"),
            size: 500,
            token: HOARD,
        };
        let sent = send_alone(office.server(), letter);
        let begun = Instant::now();
        negotiated(|| UnixStream::connect(&socket).map(Talk::Unix), PATIENCE)?;
        slowest = slowest.max(begun.elapsed());
        answers.push(format!("{:?}", sent.answer));
        pause(office, Duration::from_secs(6))?;
    }
    let kills = scene.restarts("victim").context("restarts")?;
    let sent = flow.stop();
    let mut measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    measured.notes = answers;
    Ok(measured
        .figure("kills", kills)
        .figure("recovery", milliseconds(slowest)))
}
