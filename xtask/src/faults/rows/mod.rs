//! The table of faults. A new one is a function that injects it, and a row here.

mod calls;
mod change;
mod filter;
mod scarce;
mod whole;
mod wrong;

use std::time::Duration;

use anyhow::{Result, bail};

use super::flow::{Flow, USUAL};
use super::judge::{Fault, Measured, at_least, at_most, within};
use super::office::Office;
use super::scene::{Plan, Scene};
use crate::setup::STRACE;

/// How long mail flows before nothing is done to it.
const CALM_TIME: Duration = Duration::from_secs(10);

/// No fault at all: what the machine makes of the same mail.
pub(super) static CALM: Fault = Fault {
    name: "calm",
    what: "nothing is broken: what the others are held against",
    limits: &[
        at_most("lost", 0.0),
        at_most("deferred", 0.0),
        at_most("unseen", 0.0),
        at_least("delivered", 100.0),
    ],
    tools: &[],
    inject: calm,
};

/// All faults.
pub(super) static TABLE: &[Fault] = &[
    Fault {
        name: "kill",
        what: "SIGKILL of a filter at a random moment, 100 times",
        limits: &[
            at_least("kills", 100.0),
            at_most("lost", 0.0),
            at_most("deferred", 0.0),
            at_most("unseen", 0.0),
            within("p99", 500.0),
        ],
        tools: &[],
        inject: filter::kill,
    },
    Fault {
        name: "gap",
        what: "from SIGKILL of a filter to the next one's answer to a negotiation, 40 times",
        limits: &[at_least("kills", 40.0), within("gap p99", 200.0)],
        tools: &[],
        inject: filter::gap,
    },
    Fault {
        name: "stop",
        what: "SIGSTOP of a filter, whose deadline is 8 s",
        limits: &[
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
            within("longest", 9000.0),
            within("replaced", 10_000.0),
        ],
        tools: &[],
        inject: filter::stop,
    },
    Fault {
        name: "poison",
        what: "a message that crashes a filter, sent four times",
        limits: &[
            at_most("crashes", 2.0),
            at_least("crashes", 1.0),
            at_most("poison delivered", 0.0),
            at_most("lost", 0.0),
            at_most("deferred", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: filter::poison,
    },
    Fault {
        name: "useless",
        what: "a filter that ends at once, for ever, with on_failure = \"accept\"",
        limits: &[
            at_most("cpu %", 2.0),
            within("shown", 2000.0),
            at_most("orphans", 0.0),
            at_most("lost", 0.0),
            at_most("deferred", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: filter::useless,
    },
    Fault {
        name: "half",
        what: "filters that die after half of their edits, 200 times",
        limits: &[
            at_least("deaths", 200.0),
            at_most("half edited", 0.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: wrong::half,
    },
    Fault {
        name: "garbage",
        what: "12 kinds of garbage from a filter with on_failure = \"reject\"",
        limits: &[
            at_least("by policy", 12.0),
            at_most("bytes through", 0.0),
            at_most("delivered", 0.0),
            at_most("lost", 0.0),
        ],
        tools: &[],
        inject: wrong::garbage,
    },
    Fault {
        name: "wire",
        what: "delays, cuts, garbled bytes and silence between orchestrator and filter",
        limits: &[
            at_least("mischief", 20.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: wrong::wire,
    },
    Fault {
        name: "whole",
        what: "SIGKILL of the orchestrator, whose socket somebody else holds, five times",
        limits: &[
            within("gap", 1000.0),
            at_most("orphans", 0.0),
            at_most("deferred beyond flight", 0.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: whole::kill_orchestrator,
    },
    Fault {
        name: "upgrade",
        what: "10 upgrades, 20 long SMTP sessions open",
        limits: &[
            at_least("upgrades", 10.0),
            at_most("refused", 0.0),
            at_most("deferred", 0.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
            at_most("left behind", 0.0),
        ],
        tools: &[],
        inject: change::upgrade,
    },
    Fault {
        name: "reload",
        what: "100 reloads, 20 of them with broken files",
        limits: &[
            at_least("good", 80.0),
            at_least("kept", 20.0),
            at_least("advised", 20.0),
            at_most("deferred", 0.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: change::reload,
    },
    Fault {
        name: "descriptors",
        what: "64 descriptors and 100 connections",
        limits: &[
            at_most("cpu %", 5.0),
            within("recovery", 1000.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
            at_least("delivered", 100.0),
        ],
        tools: &[],
        inject: scarce::descriptors,
    },
    Fault {
        name: "spool",
        what: "a spool on a full disk: 600 KB of mail on 64 KB of disk, among small mail",
        limits: &[
            at_least("big deferred", 10.0),
            at_most("small deferred", 0.0),
            within("recovery", 1000.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: scarce::spool,
    },
    Fault {
        name: "log",
        what: "the reader of the log is stopped",
        limits: &[
            at_most("lost", 0.0),
            at_most("deferred", 0.0),
            at_most("unseen", 0.0),
            within("p99", 200.0),
            at_least("delivered", 500.0),
        ],
        tools: &[],
        inject: scarce::log,
    },
    Fault {
        name: "memory",
        what: "a filter takes more memory than it may, three times",
        limits: &[
            at_least("kills", 3.0),
            within("recovery", 1000.0),
            at_most("lost", 0.0),
            at_most("deferred", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[],
        inject: scarce::memory,
    },
    Fault {
        name: "calls",
        what: "the n-th read, write, accept4, openat, mmap, … fails, n = 1 to 100",
        limits: &[
            at_least("injected", 800.0),
            at_most("crashes", 0.0),
            at_most("panics", 0.0),
            at_most("lost", 0.0),
            at_most("unseen", 0.0),
        ],
        tools: &[STRACE],
        inject: calls::fail,
    },
];

/// The faults of these names; all of them when there are none.
pub(super) fn chosen(names: &[String]) -> Result<Vec<&'static Fault>> {
    for name in names {
        if !TABLE.iter().any(|fault| fault.name == *name) {
            let all: Vec<&str> = TABLE.iter().map(|fault| fault.name).collect();
            bail!("there is no fault {name:?}; there are: {}", all.join(", "));
        }
    }
    let wanted = |fault: &&Fault| names.is_empty() || names.iter().any(|name| name == fault.name);
    Ok(TABLE.iter().filter(wanted).collect())
}

/// Mail flows, and nothing happens.
pub(super) fn calm(office: &Office) -> Result<Measured> {
    let plan = Plan::usual("calm");
    let scene = Scene::start(office, &plan)?;
    let flow = Flow::start(office.server(), "calm", USUAL);
    pause(office, CALM_TIME)?;
    let sent = flow.stop();
    let measured = Measured::of(office.account(&sent, &plan.marks(&[]))?);
    scene.stop()?;
    let rate = sent.len() as f64 / CALM_TIME.as_secs_f64();
    Ok(measured.figure("letters a second", rate))
}

/// Waits, unless interrupted.
fn pause(office: &Office, time: Duration) -> Result<()> {
    let step = Duration::from_millis(20);
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        office.interrupt.check()?;
        std::thread::sleep(step.min(time.saturating_sub(begun.elapsed())));
    }
    Ok(())
}

/// Numbers that look random and are the same in every run (a linear congruential generator).
struct Dice(u64);

impl Dice {
    /// One of `0..sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}
