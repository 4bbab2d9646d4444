//! Filters that say what no filter may say, or stop in the middle of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{Dice, pause};
use crate::faults::flow::{Flow, Sent, Traffic, USUAL, send_alone};
use crate::faults::judge::Measured;
use crate::faults::ledger::{fields, split};
use crate::faults::letter::Letter;
use crate::faults::office::Office;
use crate::faults::proxy::{Mischief, Place, Proxy};
use crate::faults::scene::{Cast, Plan, Role, Scene};
use crate::postfix::free_port;

/// How often a filter dies after half of its edits.
const HALVES: f64 = 200.0;
/// How long that may take.
const HALVES_TIME: Duration = Duration::from_secs(240);
/// Letters to each kind of garbage.
const LETTERS: usize = 3;
/// What must not come through.
const NEEDLE: &[u8] = b"GARBAGE";

/// A kind of garbage, and the script of a filter that speaks it.
type Kind = (&'static str, &'static str);

/// Twelve kinds.
static KINDS: [Kind; 12] = [
    (
        "a frame of no length",
        r#"at mail: raw "\x00\x00\x00\x00GARBAGE""#,
    ),
    (
        "a frame of 2 GB",
        r#"at mail: raw "\x80\x00\x00\x00rGARBAGE""#,
    ),
    (
        "a frame of 4 GB",
        r#"at rcpt: raw "\xff\xff\xff\xffyGARBAGE""#,
    ),
    ("an unknown answer", r#"at rcpt: frame "~GARBAGE""#),
    (
        "an answer where none is owed",
        "steps nr-header\n  at header: reply \"550 5.7.1 GARBAGE\"",
    ),
    (
        "two answers",
        r#"at rcpt: continue; reply "550 5.7.1 GARBAGE""#,
    ),
    (
        "an edit before the end",
        r#"at mail: add "X-GARBAGE" "GARBAGE"; continue"#,
    ),
    (
        "a frame that is cut off",
        r#"at end: raw "\x00\x00\x00\x20hX-GARBAGE"; close"#,
    ),
    (
        "HTTP",
        r#"at negotiate: raw "HTTP/1.1 400 GARBAGE\r\n\r\n""#,
    ),
    (
        "an edit without its end",
        r#"at end: frame "hX-GARBAGE"; continue"#,
    ),
    ("a reply that is none", r#"at end: frame "yGARBAGE\x00""#),
    (
        "an edit that was not negotiated",
        r#"at end: quarantine "GARBAGE"; continue"#,
    ),
];

/// A filter that dies after half of its edits, at every third message of each process.
pub(super) fn half(office: &Office) -> Result<Measured> {
    let mut plan = Plan::usual("half");
    plan.cast.retain(|cast| !matches!(cast.role, Role::Spam));
    // Four of them, so that each has time to breathe between two deaths.
    let names = ["one", "two", "three", "four"];
    for name in names {
        plan.cast.push(Cast::scripted(name, &["--half", "60"]));
    }
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "half", USUAL);
    let deaths = || -> Result<f64> {
        let each: Result<Vec<f64>> = names.iter().map(|name| scene.restarts(name)).collect();
        Ok(each?.iter().sum())
    };
    let begun = std::time::Instant::now();
    let mut died = 0.0;
    while died < HALVES && begun.elapsed() < HALVES_TIME {
        pause(office, Duration::from_millis(500))?;
        died = deaths()?;
    }
    let sent = flow.stop();
    let arrived = office.delivered()?;
    let halved = arrived
        .iter()
        .filter(|one| {
            let header = split(&one.message).0;
            let parts = fields(header).filter(|(name, _)| name.starts_with("X-Part-"));
            let seen = fields(header)
                .filter(|(name, _)| names.iter().any(|one| *name == format!("X-Seen-{one}")));
            parts.count() != 3 * seen.count()
        })
        .count();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    Ok(measured
        .figure("deaths", died)
        .figure("half edited", halved as f64))
}

/// Twelve kinds of garbage; what comes of it is read between Postfix and the orchestrator.
pub(super) fn garbage(office: &Office) -> Result<Measured> {
    let mut sent = Vec::new();
    let mut notes = Vec::new();
    let (mut by_policy, mut passed) = (0, 0);
    for (number, (what, script)) in KINDS.iter().enumerate() {
        let (one, found) = speak(office, number, script)?;
        let refused = |sent: &&Sent| sent.answer.as_ref().is_ok_and(|answer| answer.code == 550);
        let refusals = one.iter().filter(refused).count();
        passed += found;
        if refusals == LETTERS {
            by_policy += 1;
        } else {
            let last = one.last().map(|sent| &sent.answer);
            notes.push(format!("{what}: {refusals} of {LETTERS} refused, {last:?}"));
        }
        sent.extend(one);
    }
    let mut measured = Measured::of(office.account(&sent, &[])?);
    measured.notes = notes;
    Ok(measured
        .figure("by policy", f64::from(by_policy))
        .figure("bytes through", passed as f64))
}

/// Letters through a filter that follows a script; and how often its words reached Postfix.
fn speak(office: &Office, number: usize, script: &str) -> Result<(Vec<Sent>, usize)> {
    let folder = office.folder("garbage")?;
    let file = folder.join(format!("{number}.milter"));
    fs::write(
        &file,
        format!("filter garbage\n  actions add-headers\n  {script}\n"),
    )?;
    let mut plan = Plan::of(
        "garbage",
        vec![
            Cast::scripted("garbage", &["--script", &file.display().to_string()])
                .with("on_failure = \"reject\""),
            Cast::marker("last"),
        ],
    );
    let inner = free_port()?;
    plan.listen = Some(format!("inet:{inner}@127.0.0.1"));
    let scene = Scene::start_anyhow(office, &plan)?;
    let target = Place::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], inner)));
    let place = Place::Tcp(office.milter);
    let tap = Proxy::start(&place, target, NEEDLE, |_| Mischief::Nothing)?;
    let letter = |n| Letter {
        id: format!("garbage-{number}-{n}"),
        size: 500,
        token: "",
    };
    let sent = (0..LETTERS).map(|n| send_alone(office.server(), letter(n)));
    let sent = sent.collect();
    let found = tap.found();
    drop(tap);
    scene.stop()?;
    Ok((sent, found))
}

