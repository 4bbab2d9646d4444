//! What a conversation has told so far, with libmilter's rules for how long each piece counts.
//!
//! Everything kept here is copied out of the buffer that it was read into, since it may be kept
//! for as long as the connection lasts.

use bytes::Bytes;

use crate::message::{Address, Connection};
use crate::wire::command::Command;
use crate::wire::macros::Macros;
use crate::wire::options::{Actions, MacroStage, Steps};

/// What is known of a client and of the message in hand. Filled by [`Facts::note`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub(crate) connection: Option<Connection>,
    pub(crate) helo: Option<Bytes>,
    pub(crate) actions: Actions,
    pub(crate) steps: Steps,
    /// At most one frame for each stage, in the order of stages.
    macros: Vec<(MacroStage, Macros)>,
}

impl Facts {
    /// Facts of a conversation for which these were negotiated.
    #[must_use]
    pub fn new(actions: Actions, steps: Steps) -> Self {
        Self {
            actions,
            steps,
            ..Self::default()
        }
    }

    /// The client.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// The name that the client gave last.
    #[must_use]
    pub fn helo(&self) -> Option<&Bytes> {
        self.helo.as_ref()
    }

    /// The actions that were negotiated.
    #[must_use]
    pub fn actions(&self) -> Actions {
        self.actions
    }

    /// The steps that were negotiated.
    #[must_use]
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// The macros of one stage as they were sent last.
    #[must_use]
    pub fn macros(&self, stage: MacroStage) -> Option<&Macros> {
        self.macros
            .iter()
            .find(|(of, _)| *of == stage)
            .map(|(_, macros)| macros)
    }

    /// A macro's value by its name, braces aside, from the latest stage that has it.
    #[must_use]
    pub fn macro_value(&self, name: &str) -> Option<&Bytes> {
        self.macros
            .iter()
            .rev()
            .find_map(|(_, macros)| macros.get(name))
    }

    /// Takes notice of a command that was in order. Each stage ends what was said at later ones;
    /// ABORT ends nothing, since Postfix sends it after the HELO that replaces the last one.
    pub fn note(&mut self, command: &Command) {
        match command {
            Command::Connect(connection) => {
                self.connection = Some(copy_connection(connection));
                self.helo = None;
                self.forget_after(MacroStage::Connect);
            }
            Command::Helo(name) => {
                self.helo = Some(Bytes::copy_from_slice(name));
                self.forget_after(MacroStage::Helo);
            }
            Command::Mail(_) => self.forget_after(MacroStage::Mail),
            Command::Rcpt(_) => self.forget_after(MacroStage::Rcpt),
            Command::Macros(macros) => self.note_macros(macros),
            Command::Quit | Command::QuitReuse => {
                *self = Self::new(self.actions, self.steps);
            }
            Command::Negotiate(_)
            | Command::Data
            | Command::Header(_)
            | Command::EndOfHeaders
            | Command::Body(_)
            | Command::EndOfMessage(_)
            | Command::Abort
            | Command::Unknown(_) => {}
        }
    }

    /// Keeps the frame in place of the stage's last one. Frames ahead of header fields, body
    /// chunks and unknown commands repeat what the stages say and are not kept.
    fn note_macros(&mut self, macros: &Macros) {
        let Some(stage) = MacroStage::from_code(macros.stage) else {
            return;
        };
        self.macros.retain(|(of, _)| of.order() < stage.order());
        self.macros.push((stage, copy_macros(macros)));
    }

    fn forget_after(&mut self, stage: MacroStage) {
        self.macros.retain(|(of, _)| of.order() <= stage.order());
    }
}

fn copy_connection(connection: &Connection) -> Connection {
    let address = match &connection.address {
        Address::Unknown => Address::Unknown,
        Address::Unix(path) => Address::Unix(Bytes::copy_from_slice(path)),
        Address::Inet(socket) => Address::Inet(*socket),
        Address::TaggedInet6(socket) => Address::TaggedInet6(*socket),
        Address::Unparsable { family, port, text } => Address::Unparsable {
            family: *family,
            port: *port,
            text: Bytes::copy_from_slice(text),
        },
    };
    Connection {
        hostname: Bytes::copy_from_slice(&connection.hostname),
        address,
    }
}

fn copy_macros(macros: &Macros) -> Macros {
    let pairs = macros.pairs.iter();
    Macros {
        stage: macros.stage,
        pairs: pairs
            .map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)))
            .collect(),
    }
}
