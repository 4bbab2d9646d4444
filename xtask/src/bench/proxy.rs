//! The orchestrator's proxy: the same filter directly, behind a bare relay, and behind us.
//!
//! A relay that copies bytes and knows nothing is what anybody between an MTA and a filter costs at
//! least; how far we are from it is ours to answer for, how far it is from none at all is not.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::{Against, Figure, Limit, Round};
use super::peers::{Entrance, Over, Peer, Peers, Spent, memory, spooled};
use super::{Effort, Measured};
use crate::interrupt::Interrupt;
use crate::terminal::say;

/// The three ways to a filter.
struct Ways {
    direct: Peer,
    relay: Option<Peer>,
    ours: Peer,
}

/// What an MTA measured on each.
struct Runs {
    direct: Value,
    relay: Option<Value>,
    ours: Value,
}

/// What every part may use.
struct Bench<'a> {
    binaries: &'a Path,
    interrupt: &'a Interrupt,
    effort: Effort,
    figures: Vec<Figure>,
    remarks: Vec<String>,
}

/// Measures everything.
pub(super) fn measure(binaries: &Path, effort: Effort, interrupt: &Interrupt) -> Result<Measured> {
    let mut bench = Bench {
        binaries,
        interrupt,
        effort,
        figures: Vec::new(),
        remarks: Vec::new(),
    };
    for (what, part) in PARTS {
        say(format_args!("measuring {what}"));
        part(&mut bench).with_context(|| format!("measuring {what}"))?;
    }
    Ok(Measured {
        figures: bench.figures,
        remarks: bench.remarks,
    })
}

type Part = fn(&mut Bench<'_>) -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    (
        "small messages through a filter that answers everything",
        answering,
    ),
    (
        "small messages through a filter that answers next to nothing",
        silent,
    ),
    ("three filters that take their time", waiting),
    ("large messages", large),
    ("filters in sequence", sequence),
    ("idle sessions", idle),
    ("very large messages at once", flood),
];

fn answering(bench: &mut Bench<'_>) -> Result<()> {
    bench.small("answers", &[])
}

fn silent(bench: &mut Bench<'_>) -> Result<()> {
    bench.small("silent", &["--silent"])
}

impl<'a> Bench<'a> {
    fn peers(&self) -> Result<Peers<'a>> {
        Peers::new(self.binaries, self.interrupt)
    }

    /// One value for a quick run, another for a thorough one.
    fn either<T>(&self, quick: T, thorough: T) -> T {
        if self.effort.quick { quick } else { thorough }
    }

    fn rounds(&self) -> usize {
        self.either(1, self.effort.rounds)
    }

    /// 20 KB through one filter over Unix sockets: one session, sixteen, and sixteen that do not
    /// keep the processors busy, since waiting for a processor is no latency of ours.
    fn small(&mut self, manner: &str, manners: &[&str]) -> Result<()> {
        let mut peers = self.peers()?;
        let ways = ways(&mut peers, Over::Unix, manners)?;
        let seconds = self.either("0.2", "1");
        let loads: [(&str, &[&str]); 3] = [
            ("1 session", &["--seconds", seconds]),
            (
                "16 sessions, paced",
                &["--seconds", seconds, "--connections", "16", "--pace", "40"],
            ),
            (
                "16 sessions, saturated",
                &["--seconds", seconds, "--connections", "16"],
            ),
        ];
        for (sessions, work) in loads {
            let saturated = sessions.ends_with("saturated");
            let (runs, cost) = self.take_turns(&mut peers, &ways, work)?;
            let name = |what: &str| format!("{manner}, {sessions}: {what}");
            if saturated {
                let limit = Limit::AtLeast(0.7);
                self.compare(
                    name("rate"),
                    ("rate", "/s"),
                    &runs,
                    Against::Ratio,
                    Some(limit),
                );
                self.remarks.push(cost.describe(&name("processor time")));
            } else {
                for (key, limit) in [("p50", 150.0), ("p99", 1000.0)] {
                    let limit = Some(Limit::AtMost(limit));
                    self.compare(name(key), (key, "µs"), &runs, Against::Difference, limit);
                }
            }
        }
        Ok(())
    }

    /// Every round once on each way, another one first each time.
    fn take_turns(
        &self,
        peers: &mut Peers<'_>,
        ways: &Ways,
        work: &[&str],
    ) -> Result<(Vec<Runs>, Cost)> {
        let mut cost = Cost::default();
        let mut all = Vec::new();
        for round in 0..self.rounds() {
            let mut runs = [const { None }; 3];
            let those = [Some(&ways.direct), ways.relay.as_ref(), Some(&ways.ours)];
            for turn in 0..3 {
                let way = (round + turn) % 3;
                let Some(to) = those[way] else { continue };
                let before = [Spent::of(to.pid)?, Spent::of(ways.direct.pid)?];
                let run = peers.load(to, work)?;
                let messages = number(&run, "messages")?;
                let filter = Spent::of(ways.direct.pid)?.since(before[1]);
                cost.filter.add(filter, messages);
                match way {
                    1 => cost
                        .relay
                        .add(Spent::of(to.pid)?.since(before[0]), messages),
                    2 => cost.ours.add(Spent::of(to.pid)?.since(before[0]), messages),
                    _ => {}
                }
                runs[way] = Some(run);
            }
            let [direct, relay, ours] = runs;
            all.push(Runs {
                direct: direct.context("not measured directly")?,
                relay,
                ours: ours.context("not measured")?,
            });
        }
        Ok((all, cost))
    }

    /// Makes a figure of what the runs say under `key`, in `unit`.
    fn compare(
        &mut self,
        what: String,
        (key, unit): (&str, &'static str),
        runs: &[Runs],
        against: Against,
        limit: Option<Limit>,
    ) {
        let value = |run: &Value| number(run, key).ok();
        let rounds = runs.iter().map(|runs| Round {
            direct: value(&runs.direct),
            relay: runs.relay.as_ref().and_then(value),
            ours: value(&runs.ours).unwrap_or_default(),
        });
        self.figures.push(Figure {
            what,
            unit,
            rounds: rounds.collect(),
            against,
            limit,
        });
    }

    /// A figure of ours alone.
    fn alone(&mut self, what: &str, unit: &'static str, rounds: &[f64], limit: Limit) {
        self.figures.push(Figure {
            what: what.to_owned(),
            unit,
            rounds: rounds.iter().copied().map(Round::alone).collect(),
            against: Against::Nothing,
            limit: Some(limit),
        });
    }
}

