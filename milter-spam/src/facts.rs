//! Everything that the checks look at, learnt once for each message: envelope, header fields,
//! addresses, MIME parts, text, HTML, links.
//!
//! Made from values alone: what time it is comes in as a number. The work is bounded by [`Limits`];
//! between its steps it looks at a flag by which a caller who no longer waits can end it early.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::authentication::Authentication;
use crate::date::{self, Date};
use crate::encoded_word::{self, Text};
use crate::envelope::Envelope;
use crate::header::Headers;
use crate::html::{self, Html};
use crate::limits::{Limits, Reached};
use crate::links::{Link, Links, Origin};
use crate::mailbox::{self, AddressList, Mailbox};
use crate::mime::{self, Part};

/// A message as it came in.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Its header fields.
    pub headers: Headers,
    /// Its body, or the first part of it.
    pub body: Vec<u8>,
    /// Limits that were reached while it was taken in.
    pub reached: Reached,
}

impl Message {
    /// Reads a message from a file; a leading `From ` line of an mbox is left out.
    #[must_use]
    pub fn parse(bytes: &[u8], limits: &Limits) -> Self {
        let mut reached = Reached::default();
        let bytes = match bytes.strip_prefix(b"From ") {
            Some(_) => bytes
                .get(crate::header::line_length(bytes)..)
                .unwrap_or_default(),
            None => bytes,
        };
        let (headers, read) = Headers::parse(bytes, limits, &mut reached, |_| false);
        let mut message = Self {
            headers,
            reached,
            ..Self::default()
        };
        message.push_body(bytes.get(read..).unwrap_or_default(), limits);
        message
    }

    /// Adds a piece of the body, as far as the limit allows; gives back whether there is room for
    /// more.
    pub fn push_body(&mut self, chunk: &[u8], limits: &Limits) -> bool {
        let room = limits.body.as_len().saturating_sub(self.body.len());
        self.body
            .extend_from_slice(chunk.get(..room).unwrap_or(chunk));
        if chunk.len() > room {
            self.reached.note("body");
        }
        chunk.len() < room
    }
}

/// What is configured of how a message is looked at.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// How much is looked at.
    pub limits: Limits,
    /// Whose Authentication-Results are believed.
    pub trusted_authserv_ids: Vec<String>,
}

/// An HTML part, read.
#[derive(Debug, Clone)]
pub struct Page {
    /// Index of its part.
    pub part: usize,
    /// What is in it.
    pub html: Html,
}

/// What is known about a message.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Client, sender, recipients.
    pub envelope: Envelope,
    /// Header fields.
    pub headers: Headers,
    /// Subject, decoded.
    pub subject: Option<Text>,
    /// Addresses of From.
    pub from: AddressList,
    /// Addresses of To.
    pub to: AddressList,
    /// Addresses of Cc.
    pub cc: AddressList,
    /// Addresses of Reply-To.
    pub reply_to: AddressList,
    /// The Date field.
    pub date: Date,
    /// When the message came in: seconds since 1970, UTC.
    pub now: i64,
    /// MIME parts, the message first.
    pub parts: Vec<Part>,
    /// HTML parts, attached ones included.
    pub pages: Vec<Page>,
    /// Links.
    pub links: Vec<Link>,
    /// What trusted hosts found out about the sender.
    pub authentication: Authentication,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Limits that were reached.
    pub reached: Reached,
}

