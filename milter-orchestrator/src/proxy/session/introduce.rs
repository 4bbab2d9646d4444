//! Telling a filter who the client is: CONNECT, HELO, and unknown commands.
//!
//! Every filter is told once on each of its connections, before anything of a message, however late
//! that connection came. Nothing here can fail but the telling itself.

use milter_proto::session::MtaSide;
use milter_proto::wire::Steps;

use super::Session;
use crate::proxy::headers::MtaKind;
use crate::proxy::plan::Position;

/// What became of telling a filter who the client is.
pub(super) enum Introduced {
    /// It is told something, or has heard of it in vain.
    Told,
    /// It knows everything.
    Known,
    /// It has to wait.
    Waits,
}

impl Session {
    /// Tells a filter of the chain what it does not know yet of the client.
    pub(super) fn introduce(&mut self, index: usize) -> Introduced {
        let child = &self.children[index];
        if !self.order.contains(&index) || child.accepted || child.refusal.is_some() {
            return Introduced::Known;
        }
        let known = &self.introduction;
        let (at, next, told) = if !child.connect_told {
            (Position::Connect, Position::Helo, known.connect.clone())
        } else if child.helo_told != known.helo_number {
            (Position::Helo, Position::Unknown, known.helo.clone())
        } else if child.unknown_told != known.unknown_number {
            (Position::Unknown, Position::Mail, known.unknown.clone())
        } else {
            return Introduced::Known;
        };
        let Some(told) = told else {
            return Introduced::Known;
        };
        let told = match at {
            Position::Unknown if !self.may_hear_unknown(index) => None,
            _ if !self.is_clear(index, at, next) => return Introduced::Waits,
            _ if !self.takes_turn(index) => return Introduced::Waits,
            _ => Some(told),
        };
        let child = &mut self.children[index];
        match at {
            Position::Connect => child.connect_told = true,
            Position::Helo => child.helo_told = self.introduction.helo_number,
            _ => {
                child.unknown_told = self.introduction.unknown_number;
                child.unknown_word = None;
            }
        }
        if let Some(told) = told
            && !self.tell(index, at, next, told)
        {
            return Introduced::Waits;
        }
        Introduced::Told
    }

    /// Whether an unknown command can still be told: not to a filter that is being told everything
    /// again, which may be too far for it, or not far enough; nor, by Sendmail's rules, to one that
    /// has accepted the last message before its end.
    fn may_hear_unknown(&self, index: usize) -> bool {
        let waits = self
            .pending
            .is_some_and(|pending| pending.at == Some(Position::Unknown));
        let agreed = self.mta.agreed.as_ref();
        let unanswered = agreed.is_some_and(|agreed| agreed.steps.contains(Steps::NR_UNKNOWN));
        let child = &self.children[index];
        let muted =
            self.mta.kind == MtaKind::Sendmail && child.side().is_some_and(MtaSide::is_muted);
        (waits || unanswered) && !muted && child.stage() <= self.side.stage()
    }
}
