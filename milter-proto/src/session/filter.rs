//! The side that answers an MTA.
//!
//! The caller loops: a command goes into [`FilterSide::receive`], the steps that follow from it are
//! done one by one ([`FilterSide::next_step`] until `None`), and an `Ask` is answered with the
//! method for its kind of question. Nothing that an MTA sends can make this side owe it a reply or
//! send one too many.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::edit::{Edit, Fold};
use crate::filter::Needs;
use crate::session::error::{Fault, ProtocolError, Reason};
use crate::session::event::Event;
use crate::session::facts::Facts;
use crate::session::stage::{Move, Question, Stage, follow};
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::command::Command;
use crate::wire::options::{Actions, MacroStage, Offer, Steps};
use crate::wire::reply::Reply;
use crate::wire::{CHUNK_MAX, VERSION, VERSION_MIN, WireError};

/// What is to be done about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Decide what to negotiate and call [`FilterSide::accept`] or [`FilterSide::agree`].
    Negotiate(Offer),
    /// Decide, then call `greet` (CONNECT, HELO), `body`, `finish` (end of the message) or `reply`
    /// (all others).
    Ask(Event),
    /// Take notice; there is nothing to answer.
    Tell(Event),
    /// Send this.
    Answer(Reply),
    /// Nothing.
    Silent,
    /// The conversation is over: close the connection.
    Close,
}

/// What the caller owes before the next command can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// An answer to this offer.
    Negotiation {
        version: u32,
        actions: Actions,
        steps: Steps,
    },
    Answer(Question),
    /// A word about the body that came inside the end of the message: the MTA waits for one reply
    /// to both.
    LastBody,
}

/// A filter's side of a conversation. One for each connection.
#[derive(Debug, Clone)]
pub struct FilterSide {
    stage: Stage,
    facts: Facts,
    /// What the filter wished, before the offer was taken into account.
    wished: Steps,
    owed: Owed,
    steps: VecDeque<Step>,
    /// The filter wants no more of this body, whatever the MTA sends.
    skipping: bool,
    /// For values of header fields that come from elsewhere.
    fold: Option<Fold>,
    /// The last word on the message was about content: more of it may have been sent before that
    /// was read.
    content_over: bool,
    complaint: Option<ProtocolError>,
    /// Commands out of order since the last MAIL that was in order.
    refused: usize,
}

impl Default for FilterSide {
    fn default() -> Self {
        Self::new()
    }
}

impl FilterSide {
    /// Commands out of order for each message, at most: every one of them is a line in a log.
    pub const REFUSED_MAX: usize = 100;

