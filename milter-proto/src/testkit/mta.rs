//! A mail server that follows a script: what it sends, and what must come back.
//!
//! [`ScriptedMta`] obeys the script without input or output of its own: it says what to do next and
//! is told what came. The first reply that is not the expected one is a [`Mismatch`]; what it would
//! have said after that is never said.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::text::Text;
use crate::wire::{Command, Reply};

/// One connection of an MTA, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MtaScript {
    /// What is sent and what must come.
    pub turns: Vec<Turn>,
}

/// One step of an MTA's script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Sends a command.
    Send(Command),
    /// Writes bytes as they are.
    Raw(Bytes),
    /// Waits. Kept in whole milliseconds by the text form.
    Wait(Duration),
    /// Closes the connection for writing and reading; the last turn.
    Close,
    /// These must come, in this order, before the next turn.
    Expect(Vec<Expect>),
}

/// What must come from the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Just this reply. Signs of progress before it are passed over, unless it is one itself.
    Reply(Reply),
    /// Some reply of that kind (`SMFIR_*`), whatever it carries.
    Kind(u8),
    /// Nothing for a moment.
    Silence,
    /// The end of the connection.
    Closed,
}

/// What the script's owner has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MtaStep {
    /// Write this command.
    Send(Command),
    /// Write these bytes.
    Raw(Bytes),
    /// Let this time pass.
    Wait(Duration),
    /// Close the connection.
    Close,
    /// Read one reply, and tell it to [`ScriptedMta::told`]; `None` when the connection has ended.
    Read,
    /// Listen for a moment: [`ScriptedMta::silent`] when nothing comes, else
    /// [`ScriptedMta::told`].
    Listen,
    /// The script is over.
    Done,
}

/// One thing that went over the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// From the MTA.
    Sent(Command),
    /// From the MTA, as bytes.
    SentRaw(Bytes),
    /// From the filter.
    Came(Reply),
    /// From the filter: it has closed.
    Closed,
}

/// Something else came than what the script expects.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("turn {turn}, after {after}: expected {expected}, {came} came")]
pub struct Mismatch {
    /// Number of the turn in the script, from 1.
    pub turn: usize,
    /// What was said last, as it is written in a script.
    pub after: String,
    /// What should have come, as it is written in a script.
    pub expected: String,
    /// What came instead, as it is written in a script.
    pub came: String,
}

/// An MTA that follows its script.
#[derive(Debug)]
pub struct ScriptedMta {
    script: MtaScript,
    /// The turn in hand, and how many of its expectations are met.
    turn: usize,
    met: usize,
    record: Vec<Exchange>,
}

impl ScriptedMta {
    /// Before its first turn.
    #[must_use]
    pub const fn new(script: MtaScript) -> Self {
        Self {
            script,
            turn: 0,
            met: 0,
            record: Vec::new(),
        }
    }

    /// What to do next. What is to be written counts as written.
    pub fn next_step(&mut self) -> MtaStep {
        loop {
            let Some(turn) = self.script.turns.get(self.turn) else {
                return MtaStep::Done;
            };
            let step = match turn {
                Turn::Expect(expected) => match expected.get(self.met) {
                    Some(Expect::Silence) => return MtaStep::Listen,
                    Some(Expect::Reply(_) | Expect::Kind(_) | Expect::Closed) => {
                        return MtaStep::Read;
                    }
                    None => None,
                },
                Turn::Send(command) => {
                    self.record.push(Exchange::Sent(command.clone()));
                    Some(MtaStep::Send(command.clone()))
                }
                Turn::Raw(bytes) => {
                    self.record.push(Exchange::SentRaw(bytes.clone()));
                    Some(MtaStep::Raw(bytes.clone()))
                }
                Turn::Wait(time) => Some(MtaStep::Wait(*time)),
                Turn::Close => Some(MtaStep::Close),
            };
            self.turn += 1;
            self.met = 0;
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// A reply has come, or (`None`) the connection has ended.
    ///
    /// # Errors
    /// When something else was expected.
    pub fn told(&mut self, came: Option<Reply>) -> Result<(), Mismatch> {
        let met = match (self.expected(), &came) {
            (Some(Expect::Closed), None) => true,
            (Some(Expect::Reply(wanted)), Some(reply)) => wanted == reply,
            (Some(Expect::Kind(code)), Some(reply)) => *code == reply.code(),
            _ => false,
        };
        let passed_over = came == Some(Reply::Progress)
            && matches!(self.expected(), Some(Expect::Reply(_) | Expect::Kind(_)));
        if !met && !passed_over {
            return Err(self.mismatch(came.as_ref()));
        }
        self.met += usize::from(met);
        self.record
            .push(came.map_or(Exchange::Closed, Exchange::Came));
        Ok(())
    }

    /// Nothing came where nothing should.
    pub fn silent(&mut self) {
        if self.expected() == Some(&Expect::Silence) {
            self.met += 1;
        }
    }

    /// Nothing came within the time that the script's owner gives.
    #[must_use]
    pub fn overdue(&self) -> Mismatch {
        Mismatch {
            came: "nothing".to_owned(),
            ..self.mismatch(None)
        }
    }

    /// What came is no reply.
    #[must_use]
    pub fn garbled(&self, what: &str) -> Mismatch {
        Mismatch {
            came: what.to_owned(),
            ..self.mismatch(None)
        }
    }

    /// Everything that went over the connection so far.
    #[must_use]
    pub fn record(&self) -> &[Exchange] {
        &self.record
    }

    fn expected(&self) -> Option<&Expect> {
        match self.script.turns.get(self.turn) {
            Some(Turn::Expect(expected)) => expected.get(self.met),
            _ => None,
        }
    }

    fn mismatch(&self, came: Option<&Reply>) -> Mismatch {
        let said = self.record.iter().rev().find_map(|one| match one {
            Exchange::Sent(command) => Some(Text(command).to_string()),
            Exchange::SentRaw(_) => Some("raw bytes".to_owned()),
            Exchange::Came(_) | Exchange::Closed => None,
        });
        Mismatch {
            turn: self.turn + 1,
            after: said.unwrap_or_else(|| "nothing".to_owned()),
            expected: self
                .expected()
                .map_or_else(|| "nothing".to_owned(), |one| Text(one).to_string()),
            came: came.map_or_else(|| "the end".to_owned(), |one| Text(one).to_string()),
        }
    }
}
