//! Both sides of the conversation as pure state machines: no socket, no clock, no task.

use bytes::Bytes;

use crate::message::Connection;
use crate::wire::macros::Macros;
use crate::wire::options::{Actions, Steps};

/// What a conversation has told so far.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub(crate) connection: Option<Connection>,
    pub(crate) helo: Option<Bytes>,
    pub(crate) actions: Actions,
    pub(crate) steps: Steps,
    pub(crate) macros: Vec<Macros>,
}

impl Facts {
    /// A macro's value by its name without braces, from the latest stage that has it.
    #[must_use]
    pub fn macro_value(&self, name: &str) -> Option<&Bytes> {
        self.macros
            .iter()
            .rev()
            .flat_map(|frame| &frame.pairs)
            .find_map(|(key, value)| {
                let bare = key
                    .strip_prefix(b"{")
                    .and_then(|key| key.strip_suffix(b"}"))
                    .unwrap_or(key);
                (bare == name.as_bytes()).then_some(value)
            })
    }
}
