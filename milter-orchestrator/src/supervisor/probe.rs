//! Is a filter ready? Asked by a real option negotiation, which costs it one connection and nothing
//! else.
//!
//! A probe connects, negotiates as an MTA would, says goodbye and hangs up; no mail is ever
//! pretended. [`Streak`] turns single outcomes into a judgement: down after three failures in a
//! row, up after two successes. [`Sessions`] does the same with what became of real messages.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use milter_proto::net::{Address, Client, DialError, Timeouts};
use milter_proto::wire::Offer;
use nix::errno::Errno;
use tokio::time;

use crate::member::Negotiated;

/// Failures in a row after which a filter counts as down.
pub const FALL: u32 = 3;
/// Successes in a row after which a filter that was down counts as up.
pub const RISE: u32 = 2;

/// Why a filter is not ready.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It took the connection, or its queue did, and said nothing in time.
    #[error("no answer to a negotiation at {0} within {1:?}")]
    Late(Address, Duration),
    /// It cannot be reached, or what it said is no negotiation.
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl ProbeError {
    /// Whether it says nothing about the filter: we could not even try.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && let Some(number) = error.raw_os_error()
            {
                return [Errno::EMFILE as i32, Errno::ENFILE as i32].contains(&number);
            }
            cause = error.source();
        }
        false
    }
}

/// Negotiates with the filter at `address` and says goodbye; what it negotiated.
///
/// # Errors
/// When it is not ready.
pub async fn negotiate(address: &Address, timeout: Duration) -> Result<Negotiated, ProbeError> {
    let timeouts = Timeouts::each(timeout);
    let talk = async {
        let (client, _warnings) = Client::connect(address, &Offer::full(), timeouts).await?;
        let negotiated = Negotiated::from(client.options());
        client.quit().await;
        Ok(negotiated)
    };
    // Connection and answer together have this time.
    time::timeout(timeout, talk)
        .await
        .map_err(|_| ProbeError::Late(address.clone(), timeout))?
}

/// Outcomes in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    failures: u32,
    successes: u32,
}

/// What a streak amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Too early to say.
    Wait,
    /// [`FALL`] failures in a row, or more.
    Fallen,
    /// [`RISE`] successes in a row, or more.
    Risen,
}

impl Streak {
    /// Takes one outcome.
    pub fn record(&mut self, answered: bool) -> Judgement {
        if answered {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures >= FALL {
            Judgement::Fallen
        } else if self.successes >= RISE {
            Judgement::Risen
        } else {
            Judgement::Wait
        }
    }
}

/// When a filter last gave a sign of life, as far as looking now and then can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    alive_at: Instant,
    looked_at: Instant,
    messages: u64,
}

impl Pulse {
    /// Of a filter that has handled so many messages.
    #[must_use]
    pub fn new(now: Instant, messages: u64) -> Self {
        Self {
            alive_at: now,
            looked_at: now,
            messages,
        }
    }

    /// Takes the end of a probe, and how many messages the filter has handled by now. Where it did
    /// not answer, but has handled some since the last look, it may have stopped right after that.
    pub fn look(&mut self, now: Instant, answered: bool, messages: u64) {
        if answered {
            self.alive_at = now;
        } else if messages != self.messages {
            self.alive_at = self.looked_at;
        }
        self.looked_at = now;
        self.messages = messages;
    }

    /// The last sign of life.
    #[must_use]
    pub fn alive_at(&self) -> Instant {
        self.alive_at
    }
}

/// What real messages say about a filter: its own word, or failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Messages with its own word, by the latest count.
    words: u64,
    /// Messages that had failed when it last gave its word, or when it was started.
    failures: u64,
}

impl Sessions {
    /// Nothing so far but these counts.
    #[must_use]
    pub fn from(words: u64, failures: u64) -> Self {
        Self { words, failures }
    }

