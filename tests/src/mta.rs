//! An MTA as a filter sees it, and messages as text: what a test sends, what came of it.
//!
//! The conversation is the product's own client; the offer is the one that Postfix makes. What a
//! filter says is applied as Postfix does, so that a test can look at the message that would be
//! delivered.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{self, Connection, Header};
use milter_proto::net::{Address, Client, Response, Timeouts};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Offer, Steps, VERSION};

/// Bytes in a chunk of the body, as Postfix sends it.
const CHUNK: usize = 65_535;

/// A message as it is on the wire: fields, and a body with CR LF.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// In order; values with the white space after the colon, folds as LF.
    pub headers: Vec<Header>,
    /// Everything behind the empty line.
    pub body: Bytes,
}

/// Who sends a message, and how.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The client's address and port.
    pub client: SocketAddr,
    /// Its login name; empty when it has not authenticated.
    pub login: String,
    /// The sender, without brackets.
    pub sender: String,
    /// The recipients, without brackets.
    pub recipients: Vec<String>,
}

/// What a filter said to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The first verdict that was not `Continue`, or the last.
    pub verdict: Verdict,
    /// In order.
    pub edits: Vec<Edit>,
}

/// A connection to a filter.
#[derive(Debug)]
pub struct Mta {
    client: Client,
}

impl Message {
    /// Reads a message with either kind of line ends.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut message = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (line, after) = cut_line(rest);
            rest = after;
            match line {
                b"" => break,
                [b' ' | b'\t', ..] => {
                    if let Some(last) = message.headers.last_mut() {
                        last.value = [&last.value[..], b"\n", line].concat().into();
                    }
                }
                line => {
                    let colon = line.iter().position(|&byte| byte == b':');
                    let (name, value) = line.split_at(colon.unwrap_or(line.len()));
                    let value = value.get(1..).unwrap_or_default().to_vec();
                    message.headers.push(Header::new(name.to_vec(), value));
                }
            }
        }
        let mut body = Vec::with_capacity(rest.len());
        while !rest.is_empty() {
            let (line, after) = cut_line(rest);
            rest = after;
            body.extend_from_slice(line);
            body.extend_from_slice(b"\r\n");
        }
        message.body = body.into();
        message
    }

    /// With CR LF everywhere, as it would be delivered.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for header in &self.headers {
            let value = header
                .value
                .split(|&byte| byte == b'\n')
                .collect::<Vec<_>>();
            out.extend_from_slice(&header.name);
            out.push(b':');
            out.extend_from_slice(&value.join(&b"\r\n"[..]));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// The values of all fields of that name, without white space around them.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<String> {
        let of_name = self.headers.iter().filter(|header| header.is(name));
        let value = |header: &Header| String::from_utf8_lossy(&header.value).trim().to_owned();
        of_name.map(value).collect()
    }

    /// The message after `edits`, as Postfix makes them when values carry their own white space.
    /// Index 0 is above everything; the MTA's own Received is not counted here. Edits of the
    /// envelope change nothing.
    #[must_use]
    pub fn edited(&self, edits: &[Edit]) -> Self {
        let mut message = self.clone();
        let mut body: Option<Vec<u8>> = None;
        for edit in edits {
            match edit {
                Edit::AddHeader { name, value } => {
                    message
                        .headers
                        .push(Header::new(name.clone(), value.clone()));
                }
                Edit::InsertHeader { index, name, value } => {
                    let index = usize::try_from(*index).unwrap_or(usize::MAX);
                    let index = index.min(message.headers.len());
                    let header = Header::new(name.clone(), value.clone());
                    message.headers.insert(index, header);
                }
                Edit::ChangeHeader { index, name, value } => {
                    message.change_header(*index, name, value);
                }
                Edit::ReplaceBody(piece) => body.get_or_insert_default().extend(piece),
                Edit::AddRecipient { .. }
                | Edit::DeleteRecipient { .. }
                | Edit::ChangeSender { .. }
                | Edit::Quarantine { .. } => {}
            }
        }
        if let Some(body) = body {
            message.body = body.into();
        }
        message
    }

    fn change_header(&mut self, index: u32, name: &Bytes, value: &Bytes) {
        let nth = usize::try_from(index.max(1) - 1).unwrap_or(usize::MAX);
        let same = |at: &usize| self.headers[*at].name.eq_ignore_ascii_case(name);
        let found = (0..self.headers.len()).filter(same).nth(nth);
        match found {
            Some(at) if value.is_empty() => {
                self.headers.remove(at);
            }
            Some(at) => self.headers[at].value = value.clone(),
            None if value.is_empty() => {}
            None => self.headers.push(Header::new(name.clone(), value.clone())),
        }
    }
}

