//! What keeps a filter's crashes from spreading: how often it may be told a message again, which
//! message is to blame, and which ones have shown that they kill it.
//!
//! One for each filter, shared by all connections. A crash takes down every message that the filter
//! had in hand, and only one of them is the cause. So those are told again one after the other
//! ([`Isolation::takes_turn`]): whoever has the turn when the filter crashes is to blame, and
//! everybody else is excused. A message that is to blame twice is poison; by its sender and its
//! content it is remembered for [`MEMORY`], and no connection tells the filter of it again.
//!
//! Nothing waits here and there is no clock: the time comes in. Messages are known by keyed hashes
//! ([`Digest`]), so that nobody can make up a message that passes for another. Nothing can fail.

use std::collections::VecDeque;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a message is remembered that has killed a filter twice.
pub const MEMORY: Duration = Duration::from_secs(3600);

/// How many of them are remembered of each filter; the oldest go first.
pub const POISON_MAX: usize = 1024;

/// How long one message may keep the others waiting for their turn.
pub const TURN: Duration = Duration::from_secs(2);

/// So long after a crash that is explained, others that lose their connection are excused.
pub const GRACE: Duration = Duration::from_secs(1);

/// So long after a turn nobody else has one: the end of a process shows a little later than its
/// last word.
pub const LINGER: Duration = Duration::from_millis(20);

/// What is saved up at most, in fifths of a replay.
const SAVED_MAX: u32 = 5 * 100;

/// What a message, or a part of it, is known by.
pub type Digest = u64;

/// What a message is remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poison {
    /// Its sender alone, which says early that a message may be this one.
    pub sender: Digest,
    /// Sender, header and body.
    pub whole: Digest,
}

/// A filter's crashes.
#[derive(Debug, Default)]
pub struct Isolation {
    keys: RandomState,
    /// Whether anything is remembered: all that is asked on the way of an ordinary message.
    any: AtomicBool,
    state: Mutex<State>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
struct Turn {
    holder: u64,
    until: Instant,
    /// It is over, and lingers.
    ended: bool,
}

#[derive(Debug)]
struct State {
    /// In fifths of a replay.
    saved: u32,
    tickets: u64,
    turn: Option<Turn>,
    /// Who was to blame last, and when.
    blamed: Option<(u64, Instant)>,
    /// Oldest first.
    poison: VecDeque<(Instant, Poison)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            saved: SAVED_MAX,
            tickets: 0,
            turn: None,
            blamed: None,
            poison: VecDeque::new(),
        }
    }
}

impl Isolation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hash that nobody outside can foresee.
    #[must_use]
    pub fn hasher(&self) -> DefaultHasher {
        self.keys.build_hasher()
    }

    /// A message has come: a fifth of a replay is earned.
    pub fn earn(&self) {
        let mut state = self.state();
        state.saved = (state.saved + 1).min(SAVED_MAX);
    }

    /// Spends a replay, if there is one: a filter that fails on everything does not get twice the
    /// traffic.
    #[must_use]
    pub fn take_replay(&self) -> bool {
        let mut state = self.state();
        let left = state.saved.checked_sub(5);
        state.saved = left.unwrap_or(state.saved);
        left.is_some()
    }

    /// A number for a message that may be to blame.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        let mut state = self.state();
        state.tickets += 1;
        state.tickets
    }

    /// Takes the turn, or keeps it; `false` when another message has it.
    #[must_use]
    pub fn takes_turn(&self, ticket: u64, now: Instant) -> bool {
        let mut state = self.state();
        match state.turn {
            Some(turn) if turn.until > now && turn.holder != ticket => false,
            Some(turn) if turn.until > now && !turn.ended => true,
            _ => {
                state.turn = Some(Turn {
                    holder: ticket,
                    until: now + TURN,
                    ended: false,
                });
                true
            }
        }
    }

    /// Gives the turn back: there is nothing to tell for now, or nothing more.
    pub fn ends_turn(&self, ticket: u64, now: Instant) {
        let mut state = self.state();
        if let Some(turn) = &mut state.turn
            && turn.holder == ticket
        {
            turn.until = turn.until.min(now + LINGER);
            turn.ended = true;
        }
    }

    /// Gives the turn back at once: the message is gone.
    pub fn drops_turn(&self, ticket: u64) {
        self.state().turn.take_if(|turn| turn.holder == ticket);
    }

    /// Whether another message explains that a connection, which was there `since` then, is gone
    /// now.
    #[must_use]
    pub fn is_excused(&self, ticket: Option<u64>, since: Instant, now: Instant) -> bool {
        let state = self.state();
        let is_other = |other: u64| Some(other) != ticket;
        let in_turn = |turn: Turn| is_other(turn.holder) && turn.until > now;
        // A connection that is newer is one to the process after that one.
        let blamed = |(by, at): (u64, Instant)| is_other(by) && since <= at && now < at + GRACE;
        state.turn.is_some_and(in_turn) || state.blamed.is_some_and(blamed)
    }

    /// This message has crashed the filter: that explains it for everybody else.
    pub fn blame(&self, ticket: u64, now: Instant) {
        let mut state = self.state();
        state.blamed = Some((ticket, now));
        state.turn.take_if(|turn| turn.holder == ticket);
    }

    /// Remembers a message that has killed the filter twice.
    pub fn remember(&self, poison: Poison, now: Instant) {
        let mut state = self.state();
        state.poison.retain(|(_, known)| *known != poison);
        state.poison.push_back((now, poison));
        if state.poison.len() > POISON_MAX {
            state.poison.pop_front();
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether one is remembered that `is_it`.
    #[must_use]
    pub fn remembers(&self, now: Instant, is_it: impl Fn(&Poison) -> bool) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state();
        while let Some((at, _)) = state.poison.front()
            && *at + MEMORY <= now
        {
            state.poison.pop_front();
        }
        self.any.store(!state.poison.is_empty(), Ordering::Relaxed);
        state.poison.iter().any(|(_, poison)| is_it(poison))
    }

    /// Forgets every message: the filter is another one now.
    pub fn forget(&self) {
        let mut state = self.state();
        state.poison.clear();
        self.any.store(false, Ordering::Relaxed);
    }
}

