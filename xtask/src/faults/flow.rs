//! A stream of letters at an even pace over several SMTP connections, until it is told to stop.
//!
//! Every answer is kept. After one that defers, and after some letters in any case, the sender says
//! good-bye and comes anew, as mail servers do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::letter::Letter;
use crate::smtp::client::{Answer, Client};

/// The envelope sender.
const SENDER: &str = "writer@sender.test";

/// How much mail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    /// Letters a second, at most.
    pub(super) rate: f64,
    /// SMTP connections at a time.
    pub(super) sessions: usize,
    /// Letters over one connection.
    pub(super) letters_a_session: usize,
    /// Bytes of a body.
    pub(super) size: usize,
}

/// What every fault is injected into, unless it wants something else.
pub(super) const USUAL: Traffic = Traffic {
    rate: 50.0,
    sessions: 8,
    letters_a_session: 6,
    size: 4000,
};

/// A letter and what became of it at the entrance.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The letter.
    pub(super) letter: Letter,
    /// What Postfix said; an error when the conversation broke.
    pub(super) answer: Result<Answer, String>,
    /// From the first command, a new connection included, to the answer.
    pub(super) took: Duration,
    /// The longer of the two parts of that: getting a connection, and the message.
    pub(super) step: Duration,
}

/// A running stream. Dropping it stops it.
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<Sent>>>,
}

impl Flow {
    /// Starts to send letters whose names begin with `name`.
    pub(super) fn start(server: SocketAddr, name: &str, traffic: Traffic) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicUsize::new(0));
        let begin = Instant::now();
        let senders = (0..traffic.sessions)
            .map(|_| {
                let sender = Sender {
                    server,
                    traffic,
                    begin,
                    name: name.to_owned(),
                    next: Arc::clone(&next),
                    stop: Arc::clone(&stop),
                };
                thread::spawn(move || sender.work())
            })
            .collect();
        Self { stop, senders }
    }

    /// Finishes what is in hand and returns everything that was sent.
    pub(super) fn stop(mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        let senders = std::mem::take(&mut self.senders);
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap_or_default())
            .collect()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            let _ = sender.join();
        }
    }
}

/// One connection after the other.
struct Sender {
    server: SocketAddr,
    traffic: Traffic,
    begin: Instant,
    name: String,
    next: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    fn work(&self) -> Vec<Sent> {
        let mut open: Option<(Client, usize)> = None;
        let mut sent = Vec::new();
        while let Some(letter) = self.next() {
            let one = deliver(&mut open, self.server, letter);
            let stays = one.answer.as_ref().is_ok_and(|answer| !answer.deferred());
            open = open.filter(|(_, letters)| stays && *letters < self.traffic.letters_a_session);
            sent.push(one);
        }
        // Every answer is there; what the server says to the good-bye changes none.
        let _ = open.map(|(client, _)| client.quit());
        sent
    }

    /// The next letter, at its time.
    fn next(&self) -> Option<Letter> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        // Far below 2³²: an hour at 50 letters a second has 180,000.
        let due = Duration::from_secs_f64(number as f64 / self.traffic.rate);
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let wait = due.saturating_sub(self.begin.elapsed());
            if wait.is_zero() {
                break;
            }
            thread::sleep(wait.min(Duration::from_millis(50)));
        }
        Some(Letter {
            id: format!("{}-{number}", self.name),
            size: self.traffic.size,
            token: "",
        })
    }
}

/// Sends one letter over a connection of its own.
pub(super) fn send_alone(server: SocketAddr, letter: Letter) -> Sent {
    let mut open = None;
    let sent = deliver(&mut open, server, letter);
    let _ = open.map(|(client, _)| client.quit());
    sent
}

fn deliver(open: &mut Option<(Client, usize)>, server: SocketAddr, letter: Letter) -> Sent {
    let begun = Instant::now();
    let text = letter.text();
    let mut connected = Duration::ZERO;
    let mut attempt = || -> Result<Answer> {
        let (client, letters) = match open.take() {
            Some(open) => open,
            None => (Client::connect(server, None)?, 0),
        };
        let (client, _) = open.insert((client, letters + 1));
        connected = begun.elapsed();
        client.send(SENDER, &letter.to(), &text)
    };
    let answer = attempt().map_err(|error| format!("{error:#}"));
    if answer.is_err() {
        *open = None;
    }
    let took = begun.elapsed();
    Sent {
        answer,
        took,
        step: connected.max(took.saturating_sub(connected)),
        letter,
    }
}