    /// Waits for the negotiation.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Start,
            facts: Facts::default(),
            wished: Steps::empty(),
            owed: Owed::Nothing,
            steps: VecDeque::new(),
            skipping: false,
            fold: None,
            content_over: false,
            complaint: None,
            refused: 0,
        }
    }

    /// What has been told so far.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How far the conversation is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the MTA waits for an answer.
    #[must_use]
    pub fn answer_owed(&self) -> bool {
        self.owed != Owed::Nothing
    }

    /// Says what becomes of line ends in the values of header fields, from now on: for edits that
    /// are passed on from another filter. Without it one that is no fold is an error.
    pub fn fold_with(&mut self, fold: Fold) {
        self.fold = Some(fold);
    }

    /// What the MTA did out of order with the last command, to be logged. It was answered.
    pub fn take_complaint(&mut self) -> Option<ProtocolError> {
        self.complaint.take()
    }

    /// The error for bytes that were no command, at the stage that the conversation has reached.
    #[must_use]
    pub fn malformed(&self, error: WireError) -> ProtocolError {
        self.error(Fault::Mta, Reason::Wire(error))
    }

    /// Takes the MTA's next command and gives the first step that follows from it.
    ///
    /// # Errors
    /// When an answer is still owed, and when the command cannot be part of a conversation at all
    /// (no negotiation, or a second one): the connection must be closed then. A command that is
    /// merely out of order is answered with a temporary failure, and the message in hand is
    /// dropped; more than [`Self::REFUSED_MAX`] of them in one message are an error too.
    pub fn receive(&mut self, command: Command) -> Result<Step, ProtocolError> {
        if self.answer_owed() || !self.steps.is_empty() {
            return Err(self.error(Fault::Caller, Reason::AnswerOwed));
        }
        let code = command.code();
        let followed = follow(self.stage, &command, self.facts.steps);
        if matches!((code, &followed), (b'M', Move::Go(_) | Move::Restart(_))) {
            self.refused = 0;
        }
        match followed {
            Move::Go(stage) => self.advance(stage, command),
            Move::Restart(stage) => {
                self.drop_message();
                self.advance(stage, command);
            }
            Move::Ignore => self.facts.note(&command),
            // As libmilter's: nobody waits for an answer to it.
            Move::Refuse if self.content_over && is_content(&command) => {}
            Move::Refuse => {
                self.refused += 1;
                if self.refused > Self::REFUSED_MAX {
                    let reason = Reason::TooManyOutOfOrder(Self::REFUSED_MAX);
                    return Err(self.error(Fault::Mta, reason));
                }
                self.complaint = Some(self.error(Fault::Mta, Reason::OutOfOrder(code)));
                self.drop_message();
                self.refuse(command);
            }
            Move::Close => {
                self.drop_message();
                self.steps.push_back(Step::Close);
            }
            Move::Fault => return Err(self.error(Fault::Mta, Reason::OutOfOrder(code))),
        }
        Ok(self.next_step().unwrap_or(Step::Silent))
    }

    /// What else follows from the last command: call after each step, and after each answer, until
    /// `None`.
    pub fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Answers the negotiation with a filter's needs. Steps are masked by the offer: a missing
    /// `NR_*` is made up for by answers of our own, a missing `NO_*` by keeping the events to
    /// ourselves.
    ///
    /// # Errors
    /// When none is pending, the MTA's version is too old, or it does not allow an action that is
    /// needed.
    pub fn accept(&mut self, needs: &Needs) -> Result<Reply, ProtocolError> {
        let lists = needs.macros.iter();
        let lists = lists.map(|(stage, names)| (*stage, Bytes::from_static(names.as_bytes())));
        self.agree(needs.actions, needs.steps, lists.collect())
    }

    /// Answers the negotiation, with macro lists that are known only now. An empty list is left
    /// out, since Postfix takes it for "the default" and Sendmail for "none".
    ///
    /// # Errors
    /// As [`FilterSide::accept`].
    pub fn agree(
        &mut self,
        actions: Actions,
        steps: Steps,
        mut macros: Vec<(MacroStage, Bytes)>,
    ) -> Result<Reply, ProtocolError> {
        let Owed::Negotiation {
            version,
            actions: allowed,
            steps: possible,
        } = self.owed
        else {
            return Err(self.error(Fault::Caller, Reason::NoAnswerOwed));
        };
        if version < VERSION_MIN {
            return Err(self.error(Fault::Mta, Reason::Version(version)));
        }
        let missing = actions - allowed;
        if !missing.is_empty() {
            return Err(self.error(Fault::Mta, Reason::NotOffered(missing)));
        }
        macros.retain(|(_, names)| !names.is_empty());
        if !allowed.contains(Actions::SET_MACRO_LIST) {
            macros.clear();
        }
        let mut actions = actions;
        if !macros.is_empty() {
            actions |= Actions::SET_MACRO_LIST;
        }
        self.facts = Facts::new(actions, steps & possible & Steps::NEGOTIABLE);
        self.wished = steps;
        self.owed = Owed::Nothing;
        Ok(Reply::Negotiate(Offer {
            version: version.min(VERSION),
            actions,
            steps: self.facts.steps,
            macros: pair_content_lists(macros),
        }))
    }

    /// Answers CONNECT or HELO.
    ///
    /// # Errors
    /// When something else is owed.
    pub fn greet(&mut self, greeting: Greeting) -> Result<Reply, ProtocolError> {
        match self.question()? {
            Question::Connect | Question::Helo => {
                self.owed = Owed::Nothing;
                Ok(Verdict::from(greeting).into())
            }
            Question::Mail
            | Question::Rcpt
            | Question::Data
            | Question::Header
            | Question::EndOfHeaders
            | Question::Body
            | Question::EndOfMessage
            | Question::Unknown => Err(self.error(Fault::Caller, Reason::NoAnswerOwed)),
        }
    }

    /// Answers MAIL, RCPT, DATA, a header field, the end of headers, or an unknown command.
    ///
    /// # Errors
    /// When something else is owed, and when an unknown command is accepted or discarded, which
    /// means nothing.
    pub fn reply(&mut self, verdict: Verdict) -> Result<Reply, ProtocolError> {
        let question = self.question()?;
        match question {
            Question::Unknown if matches!(verdict, Verdict::Accept | Verdict::Discard) => {
                let code = Reply::from(verdict).code();
                Err(self.error(Fault::Filter, Reason::Forbidden(code)))
            }
            Question::Mail
            | Question::Rcpt
            | Question::Data
            | Question::Header
            | Question::EndOfHeaders
            | Question::Unknown => Ok(self.settle(question, verdict)),
            Question::Connect | Question::Helo | Question::Body | Question::EndOfMessage => {
                Err(self.error(Fault::Caller, Reason::NoAnswerOwed))
            }
        }
    }

    /// Answers a body chunk. `None` when the chunk came inside the end of the message, and the
    /// answer to that is the answer to both. A skip that was not negotiated is said as `Continue`,
    /// and what comes of the body all the same is kept from the filter.
    ///
    /// # Errors
    /// When something else is owed.
    pub fn body(&mut self, verdict: BodyVerdict) -> Result<Option<Reply>, ProtocolError> {
        let last = match self.owed {
            Owed::LastBody => true,
            Owed::Answer(Question::Body) => false,
            Owed::Nothing | Owed::Negotiation { .. } | Owed::Answer(_) => {
                return Err(self.error(Fault::Caller, Reason::NoAnswerOwed));
            }
        };
        match verdict {
            BodyVerdict::Skip | BodyVerdict::Go(Verdict::Continue) if last => {
                self.ask(Event::EndOfMessage, Question::EndOfMessage);
                Ok(None)
            }
            BodyVerdict::Skip => {
                self.skipping = true;
                self.owed = Owed::Nothing;
                let negotiated = self.facts.steps.contains(Steps::SKIP);
                Ok(Some(if negotiated {
                    Reply::Skip
                } else {
                    Reply::Continue
                }))
            }
            BodyVerdict::Go(verdict) => Ok(Some(self.settle(Question::Body, verdict))),
        }
    }

    /// Answers the end of the message: edits that were negotiated and checked, then the verdict.
    /// Without `Continue` or `Accept` there are no edits. Pieces of a body are put together where
    /// the first one stands, because Postfix refuses anything between them, and cut to the size of
    /// a chunk.
    ///
    /// # Errors
    /// When something else is owed, an edit was not negotiated, or it holds what must not be sent.
    /// The answer is still owed then.
    pub fn finish(&mut self, outcome: Outcome) -> Result<Vec<Reply>, ProtocolError> {
        if self.question()? != Question::EndOfMessage {
            return Err(self.error(Fault::Caller, Reason::NoAnswerOwed));
        }
        let mut replies = match outcome.verdict {
            Verdict::Continue | Verdict::Accept => self.edits(outcome.edits)?,
            Verdict::Reject | Verdict::TempFail | Verdict::Discard | Verdict::Reply(_) => vec![],
        };
        replies.push(self.settle(Question::EndOfMessage, outcome.verdict));
        Ok(replies)
    }

    /// The sign that the end of the message is still being worked on: to be sent every few seconds
    /// while its answer is owed.
    ///
    /// # Errors
    /// At any other stage, where Sendmail takes it for an error.
    pub fn progress(&self) -> Result<Reply, ProtocolError> {
        match self.owed {
            Owed::Answer(Question::EndOfMessage) => Ok(Reply::Progress),
            Owed::Nothing | Owed::Negotiation { .. } | Owed::Answer(_) | Owed::LastBody => {
                Err(self.error(Fault::Caller, Reason::Forbidden(Reply::Progress.code())))
            }
        }
    }

    fn error(&self, fault: Fault, reason: Reason) -> ProtocolError {
        ProtocolError {
            stage: self.stage,
            fault,
            reason,
        }
    }

    /// The question to be answered, when its step was taken.
    fn question(&self) -> Result<Question, ProtocolError> {
        match self.owed {
            Owed::Answer(question) if self.steps.is_empty() => Ok(question),
            Owed::Nothing | Owed::Negotiation { .. } | Owed::Answer(_) | Owed::LastBody => {
                Err(self.error(Fault::Caller, Reason::NoAnswerOwed))
            }
        }
    }

    fn settle(&mut self, question: Question, verdict: Verdict) -> Reply {
        self.owed = Owed::Nothing;
        if question.is_ended_by(&verdict) {
            self.stage = Stage::Client;
            self.skipping = false;
            self.content_over = question.is_content();
        }
        verdict.into()
    }

    fn ask(&mut self, event: Event, question: Question) {
        self.owed = Owed::Answer(question);
        self.steps.push_back(Step::Ask(event));
    }

    /// Forgets the message in hand, if there is one.
    fn drop_message(&mut self) {
        if self.stage.in_message() {
            self.steps.push_back(Step::Tell(Event::Abort));
            self.stage = Stage::Client;
        }
        self.skipping = false;
    }

    /// Does what a command that is in order asks for.
    fn advance(&mut self, stage: Stage, command: Command) {
        self.stage = stage;
        self.content_over = false;
        self.facts.note(&command);
        match command {
            Command::Negotiate(offer) => {
                self.owed = Owed::Negotiation {
                    version: offer.version,
                    actions: offer.actions,
                    steps: offer.steps,
                };
                self.steps.push_back(Step::Negotiate(offer));
            }
            Command::Connect(connection) => self.tell(Event::Connect(connection)),
            Command::Helo(name) => self.tell(Event::Helo(name)),
            Command::Mail(path) => self.tell(Event::Mail(path)),
            Command::Rcpt(path) => self.tell(Event::Rcpt(path)),
            Command::Data => self.tell(Event::Data),
            Command::Header(header) => self.tell(Event::Header(header)),
            Command::EndOfHeaders => self.tell(Event::EndOfHeaders),
            Command::Body(chunk) => self.tell(Event::Body(chunk)),
            Command::EndOfMessage(chunk) => self.tell_end(chunk),
            Command::Unknown(line) => self.tell(Event::Unknown(line)),
            Command::QuitReuse => self.steps.push_back(Step::Tell(Event::QuitReuse)),
            Command::Macros(_) | Command::Abort | Command::Quit => {}
        }
    }

    /// Brings an event to the filter, or keeps it, and answers where the filter will not.
    fn tell(&mut self, event: Event) {
        let Some(question) = event.question() else {
            return;
        };
        let expected = !self.facts.steps.contains(event.unanswered_by());
        if !self.is_wanted(&event) {
            if expected {
                self.steps.push_back(Step::Answer(Reply::Continue));
            }
        } else if !expected {
            self.steps.push_back(Step::Tell(event));
        } else if self.wished.contains(event.unanswered_by()) {
            self.steps.push_back(Step::Tell(event));
            self.steps.push_back(Step::Answer(Reply::Continue));
        } else {
            self.ask(event, question);
        }
    }

    /// The end of the message, and the piece of the body that libmilter allows in it.
    fn tell_end(&mut self, chunk: Bytes) {
        let event = Event::Body(chunk);
        let asked = !self.wished.contains(event.unanswered_by());
        match &event {
            Event::Body(chunk) if !chunk.is_empty() && self.is_wanted(&event) => {
                if asked {
                    self.owed = Owed::LastBody;
                    self.steps.push_back(Step::Ask(event));
                    return;
                }
                self.steps.push_back(Step::Tell(event));
            }
            _ => {}
        }
        self.ask(Event::EndOfMessage, Question::EndOfMessage);
    }

    fn is_wanted(&self, event: &Event) -> bool {
        if matches!(event, Event::Body(_)) && self.skipping {
            return false;
        }
        !self.wished.contains(event.left_out_by())
    }

    /// Answers a command that is out of order, if it expects an answer.
    fn refuse(&mut self, command: Command) {
        let unanswered = match command {
            Command::Connect(_) => Steps::NR_CONNECT,
            Command::Helo(_) => Steps::NR_HELO,
            Command::Mail(_) => Steps::NR_MAIL,
            Command::Rcpt(_) => Steps::NR_RCPT,
            Command::Data => Steps::NR_DATA,
            Command::Header(_) => Steps::NR_HEADER,
            Command::EndOfHeaders => Steps::NR_EOH,
            Command::Body(_) => Steps::NR_BODY,
            Command::Unknown(_) => Steps::NR_UNKNOWN,
            Command::EndOfMessage(_) => Steps::empty(),
            Command::Negotiate(_)
            | Command::Macros(_)
            | Command::Abort
            | Command::Quit
            | Command::QuitReuse => return,
        };
        if unanswered.is_empty() || !self.facts.steps.contains(unanswered) {
            self.steps.push_back(Step::Answer(Reply::TempFail));
        }
    }

    /// The edits as replies.
    fn edits(&self, edits: Vec<Edit>) -> Result<Vec<Reply>, ProtocolError> {
        let body: Vec<Bytes> = body_pieces(&edits);
        let mut body = Some(body);
        let mut replies = Vec::with_capacity(edits.len() + 1);
        for edit in edits {
            let action = edit.action();
            if !self.facts.actions.contains(action) {
                return Err(self.error(Fault::Filter, Reason::NotNegotiated(action)));
            }
            if let Edit::ReplaceBody(_) = edit {
                let pieces = body.take().unwrap_or_default();
                replies.extend(pieces.into_iter().map(Edit::ReplaceBody).map(Reply::Edit));
                continue;
            }
            let edit = match self.fold {
                Some(fold) => edit.clean_with(fold),
                None => edit.check(),
            };
            let edit = edit.map_err(|invalid| self.error(Fault::Filter, invalid.into()))?;
            replies.push(Reply::Edit(edit));
        }
        Ok(replies)
    }
}

