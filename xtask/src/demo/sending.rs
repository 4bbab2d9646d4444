//! Sends letters: the special ones in turn, the bulk over several connections at once while
//! filters are killed.
//!
//! An answer is kept whatever it says. A conversation that breaks is kept too: its letter was
//! neither taken nor refused, and the sender would have to come again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;
use crate::smtp::client::{Answer, Client, Guise};
use crate::stack::Stack;
use crate::terminal::Progress;

/// Connections at once for the bulk.
const CONNECTIONS: usize = 4;

/// A message to send.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// What it is, for the table.
    pub(super) what: &'static str,
    /// MAIL FROM.
    pub(super) from: String,
    /// RCPT TO; no two letters have the same.
    pub(super) to: String,
    /// Whom Postfix shall take us for.
    pub(super) guise: Option<Guise>,
    /// Header and body.
    pub(super) message: Vec<u8>,
}

/// A letter that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The letter.
    pub(super) letter: Letter,
    /// What Postfix said; an error when the conversation broke.
    pub(super) answer: Result<Answer, String>,
    /// From the first command to the answer.
    pub(super) took: Duration,
}

/// A filter that was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kill {
    /// Its name.
    pub(super) filter: String,
    /// The process that got SIGKILL.
    pub(super) pid: i32,
    /// How many letters of the bulk had been answered.
    pub(super) after: usize,
    /// The process that took over, once it was up; `None` when none did in time.
    pub(super) successor: Option<i32>,
}

/// Sends letters one after the other, each over its own connection.
pub(super) fn one_by_one(
    server: SocketAddr,
    letters: &[Letter],
    interrupt: &Interrupt,
) -> Result<Vec<Sent>> {
    let progress = Progress::new("sending", letters.len());
    let mut sent = Vec::new();
    for letter in letters {
        interrupt.check()?;
        progress.at(sent.len());
        let mut client = None;
        let (answer, took) = deliver(&mut client, server, letter);
        leave(client);
        sent.push(Sent {
            letter: letter.clone(),
            answer,
            took,
        });
    }
    Ok(sent)
}

/// Sends letters over several connections; meanwhile each filter is killed once.
pub(super) fn side_by_side(
    server: SocketAddr,
    letters: &[Letter],
    stack: &Stack,
    interrupt: &Interrupt,
) -> Result<(Vec<Sent>, Vec<Kill>)> {
    let next = AtomicUsize::new(0);
    let answered = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let progress = Progress::new("sending", letters.len());
    let sender = || {
        let mut client = None;
        let mut sent = Vec::new();
        while !interrupt.raised() {
            let index = next.fetch_add(1, Ordering::SeqCst);
            let Some(letter) = letters.get(index) else {
                break;
            };
            let (answer, took) = deliver(&mut client, server, letter);
            let letter = letter.clone();
            sent.push((
                index,
                Sent {
                    letter,
                    answer,
                    took,
                },
            ));
            progress.at(answered.fetch_add(1, Ordering::SeqCst) + 1);
        }
        leave(client);
        sent
    };
    let (mut sent, kills) = thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(sender)).collect();
        let killer = scope.spawn(|| kill_each(stack, letters.len(), &answered, &over));
        let sent: Vec<_> = senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap_or_default())
            .collect();
        over.store(true, Ordering::SeqCst);
        (sent, killer.join())
    });
    interrupt.check()?;
    sent.sort_by_key(|(index, _)| *index);
    let kills = kills.map_err(|_| anyhow::anyhow!("the thread that kills filters panicked"))??;
    Ok((sent.into_iter().map(|(_, sent)| sent).collect(), kills))
}

/// Sends over a connection that is opened when there is none and dropped when it breaks.
fn deliver(
    client: &mut Option<Client>,
    server: SocketAddr,
    letter: &Letter,
) -> (Result<Answer, String>, Duration) {
    let start = Instant::now();
    let mut attempt = || -> Result<Answer> {
        let open = match client.take() {
            Some(open) => open,
            None => Client::connect(server, letter.guise.as_ref())?,
        };
        let open = client.insert(open);
        open.send(&letter.from, &letter.to, &letter.message)
    };
    let answer = attempt();
    if answer.is_err() {
        *client = None;
    }
    (
        answer.map_err(|error| format!("{error:#}")),
        start.elapsed(),
    )
}

/// Every answer is there; what the server says to the good-bye changes none.
fn leave(client: Option<Client>) {
    let _ = client.map(Client::quit);
}

/// SIGKILL to each filter in turn, spread over the bulk, and a look at who takes over.
fn kill_each(
    stack: &Stack,
    total: usize,
    answered: &AtomicUsize,
    over: &AtomicBool,
) -> Result<Vec<Kill>> {
    let filters = stack.filters()?;
    let mut kills = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = total * (index + 1) / (filters.len() + 1);
        while answered.load(Ordering::SeqCst) < at && !over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(2));
        }
        let after = answered.load(Ordering::SeqCst);
        let pid = filter
            .pid
            .with_context(|| format!("{} has no process", filter.name))?;
        // A child of the orchestrator that we started; its id is fresh from its status.
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        kills.push(Kill {
            filter: filter.name.clone(),
            pid,
            after,
            successor: None,
        });
    }
    for kill in &mut kills {
        kill.successor = successor(stack, kill);
    }
    Ok(kills)
}

/// Waits for another process to be up under the name of a killed one.
fn successor(stack: &Stack, killed: &Kill) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let filters = stack.filters().unwrap_or_default();
        let now = filters.iter().find(|filter| filter.name == killed.filter);
        if let Some(filter) = now.filter(|filter| filter.up && filter.pid != Some(killed.pid)) {
            return filter.pid;
        }
        thread::sleep(Duration::from_millis(50));
    }
    None
}
