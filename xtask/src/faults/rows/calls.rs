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

/// A kind of call.
struct Call {
    name: &'static str,
    /// What the system says when it fails.
    error: &'static str,
    /// Whether it fails on the log alone.
    on_log: bool,
}

const fn call(name: &'static str, error: &'static str) -> Call {
    Call {
        name,
        error,
        on_log: false,
    }
}

/// What is made to fail. Sockets are read and written by `recvfrom`, `sendto` and `writev`; what is
/// left for `write` is the log, and the runtime's own eventfd, of which tokio takes it that it
/// cannot fail, as the kernel has it.
const CALLS: [Call; 8] = [
    call("read", "EIO"),
    Call {
        name: "write",
        error: "EIO",
        on_log: true,
    },
    call("accept4", "EMFILE"),
    call("openat", "EMFILE"),
    call("mmap", "ENOMEM"),
    call("recvfrom", "ECONNRESET"),
    call("sendto", "ECONNRESET"),
    call("writev", "ECONNRESET"),
];
/// The n-th, for n up to this.
const NTH_MAX: u32 = 100;
/// How long mail flows with one call to fail.
const EACH: Duration = Duration::from_millis(200);

/// Every call, every n.
pub(super) fn fail(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("calls");
    let mut scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "calls", USUAL);
    let log = office.folder("calls")?.join("strace");
    let mut notes = Vec::new();
    let (mut injected, mut crashes) = (0, 0);
    for Call {
        name,
        error,
        on_log,
    } in CALLS
    {
        for nth in 1..=NTH_MAX {
            let pid = scene.pid()?.to_string();
            let mut strace = Command::new(STRACE.program);
            strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid]);
            strace.args(["-e", &format!("trace={name}")]);
            strace.args(["-e", &format!("inject={name}:error={error}:when={nth}")]);
            if on_log {
                strace.arg("-P").arg(office.folder("calls")?.join("log"));
            }
            let mut strace = Child::start("strace", &mut strace, &log)?;
            pause(office, EACH)?;
            strace.stop()?;
            injected += 1;
            if scene.has_ended()? {
                crashes += 1;
                notes.push(format!("{name} {nth}: the orchestrator ended"));
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