/// The first line without its end, and the rest.
fn cut_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n');
    let (line, rest) = match end {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &text[text.len()..]),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), rest)
}

impl Default for Envelope {
    /// A stranger to one of our users.
    fn default() -> Self {
        Self {
            client: SocketAddr::from(([192, 0, 2, 1], 25_025)),
            login: String::new(),
            sender: "stranger@example.net".to_owned(),
            recipients: vec!["user@example.org".to_owned()],
        }
    }
}

impl Delivery {
    /// The reply to the client as text, when the message was refused with one.
    #[must_use]
    pub fn reply(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Reply(reply) => Some(String::from_utf8_lossy(reply.as_bytes()).into_owned()),
            Verdict::Continue
            | Verdict::Accept
            | Verdict::Reject
            | Verdict::TempFail
            | Verdict::Discard => None,
        }
    }

    /// Whether the message goes on.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self.verdict, Verdict::Continue | Verdict::Accept)
    }
}

impl Mta {
    /// Connects and negotiates, offering everything that Postfix does.
    ///
    /// # Errors
    /// When the filter is not there or answers wrongly.
    pub async fn connect(address: &Address) -> Result<Self> {
        let offer = Offer {
            version: VERSION,
            actions: Actions::all(),
            steps: Steps::all() - Steps::MDS_256K - Steps::MDS_1M,
            macros: Vec::new(),
        };
        let (client, warnings) = Client::connect(address, &offer, Timeouts::default()).await?;
        anyhow::ensure!(warnings.is_empty(), "negotiation: {warnings:?}");
        Ok(Self { client })
    }

    /// Tells of the client: once for each connection.
    ///
    /// # Errors
    /// When the filter breaks the protocol.
    pub async fn greet(&mut self, envelope: &Envelope) -> Result<Verdict> {
        let connection = Connection {
            hostname: Bytes::from_static(b"client.example.net"),
            address: message::Address::Inet(envelope.client),
        };
        let macros = macros(&[("j", "mx.example.org"), ("{daemon_name}", "test")]);
        let connect = Event::Connect(connection);
        let response = self.client.send(connect, Some(&macros)).await?;
        if response.verdict != Verdict::Continue {
            return Ok(response.verdict);
        }
        let helo = Event::Helo(Bytes::from_static(b"client.example.net"));
        Ok(self.client.send(helo, None).await?.verdict)
    }

    /// Sends a message from MAIL to its end, or to the first verdict that ends it.
    ///
    /// # Errors
    /// When the filter breaks the protocol.
    pub async fn send(&mut self, envelope: &Envelope, message: &Message) -> Result<Delivery> {
        self.send_and(envelope, message, || ()).await
    }

    /// As [`Self::send`]; does something when the envelope is told, and all else is to come.
    ///
    /// # Errors
    /// When the filter breaks the protocol.
    pub async fn send_and(
        &mut self,
        envelope: &Envelope,
        message: &Message,
        in_hand: impl FnOnce(),
    ) -> Result<Delivery> {
        let mut last = Response::default();
        let mut in_hand = Some(in_hand);
        for (event, macros) in self.events(envelope, message) {
            if matches!(event, Event::Data)
                && let Some(act) = in_hand.take()
            {
                act();
            }
            let stage = format!("{event:?}").chars().take(40).collect::<String>();
            let response = self.client.send(event, macros.as_deref()).await;
            last = response.context(stage)?;
            if last.verdict != Verdict::Continue {
                break;
            }
        }
        Ok(Delivery {
            verdict: last.verdict,
            edits: last.edits,
        })
    }

