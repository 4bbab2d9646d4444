//! The n-th system call of a kind fails, by strace, which is attached while mail flows.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::pause;
use crate::child::Child;
use crate::faults::flow::{Flow, USUAL};
use crate::faults::judge::Measured;
use crate::faults::office::Office;
use crate::faults::scene::{Plan, Scene};
use crate::setup::STRACE;

/// Calls, and what the system says when they fail.
const CALLS: [(&str, &str); 5] = [
    ("read", "EIO"),
    ("write", "EIO"),
    ("accept4", "EMFILE"),
    ("openat", "EMFILE"),
    ("mmap", "ENOMEM"),
];
/// The n-th, for n up to this.
const NTH_MAX: u32 = 100;
/// How long mail flows with one call to fail.
const EACH: Duration = Duration::from_millis(250);

/// Every call, every n.
pub(super) fn fail(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("calls");
    let mut scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "calls", USUAL);
    let log = office.folder("calls")?.join("strace");
    let mut notes = Vec::new();
    let (mut injected, mut crashes) = (0, 0);
    for (call, error) in CALLS {
        for nth in 1..=NTH_MAX {
            let pid = scene.pid()?.to_string();
            let mut strace = Command::new(STRACE.program);
            strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid, "-e"]);
            strace.arg(format!("trace={call}"));
            strace.arg("-e");
            strace.arg(format!("inject={call}:error={error}:when={nth}"));
            let mut strace = Child::start("strace", &mut strace, &log)?;
            pause(office, EACH)?;
            strace.stop()?;
            injected += 1;
            if scene.has_ended()? {
                crashes += 1;
                notes.push(format!("{call} {nth}: the orchestrator ended"));
                scene = Scene::start(office, &plan)?;
            }
        }
    }
    pause(office, Duration::from_secs(3))?;
    let sent = flow.stop();
    let mut measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    let panics = scene.logged("panic:")?;
    scene.stop()?;
    measured.notes = notes;
    Ok(measured
        .figure("injected", f64::from(injected))
        .figure("panics", panics as f64)
        .figure("crashes", f64::from(crashes)))
}
