//! The side that drives a filter.
//!
//! The caller loops: an event goes into [`MtaSide::send`]; the commands that come out are written;
//! when an answer is expected, replies are read and go into [`MtaSide::receive`] until it is
//! complete; when [`Sent::then`] holds something, that is sent next. Nothing is ever sent out of
//! order or to a filter that asked not to be told, because libmilter drops such a command in
//! silence and the wait for its answer would never end.
//!
//! Header fields and body can be told without waiting for each answer ([`MtaSide::send_ahead`]): a
//! filter reads one command after the other from its socket and cannot tell the difference.

mod agree;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::edit::{Edit, Fold};
use crate::session::error::{Fault, ProtocolError, Reason};
use crate::session::event::Event;
use crate::session::stage::{Move, Question, Stage, follow};
use crate::verdict::Verdict;
use crate::wire::command::Command;
use crate::wire::macros::Macros;
use crate::wire::options::{Actions, Offer, Steps};
use crate::wire::reply::Reply;
use crate::wire::{CHUNK_MAX, WireError};

pub use self::agree::Warning;

/// What [`MtaSide::send`] made of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// To be written in one go; empty when the filter need not know.
    pub commands: Vec<Command>,
    /// What comes back.
    pub expect: Expect,
    /// To be passed to `send` once that has come: the event itself when something had to go
    /// first, or what is left of a body above the size of a chunk.
    pub then: Option<Event>,
}

/// What comes back for what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: go on at once.
    Nothing,
    /// One verdict.
    Verdict,
    /// Any number of edits, then one verdict.
    EndOfMessage,
}

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The filter is still at it; read on.
    Progress,
    /// A change, made harmless; read on. It counts only when the verdict is `Continue` or `Accept`.
    Edit(Edit),
    /// The answer. `Accept` mutes the filter: for the connection at CONNECT and HELO, for the
    /// message later.
    Verdict(Verdict),
    /// The answer: go on, but send no more events of this kind in this message.
    Skip,
}

/// How much the filter has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mute {
    No,
    Message,
    Connection,
}

/// An MTA's side of a conversation with one filter.
#[derive(Debug, Clone)]
pub struct MtaSide {
    stage: Stage,
    /// What was offered, and after the negotiation what was agreed.
    options: Offer,
    owed: Option<Question>,
    /// What is answered after that, in this order: content that was told ahead.
    ahead: VecDeque<Question>,
    /// Content was told behind all of that which is not answered.
    unanswered: bool,
    /// The filter gave its last word on a message while more of it was on the way. libmilter's
    /// say nothing about the rest, others may: no further answer can be told from those.
    spent: bool,
    mute: Mute,
    skip_headers: bool,
    skip_body: bool,
    edits: usize,
    fold: Fold,
    reusable: bool,
    complaint: Option<ProtocolError>,
}

impl MtaSide {
    /// Edits in one message at most, pieces of a body aside.
    pub const EDITS_MAX: usize = 10_000;

    /// A conversation, and the command that opens it. Its reply goes into [`MtaSide::negotiated`].
    #[must_use]
    pub fn offer(version: u32, actions: Actions, steps: Steps) -> (Self, Command) {
        let options = Offer {
            version,
            actions,
            steps,
            macros: Vec::new(),
        };
        let command = Command::Negotiate(options.clone());
        let side = Self {
            stage: Stage::Start,
            options,
            owed: None,
            ahead: VecDeque::new(),
            unanswered: false,
            spent: false,
            mute: Mute::No,
            skip_headers: false,
            skip_body: false,
            edits: 0,
            fold: Fold::default(),
            reusable: false,
            complaint: None,
        };
        (side, command)
    }

    /// What was agreed; before that, what was offered.
    #[must_use]
    pub fn options(&self) -> &Offer {
        &self.options
    }

    /// How far the conversation is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Says what becomes of line ends in the values of header fields, from now on.
    pub fn fold_with(&mut self, fold: Fold) {
        self.fold = fold;
    }

    /// Whether the filter owes an answer, or may.
    #[must_use]
    pub fn answer_owed(&self) -> bool {
        self.owed.is_some() || self.spent || self.stage == Stage::Start
    }

    /// How many answers the filter owes, besides that to the offer.
    #[must_use]
    pub fn answers_owed(&self) -> usize {
        usize::from(self.owed.is_some()) + self.ahead.len()
    }

