//! Fetches the keys of a message: all at once, from the end of its header on, with one deadline for
//! all of them.
//!
//! Dropping [`KeyLookups`] stops what is still under way. What has no answer at the deadline is
//! [`DnsError::Timeout`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::auth::dns::{Dns, DnsError, Txt};
use crate::auth::domain::Domain;

/// What DNS said about each name.
pub type KeyAnswers = HashMap<Domain, Result<Vec<Txt>, DnsError>>;

/// Questions under way.
pub struct KeyLookups {
    tasks: JoinSet<(Domain, Result<Vec<Txt>, DnsError>)>,
    answers: KeyAnswers,
    deadline: Instant,
}

impl KeyLookups {
    /// Asks for all names; the answers count if they come `within` this time.
    pub fn start<D: Dns>(dns: &Arc<D>, names: Vec<Domain>, within: Duration) -> Self {
        let mut tasks = JoinSet::new();
        let mut answers = KeyAnswers::new();
        for name in names {
            // Until it is answered.
            answers.insert(name.clone(), Err(DnsError::Timeout));
            let dns = dns.clone();
            tasks.spawn(async move {
                let answer = dns.txt(&name).await;
                (name, answer)
            });
        }
        Self {
            tasks,
            answers,
            deadline: Instant::now() + within,
        }
    }

    /// Waits for the answers, to the deadline at most.
    pub async fn collect(mut self) -> KeyAnswers {
        while let Ok(Some(finished)) = timeout_at(self.deadline, self.tasks.join_next()).await {
            if let Ok((name, answer)) = finished {
                self.answers.insert(name, answer);
            }
        }
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers `fast...` after 1 s, `slow...` after 10 s, anything else at once that there is
    /// nothing.
    struct Delayed;

    impl Dns for Delayed {
        async fn txt(&self, name: &Domain) -> Result<Vec<Txt>, DnsError> {
            let seconds = match name.as_str().split('.').next() {
                Some("fast") => 1,
                Some("slow") => 10,
                _ => return Err(DnsError::NoRecords),
            };
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(vec![b"x".to_vec()])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_asked_at_once_with_one_deadline() {
        let names = ["fast.a", "fast.b", "slow.a", "none.a"];
        let names = names.map(|name| Domain::parse(name).unwrap());
        let start = Instant::now();
        let lookups = KeyLookups::start(&Arc::new(Delayed), names.to_vec(), Duration::from_secs(5));
        let answers = lookups.collect().await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        let found = Ok(vec![b"x".to_vec()]);
        let expected = [
            found.clone(),
            found,
            Err(DnsError::Timeout),
            Err(DnsError::NoRecords),
        ];
        for (name, expected) in names.iter().zip(expected) {
            assert_eq!(answers[name], expected, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_without_need() {
        let start = Instant::now();
        let name = Domain::parse("fast.a").unwrap();
        let lookups = KeyLookups::start(&Arc::new(Delayed), vec![name], Duration::from_secs(5));
        tokio::time::sleep(Duration::from_secs(3)).await;
        lookups.collect().await;
        assert_eq!(
            start.elapsed(),
            Duration::from_secs(3),
            "the body took longer than the key"
        );
    }
}
