//! When to start a crashed child again: pure, told the time and a random number.
//!
//! The delay is 100 ms and doubles with each crash up to 30 s; a tenth to two fifths of jitter on
//! top keep several children from starting in step. Five crashes within ten seconds open the
//! breaker: mail is no longer held up for the child and its failure policy applies at once, while
//! the starting goes on for ever at the delays above. An answered negotiation closes the breaker,
//! and each second of readiness takes one doubling back: a child that works and is killed now and
//! then is back at once, one that ends as soon as it runs is not. It never gives up and never looks
//! at a clock itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Delay after the first crash.
pub const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay, jitter not counted.
pub const DELAY_MAX: Duration = Duration::from_secs(30);
/// So long of readiness takes one doubling back.
pub const RECOVERY: Duration = Duration::from_secs(1);
/// Doublings that are remembered: enough for the longest delay.
const DOUBLINGS_MAX: u32 = 9;
/// So many crashes …
pub const BREAKER_CRASHES: usize = 5;
/// … within this time open the breaker.
pub const BREAKER_WINDOW: Duration = Duration::from_secs(10);

/// Memory of a child's crashes.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    /// The latest crashes, oldest first, at most [`BREAKER_CRASHES`].
    crashes: VecDeque<Instant>,
    /// Doublings of the next delay: one more for each crash, one less for each second of readiness.
    doublings: u32,
    /// Since when it has been ready.
    ready_since: Option<Instant>,
    open: bool,
}

impl Backoff {
    /// Takes note of a crash, or of a start that failed, and says how long to wait before the next
    /// start. `random` is any number: the jitter comes from it.
    pub fn crashed(&mut self, now: Instant, random: u64) -> Duration {
        self.doublings = self.doublings.saturating_sub(self.recovered(now));
        let delay = DELAY_MIN
            .saturating_mul(2u32.saturating_pow(self.doublings))
            .min(DELAY_MAX);
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);

        self.crashes.push_back(now);
        if self.crashes.len() > BREAKER_CRASHES {
            self.crashes.pop_front();
        }
        self.open |= self.crashes.len() == BREAKER_CRASHES
            && self
                .crashes
                .front()
                .is_some_and(|first| now.saturating_duration_since(*first) <= BREAKER_WINDOW);
        delay + jitter(delay, random)
    }

    /// Doublings that its readiness has taken back.
    fn recovered(&mut self, now: Instant) -> u32 {
        let ready = self
            .ready_since
            .take()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        u32::try_from(ready.as_secs() / RECOVERY.as_secs()).unwrap_or(u32::MAX)
    }

    /// Takes note that the child answers.
    pub fn ready(&mut self, now: Instant) {
        self.open = false;
        self.ready_since.get_or_insert(now);
    }

    /// Whether the breaker is open: connections are not worth queueing for this child.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Forgets everything: the operator asked for a fresh start.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

/// A tenth to two fifths of `delay`.
fn jitter(delay: Duration, random: u64) -> Duration {
    let percent = 10 + u32::try_from(random % 31).unwrap_or(0);
    delay * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Crashes at these moments (seconds); what each gives: the delay in milliseconds without
    /// jitter, and the breaker.
    fn run(crashes: &[f64]) -> Vec<(u128, bool)> {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        crashes
            .iter()
            .map(|at| {
                let delay = backoff.crashed(start + Duration::from_secs_f64(*at), 0);
                (delay.as_millis() * 10 / 11, backoff.is_open())
            })
            .collect()
    }

    #[test]
    fn delays_double_up_to_the_cap_and_the_fifth_crash_in_ten_seconds_opens_the_breaker() {
        let spread = [0.0, 3.0, 6.0, 9.0, 12.0, 15.0];
        assert_eq!(
            run(&spread),
            [100, 200, 400, 800, 1600, 3200].map(|delay| (delay, false))
        );
        let quick = [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 25.5, 51.1, 81.1];
        let delays = [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000,
        ];
        let expected: Vec<(u128, bool)> = delays
            .into_iter()
            .enumerate()
            .map(|(number, delay)| (delay, number >= 4))
            .collect();
        assert_eq!(run(&quick), expected);
    }

    #[test]
    fn many_crashes_do_not_overflow() {
        let crashes: Vec<f64> = (0..200).map(f64::from).collect();
        assert_eq!(run(&crashes).last(), Some(&(30000, true)));
    }

    #[test]
    fn an_answer_closes_the_breaker_and_readiness_shortens_the_delay() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut backoff = Backoff::default();
        for tenth in 0..5 {
            backoff.crashed(at(100 * tenth), 0);
        }
        assert!(backoff.is_open());
        backoff.ready(at(1000));
        assert!(!backoff.is_open());

        // Crashed again at once: the delay goes on growing.
        let delay = |milliseconds: u64| Duration::from_millis(milliseconds * 11 / 10);
        assert_eq!(backoff.crashed(at(1900), 0), delay(3200));
        // Three seconds of readiness, counted from the first answer.
        backoff.ready(at(20_000));
        backoff.ready(at(22_000));
        assert_eq!(backoff.crashed(at(23_500), 0), delay(800));
        // A child that always works for a while is always back at once.
        for crash in 0..20_u64 {
            let moment = 40_000 + crash * 3_000;
            backoff.ready(at(moment));
            let expected = [400, 200].get(usize::try_from(crash).unwrap());
            let got = backoff.crashed(at(moment + 2_900), 0);
            assert_eq!(got, delay(*expected.unwrap_or(&100)), "{crash}");
        }
    }

    #[test]
    fn jitter_is_a_tenth_to_two_fifths() {
        let delay = Duration::from_secs(10);
        for random in 0..1000 {
            let jitter = jitter(delay, random);
            assert!(jitter >= Duration::from_secs(1) && jitter <= Duration::from_secs(4));
        }
    }

    #[test]
    fn the_operator_can_start_afresh() {
        let mut backoff = Backoff::default();
        for _ in 0..7 {
            backoff.crashed(Instant::now(), 3);
        }
        backoff.forget();
        assert!(!backoff.is_open());
        assert_eq!(
            backoff.crashed(Instant::now(), 0),
            Duration::from_millis(110)
        );
    }
}
