//! Which filters a message goes through, in which order and segments.
//!
//! The chain is the routes' choice, by what is known so far; every filter of it gets its part in
//! the message. Nothing here can fail.

use std::sync::Arc;

use milter_proto::session::Event;

use super::{Introduction, Session};
use crate::member::Chain;
use crate::proxy::child::{Child, Link, Part, State};
use crate::route::{Client, Fact, Facts};

/// The filters that a message goes through, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Lineup {
    /// Where they come from.
    pub(super) chain: Arc<Chain>,
    /// One after the other; those of one run side by side.
    pub(super) segments: Vec<Vec<usize>>,
}

impl Session {
    /// The facts that routes are chosen by.
    pub(super) fn facts(&self, authenticated: Option<bool>) -> Facts<'_> {
        let client = match &self.introduction.connect {
            None => Fact::NotYet,
            Some(told) => Fact::Known(match &told.event {
                Event::Connect(connection) => {
                    connection.address.ip().map_or(Client::NoIp, Client::Ip)
                }
                _ => Client::NoIp,
            }),
        };
        Facts {
            listen: &self.shared.listen,
            client,
            authenticated: authenticated.map_or(Fact::NotYet, Fact::Known),
        }
    }

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
        let mut segments: Vec<Vec<usize>> = Vec::new();
        for segment in &chain.segments {
            segments.push(segment.iter().filter_map(&mut place).collect());
        }
        self.order = segments.iter().flatten().copied().collect();
        self.lineup = Some(Lineup {
            chain: Arc::clone(chain),
            segments,
        });
    }

    /// Nobody is in the line-up.
    pub(super) fn disband(&mut self) {
        self.lineup = None;
        self.order = Arc::default();
    }

    /// Lets go of filters that no message of this client can go through.
    pub(super) fn part_with_others(&mut self) {
        for (index, child) in self.children.iter_mut().enumerate() {
            if !self.order.contains(&index) {
                child.leave();
            }
        }
    }

    /// Gives every filter of the chain its part, and calls those that are not there.
    pub(super) fn begin_parts(&mut self) {
        for index in Arc::clone(&self.order).iter().copied() {
            let child = &mut self.children[index];
            let mut part = Part::new();
            if child.accepted {
                part.state = State::Done;
            }
            child.part = Some(part);
            if !child.accepted && matches!(child.link, Link::Idle | Link::Failed | Link::Leaving) {
                self.dial(index);
            }
        }
    }

    /// The client is gone and another will come: as a new connection, with what was agreed.
    pub(super) fn forget_client(&mut self) {
        self.end_message("the MTA ended the connection");
        self.introduction = Introduction::default();
        self.disband();
        for index in 0..self.children.len() {
            self.children[index].leave();
            self.children[index].accepted = false;
        }
    }
}
