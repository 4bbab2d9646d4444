//! A message goes in, a verdict comes out: facts, checks, score. No clock, no socket, no file.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use ipnet::IpNet;

use crate::envelope::Envelope;
use crate::facts::{self, Cancelled, Facts, Message, Reading};
use crate::rules::{Rule, Stage};
use crate::score::{self, Thresholds, Verdict};

/// What is configured of scanning, ready to be used.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// The checks that are not disabled, with their weights.
    pub rules: Vec<(&'static Rule, f64)>,
    /// What is done from which score on.
    pub thresholds: Thresholds,
    /// How much is looked at, and whose word is taken.
    pub reading: Reading,
    /// Networks whose clients are ours.
    pub local_networks: Vec<IpNet>,
}

impl Scanner {
    /// Whether a client with this address is ours.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.local_networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Scans a message that came in at `now` (seconds since 1970). Without `judges_client` the
    /// checks on the client are left out.
    ///
    /// # Errors
    /// [`Cancelled`] when `cancelled` became true on the way.
    pub fn scan(
        &self,
        message: Message,
        envelope: Envelope,
        now: i64,
        judges_client: bool,
        cancelled: &AtomicBool,
    ) -> Result<Verdict, Cancelled> {
        let facts = Facts::learn(message, envelope, now, &self.reading, cancelled)?;
        let mut hits = Vec::new();
        for (rule, weight) in &self.rules {
            facts::check(cancelled)?;
            if rule.stage == Stage::Client && !judges_client {
                continue;
            }
            hits.extend((rule.check)(&facts).map(|hit| (*rule, *weight, hit)));
        }
        Ok(score::add_up(hits, &self.thresholds))
    }
}
