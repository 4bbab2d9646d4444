//! Which filters a message goes through, in which order and segments.
//!
//! The chain is the routes' choice, by what is known so far; every filter of it gets its part in
//! the message. Who waits for whom follows from what the filters negotiated ([`segments`]); a
//! filter of a strict chain waits for everybody before it. Nothing here fails but a filter that
//! comes back, in the middle of a message, with wishes that the others were not told to wait for.

use std::sync::Arc;

use super::{Introduction, Session};
use crate::isolation::Poison;
use crate::member::{Chain, Negotiated};
use crate::proxy::child::{Child, ChildError, Link, Part, State};
use crate::proxy::plan::{Position, Standing};
use crate::proxy::segments::{self, Reach};
use crate::proxy::suspicion;

/// The filters that a message goes through, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Lineup {
    /// Where they come from.
    pub(super) chain: Arc<Chain>,
    /// As written: the filters of one group are parallel.
    groups: Vec<Vec<usize>>,
    /// One after the other.
    segments: Vec<Segment>,
    /// What every filter reads and may change, as the segments take it; by number.
    assumed: Vec<Reach>,
    /// The filters with conditions of their own, and what these come to for the message in hand.
    pub(super) gates: Vec<(usize, Gate)>,
}

/// Whether a filter with a condition of its own is to see the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// That is not known yet.
    Open,
    /// It is.
    In,
    /// It is not.
    Out,
}

/// Filters that are told of content side by side: groups of the chain that need not wait for each
/// other, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) groups: Vec<Vec<usize>>,
}

impl Lineup {
    /// The segment of that number.
    pub(super) fn segment(&self, number: usize) -> Option<&Segment> {
        self.segments.get(number)
    }

    /// Every filter of the chain, in its order.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().flatten().copied()
    }

    /// How many segments there are.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }
}

impl Segment {
    /// Its filters, in the chain's order.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().flatten().copied()
    }

    /// Whether that filter is one of them.
    pub(super) fn contains(&self, index: usize) -> bool {
        self.members().any(|member| member == index)
    }
}

impl Session {
    /// Puts the members of a chain into their places.
    pub(super) fn line_up(&mut self, chain: &Arc<Chain>) {
        let mut placed = Vec::new();
        let mut place = |member: &Arc<_>| {
            let is_it = |child: &Child| Arc::ptr_eq(&child.member, member);
            let index = self.children.iter().position(is_it)?;
            // A second place of the same filter would be a second say on the same conversation.
            if placed.contains(&index) {
                return None;
            }
            placed.push(index);
            Some(index)
        };
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for group in &chain.segments {
            groups.push(group.iter().filter_map(&mut place).collect());
        }
        let own = |index: &usize| !self.children[*index].member.condition.is_always();
        let gates = groups.iter().flatten().copied().filter(own);
        self.lineup = Some(Lineup {
            chain: Arc::clone(chain),
            gates: gates.map(|index| (index, self.gate_of(index))).collect(),
            groups,
            segments: Vec::new(),
            assumed: Vec::new(),
        });
        self.order_by_gates();
        self.arrange();
    }

    /// Cuts the chain into segments, by what the filters have negotiated last.
    fn arrange(&mut self) {
        let Some(mut lineup) = self.lineup.take() else {
            return;
        };
        lineup.assumed = (0..self.children.len())
            .map(|index| self.reach(index))
            .collect();
        let reach = |index: &usize| lineup.assumed[*index];
        let groups: Vec<Vec<Reach>> = lineup
            .groups
            .iter()
            .map(|group| group.iter().map(reach).collect())
            .collect();
        let barriers = segments::barriers(&groups);
        // Whoever asks for the word of another filter waits for it.
        let asks = |group: &[usize]| {
            let mut members = group.iter().map(|index| &self.children[*index].member);
            members.any(|member| member.condition.asks_for().next().is_some())
        };
        lineup.segments.clear();
        for (group, barrier) in lineup.groups.iter().zip(barriers) {
            match lineup.segments.last_mut() {
                Some(segment) if barrier.is_none() && !lineup.chain.strict && !asks(group) => {
                    segment.groups.push(group.clone());
                }
                _ => lineup.segments.push(Segment {
                    groups: vec![group.clone()],
                }),
            }
        }
        self.lineup = Some(lineup);
    }

    /// What a filter reads and may change, as far as known.
    fn reach(&self, index: usize) -> Reach {
        let child = &self.children[index];
        let negotiated = match child.side() {
            Some(side) => Some(Negotiated::from(side.options())),
            None => self
                .shared
                .remembered(&child.member.name)
                .as_ref()
                .map(Negotiated::from),
        };
        Reach::of(negotiated, child.member.shadow)
    }

