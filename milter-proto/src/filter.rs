//! What one writes to have a milter: the traits [`Filter`] and [`Transaction`].
//!
//! A [`Filter`] is shared by all connections. For each message it makes a [`Transaction`], which
//! sees the stages in order and ends in one of two ways: [`Transaction::finish`] consumes it, or it
//! is dropped (abort, disconnect, an early verdict). Stages that [`Needs`] leaves out are never
//! called. Only `finish` can edit, so an edit elsewhere does not compile.

use std::future::{Future, ready};

use bytes::Bytes;

use crate::message::{Connection, Header, Path};
use crate::session::Facts;
use crate::verdict::{BodyVerdict, Greeting, Outcome, Verdict};
use crate::wire::options::{Actions, MacroStage, Steps};

/// What a filter negotiates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Edits that it may make. What the MTA does not offer is an error at negotiation.
    pub actions: Actions,
    /// The `NO_*` steps it can do without, the `NR_*` ones it never answers, and what it
    /// understands. Masked by the offer; a missing `NR_*` is made up for by answering `Continue`.
    pub steps: Steps,
    /// Macros that it asks for, names separated by spaces; empty for the MTA's own choice. Where
    /// only one of the two content stages has a list, the other gets the same.
    pub macros: Vec<(MacroStage, &'static str)>,
}

/// What is known at a stage beside its own argument.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    facts: &'a Facts,
}

impl<'a> Context<'a> {
    /// The view of a filter on these facts.
    #[must_use]
    pub fn new(facts: &'a Facts) -> Self {
        Self { facts }
    }

    /// The client; `None` when CONNECT was not asked for.
    #[must_use]
    pub fn connection(&self) -> Option<&'a Connection> {
        self.facts.connection.as_ref()
    }

    /// The name that the client gave; `None` before HELO or when it was not asked for.
    #[must_use]
    pub fn helo(&self) -> Option<&'a Bytes> {
        self.facts.helo.as_ref()
    }

    /// A macro's value by its name, braces aside, from the latest stage that has it.
    #[must_use]
    pub fn macro_value(&self, name: &str) -> Option<&'a Bytes> {
        self.facts.macro_value(name)
    }

    /// Whether header values carry their leading white space (`SMFIP_HDR_LEADSPC` was
    /// negotiated).
    #[must_use]
    pub fn leading_space(&self) -> bool {
        self.facts.steps.contains(Steps::LEADING_SPACE)
    }

    /// Whether the recipient in hand was refused by the MTA itself (macro `rcpt_mailer` is
    /// `error`), and is told because `SMFIP_RCPT_REJ` was negotiated.
    #[must_use]
    pub fn rcpt_is_rejected(&self) -> bool {
        let mailer = self.macro_value("rcpt_mailer");
        self.facts.steps.contains(Steps::RCPT_REJECTED)
            && mailer.is_some_and(|mailer| mailer == &b"error"[..])
    }

    /// The actions that were negotiated.
    #[must_use]
    pub fn actions(&self) -> Actions {
        self.facts.actions
    }

    /// The queue id (macro `i`), or `-` where the MTA has not told it yet.
    #[must_use]
    pub fn queue_id(&self) -> &'a [u8] {
        self.macro_value("i").map_or(b"-", |id| &id[..])
    }
}

/// A milter. One value serves all connections.
pub trait Filter: Send + Sync + 'static {
    /// The state of one message.
    type Transaction: Transaction;

    /// What to negotiate; asked once for each connection.
    fn needs(&self) -> Needs;

    /// CONNECT: the client is in the context.
    fn connect(&self, _cx: Context<'_>) -> impl Future<Output = Greeting> + Send {
        ready(Greeting::Continue)
    }

    /// HELO or EHLO: the name is in the context.
    fn helo(&self, _cx: Context<'_>) -> impl Future<Output = Greeting> + Send {
        ready(Greeting::Continue)
    }

    /// A message begins: called at MAIL, before [`Transaction::mail`].
    fn begin(&self, cx: Context<'_>) -> Self::Transaction;
}

/// One message on its way through a filter.
pub trait Transaction: Send {
    /// MAIL FROM.
    fn mail(&mut self, _cx: Context<'_>, _sender: Path) -> impl Future<Output = Verdict> + Send {
        ready(Verdict::Continue)
    }

    /// RCPT TO, once for each recipient; a refusal refuses this recipient alone.
    fn rcpt(&mut self, _cx: Context<'_>, _recipient: Path) -> impl Future<Output = Verdict> + Send {
        ready(Verdict::Continue)
    }

    /// A recipient that the MTA has refused itself, told in place of [`Transaction::rcpt`] where
    /// `RCPT_REJECTED` was negotiated. The macros say why: `rcpt_host` has the status code,
    /// `rcpt_addr` the text. Nothing is decided here.
    fn rejected_rcpt(
        &mut self,
        _cx: Context<'_>,
        _recipient: Path,
    ) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// DATA.
    fn data(&mut self, _cx: Context<'_>) -> impl Future<Output = Verdict> + Send {
        ready(Verdict::Continue)
    }

    /// One header field.
    fn header(
        &mut self,
        _cx: Context<'_>,
        _header: Header,
    ) -> impl Future<Output = Verdict> + Send {
        ready(Verdict::Continue)
    }

    /// The empty line after the headers.
    fn end_of_headers(&mut self, _cx: Context<'_>) -> impl Future<Output = Verdict> + Send {
        ready(Verdict::Continue)
    }

    /// A chunk of the body, split anywhere, also between CR and LF.
    fn body(
        &mut self,
        _cx: Context<'_>,
        _chunk: Bytes,
    ) -> impl Future<Output = BodyVerdict> + Send {
        ready(BodyVerdict::default())
    }

    /// The whole message has been seen: decide, once and for all. Progress is reported to the MTA
    /// while this waits.
    fn finish(self, cx: Context<'_>) -> impl Future<Output = Outcome> + Send;
}