/// A filter, a relay before it, and an orchestrator before it.
fn ways(peers: &mut Peers<'_>, over: Over, manners: &[&str]) -> Result<Ways> {
    let direct = peers.filter("filter", over, manners)?;
    let relay = peers.relay("relay", over, &direct)?;
    let entrance = Entrance {
        name: "one",
        over,
        chain: &[&[&direct]],
    };
    let ours = only(peers.orchestrator("orchestrator", &[entrance])?)?;
    Ok(Ways {
        direct,
        relay: Some(relay),
        ours,
    })
}

/// Three that take half a second at the end of the message, side by side.
fn waiting(bench: &mut Bench<'_>) -> Result<()> {
    let mut peers = bench.peers()?;
    let mut filters = Vec::new();
    for name in ["a", "b", "c"] {
        filters.push(peers.filter(name, Over::Unix, &["--wait", bench.either("50", "500")])?);
    }
    let parallel: Vec<&Peer> = filters.iter().collect();
    let entrance = Entrance {
        name: "three",
        over: Over::Unix,
        chain: &[&parallel],
    };
    let ours = only(peers.orchestrator("orchestrator", &[entrance])?)?;
    let mut slowest = Vec::new();
    for _ in 0..bench.rounds() {
        let run = peers.load(&ours, &["--messages", "3"])?;
        slowest.push(number(&run, "max")? / 1000.0);
    }
    let what = "three filters that wait 0.5 s, in parallel";
    bench.alone(what, "ms", &slowest, Limit::AtMost(550.0));
    Ok(())
}

/// 13 MB over TCP, through one filter and through three side by side.
fn large(bench: &mut Bench<'_>) -> Result<()> {
    let mut peers = bench.peers()?;
    let mut ways = ways(&mut peers, Over::Tcp, &[])?;
    let second = peers.filter("second", Over::Tcp, &[])?;
    let third = peers.filter("third", Over::Tcp, &[])?;
    let entrance = Entrance {
        name: "three",
        over: Over::Tcp,
        chain: &[&[&ways.direct, &second, &third]],
    };
    let three = only(peers.orchestrator("parallel", &[entrance])?)?;
    let work = [
        "--size",
        bench.either("1000000", "13000000"),
        "--messages",
        "5",
    ];
    let (runs, _) = bench.take_turns(&mut peers, &ways, &work)?;
    let (what, limit) = ("13 MB over TCP, one filter", Limit::AtMost(1.3));
    bench.compare(
        what.to_owned(),
        ("p50", "µs"),
        &runs,
        Against::Ratio,
        Some(limit),
    );
    ways = Ways {
        relay: None,
        ours: three,
        ..ways
    };
    let (runs, _) = bench.take_turns(&mut peers, &ways, &work)?;
    let (what, limit) = (
        "13 MB over TCP, three filters in parallel",
        Limit::AtMost(1.6),
    );
    bench.compare(
        what.to_owned(),
        ("p50", "µs"),
        &runs,
        Against::Ratio,
        Some(limit),
    );
    Ok(())
}

