//! The message in hand: everything the MTA has told of it, kept for filters that are told later, or
//! once more.
//!
//! It only keeps; who is told what and when is the business of [`super::session`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Address, Connection, Header, Path};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;

use super::headers::{Headers, Snapshot};
use super::limits::Limits;
use super::spool::Spool;
use crate::member::Chain;
use crate::proxy::headers::MtaKind;

/// Macro names and values, as sent ahead of a command.
pub(crate) type Pairs = Arc<[(Bytes, Bytes)]>;

/// An event with the macros that came ahead of it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// What happened.
    pub(crate) event: Event,
    /// Its macros; `None` when the MTA sent none.
    pub(crate) macros: Option<Pairs>,
}

impl Told {
    /// One without macros.
    pub(crate) fn bare(event: Event) -> Self {
        Self {
            event,
            macros: None,
        }
    }

    /// Bytes of an address, its parameters and its macros.
    pub(crate) fn bytes(&self) -> usize {
        let path = match &self.event {
            Event::Mail(path) | Event::Rcpt(path) => {
                path.address.len() + path.args.iter().map(Bytes::len).sum::<usize>()
            }
            _ => 0,
        };
        let pairs = self.macros.iter().flat_map(|pairs| pairs.iter());
        path + pairs
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
    }

    /// The same in memory of its own: an event is cut out of a large buffer, which it would keep
    /// alive for as long as the connection lasts.
    pub(crate) fn detached(self) -> Self {
        let event = match self.event {
            Event::Connect(connection) => Event::Connect(Connection {
                hostname: copy(&connection.hostname),
                address: match connection.address {
                    Address::Unix(path) => Address::Unix(copy(&path)),
                    Address::Unparsable { family, port, text } => Address::Unparsable {
                        family,
                        port,
                        text: copy(&text),
                    },
                    address @ (Address::Unknown | Address::Inet(_) | Address::TaggedInet6(_)) => {
                        address
                    }
                },
            }),
            Event::Helo(name) => Event::Helo(copy(&name)),
            Event::Mail(path) => Event::Mail(copy_path(&path)),
            Event::Rcpt(path) => Event::Rcpt(copy_path(&path)),
            event => event,
        };
        Self { event, ..self }
    }
}

fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn copy_path(path: &Path) -> Path {
    Path {
        address: copy(&path.address),
        args: path.args.iter().map(copy).collect(),
    }
}

/// One recipient.
#[derive(Debug)]
pub(crate) struct Recipient {
    /// The event.
    pub(crate) told: Told,
    /// The MTA itself has refused it and only lets filters know.
    pub(crate) rejected: bool,
    /// A filter has refused it: it is not part of the message.
    pub(crate) refused: bool,
    /// No route takes it.
    pub(crate) unrouted: bool,
    /// The chain that it asks for, where recipients have chains of their own.
    pub(crate) route: Option<Arc<Chain>>,
}

impl Recipient {
    /// Whether it is part of the message and its chain is not known.
    pub(crate) fn is_undecided(&self) -> bool {
        self.route.is_none() && !self.rejected && !self.refused && !self.unrouted
    }
}

/// What was decided about a message, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    /// The word for the MTA; `None` when the message was given up before there was one.
    pub(crate) verdict: Option<Verdict>,
    /// The filter whose word it is, or a reason of ours.
    pub(crate) by: String,
}

/// The message in hand.
#[derive(Debug)]
pub(crate) struct Message {
    /// MAIL.
    pub(crate) mail: Told,
    /// Every RCPT.
    pub(crate) recipients: Vec<Recipient>,
    /// Bytes of what they hold.
    pub(crate) recipient_bytes: usize,
    /// DATA, when the MTA sent it.
    pub(crate) data: Option<Told>,
    /// The header with all edits so far.
    pub(crate) headers: Headers,
    /// The header as the filters of the segment see it, in the MTA's form.
    pub(crate) view: Vec<Header>,
    /// What positions in edits of that segment refer to.
    pub(crate) seen: Snapshot,
    /// No field follows.
    pub(crate) header_complete: bool,
    /// The end of the header, when the MTA sent it.
    pub(crate) end_of_headers: Option<Told>,
    /// The body as the filters of the segment see it.
    pub(crate) body: Spool,
    /// Some of it has come, if only an empty piece.
    pub(crate) body_begun: bool,
    /// A filter has replaced it.
    pub(crate) body_replaced: bool,
    /// The MTA was told to skip what was left of it.
    pub(crate) body_cut: bool,
    /// The end of the message.
    pub(crate) end: Option<Told>,
    /// The segment whose turn it is.
    pub(crate) segment: usize,
    /// Bytes altogether, once the end has come.
    pub(crate) size: Option<u64>,
    /// Which chain it goes through is not decided for every recipient.
    pub(crate) undecided: bool,
    /// The chains that its recipients ask for, each once.
    pub(crate) routes: Vec<Arc<Chain>>,
    /// Edits of the envelope, in order.
    pub(crate) envelope: Vec<Edit>,
    /// Reasons for quarantine, with the names of those who gave them.
    pub(crate) quarantine: Vec<(String, Bytes)>,
    /// Set once there is nothing more to ask anybody.
    pub(crate) decided: Option<Decided>,
    /// When MAIL came.
    pub(crate) began: Instant,
    /// How long the MTA has waited for answers.
    pub(crate) waited: Duration,
    /// How often a filter had to be told everything again.
    pub(crate) replays: u32,
}

impl Message {
    /// One that begins with this MAIL.
    pub(crate) fn new(mail: Told, kind: MtaKind, limits: &Limits, now: Instant) -> Self {
        Self {
            mail,
            recipients: Vec::new(),
            recipient_bytes: 0,
            data: None,
            headers: Headers::new(kind, limits.header, &limits.sendmail_headers),
            view: Vec::new(),
            seen: Snapshot::default(),
            header_complete: false,
            end_of_headers: None,
            body: Spool::new(Arc::clone(&limits.spool)),
            body_begun: false,
            body_replaced: false,
            body_cut: false,
            end: None,
            segment: 0,
            size: None,
            undecided: false,
            routes: Vec::new(),
            envelope: Vec::new(),
            quarantine: Vec::new(),
            decided: None,
            began: now,
            waited: Duration::ZERO,
            replays: 0,
        }
    }

    /// Whether the envelope is complete: DATA was said, or is over.
    pub(crate) fn content_begun(&self) -> bool {
        self.data.is_some() || !self.view.is_empty() || self.header_complete
    }

    /// Turns to the segment `number`, whose filters see the message as it is now.
    pub(crate) fn begin_segment(&mut self, number: usize) {
        self.segment = number;
        self.seen = self.headers.snapshot();
        self.view = self.headers.view(&self.seen);
    }
}