/// Puts a part of a message into a hash, so that it cannot be taken for the next one.
pub fn add(hasher: &mut DefaultHasher, part: &[u8]) {
    hasher.write_usize(part.len());
    hasher.write(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_are_a_fifth_of_the_messages_beyond_what_was_saved() {
        let isolation = Isolation::default();
        let saved = (0..1000).filter(|_| isolation.take_replay()).count();
        assert_eq!(saved, 100);
        for _ in 0..4 {
            isolation.earn();
        }
        assert!(!isolation.take_replay());
        isolation.earn();
        assert!(isolation.take_replay());
        assert!(!isolation.take_replay());
        for _ in 0..10_000 {
            isolation.earn();
        }
        assert_eq!((0..1000).filter(|_| isolation.take_replay()).count(), 100);
    }

    #[test]
    fn one_message_at_a_time_has_the_turn_and_everybody_else_is_excused() {
        let isolation = Isolation::default();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (a, b) = (isolation.ticket(), isolation.ticket());
        assert!(!isolation.is_excused(None, now, now), "nobody explains it");
        assert!(isolation.takes_turn(a, now));
        assert!(isolation.takes_turn(a, now + second));
        assert!(!isolation.takes_turn(b, now + second));
        assert!(isolation.is_excused(Some(b), now, now) && isolation.is_excused(None, now, now));
        assert!(!isolation.is_excused(Some(a), now, now));
        isolation.blame(a, now);
        assert!(isolation.is_excused(None, now, now + second / 2));
        assert!(!isolation.is_excused(Some(a), now, now + second / 2));
        assert!(!isolation.is_excused(None, now, now + GRACE));
        let newer = now + second / 4;
        assert!(!isolation.is_excused(None, newer, now + second / 2));
        assert!(isolation.takes_turn(b, now), "blamed, it has no turn");
        isolation.ends_turn(a, now);
        assert!(!isolation.takes_turn(a, now), "the turn is another's");
        assert!(isolation.takes_turn(a, now + TURN), "no turn is for ever");
        let later = now + 2 * TURN;
        assert!(isolation.takes_turn(a, later));
        isolation.ends_turn(a, later);
        let soon = later + LINGER / 2;
        assert!(!isolation.takes_turn(b, soon) && isolation.takes_turn(a, soon));
        isolation.ends_turn(a, soon);
        assert!(isolation.takes_turn(b, soon + LINGER));
        isolation.drops_turn(b);
        assert!(isolation.takes_turn(a, soon + LINGER));
    }

    #[test]
    fn poison_is_remembered_for_some_time_and_not_without_end() {
        let isolation = Isolation::default();
        let now = Instant::now();
        let of = |whole| Poison { sender: 7, whole };
        let knows = |whole, at| isolation.remembers(at, |known| *known == of(whole));
        assert!(!knows(1, now));
        isolation.remember(of(1), now);
        let almost = now + MEMORY - Duration::from_millis(1);
        assert!(knows(1, almost));
        assert!(!knows(2, almost));
        assert!(!knows(1, now + MEMORY));
        let count = POISON_MAX as u64;
        for number in 0..2 * count {
            isolation.remember(of(number), now);
        }
        assert!(!knows(count - 1, now));
        assert!(knows(count, now));
        isolation.forget();
        assert!(!knows(count, now));
    }

    #[test]
    fn parts_of_a_message_are_told_apart() {
        let isolation = Isolation::default();
        let of = |parts: &[&[u8]]| {
            let mut hasher = isolation.hasher();
            parts.iter().for_each(|part| add(&mut hasher, part));
            hasher.finish()
        };
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
    }
}
