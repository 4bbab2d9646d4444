//! Messages over several sessions at once, each a thread, and how long they took.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use milter_proto::message::{Header, Path};
use milter_proto::net::Address;
use milter_proto::session::Event;
use serde_json::json;

use crate::mta::Mta;
use crate::report;

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Work {
    /// Sessions at the same time
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Messages of each session at most
    #[arg(long, default_value_t = usize::MAX)]
    messages: usize,
    /// Seconds after which no message is begun
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of the body
    #[arg(long, default_value_t = 20_000)]
    size: usize,
    /// Header fields
    #[arg(long, default_value_t = 20)]
    fields: usize,
    /// A message of a session begins this many milliseconds after the one before, so that nothing
    /// is saturated
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// A new connection for every message
    #[arg(long)]
    reconnect: bool,
}

/// A message, ready to be told.
struct Letter {
    fields: Vec<Header>,
    body: Bytes,
}

impl Letter {
    fn new(fields: usize, size: usize) -> Self {
        let line =
            b"The quick brown fox jumps over the lazy dog, as it is used to at this time.\r\n";
        let body: Vec<u8> = line.iter().copied().cycle().take(size).collect();
        let field = |number: usize| {
            let value =
                format!(" from relay{number}.example.net by mx.example.org; Mon, 1 Jan 2024");
            Header::new("Received", value)
        };
        Self {
            fields: (0..fields).map(field).collect(),
            body: body.into(),
        }
    }

    /// Tells `mta` all of it.
    fn send(&self, mta: &mut Mta) -> Result<()> {
        let id: [(Bytes, Bytes); 1] = [("i".into(), "4ZBench0001".into())];
        let path = |address: &'static str| Path {
            address: address.into(),
            args: Vec::new(),
        };
        mta.tell(Event::Mail(path("<alice@example.net>")), Some(&id))?;
        mta.tell(Event::Rcpt(path("<bob@example.org>")), Some(&id))?;
        mta.tell(Event::Data, Some(&id))?;
        for field in &self.fields {
            mta.tell(Event::Header(field.clone()), None)?;
        }
        mta.tell(Event::EndOfHeaders, Some(&id))?;
        if !self.body.is_empty() {
            mta.tell(Event::Body(self.body.clone()), None)?;
        }
        mta.tell(Event::EndOfMessage, Some(&id))
    }
}

/// Sends the messages and reports the result.
pub(crate) fn run(address: &Address, work: &Work) -> Result<()> {
    let letter = Letter::new(work.fields, work.size);
    let gate = Barrier::new(work.connections + 1);
    let (mut times, seconds) = thread::scope(|scope| {
        let sessions: Vec<_> = (0..work.connections)
            .map(|number| {
                let (letter, gate) = (&letter, &gate);
                scope.spawn(move || session(address, work, letter, gate, number))
            })
            .collect();
        gate.wait();
        let begun = Instant::now();
        let mut times = Vec::new();
        for session in sessions {
            let done = session.join().map_err(|_| anyhow!("a session panicked"))?;
            times.append(&mut done?);
        }
        Ok::<_, anyhow::Error>((times, begun.elapsed().as_secs_f64()))
    })?;
    times.sort_unstable();
    let at = |share: f64| percentile(&times, share).as_secs_f64() * 1e6;
    report(&json!({
        "messages": times.len(),
        "seconds": seconds,
        "rate": times.len() as f64 / seconds,
        "p50": at(0.5),
        "p99": at(0.99),
        "max": at(1.0),
    }))
}

/// One session: how long each of its messages took.
fn session(
    address: &Address,
    work: &Work,
    letter: &Letter,
    gate: &Barrier,
    number: usize,
) -> Result<Vec<Duration>> {
    let connected = if work.reconnect {
        Ok(None)
    } else {
        Mta::connect(address).map(Some)
    };
    // Whoever fails must not keep the others waiting.
    gate.wait();
    let mut mta = connected?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(work.seconds);
    let pace = Duration::from_millis(work.pace);
    // Paced sessions begin evenly spread.
    let spread = pace.mul_f64(number as f64 / work.connections as f64);
    let mut due = begun + spread;
    let mut times = Vec::new();
    while times.len() < work.messages && Instant::now() < end {
        if !pace.is_zero() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pace;
        }
        let start = Instant::now();
        let mut session = match mta.take() {
            Some(session) => session,
            None => Mta::connect(address)?,
        };
        letter.send(&mut session)?;
        times.push(start.elapsed());
        if work.reconnect {
            session.quit()?;
        } else {
            mta = Some(session);
        }
    }
    mta.map_or(Ok(()), Mta::quit)?;
    Ok(times)
}

/// Opens the sessions, says so, waits, and sends a small message through each.
pub(crate) fn idle(address: &Address, connections: usize, hold: f64) -> Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..connections {
        sessions.push(Mta::connect(address)?);
    }
    report(&json!({ "open": sessions.len() }))?;
    thread::sleep(Duration::from_secs_f64(hold));
    let letter = Letter::new(5, 1000);
    for session in &mut sessions {
        letter.send(session)?;
    }
    report(&json!({ "alive": sessions.len() }))
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    // A share of a length is far from any limit of either type.
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}