    /// Ends the conversation.
    pub async fn quit(self) {
        self.client.quit().await;
    }

    fn events(&self, envelope: &Envelope, message: &Message) -> Vec<(Event, Option<Macros>)> {
        let exact = self.client.options().steps.contains(Steps::LEADING_SPACE);
        let mut mail = vec![("i", "4TEST1"), ("{mail_addr}", &envelope.sender)];
        if !envelope.login.is_empty() {
            mail.push(("{auth_type}", "PLAIN"));
            mail.push(("{auth_authen}", &envelope.login));
        }
        let mut events = vec![(Event::Mail(path(&envelope.sender)), Some(macros(&mail)))];
        for recipient in &envelope.recipients {
            let rcpt = macros(&[("{rcpt_addr}", recipient)]);
            events.push((Event::Rcpt(path(recipient)), Some(rcpt)));
        }
        events.push((Event::Data, Some(macros(&[("i", "4TEST1")]))));
        for header in &message.headers {
            let mut header = header.clone();
            if !exact && header.value.first() == Some(&b' ') {
                header.value = header.value.slice(1..);
            }
            events.push((Event::Header(header), None));
        }
        events.push((Event::EndOfHeaders, None));
        let mut body = message.body.clone();
        while !body.is_empty() {
            let chunk = body.split_to(body.len().min(CHUNK));
            events.push((Event::Body(chunk), None));
        }
        events.push((Event::EndOfMessage, Some(macros(&[("i", "4TEST1")]))));
        events
    }
}

type Macros = Vec<(Bytes, Bytes)>;

fn macros(pairs: &[(&str, &str)]) -> Macros {
    let owned = |text: &str| Bytes::from(text.to_owned());
    pairs
        .iter()
        .map(|(name, value)| (owned(name), owned(value)))
        .collect()
}

fn path(address: &str) -> message::Path {
    message::Path {
        address: format!("<{address}>").into(),
        args: Vec::new(),
    }
}

/// Sends one message over a connection of its own.
///
/// # Errors
/// When the filter is not there or breaks the protocol.
pub async fn deliver(
    address: &Address,
    envelope: &Envelope,
    message: &Message,
) -> Result<Delivery> {
    let mut mta = Mta::connect(address).await?;
    let verdict = mta.greet(envelope).await?;
    if verdict != Verdict::Continue {
        let edits = Vec::new();
        return Ok(Delivery { verdict, edits });
    }
    let delivery = mta.send(envelope, message).await?;
    mta.quit().await;
    Ok(delivery)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_written() {
        let text = b"A: 1\nB:2\n\tfolded\n\nbody\n\nend";
        let message = Message::parse(text);
        assert_eq!(message.headers[0], Header::new("A", " 1"));
        assert_eq!(message.headers[1], Header::new("B", "2\n\tfolded"));
        let written = b"A: 1\r\nB:2\r\n\tfolded\r\n\r\nbody\r\n\r\nend\r\n";
        assert_eq!(message.to_bytes(), written);
        assert_eq!(Message::parse(written), message);
        assert_eq!(message.values("b"), ["2\n\tfolded"]);
    }

    #[test]
    fn edits_are_made_as_the_mta_does() {
        let message = Message::parse(b"A: 1\nB: 2\nA: 3\n\nbody\n");
        let edited = message.edited(&[
            Edit::change(2, "a", " three"),
            Edit::delete(1, "A"),
            Edit::insert(0, "Top", " x"),
            Edit::add("End", " y"),
            Edit::ReplaceBody(Bytes::from_static(b"ne")),
            Edit::ReplaceBody(Bytes::from_static(b"w\r\n")),
        ]);
        let expected = b"Top: x\r\nB: 2\r\nA: three\r\nEnd: y\r\n\r\nnew\r\n";
        assert_eq!(
            String::from_utf8_lossy(&edited.to_bytes()),
            String::from_utf8_lossy(expected)
        );
    }
}
