//! Whether a message is why a filter crashes: what its part in the filter knows of that.
//!
//! A filter that crashes is told the message again, after that only when no other message is under
//! the same suspicion at the same time. What the filters' crashes have in common is kept in
//! [`Isolation`](crate::isolation::Isolation). Nothing here can fail.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use milter_proto::session::Event;

use super::message::Message;
use super::spool::SpoolError;
use crate::isolation::{self, Digest, Isolation, Poison};
use crate::member::Member;

/// How often others may be to blame before nobody believes it any more.
const EXCUSES_MAX: u8 = 4;

/// How often a connection that was lost before it was of use is made anew.
const REDIALS_MAX: u8 = 3;

/// A message's turn to be told again. It ends when this is dropped.
#[derive(Debug)]
struct Turn {
    member: Arc<Member>,
    ticket: u64,
    /// It is over, and lingers.
    ended: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.member.health.isolation().drops_turn(self.ticket);
    }
}

/// What is suspected of a message, as one filter's part in it.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// Its number among those that are told again.
    ticket: Option<u64>,
    turn: Option<Turn>,
    /// It waits for its turn.
    waits: bool,
    /// The filter has crashed on it once.
    pub(crate) crashed: bool,
    excuses: u8,
    redials: u8,
    /// The content is kept back until all of it is there, so that it can be recognised.
    pub(crate) holds: bool,
}

impl Suspicion {
    /// The filter has crashed with it in hand, or with the content of it.
    pub(crate) fn begin(&mut self, isolation: &Isolation, in_content: bool) {
        self.turn = None;
        self.ticket.get_or_insert_with(|| isolation.ticket());
        self.holds |= in_content;
    }

    /// Whether another message explains that a connection, which was there `since` then, is gone;
    /// as long as that is to be believed.
    pub(crate) fn is_excused(
        &mut self,
        isolation: &Isolation,
        since: Instant,
        now: Instant,
    ) -> bool {
        let excused = isolation.is_excused(self.ticket, since, now) && self.excuses < EXCUSES_MAX;
        self.excuses += u8::from(excused);
        excused
    }

    /// How often somebody else was to blame.
    pub(crate) fn excuses(&self) -> u8 {
        self.excuses
    }

    /// Nobody else is to blame.
    pub(crate) fn blame(&mut self, isolation: &Isolation, now: Instant) {
        self.crashed = true;
        if let Some(ticket) = self.ticket {
            isolation.blame(ticket, now);
        }
        self.turn = None;
    }

    /// Whether the connection may be made anew without anything having happened on it.
    pub(crate) fn redials(&mut self) -> bool {
        let again = self.redials < REDIALS_MAX;
        self.redials += u8::from(again);
        again
    }

    /// Takes the turn if there is need of one; `false` when it has to be waited for.
    pub(crate) fn takes_turn(&mut self, member: &Arc<Member>, now: Instant) -> bool {
        let Some(ticket) = self.ticket else {
            return true;
        };
        let taken = member.health.isolation().takes_turn(ticket, now);
        self.waits = !taken;
        if !taken {
            self.turn = None;
        } else if let Some(turn) = &mut self.turn {
            turn.ended = false;
        } else {
            self.turn = Some(Turn {
                member: Arc::clone(member),
                ticket,
                ended: false,
            });
        }
        taken
    }

    /// There is nothing to tell for now.
    pub(crate) fn ends_turn(&mut self, now: Instant) {
        self.waits = false;
        if let Some(turn) = &mut self.turn
            && !turn.ended
        {
            turn.ended = true;
            turn.member.health.isolation().ends_turn(turn.ticket, now);
        }
    }

    /// Whether it waits for its turn.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }
}

/// What the sender is known by.
pub(crate) fn sender_of(isolation: &Isolation, message: &Message) -> Digest {
    let mut hasher = isolation.hasher();
    if let Event::Mail(path) = &message.mail.event {
        isolation::add(&mut hasher, &path.address);
    }
    hasher.finish()
}

/// What a whole message is known by: what stays the same when the client sends it again. The body
/// is as the filter sees it; a header that filters before it have marked would be another one each
/// time, so it is as the MTA sent it.
pub(crate) fn poison_of(isolation: &Isolation, message: &Message) -> Result<Poison, SpoolError> {
    let sender = sender_of(isolation, message);
    let mut hasher = isolation.hasher();
    hasher.write_u64(sender);
    for header in message.headers.sent() {
        isolation::add(&mut hasher, &header.name);
        // With leading space or without, as it was agreed with the MTA this time.
        isolation::add(&mut hasher, header.value.trim_ascii_start());
    }
    let mut offset = 0;
    while offset < message.body.len() {
        let piece = message.body.read(offset)?;
        if piece.is_empty() {
            break;
        }
        // Not its length: pieces may be cut elsewhere the next time.
        hasher.write(&piece);
        offset += piece.len() as u64;
    }
    let whole = hasher.finish();
    Ok(Poison { sender, whole })
}