    /// A filter has negotiated anew: the segments follow, as long as nobody has been told of
    /// content by them. From then on it may do no more than was thought before.
    pub(super) fn rearrange(&mut self, index: usize) -> Result<(), ChildError> {
        let now = self.reach(index);
        let assumed = self.lineup.as_ref().and_then(|up| up.assumed.get(index));
        let Some(assumed) = assumed.copied().filter(|assumed| *assumed != now) else {
            return Ok(());
        };
        match &mut self.message {
            Some(message) if message.content_begun() => {
                return if assumed.covers(now) {
                    Ok(())
                } else {
                    Err(ChildError::WantsMore)
                };
            }
            Some(message) => message.segment = 0,
            None => {}
        }
        self.arrange();
        Ok(())
    }

    /// Whether the chain is to do exactly what the MTA's own would.
    pub(super) fn is_strict(&self) -> bool {
        self.lineup.as_ref().is_some_and(|up| up.chain.strict)
    }

    /// Whether an event of a strict chain may go to a filter: everybody before it has let it pass.
    /// In any other chain it may at once. `next` is where the event leads.
    pub(super) fn is_clear(&self, index: usize, at: Position, next: Position) -> bool {
        let message = self.message.as_ref();
        // A filter that is told again need not wait for a refusal that the MTA hears of later.
        let again = message.is_some_and(|now| !now.view.is_empty() || now.header_complete);
        let last_call = self.is_last_call();
        let passed = |other: usize| {
            let standing = if at < Position::Mail {
                self.standing_of_client(other, at)
            } else {
                self.standing(other, at, next)
            };
            match standing {
                Standing::Passed | Standing::Done => true,
                Standing::Refused(_) => again,
                Standing::Waiting => last_call,
            }
        };
        !self.is_strict()
            || self
                .deciding()
                .take_while(|other| *other != index)
                .all(passed)
    }

    /// Nobody is in the line-up.
    pub(super) fn disband(&mut self) {
        self.lineup = None;
        self.order = Arc::default();
    }

    /// Lets go of filters that no message of this client can go through.
    pub(super) fn part_with_others(&mut self) {
        for index in 0..self.children.len() {
            if !self.order.contains(&index) && !self.is_awaited(index) {
                self.children[index].leave();
            }
        }
    }

    /// Gives every filter of the chain its part, and calls those that are not there.
    pub(super) fn begin_parts(&mut self) {
        for index in Arc::clone(&self.order).iter().copied() {
            self.begin_part(index);
        }
    }

    /// Gives a filter its part in the message, from its beginning, and calls it if it is not there.
    pub(super) fn begin_part(&mut self, index: usize) {
        let child = &mut self.children[index];
        let mut part = Part::new();
        let isolation = child.member.health.isolation();
        isolation.earn();
        if std::mem::take(&mut child.crashed_on_client) {
            part.suspicion.begin(isolation, false);
            part.suspicion.crashed = true;
        }
        if let Some(message) = &self.message {
            let sender = |known: &Poison| known.sender == suspicion::sender_of(isolation, message);
            part.suspicion.holds |= isolation.remembers(self.now, sender);
        }
        if child.accepted {
            part.state = State::Done;
        }
        child.part = Some(part);
        if !child.accepted && matches!(child.link, Link::Idle | Link::Failed | Link::Leaving) {
            self.dial(index);
        }
    }

    /// Appends the filters of a chain that are not in the line-up, in segments of their own: those
    /// that are have been told of content by the segments as they stand.
    pub(super) fn append(&mut self, chain: &Arc<Chain>) {
        let Some(mut lineup) = self.lineup.take() else {
            return self.line_up(chain);
        };
        for group in &chain.segments {
            let find = |member: &Arc<_>| {
                let is_it = |child: &Child| Arc::ptr_eq(&child.member, member);
                self.children.iter().position(is_it)
            };
            let there = |index: &usize| lineup.groups.iter().any(|group| group.contains(index));
            let places: Vec<usize> = group.iter().filter_map(find).collect();
            let group: Vec<usize> = places.into_iter().filter(|index| !there(index)).collect();
            if group.is_empty() {
                continue;
            }
            for index in &group {
                if !self.children[*index].member.condition.is_always() {
                    lineup.gates.push((*index, Gate::Open));
                }
            }
            lineup.segments.push(Segment {
                groups: vec![group.clone()],
            });
            lineup.groups.push(group);
        }
        lineup.chain = Arc::new(Chain {
            name: chain.name.clone(),
            segments: chain.segments.clone(),
            strict: lineup.chain.strict,
        });
        self.lineup = Some(lineup);
        self.order_by_gates();
    }

    /// The client is gone and another will come: as a new connection, with what was agreed.
    pub(super) fn forget_client(&mut self) {
        self.end_message("the MTA ended the connection");
        self.introduction = Introduction::default();
        self.arrival = None;
        // Nothing that was said of one client is true of the next.
        self.macros.clear();
        self.repeated.clear();
        self.loose.clear();
        self.disband();
        for index in 0..self.children.len() {
            self.children[index].leave();
            self.children[index].accepted = false;
        }
    }
}