/// All pieces of the new body, none above the size of a chunk; an empty body is one empty piece.
fn body_pieces(edits: &[Edit]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for edit in edits {
        let Edit::ReplaceBody(piece) = edit else {
            continue;
        };
        let mut rest = piece.clone();
        while !rest.is_empty() {
            pieces.push(rest.split_to(rest.len().min(CHUNK_MAX)));
        }
    }
    if pieces.is_empty() {
        pieces.push(Bytes::new());
    }
    pieces
}

/// Sendmail 8.17.1 looks at the wrong one of these two stages, so both have a list or neither has.
fn pair_content_lists(mut macros: Vec<(MacroStage, Bytes)>) -> Vec<(MacroStage, Bytes)> {
    let list = |wanted: MacroStage| {
        let mut lists = macros.iter();
        lists.find_map(|(stage, names)| (*stage == wanted).then(|| names.clone()))
    };
    let end = list(MacroStage::EndOfMessage);
    let headers = list(MacroStage::EndOfHeaders);
    match (end, headers) {
        (Some(names), None) => macros.push((MacroStage::EndOfHeaders, names)),
        (None, Some(names)) => macros.push((MacroStage::EndOfMessage, names)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    macros
}

/// Whether it can have been sent ahead of the answer to content before it.
fn is_content(command: &Command) -> bool {
    matches!(
        command,
        Command::Header(_) | Command::EndOfHeaders | Command::Body(_) | Command::Macros(_)
    )
}
