//! The orchestrator is given other configurations while mail flows.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pause;
use crate::faults::flow::{Flow, Traffic, USUAL};
use crate::faults::judge::Measured;
use crate::faults::office::Office;
use crate::faults::scene::{Cast, Plan, Scene};

/// Reloads, the broken ones included.
const RELOADS: usize = 100;
/// Every so manieth is broken.
const BROKEN: usize = 5;
/// From one to the next.
const EVERY: Duration = Duration::from_millis(400);

/// Upgrades.
const UPGRADES: u32 = 10;
/// SMTP sessions that stay open all the while.
const LONG_SESSIONS: usize = 20;
/// How long a process that is done may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What breaks a file, and the words that its error must have.
static MISTAKES: [(&str, &str); 10] = [
    ("[[[", ":"),
    ("[milter.first]\ncommand = []\n", "first"),
    ("[milter.other]\nunknown_key = 1\n", "unknown_key"),
    ("[milter.other]\ncommand = 7\n", "command"),
    ("[[route]]\nchain = [\"nobody\"]\n", "nobody"),
    ("[listen.other]\nsocket = \"inet:none\"\n", "socket"),
    (
        "[milter.other]\nsocket = \"unix:/x\"\non_failure = \"shrug\"\n",
        "on_failure",
    ),
    ("[limits]\nheader_size = \"many\"\n", "header_size"),
    ("[log]\nlevel = \"loud\"\n", "level"),
    (
        "[milter.other]\ncommand_timeout = -1\nsocket = \"unix:/x\"\n",
        "command_timeout",
    ),
];

/// A hundred reloads; every fifth file is broken, the others add and remove a filter in turn.
pub(super) fn reload(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("reload");
    let mut longer = plan.clone();
    longer.cast.insert(3, Cast::marker("extra"));
    let texts = [plan.text(office)?, longer.text(office)?];
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "reload", USUAL);
    let mut notes = Vec::new();
    let (mut good, mut kept, mut advised) = (0, 0, 0);
    let mut now = 0;
    for number in 1..=RELOADS {
        let begun = Instant::now();
        if number % BROKEN == 0 {
            let (mistake, word) = MISTAKES[number / BROKEN % MISTAKES.len()];
            fs::write(&scene.file, format!("{}\n{mistake}", texts[now]))?;
            let answer = scene.reload();
            fs::write(&scene.file, &texts[now])?;
            let names = names(&scene)?;
            let error = answer.err().map(|error| format!("{error:#}"));
            let old = names == plans(&[&plan, &longer], now);
            kept += usize::from(old && error.is_some());
            let told = error
                .as_ref()
                .is_some_and(|error| error.contains(word) && error.contains("orchestrator.toml:"));
            advised += usize::from(told);
            if !told || !old {
                notes.push(format!("{mistake:?}: {names:?}, {error:?}"));
            }
        } else {
            now = 1 - now;
            fs::write(&scene.file, &texts[now])?;
            scene.reload().with_context(|| format!("reload {number}"))?;
            good += usize::from(names(&scene)? == plans(&[&plan, &longer], now));
        }
        pause(office, EVERY.saturating_sub(begun.elapsed()))?;
    }
    let sent = flow.stop();
    let mut measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    measured.notes = notes;
    Ok(measured
        .figure("good", good as f64)
        .figure("kept", kept as f64)
        .figure("advised", advised as f64))
}

/// The filters that run, in alphabetical order.
fn names(scene: &Scene<'_>) -> Result<Vec<String>> {
    let mut names: Vec<String> = scene.filters()?.into_iter().map(|one| one.name).collect();
    names.sort();
    Ok(names)
}

/// The filters of a plan, in alphabetical order.
fn plans(plans: &[&Plan], which: usize) -> Vec<String> {
    let cast = plans.get(which).map_or(&[][..], |plan| &plan.cast);
    let mut names: Vec<String> = cast.iter().map(|cast| cast.name.to_owned()).collect();
    names.sort();
    names
}

/// Ten upgrades, with short SMTP sessions and twenty that stay open for all of them.
pub(super) fn upgrade(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("upgrade");
    let mut scene = Scene::start(office, &plan)?;
    let long = Traffic {
        rate: 10.0,
        sessions: LONG_SESSIONS,
        letters_a_session: usize::MAX,
        ..USUAL
    };
    let short = Traffic {
        rate: 40.0,
        ..USUAL
    };
    let staying = Flow::start(office.server(), "upgrade-long", long);
    let coming = Flow::start(office.server(), "upgrade", short);
    pause(office, Duration::from_secs(3))?;
    let (mut upgrades, mut slowest) = (0, Duration::ZERO);
    let mut notes = Vec::new();
    for number in 1..=UPGRADES {
        let begun = Instant::now();
        match scene.upgrade() {
            Ok(()) => upgrades += 1,
            Err(error) => notes.push(format!("upgrade {number}: {error:#}")),
        }
        slowest = slowest.max(begun.elapsed());
        scene.all_up()?;
        pause(office, Duration::from_secs(2))?;
    }
    let mut sent = staying.stop();
    sent.extend(coming.stop());
    let mut measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    // Nobody has a session any more, so those before the last one have nothing to stay for.
    let predecessors = || Ok(scene.predecessors() == 0);
    let ended = office.interrupt.until("their end", PATIENCE, predecessors);
    office.interrupt.check()?;
    notes.extend(ended.err().map(|error| format!("{error:#}")));
    let left = scene.predecessors();
    scene.stop()?;
    measured.notes = notes;
    Ok(measured
        .figure("upgrades", f64::from(upgrades))
        .figure("slowest", slowest.as_secs_f64() * 1000.0)
        .figure("left behind", left as f64))
}