/// The caller stopped waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl Facts {
    /// Learns everything about a message.
    ///
    /// # Errors
    /// [`Cancelled`] when `cancelled` became true on the way.
    pub fn learn(
        message: Message,
        envelope: Envelope,
        now: i64,
        reading: &Reading,
        cancelled: &AtomicBool,
    ) -> Result<Self, Cancelled> {
        let limits = &reading.limits;
        let mut facts = Self {
            envelope,
            now,
            reached: message.reached,
            headers: message.headers,
            body_bytes: message.body.len(),
            ..Self::default()
        };
        facts.read_headers(limits, &reading.trusted_authserv_ids);
        check(cancelled)?;
        facts.parts = mime::walk(&facts.headers, &message.body, limits, &mut facts.reached);
        drop(message.body);
        check(cancelled)?;
        for (index, part) in facts.parts.iter().enumerate() {
            if !part.content_type.is("text", "html") {
                continue;
            }
            if let Some(text) = part.text() {
                let html = html::read(&text.text, limits, &mut facts.reached);
                facts.pages.push(Page { part: index, html });
                check(cancelled)?;
            }
        }
        facts.read_links(limits);
        check(cancelled)?;
        Ok(facts)
    }

    fn read_headers(&mut self, limits: &Limits, trusted: &[String]) {
        let headers = &self.headers;
        let reached = &mut self.reached;
        let mut addresses = |name| {
            headers
                .first(name)
                .map(|value| mailbox::parse(value, limits, reached))
                .unwrap_or_default()
        };
        self.from = addresses("From");
        self.to = addresses("To");
        self.cc = addresses("Cc");
        self.reply_to = addresses("Reply-To");
        self.subject = headers.first("Subject").map(encoded_word::decode);
        self.date = date::parse(headers.first("Date"));
        self.authentication = Authentication::read(headers.all("Authentication-Results"), trusted);
    }

    fn read_links(&mut self, limits: &Limits) {
        let mut links = Links::default();
        let reached = &mut self.reached;
        let anchors = self.pages.iter().flat_map(|page| {
            let forms = page.html.forms.iter().map(|target| (target, ""));
            let anchors = page.html.anchors.iter();
            anchors
                .map(|anchor| (&anchor.href, &anchor.text[..]))
                .chain(forms)
        });
        for (address, shown) in anchors {
            if let Some(link) = Link::new(address, Origin::Html, shown) {
                links.add(link, limits, reached);
            }
        }
        for page in &self.pages {
            links.add_text(&page.html.text, Origin::Text, limits, reached);
        }
        let plain = self
            .parts
            .iter()
            .filter(|part| !part.content_type.is("text", "html"));
        for text in plain.filter_map(Part::text) {
            links.add_text(&text.text, Origin::Text, limits, reached);
        }
        if let Some(subject) = &self.subject {
            links.add_text(&subject.text, Origin::Subject, limits, reached);
        }
        self.links = links.into_vec();
    }

    /// The first address of From.
    #[must_use]
    pub fn author(&self) -> Option<&Mailbox> {
        self.from.mailboxes.first()
    }

    /// The Message-ID as text, without white space around it.
    #[must_use]
    pub fn message_id(&self) -> Option<String> {
        let value = self.headers.first("Message-ID")?;
        Some(String::from_utf8_lossy(value.trim_ascii()).into_owned())
    }

    /// The texts that a person sees: plain parts as they are, HTML parts as they are shown;
    /// attachments not.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let shown = |part: &&Part| !part.is_attachment();
        let plain = self
            .parts
            .iter()
            .filter(shown)
            .filter(|part| !part.content_type.is("text", "html"))
            .filter_map(|part| part.text().map(|text| &text.text[..]));
        plain.chain(self.shown_pages().map(|page| &page.html.text[..]))
    }

    /// The HTML parts that are shown, attachments not.
    pub fn shown_pages(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().filter(|page| {
            self.parts
                .get(page.part)
                .is_some_and(|part| !part.is_attachment())
        })
    }
}

/// Ends the work when nobody waits for it any more.
pub(crate) fn check(cancelled: &AtomicBool) -> Result<(), Cancelled> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(Cancelled);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(text: &str) -> Facts {
        let message = Message::parse(text.as_bytes(), &Limits::default());
        Facts::learn(
            message,
            Envelope::default(),
            0,
            &Reading::default(),
            &AtomicBool::new(false),
        )
        .unwrap_or_default()
    }

    #[test]
    fn learns_what_is_in_a_message() {
        let facts = learn(
            "From mbox line\nFrom: A <a@b.example>\nSubject: see http://s.example\n\
             Content-Type: text/html\n\n<a href=http://l.example>t</a> and http://t.example",
        );
        assert_eq!(facts.author().map(|author| &author.name[..]), Some("A"));
        let hosts: Vec<(&str, Origin)> = facts
            .links
            .iter()
            .map(|link| (&link.host[..], link.origin))
            .collect();
        assert_eq!(
            hosts,
            [
                ("l.example", Origin::Html),
                ("t.example", Origin::Text),
                ("s.example", Origin::Subject)
            ]
        );
        assert_eq!(
            facts.texts().collect::<Vec<_>>(),
            ["t and http://t.example"]
        );
    }

    #[test]
    fn the_body_is_cut_at_its_limit() {
        let limits = Limits::default();
        let mut message = Message::default();
        assert!(message.push_body(&vec![b'x'; 10 << 20 >> 1], &limits));
        assert!(!message.push_body(&vec![b'x'; 10 << 20], &limits));
        assert_eq!(message.body.len(), 10 << 20);
        assert_eq!(message.reached.names(), ["body"]);
    }

    #[test]
    fn a_cancelled_scan_ends() {
        let result = Facts::learn(
            Message::default(),
            Envelope::default(),
            0,
            &Reading::default(),
            &AtomicBool::new(true),
        );
        assert_eq!(result.err(), Some(Cancelled));
    }
}
