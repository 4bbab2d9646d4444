//! The facts that routes and filters' conditions are asked with, as the session knows them.
//!
//! Nothing is decided here, and nothing can fail.

use milter_proto::message::Path;
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::MacroStage;

use super::Session;
use crate::proxy::child::State;
use crate::proxy::message::Message;
use crate::proxy::wants;
use crate::proxy::{offer, plan};
use crate::route::{Client, Fact, Facts, Lookup, Said};

/// What is looked up in a session: for the message as a whole, or for one recipient of it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) session: &'a Session,
    /// Its number.
    pub(super) recipient: Option<usize>,
}

impl<'a> View<'a> {
    pub(super) fn facts(&'a self) -> Facts<'a> {
        let session = self.session;
        let mut facts = Facts::at(&session.shared.listen);
        let Some(Event::Connect(connection)) = session
            .introduction
            .connect
            .as_ref()
            .map(|told| &told.event)
        else {
            return facts;
        };
        let ip = connection.address.ip();
        facts.client = Fact::Known(ip.map_or(Client::NoIp, Client::Ip));
        facts.host = Fact::Known(&connection.hostname);
        if let Some(arrival) = session.arrival {
            facts.load = Fact::Known(arrival.load);
            facts.time = Fact::Known(arrival.time);
        }
        if let Some(Event::Helo(name)) = session.introduction.helo.as_ref().map(|told| &told.event)
        {
            facts.helo = Fact::Known(name);
        }
        facts.lookup = self;
        let Some(message) = &session.message else {
            return facts;
        };
        self.add_message(&mut facts, message);
        facts
    }

    fn add_message(&self, facts: &mut Facts<'a>, message: &'a Message) {
        let said = |name| {
            let value = self.session.side.facts().macro_value(name);
            value
                .map(|value| &**value)
                .filter(|value| !value.is_empty())
        };
        // A client that has said no HELO by now says none.
        if !facts.helo.is_known() {
            facts.helo = Fact::Known(b"");
        }
        let login = said("auth_authen");
        facts.authenticated = Fact::Known(login.or_else(|| said("auth_type")).is_some());
        facts.login = Fact::Known(login.unwrap_or_default());
        facts.tls = Fact::Known(said("tls_version").is_some());
        if let Event::Mail(path) = &message.mail.event {
            facts.sender = Fact::Known(&path.address);
            facts.size = declared(path)
                .or(message.size)
                .map_or(Fact::NotYet, Fact::Known);
        }
        let recipient = self
            .recipient
            .and_then(|number| message.recipients.get(number))
            .map(|recipient| &recipient.told.event);
        if let Some(Event::Rcpt(path)) = recipient {
            facts.recipient = Fact::Known(&path.address);
        }
    }
}

impl Lookup for View<'_> {
    fn macro_value(&self, name: &str) -> Fact<Option<&[u8]>> {
        let stage = wants::stage_of(name);
        let message = self.session.message.as_ref();
        if stage == MacroStage::Rcpt {
            let recipient = self
                .recipient
                .and_then(|number| message?.recipients.get(number));
            return recipient.map_or(Fact::NotYet, |recipient| {
                let pairs = recipient.told.macros.iter().flat_map(|pairs| pairs.iter());
                let mut values = pairs
                    .filter(|(key, _)| offer::same_macro(key, name.as_bytes()))
                    .map(|(_, value)| &**value);
                Fact::Known(values.next())
            });
        }
        let come = match stage {
            MacroStage::Data | MacroStage::EndOfHeaders | MacroStage::EndOfMessage => {
                message.is_some_and(|message| message.end.is_some())
            }
            // The queue id may come with any stage.
            _ if name == "i" => message.is_some_and(|message| message.end.is_some()),
            _ => message.is_some(),
        };
        match self.session.side.facts().macro_value(name) {
            Some(value) => Fact::Known(Some(value)),
            None if come => Fact::Known(None),
            None => Fact::NotYet,
        }
    }

    fn word(&self, milter: &str) -> Fact<Said> {
        let mut children = self.session.children.iter().enumerate();
        let Some((index, child)) = children.find(|(_, child)| child.member.name == milter) else {
            return Fact::Known(Said::Absent);
        };
        let Some(part) = &child.part else {
            return if self.session.message.is_none() || self.session.is_awaited(index) {
                Fact::NotYet
            } else {
                Fact::Known(Said::Absent)
            };
        };
        match &part.state {
            State::Active => Fact::NotYet,
            State::Done => Fact::Known(Said::Accept),
            State::Finished if part.accepts => Fact::Known(Said::Accept),
            State::Finished => Fact::Known(Said::Continue),
            State::Failed(_) => Fact::Known(Said::Failed),
            State::Refused(verdict) => Fact::Known(said(verdict)),
        }
    }
}

fn said(verdict: &Verdict) -> Said {
    match verdict {
        Verdict::Continue => Said::Continue,
        Verdict::Accept => Said::Accept,
        Verdict::Reject => Said::Reject,
        Verdict::TempFail => Said::TempFail,
        Verdict::Discard => Said::Discard,
        Verdict::Reply(_) if plan::is_permanent(verdict) => Said::Reject,
        Verdict::Reply(_) => Said::TempFail,
    }
}

/// The size that the client has declared (RFC 1870).
fn declared(path: &Path) -> Option<u64> {
    path.args.iter().find_map(|arg| {
        let (name, value) = arg.split_at_checked(5)?;
        let value = str::from_utf8(value).ok()?;
        name.eq_ignore_ascii_case(b"SIZE=")
            .then(|| value.parse().ok())?
    })
}
