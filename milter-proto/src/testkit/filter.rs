//! A filter that obeys its script: commands in, acts out, no input or output of its own.
//!
//! Whatever it is told, it writes down. It refuses nothing: a command out of order is answered like
//! any other, and what is no frame ends the connection.

use bytes::BytesMut;

use super::script::{Act, At, FilterScript, Nth};
use crate::wire::{Command, Decoder, Offer, Reply, WireError};

/// One thing that a filter was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Number of the connection to the filter, from 1.
    pub connection: u32,
    /// Number of the message in hand on that connection, from 1; 0 outside messages.
    pub message: u32,
    /// What it was told, or why the bytes were no command.
    pub command: Result<Command, WireError>,
}

impl Told {
    /// Which command it was; `None` for what was none.
    #[must_use]
    pub fn at(&self) -> Option<At> {
        self.command.as_ref().ok().map(At::of)
    }
}

/// One connection to a scripted filter.
#[derive(Debug)]
pub struct ScriptedFilter {
    script: FilterScript,
    connection: u32,
    /// What both sides have agreed on, once they have.
    agreed: Option<Offer>,
    /// Messages begun so far.
    messages: u32,
    in_message: bool,
    of_message: Counts,
    of_connection: Counts,
    transcript: Vec<Told>,
}

/// How often each command has come.
#[derive(Debug, Default)]
struct Counts([u32; At::ALL.len()]);

impl Counts {
    fn count(&mut self, at: At) -> u32 {
        let of_kind = At::ALL.iter().position(|one| *one == at);
        let Some(count) = of_kind.and_then(|index| self.0.get_mut(index)) else {
            return 0;
        };
        *count += 1;
        *count
    }
}

impl ScriptedFilter {
    /// The filter's first connection.
    #[must_use]
    pub fn new(script: FilterScript) -> Self {
        Self::on_connection(script, 1)
    }

    /// The filter's connection of that number, from 1.
    #[must_use]
    pub fn on_connection(script: FilterScript, connection: u32) -> Self {
        Self {
            script,
            connection,
            agreed: None,
            messages: 0,
            in_message: false,
            of_message: Counts::default(),
            of_connection: Counts::default(),
            transcript: Vec::new(),
        }
    }

    /// What it does before anything is said.
    pub fn open(&mut self) -> Vec<Act> {
        self.cue(At::Open).unwrap_or_default()
    }

    /// What it does about a command.
    pub fn hear(&mut self, command: &Command) -> Vec<Act> {
        let at = At::of(command);
        self.enter(at);
        self.note(Ok(command.clone()));
        let acts = self.cue(at).unwrap_or_else(|| self.correct(at, command));
        self.leave(at);
        if let (At::Negotiate, Some(offer)) = (at, acts.iter().find_map(negotiated)) {
            self.agreed = Some(offer);
        }
        acts
    }

    /// Takes the commands out of `input` that are complete, and says what it does about them. What
    /// is no command closes the connection.
    pub fn read(&mut self, input: &mut BytesMut) -> Vec<Act> {
        let mut acts = Vec::new();
        loop {
            let command = match Decoder::default().decode(input) {
                Ok(None) => return acts,
                Ok(Some(frame)) => Command::parse(frame),
                Err(error) => Err(error),
            };
            match command {
                Ok(command) => acts.extend(self.hear(&command)),
                Err(error) => {
                    self.note(Err(error));
                    acts.push(Act::Close);
                }
            }
            if matches!(acts.last(), Some(Act::Close | Act::Hang)) {
                return acts;
            }
        }
    }

    /// What was agreed on; `None` before the negotiation and when the script botched it.
    #[must_use]
    pub const fn agreed(&self) -> Option<&Offer> {
        self.agreed.as_ref()
    }

    /// Everything it was told so far.
    #[must_use]
    pub fn transcript(&self) -> &[Told] {
        &self.transcript
    }

    /// The same, leaving nothing.
    pub fn take_transcript(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.transcript)
    }

    fn note(&mut self, command: Result<Command, WireError>) {
        self.transcript.push(Told {
            connection: self.connection,
            message: if self.in_message { self.messages } else { 0 },
            command,
        });
    }

    /// A message begins with MAIL or, where that is left out, with what comes first of it.
    fn enter(&mut self, at: At) {
        let begins = match at {
            At::Mail => true,
            At::Rcpt | At::Data | At::Header | At::EndOfHeaders | At::Body | At::EndOfMessage => {
                !self.in_message
            }
            At::Open
            | At::Negotiate
            | At::Macros
            | At::Connect
            | At::Helo
            | At::Abort
            | At::Unknown
            | At::Quit
            | At::QuitReuse => false,
        };
        if begins {
            self.messages += 1;
            self.in_message = true;
            self.of_message = Counts::default();
        }
    }

    fn leave(&mut self, at: At) {
        if matches!(
            at,
            At::EndOfMessage | At::Abort | At::Connect | At::Helo | At::Quit | At::QuitReuse
        ) {
            self.in_message = false;
        }
    }

    /// What the script says; the last cue that fits counts.
    fn cue(&mut self, at: At) -> Option<Vec<Act>> {
        let of_message = self.of_message.count(at);
        let of_connection = self.of_connection.count(at);
        let message = if self.in_message { self.messages } else { 0 };
        let cue = self.script.cues.iter().rev().find(|cue| {
            let this_one = match cue.nth {
                None => true,
                Some(Nth::OfMessage(nth)) => nth == of_message,
                Some(Nth::OfConnection(nth)) => nth == of_connection,
            };
            cue.at == at
                && this_one
                && cue.message.is_none_or(|wanted| wanted == message)
                && cue
                    .connection
                    .is_none_or(|wanted| wanted == self.connection)
        })?;
        Some(cue.acts.clone())
    }

    /// What a filter does that lets everything pass.
    fn correct(&self, at: At, command: &Command) -> Vec<Act> {
        match command {
            Command::Negotiate(offered) => vec![Act::Say(Reply::Negotiate(self.answer(offered)))],
            Command::Quit => vec![Act::Close],
            _ => {
                let steps = self.agreed.as_ref().map(|agreed| agreed.steps);
                let owed = at.owes(steps.unwrap_or_default());
                owed.then_some(Act::Say(Reply::Continue))
                    .into_iter()
                    .collect()
            }
        }
    }

    fn answer(&self, offered: &Offer) -> Offer {
        let wanted = &self.script.offer;
        Offer {
            version: wanted.version.min(offered.version),
            actions: wanted.actions & offered.actions,
            steps: wanted.steps & offered.steps,
            macros: wanted.macros.clone(),
        }
    }
}

/// What an act agrees to, when it is an answer to the negotiation, spelled out in bytes or not.
fn negotiated(act: &Act) -> Option<Offer> {
    match act {
        Act::Say(Reply::Negotiate(offer)) => Some(offer.clone()),
        Act::Raw(bytes) => {
            let frame = Decoder::default().decode(&mut BytesMut::from(&bytes[..]));
            match Reply::parse(frame.ok()??) {
                Ok(Reply::Negotiate(offer)) => Some(offer),
                Ok(_) | Err(_) => None,
            }
        }
        Act::Say(_) | Act::Wait(_) | Act::Close | Act::Hang => None,
    }
}