/// Three filters one after the other, a connection for every message, beside the sum of the three.
fn sequence(bench: &mut Bench<'_>) -> Result<()> {
    let mut peers = bench.peers()?;
    let mut filters = Vec::new();
    for name in ["a", "b", "c"] {
        filters.push(peers.filter(name, Over::Tcp, &["--edits"])?);
    }
    let [a, b, c] = &filters[..] else {
        return Ok(());
    };
    let entrance = Entrance {
        name: "chain",
        over: Over::Tcp,
        chain: &[&[a], &[b], &[c]],
    };
    let ours = only(peers.orchestrator("orchestrator", &[entrance])?)?;
    let seconds = bench.either("0.2", "0.5");
    for (how, extra) in [
        ("session kept", None),
        ("one session each", Some("--reconnect")),
    ] {
        let work: Vec<&str> = ["--seconds", seconds].into_iter().chain(extra).collect();
        let mut rounds = Vec::new();
        for _ in 0..bench.rounds() {
            let mut sum = 0.0;
            for filter in &filters {
                sum += number(&peers.load(filter, &work)?, "p50")?;
            }
            rounds.push(Round {
                direct: Some(sum),
                relay: None,
                ours: number(&peers.load(&ours, &work)?, "p50")?,
            });
        }
        bench.figures.push(Figure {
            what: format!("three in sequence, sum of three, {how}"),
            unit: "µs",
            rounds,
            against: Against::Ratio,
            limit: None,
        });
    }
    Ok(())
}

/// Sessions that say nothing, each with its connection to the filter.
fn idle(bench: &mut Bench<'_>) -> Result<()> {
    let mut peers = bench.peers()?;
    let ways = ways(&mut peers, Over::Unix, &[])?;
    let before = memory(ways.ours.pid, "VmRSS")?;
    let work = ["--connections", bench.either("100", "3000"), "--hold", "2"];
    let pid = ways.ours.pid;
    let resident = peers.idle(&ways.ours, &work, || memory(pid, "VmRSS"))?;
    let what = "3000 idle sessions, resident memory";
    bench.alone(what, "MB", &[resident], Limit::AtMost(60.0));
    bench.remarks.push(format!(
        "resident memory without any session: {before:.1} MB"
    ));
    Ok(())
}

/// Twenty messages of 100 MB at once, which a second segment has to be shown later.
fn flood(bench: &mut Bench<'_>) -> Result<()> {
    let mut peers = bench.peers()?;
    let first = peers.filter("first", Over::Unix, &["--edits"])?;
    let second = peers.filter("second", Over::Unix, &[])?;
    let entrance = Entrance {
        name: "chain",
        over: Over::Unix,
        chain: &[&[&first], &[&second]],
    };
    let ours = only(peers.orchestrator("orchestrator", &[entrance])?)?;
    let (connections, size) = bench.either(("3", "5000000"), ("20", "100000000"));
    let work = [
        "--connections",
        connections,
        "--messages",
        "1",
        "--size",
        size,
    ];
    let mut most: f64 = 0.0;
    peers.load_while(&ours, &work, || {
        most = most.max(spooled(ours.pid)?);
        Ok(())
    })?;
    let peak = memory(ours.pid, "VmHWM")?;
    let what = "20 messages of 100 MB at once, most resident memory";
    bench.alone(what, "MB", &[peak], Limit::AtMost(256.0));
    bench.remarks.push(format!(
        "the most of them that was on disk at a time: {most:.0} MB"
    ));
    Ok(())
}

/// Processor time and messages.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    spent: Spent,
    messages: f64,
}

impl Share {
    fn add(&mut self, spent: Spent, messages: f64) {
        self.spent = self.spent.plus(spent);
        self.messages += messages;
    }

    fn describe(self) -> String {
        let each = |seconds: f64| seconds * 1e6 / self.messages.max(1.0);
        let Spent { user, system } = self.spent;
        format!(
            "{:.0} µs ({:.0} its own, {:.0} in system calls)",
            each(user + system),
            each(user),
            each(system)
        )
    }
}

/// Who spent how much.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    filter: Share,
    relay: Share,
    ours: Share,
}

impl Cost {
    fn describe(&self, what: &str) -> String {
        format!(
            "{what} for each message: orchestrator {}, relay {}, filter {}",
            self.ours.describe(),
            self.relay.describe(),
            self.filter.describe()
        )
    }
}

fn only(peers: Vec<Peer>) -> Result<Peer> {
    peers.into_iter().next().context("no entrance")
}

fn number(run: &Value, key: &str) -> Result<f64> {
    run[key]
        .as_f64()
        .with_context(|| format!("the MTA did not report {key}: {run}"))
}