    /// Takes the counts when there was another failure: [`FALL`] messages in a row that failed,
    /// with no word of its own between them, count as down, whatever probes say.
    pub fn record(&mut self, words: u64, failures: u64) -> Judgement {
        if words != self.words {
            // Which came first is not known; the latest failure stands alone then.
            *self = Self::from(words, failures.saturating_sub(1));
        }
        if failures.saturating_sub(self.failures) >= u64::from(FALL) {
            Judgement::Fallen
        } else {
            Judgement::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const OFFER: &[u8] = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0";

    /// A filter that says `answer` to the first frame and hangs up; what a probe makes of it, and
    /// what the filter heard.
    async fn probe(answer: &'static [u8]) -> (String, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("filter.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let filter = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 17];
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let address = Address::Unix(path);
        let probe = negotiate(&address, Duration::from_secs(20));
        let (outcome, heard) = tokio::join!(probe, filter);
        let outcome = outcome.map_or_else(|error| error.to_string(), |_| "ready".to_owned());
        (outcome, heard)
    }

    #[tokio::test]
    async fn only_an_answered_negotiation_counts() {
        for (answer, ready) in [
            (OFFER, true),
            (b"\0\0\0\x0dO\0\0\0\x01\0\0\x01\xff\0\0\0\0", false),
            (b"", false),
            (b"\0\0\0\x0dO\0\0", false),
            (b"\0\0\0\0", false),
            (b"\xff\xff\xff\xff", false),
            (b"\0\0\0\x01c", false),
            (b"220 mail.example.org ESMTP\r\n", false),
        ] {
            let (outcome, _) = probe(answer).await;
            assert_eq!(outcome == "ready", ready, "{answer:?}: {outcome}");
        }
    }

    #[tokio::test]
    async fn a_probe_says_goodbye_and_nothing_of_mail() {
        let (_, heard) = probe(OFFER).await;
        assert_eq!(heard[4], b'O');
        assert_eq!(&heard[17..], b"\0\0\0\x01Q");
    }

    #[tokio::test]
    async fn a_filter_that_keeps_silent_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("silent.sock");
        let _queue_only = UnixListener::bind(&path).unwrap();
        let outcome = negotiate(&Address::Unix(path), Duration::from_millis(50)).await;
        assert!(outcome.is_err());
    }

    #[tokio::test]
    async fn where_nobody_listens_the_error_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("nobody.sock"));
        let error = negotiate(&address, Duration::from_secs(5))
            .await
            .unwrap_err();
        let error = error.to_string();
        assert!(error.contains("nobody.sock"), "{error}");
    }

    #[test]
    fn three_messages_in_a_row_that_failed_count_as_down() {
        // Counts of own words and of failures, as they are found after another failure.
        for (counts, judgements) in [
            (vec![(10, 1), (10, 2), (10, 3)], "..F"),
            (vec![(10, 3)], "F"),
            (vec![(11, 3)], "."),
            (vec![(10, 2), (11, 3), (11, 4), (11, 5)], "...F"),
            (vec![(11, 1), (12, 2), (13, 3), (14, 4)], "...."),
        ] {
            let mut sessions = Sessions::from(10, 0);
            let got: String = counts
                .iter()
                .map(
                    |(words, failures)| match sessions.record(*words, *failures) {
                        Judgement::Wait => '.',
                        Judgement::Fallen => 'F',
                        Judgement::Risen => 'R',
                    },
                )
                .collect();
            assert_eq!(got, judgements, "{counts:?}");
        }
    }

    #[test]
    fn three_failures_fell_and_two_successes_raise() {
        for (outcomes, judgements) in [
            ("+-+-", "...."),
            ("---", "..F"),
            ("----", "..FF"),
            ("--+--", "....."),
            ("---+-", "..F.."),
            ("---++", "..F.R"),
            ("+++", ".RR"),
        ] {
            let mut streak = Streak::default();
            let got: String = outcomes
                .chars()
                .map(|outcome| match streak.record(outcome == '+') {
                    Judgement::Wait => '.',
                    Judgement::Fallen => 'F',
                    Judgement::Risen => 'R',
                })
                .collect();
            assert_eq!(got, judgements, "{outcomes}");
        }
    }

    #[test]
    fn messages_before_a_stop_are_no_sign_of_life_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(start, 0);
        pulse.look(at(2), true, 100);
        assert_eq!(pulse.alive_at(), at(2));
        // Fifty more until it stopped; the probe gives up two seconds after it has begun.
        pulse.look(at(6), false, 150);
        assert_eq!(pulse.alive_at(), at(2));
        pulse.look(at(8), false, 150);
        assert_eq!(pulse.alive_at(), at(2));
        // It has no time for probes, but for messages.
        pulse.look(at(10), false, 151);
        assert_eq!(pulse.alive_at(), at(8));
    }
}