    /// Whether nothing more can be told on this connection: the filter gave its last word on a
    /// message while it was told more of it, and what it makes of that is not known.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// Whether the filter has accepted what is in hand and will not be asked about it any more.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.mute != Mute::No
    }

    /// What was wrong with the last answer and did no harm, to be logged: a discard at CONNECT,
    /// say.
    pub fn take_complaint(&mut self) -> Option<ProtocolError> {
        self.complaint.take()
    }

    /// The error for bytes that were no reply, at the stage that the conversation has reached.
    #[must_use]
    pub fn malformed(&self, error: WireError) -> ProtocolError {
        self.error(Fault::Filter, Reason::Wire(error))
    }

    /// Turns an event into commands, with its macros ahead of it where there are any (`Some` of
    /// nothing is an empty macro frame, as MTAs send it). A second MAIL, and HELO inside a message,
    /// get the ABORT that belongs before them.
    ///
    /// # Errors
    /// When an answer is still owed or the event is out of order; nothing changes then.
    pub fn send(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Sent, ProtocolError> {
        if self.answer_owed() {
            return Err(self.error(Fault::Caller, Reason::AnswerOwed));
        }
        if self.is_kept_from(&event) {
            return Ok(Sent::nothing());
        }
        match event {
            Event::Abort => Ok(self.abort()),
            Event::QuitReuse => self.reuse(),
            event => match self.missing_before(&event) {
                Some(first) => {
                    let mut sent = self.put(first, None)?;
                    sent.then = Some(event);
                    Ok(sent)
                }
                None => self.put(event, macros),
            },
        }
    }

    /// Sends a header field, the end of the header, or a piece of the body while answers to such
    /// are still owed; they come in the order of the events. Whatever is not a `Continue` among
    /// them, and not the last, ends the use of the connection ([`MtaSide::is_spent`]).
    ///
    /// # Errors
    /// When the event is another, or the answer to another is owed; nothing changes then.
    pub fn send_ahead(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Sent, ProtocolError> {
        let Some(owed) = self.owed else {
            return self.send(event, macros);
        };
        // What is ahead of it is content if the first of it is.
        let is_content = event.question().is_some_and(Question::is_content);
        if !is_content || !owed.is_content() {
            return Err(self.error(Fault::Caller, Reason::AnswerOwed));
        }
        let mut commands = Vec::new();
        if let Some(first) = self.missing_before(&event) {
            commands = self.put(first, None)?.commands;
        }
        let mut sent = self.put(event, macros)?;
        sent.commands.splice(..0, commands);
        Ok(sent)
    }

    /// The end: what to write before closing. May be called at any time.
    #[must_use]
    pub fn quit(self) -> Vec<Command> {
        let abort = self.stage.in_message() && self.owed.is_none();
        let abort = abort.then_some(Command::Abort);
        abort.into_iter().chain([Command::Quit]).collect()
    }

    /// Takes the filter's next reply.
    ///
    /// # Errors
    /// When nothing was asked, or the reply means nothing there: the conversation is out of step,
    /// and the connection must be closed. An edit that was not negotiated or cannot be made
    /// harmless is such an error too.
    pub fn receive(&mut self, reply: Reply) -> Result<Answer, ProtocolError> {
        let code = reply.code();
        let Some(question) = self.owed else {
            return Err(self.error(Fault::Filter, Reason::Unasked(code)));
        };
        let verdict = match reply {
            Reply::Progress => return Ok(Answer::Progress),
            Reply::Edit(edit) => return self.edit(question, edit, code),
            Reply::Skip => return self.skip(question, code),
            Reply::Shutdown | Reply::ConnectionFailed => {
                return Err(self.error(Fault::Filter, Reason::GaveUp(code)));
            }
            Reply::Negotiate(_) => {
                return Err(self.error(Fault::Filter, Reason::Forbidden(code)));
            }
            Reply::Continue => Verdict::Continue,
            Reply::Accept => Verdict::Accept,
            Reply::Reject => Verdict::Reject,
            Reply::TempFail => Verdict::TempFail,
            Reply::Discard => Verdict::Discard,
            Reply::SmtpReply(text) => Verdict::Reply(text),
        };
        Ok(Answer::Verdict(self.settle(question, verdict)))
    }

    fn error(&self, fault: Fault, reason: Reason) -> ProtocolError {
        ProtocolError {
            stage: self.stage,
            fault,
            reason,
        }
    }

    /// Whether the filter accepted earlier and is not told of `event`. What starts anew ends that.
    fn is_kept_from(&mut self, event: &Event) -> bool {
        match (self.mute, event) {
            (Mute::No, _) => false,
            (Mute::Connection, Event::QuitReuse) => false,
            (Mute::Connection, _) => true,
            (Mute::Message, Event::Mail(_) | Event::Helo(_) | Event::Abort | Event::QuitReuse) => {
                self.mute = Mute::No;
                false
            }
            // About no message. Postfix tells it; Sendmail does not ([`MtaSide::is_muted`]).
            (Mute::Message, Event::Unknown(_)) => false,
            (Mute::Message, _) => true,
        }
    }

    fn abort(&mut self) -> Sent {
        if !self.stage.in_message() {
            return Sent::nothing();
        }
        self.forget_message();
        self.reusable = true;
        Sent::these(vec![Command::Abort], Expect::Nothing)
    }

    /// libmilter takes this command only right after a message that was let pass, an ABORT, or an
    /// unknown command; elsewhere it drops it, and the CONNECT that follows.
    fn reuse(&mut self) -> Result<Sent, ProtocolError> {
        if !self.reusable {
            let code = Command::QuitReuse.code();
            return Err(self.error(Fault::Caller, Reason::OutOfOrder(code)));
        }
        self.forget_message();
        self.stage = Stage::Fresh;
        self.mute = Mute::No;
        self.reusable = false;
        Ok(Sent::these(vec![Command::QuitReuse], Expect::Nothing))
    }

    fn forget_message(&mut self) {
        self.stage = self.stage.min(Stage::Client);
        self.skip_headers = false;
        self.skip_body = false;
        self.edits = 0;
    }

    /// What the filter wants to see before `event` and has not seen, because the caller's own MTA
    /// is too old or left it out.
    fn missing_before(&self, event: &Event) -> Option<Event> {
        let content = matches!(
            event,
            Event::Header(_) | Event::EndOfHeaders | Event::Body(_) | Event::EndOfMessage
        );
        let after_headers = matches!(event, Event::Body(_) | Event::EndOfMessage);
        let wants = |step: Steps| !self.options.steps.contains(step);
        if content && self.stage < Stage::Data && wants(Steps::NO_DATA) {
            Some(Event::Data)
        } else if after_headers && self.stage < Stage::Body && wants(Steps::NO_EOH) {
            Some(Event::EndOfHeaders)
        } else {
            None
        }
    }

    /// The commands for an event that has its turn.
    fn put(
        &mut self,
        event: Event,
        macros: Option<&[(Bytes, Bytes)]>,
    ) -> Result<Sent, ProtocolError> {
        let (event, then) = split_body(event);
        let left_out = self.leaves_out(&event);
        let unanswered =
            self.options.steps.contains(event.unanswered_by()) && !event.unanswered_by().is_empty();
        let question = event.question();
        let command = event.into_command();
        let mut commands = Vec::with_capacity(3);
        match follow(self.stage, &command, self.options.steps) {
            Move::Go(stage) => self.stage = stage,
            Move::Restart(stage) => {
                self.forget_message();
                commands.push(Command::Abort);
                self.stage = stage;
            }
            Move::Ignore | Move::Refuse | Move::Close | Move::Fault => {
                let code = command.code();
                return Err(self.error(Fault::Caller, Reason::OutOfOrder(code)));
            }
        }
        self.reusable = false;
        if let Some(pairs) = macros {
            commands.push(Command::Macros(Macros {
                stage: command.code(),
                pairs: pairs.to_vec(),
            }));
        }
        if left_out {
            return Ok(Sent::these(commands, Expect::Nothing));
        }
        commands.push(command);
        let question = question.filter(|_| !unanswered);
        self.unanswered = question.is_none() && self.owed.is_some();
        match (question, self.owed) {
            (Some(question), Some(_)) => self.ahead.push_back(question),
            (Some(_), None) => self.owed = question,
            (None, _) => {}
        }
        let expect = match question {
            None => Expect::Nothing,
            Some(Question::EndOfMessage) => Expect::EndOfMessage,
            Some(_) => Expect::Verdict,
        };
        Ok(Sent {
            commands,
            expect,
            then,
        })
    }

    fn leaves_out(&self, event: &Event) -> bool {
        let step = event.left_out_by();
        let skipped = match event {
            Event::Header(_) => self.skip_headers,
            Event::Body(chunk) => self.skip_body || chunk.is_empty(),
            Event::Connect(_)
            | Event::Helo(_)
            | Event::Mail(_)
            | Event::Rcpt(_)
            | Event::Data
            | Event::EndOfHeaders
            | Event::EndOfMessage
            | Event::Unknown(_)
            | Event::Abort
            | Event::QuitReuse => false,
        };
        skipped || (!step.is_empty() && self.options.steps.contains(step))
    }

    /// Ends the question, and the message where the verdict does.
    fn settle(&mut self, question: Question, verdict: Verdict) -> Verdict {
        self.owed = self.ahead.pop_front();
        let told_more = self.owed.is_some() || self.unanswered;
        let greeting = matches!(question, Question::Connect | Question::Helo);
        let meaningless = match verdict {
            // Postfix ignores it there, and Sendmail would switch every other filter off.
            Verdict::Discard => greeting || question == Question::Unknown,
            // There is no message yet: Sendmail ignores it, Postfix crashes at the next MAIL.
            Verdict::Accept => question == Question::Unknown && !self.stage.in_message(),
            _ => false,
        };
        // libmilter forgets the unknown command when it is accepted.
        let stays_reusable = verdict != Verdict::Accept;
        let verdict = if meaningless {
            let code = Reply::from(verdict).code();
            self.complaint = Some(self.error(Fault::Filter, Reason::Forbidden(code)));
            Verdict::Continue
        } else {
            verdict
        };
        self.reusable = match question {
            Question::EndOfMessage => verdict == Verdict::Continue,
            Question::Unknown => stays_reusable,
            _ => false,
        };
        let ended = question.is_ended_by(&verdict);
        if told_more && verdict != Verdict::Continue {
            self.owed = None;
            self.ahead.clear();
            self.spent = true;
        }
        self.mute = match verdict {
            // What was accepted stays so.
            Verdict::Accept if question == Question::Unknown => Mute::Message,
            _ if question == Question::Unknown => self.mute,
            Verdict::Accept if greeting => Mute::Connection,
            Verdict::Accept | Verdict::Discard if question != Question::EndOfMessage => {
                Mute::Message
            }
            Verdict::Continue
            | Verdict::Accept
            | Verdict::Reject
            | Verdict::TempFail
            | Verdict::Discard
            | Verdict::Reply(_) => Mute::No,
        };
        if ended {
            self.forget_message();
        }
        verdict
    }

    fn edit(&mut self, question: Question, edit: Edit, code: u8) -> Result<Answer, ProtocolError> {
        if question != Question::EndOfMessage {
            return Err(self.error(Fault::Filter, Reason::EditTooEarly(code)));
        }
        let mut needed = edit.action();
        // Either of the two allows a recipient without parameters.
        if needed == Actions::ADD_RECIPIENT && !self.options.actions.contains(needed) {
            needed = Actions::ADD_RECIPIENT_ARGS;
        }
        if !self.options.actions.contains(needed) {
            return Err(self.error(Fault::Filter, Reason::NotNegotiated(edit.action())));
        }
        if !matches!(edit, Edit::ReplaceBody(_)) {
            self.edits += 1;
            if self.edits > Self::EDITS_MAX {
                return Err(self.error(Fault::Filter, Reason::TooManyEdits(Self::EDITS_MAX)));
            }
        }
        let edit = edit
            .clean_with(self.fold)
            .map_err(|invalid| self.error(Fault::Filter, invalid.into()))?;
        Ok(Answer::Edit(edit))
    }

    /// Postfix takes a skip for any kind of event, Sendmail for body chunks; where it means nothing
    /// it is a `Continue`.
    fn skip(&mut self, question: Question, code: u8) -> Result<Answer, ProtocolError> {
        match question {
            Question::EndOfMessage => Err(self.error(Fault::Filter, Reason::Forbidden(code))),
            Question::Header => {
                self.owed = self.ahead.pop_front();
                self.skip_headers = true;
                Ok(Answer::Skip)
            }
            Question::Body => {
                self.owed = self.ahead.pop_front();
                self.skip_body = true;
                Ok(Answer::Skip)
            }
            Question::Connect
            | Question::Helo
            | Question::Mail
            | Question::Rcpt
            | Question::Data
            | Question::EndOfHeaders
            | Question::Unknown => {
                self.complaint = Some(self.error(Fault::Filter, Reason::Forbidden(code)));
                Ok(Answer::Verdict(self.settle(question, Verdict::Continue)))
            }
        }
    }
}

impl Sent {
    fn nothing() -> Self {
        Self::these(Vec::new(), Expect::Nothing)
    }

    fn these(commands: Vec<Command>, expect: Expect) -> Self {
        Self {
            commands,
            expect,
            then: None,
        }
    }
}

/// A body above the size of a chunk goes in several.
fn split_body(event: Event) -> (Event, Option<Event>) {
    match event {
        Event::Body(mut chunk) if chunk.len() > CHUNK_MAX => {
            let rest = chunk.split_off(CHUNK_MAX);
            (Event::Body(chunk), Some(Event::Body(rest)))
        }
        event => (event, None),
    }
}
