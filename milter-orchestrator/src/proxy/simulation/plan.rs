//! What a world consists of and what goes wrong in it. Each seed has its own mixture: most faults
//! are absent from most worlds, so that rare combinations of the others come up.

use std::time::Duration;

use super::chance::Chance;
use super::filter::{Lapse, Process, Rates};
use crate::member::OnFailure;

/// A double that is faulty on purpose, by which it is seen that an invariant can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// Every word is said twice.
    SecondWord,
    /// A reply that has no place there.
    WrongReply,
    /// What is refused by a policy passes.
    Unseen,
    /// Edits of the message before.
    Leak,
    /// Some of a filter's edits are lost.
    HalfTheEdits,
    /// A filter is shown another body.
    Altered,
    /// Memory is not given back.
    Hoard,
    /// The MTA is not answered.
    Silence,
    /// What has killed a filter is forgotten.
    Forgetful,
}

/// How much of an answer comes before something goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Nothing.
    Nothing,
    /// Of several edits the first, and half of what follows.
    Part,
    /// All of it; what goes wrong comes after that.
    Whole,
}

/// One thing that goes wrong, instead of what chance brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    /// With the answer to this command,
    pub(super) code: u8,
    /// in the first message,
    pub(super) filter: usize,
    /// whenever it is told of it, or once.
    pub(super) always: bool,
    pub(super) lapse: Lapse,
    pub(super) extent: Extent,
}

/// One world.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) messages: u64,
    /// At the same time.
    pub(super) sessions: usize,
    pub(super) strict: bool,
    pub(super) policies: Vec<OnFailure>,
    /// Which group of the chain each filter is in.
    pub(super) groups: Vec<usize>,
    pub(super) processes: Vec<Process>,
    pub(super) rates: Rates,
    /// How rarely a message kills a filter.
    pub(super) poison: u64,
    /// Nothing else goes wrong.
    pub(super) only_poison: bool,
    /// How rarely the MTA gives a message up, or the connection.
    pub(super) aborts: u64,
    pub(super) vanishes: u64,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) script: Option<Script>,
    /// How long the client thinks between two messages.
    pub(super) pause: Duration,
    /// The seed of what the mail server offers: it is one server in all its sessions.
    pub(super) server: u64,
}

impl Plan {
    pub(super) fn new(messages: u64, sabotage: Option<Sabotage>, chance: &mut Chance) -> Self {
        let count = 1 + chance.place(3);
        let policies = (0..count).map(|_| match chance.below(5) {
            0 | 1 => OnFailure::TempFail,
            2 => OnFailure::Accept,
            3 => OnFailure::Reject,
            _ => OnFailure::Quarantine,
        });
        let policies = policies.collect();
        let mut groups: Vec<usize> = Vec::new();
        for _ in 0..count {
            let group = match groups.last() {
                Some(last) if chance.once_in(4) => *last,
                Some(last) => last + 1,
                None => 0,
            };
            groups.push(group);
        }
        let calm = chance.once_in(6);
        let only_poison = !calm && chance.once_in(6);
        let mut rate = |usual: u64| {
            let present = chance.once_in(3) && !calm && !only_poison;
            if present {
                usual * (1 + chance.below(8))
            } else {
                0
            }
        };
        let rates = [
            (Lapse::Killed, rate(30)),
            (Lapse::Stopped, rate(100)),
            (Lapse::Silent, rate(50)),
            (Lapse::Late, rate(50)),
            (Lapse::Slow, rate(10)),
            (Lapse::Garbage, rate(20)),
            (Lapse::Twice, rate(30)),
        ];
        let poison = match (only_poison, calm) {
            (true, _) => 20,
            (_, true) => 0,
            _ => rate(8),
        };
        Self {
            messages,
            sessions: 1 + chance.place(4),
            strict: chance.once_in(5),
            processes: (0..count).map(|_| Process::new(chance)).collect(),
            policies,
            groups,
            rates,
            poison,
            only_poison,
            aborts: if chance.once_in(3) { 100 } else { 0 },
            vanishes: if chance.once_in(3) { 300 } else { 0 },
            sabotage,
            script: None,
            pause: Duration::ZERO,
            server: chance.next(),
        }
    }

    /// Nothing happens but what the script says: two messages in one session, through three
    /// filters.
    pub(super) fn scripted(script: Script, policy: OnFailure, strict: bool) -> Self {
        let mut chance = Chance::new(0);
        let mut plan = Self::new(2, None, &mut chance);
        plan.sessions = 1;
        plan.strict = strict;
        plan.policies = vec![OnFailure::TempFail; 3];
        plan.policies[script.filter] = policy;
        plan.groups = vec![0, 1, 2];
        plan.processes = (0..3).map(|_| Process::plain()).collect();
        plan.rates.iter_mut().for_each(|(_, rate)| *rate = 0);
        plan.poison = 0;
        plan.only_poison = false;
        plan.aborts = 0;
        plan.vanishes = 0;
        plan.pause = Duration::from_secs(60);
        plan.script = Some(script);
        plan
    }
}