/// A wire between the orchestrator and a filter that delays, cuts, garbles and stalls.
pub(super) fn wire(office: &Office) -> Result<Measured> {
    let folder = office.folder("wire")?;
    let place = folder.join("wire.sock");
    // The filter behind the wire is a child like any other, which no message goes to directly.
    let limits = "command_timeout = \"2s\"\nend_of_message_timeout = \"2s\"";
    let wire = Role::Foreign(format!("unix:{}", place.display()));
    let mut plan = Plan::of(
        "wire",
        vec![
            Cast::marker("first"),
            Cast::ours("behind", wire).with(limits),
            Cast::marker("last"),
        ],
    );
    plan.spare = vec![Cast::marker("spare")];
    let scene = Scene::start_anyhow(office, &plan)?;
    let socket = scene.socket("spare")?;
    let proxy = Proxy::start(
        &Place::Unix(place.clone()),
        Place::Unix(socket),
        b"",
        mischief,
    )?;
    scene.all_up()?;
    let traffic = Traffic {
        letters_a_session: 3,
        ..USUAL
    };
    let flow = Flow::start(office.server(), "wire", traffic);
    pause(office, Duration::from_secs(30))?;
    let sent = flow.stop();
    let done = proxy.done();
    // The filter behind the wire marks under its own name.
    let mut marks = plan.marks(&["behind"]);
    marks.push(crate::faults::ledger::Mark::Digest("spare"));
    let measured = Measured::of(office.account(&sent, &marks)?);
    scene.signal("spare", Signal::SIGCONT).context("spare")?;
    drop(proxy);
    scene.stop()?;
    remove(&place)?;
    Ok(measured.figure("mischief", done as f64))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| path.display().to_string())
}

/// Every second connection is left alone, so that a second attempt may succeed.
fn mischief(number: usize) -> Mischief {
    let mut dice = Dice(number as u64);
    // The answer to the negotiation has 17 octets, each one after it 5. What is garbled is before
    // the mark, since nobody can tell a garbled mark from another one.
    let at = usize::try_from(18 + dice.roll(50)).unwrap_or(18);
    match number % 8 {
        1 => Mischief::Delay(Duration::from_millis(20)),
        3 => Mischief::Cut(at),
        5 => Mischief::Garble(at),
        7 => Mischief::Stall(at),
        _ => Mischief::Nothing,
    }
}
