//! The filter's answer to the offer: what of it counts.
//!
//! What the protocol does not have, or was not offered, is left out and warned of; a version that
//! is not spoken, or another reply, ends the conversation.

use super::MtaSide;
use crate::session::error::{Fault, ProtocolError, Reason};
use crate::session::stage::Stage;
use crate::wire::VERSION_MIN;
use crate::wire::options::{Actions, Offer, Steps};
use crate::wire::reply::Reply;

/// Something in a filter's answer to the offer that was put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Action bits that the protocol does not have; ignored.
    UnknownActions(Actions),
    /// Actions that were not offered; ignored, and edits of that kind are refused later.
    ActionsNotOffered(Actions),
    /// Steps that were not offered; ignored.
    StepsNotOffered(Steps),
}

impl MtaSide {
    /// Takes the filter's answer to the offer.
    ///
    /// # Errors
    /// When it is another reply, was answered before, or its version is not between 2 and ours.
    pub fn negotiated(&mut self, reply: Reply) -> Result<Vec<Warning>, ProtocolError> {
        let code = reply.code();
        let Reply::Negotiate(wish) = reply else {
            return Err(self.error(Fault::Filter, Reason::Forbidden(code)));
        };
        if self.stage != Stage::Start {
            return Err(self.error(Fault::Filter, Reason::Unasked(code)));
        }
        if !(VERSION_MIN..=self.options.version).contains(&wish.version) {
            return Err(self.error(Fault::Filter, Reason::Version(wish.version)));
        }
        let unknown = wish.actions - Actions::all();
        let actions = wish.actions & Actions::all();
        let more = actions - self.options.actions;
        let beyond = wish.steps - self.options.steps;
        let mut warnings = Vec::new();
        if !unknown.is_empty() {
            warnings.push(Warning::UnknownActions(unknown));
        }
        if !more.is_empty() {
            warnings.push(Warning::ActionsNotOffered(more));
        }
        if !beyond.is_empty() {
            warnings.push(Warning::StepsNotOffered(beyond));
        }
        let mut steps = wish.steps & self.options.steps;
        // Older filters do not know these commands.
        steps.set(
            Steps::NO_UNKNOWN,
            steps.contains(Steps::NO_UNKNOWN) || wish.version < 3,
        );
        steps.set(
            Steps::NO_DATA,
            steps.contains(Steps::NO_DATA) || wish.version < 4,
        );
        self.options = Offer {
            version: wish.version,
            actions: actions - more,
            steps,
            macros: wish.macros,
        };
        self.stage = Stage::Fresh;
        Ok(warnings)
    }
}
