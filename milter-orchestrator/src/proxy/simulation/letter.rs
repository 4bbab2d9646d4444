//! Messages: what a client sends, and what each filter makes of it. All of it follows from the
//! message's name, so that a second try is the same again. Every piece carries the name, by which
//! it is seen when something of one message turns up in another.

use std::rc::Rc;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Header, Path};
use milter_proto::session::Event;
use milter_proto::verdict::{SmtpReply, Verdict};
use milter_proto::wire::Actions;

use super::chance::Chance;

/// What a filter says where it does not say `Continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Accept,
    Discard,
    /// For good, or for now.
    Refuse(bool),
}

/// One message.
#[derive(Debug)]
pub(super) struct Letter {
    /// Its name, which is the sender too.
    pub(super) name: String,
    /// Where each filter has a word of its own.
    pub(super) words: Vec<Option<(u8, Word)>>,
    /// The filter that it kills, and at which command.
    pub(super) poison: Option<(usize, u8)>,
    recipients: usize,
    fields: usize,
    pieces: Vec<Bytes>,
    /// What the edits follow from.
    seed: u64,
}

/// Commands at which a filter may have a word of its own, or may be killed.
pub(super) const PLACES: [u8; 7] = [b'M', b'R', b'T', b'L', b'N', b'B', b'E'];

impl Letter {
    pub(super) fn new(number: u64, filters: usize, poison: bool, chance: &mut Chance) -> Rc<Self> {
        let name = format!("m{number}.");
        let words = (0..filters).map(|_| word(chance)).collect();
        let poison = poison.then(|| (chance.place(filters), PLACES[1 + chance.place(6)]));
        let pieces = (0..chance.below(4)).map(|piece| {
            let lines = if chance.once_in(50) {
                1500
            } else {
                chance.below(12)
            };
            let line = format!("line of {name} in piece {piece}\r\n");
            Bytes::from(line.repeat(usize::try_from(lines).unwrap_or(1)))
        });
        Rc::new(Self {
            pieces: pieces.collect(),
            words,
            poison,
            recipients: 1 + chance.place(3),
            fields: chance.place(4),
            seed: chance.next(),
            name,
        })
    }

    /// One on which every filter is asked about everything, and none has a word of its own.
    pub(super) fn plain(number: u64, filters: usize) -> Rc<Self> {
        let name = format!("m{number}.");
        let piece = Bytes::from(format!("line of {name}\r\n"));
        Rc::new(Self {
            words: vec![None; filters],
            poison: None,
            recipients: 2,
            fields: 2,
            pieces: vec![piece; 2],
            seed: number,
            name,
        })
    }

    /// Whether it kills a filter by its content.
    pub(super) fn kills_in_content(&self) -> bool {
        self.poison
            .is_some_and(|(_, at)| matches!(at, b'L' | b'N' | b'B' | b'E'))
    }

    /// Everything that is told of it, in order.
    pub(super) fn events(&self) -> Vec<Event> {
        let name = &self.name;
        let path = |address: String| Path {
            address: Bytes::from(address),
            args: Vec::new(),
        };
        let mut events = vec![Event::Mail(path(format!("<{name}@x>")))];
        let recipients = (0..self.recipients).map(|number| format!("<{name}r{number}@x>"));
        events.extend(recipients.map(|address| Event::Rcpt(path(address))));
        events.push(Event::Data);
        let fields = (0..self.fields).map(|number| format!(" {number} of {name}"));
        events.extend(fields.map(|value| Event::Header(Header::new("Field", value))));
        events.push(Event::EndOfHeaders);
        events.extend(self.pieces.iter().cloned().map(Event::Body));
        events.push(Event::EndOfMessage);
        events
    }

    /// What a filter says to a command.
    pub(super) fn verdict(&self, filter: usize, event: &Event) -> Verdict {
        let code = event.clone().into_command().code();
        let Some((at, word)) = self.words.get(filter).copied().flatten() else {
            return Verdict::Continue;
        };
        // Of the recipients, the last one.
        let meant = match event {
            Event::Rcpt(path) => {
                let last = format!("<{}r{}@x>", self.name, self.recipients - 1);
                path.address == last.as_bytes()
            }
            _ => true,
        };
        if at != code || !meant {
            return Verdict::Continue;
        }
        match word {
            Word::Accept => Verdict::Accept,
            Word::Discard => Verdict::Discard,
            Word::Refuse(good) => {
                let text = format!("filter {filter} says no to {}", self.name);
                let (code, enhanced) = if good { (550, "5.7.1") } else { (450, "4.7.1") };
                SmtpReply::new(code, enhanced, &text).map_or(Verdict::Reject, Verdict::Reply)
            }
        }
    }

    /// What a filter changes. Marks come first; there is always one.
    pub(super) fn edits(&self, filter: usize, may: Actions) -> Vec<Edit> {
        let mut chance = Chance::new(self.seed ^ (filter as u64 + 1));
        let name = &self.name;
        let address = |what: &str| Bytes::from(format!("<{name}{what}{filter}@x>"));
        let count = 1 + chance.below(3);
        let mark = |at| {
            Edit::add(
                format!("X-{filter}-{at}"),
                format!("{name} {at} of {count}"),
            )
        };
        let mut edits: Vec<Edit> = (0..count).map(mark).collect();
        if chance.once_in(3) && may.contains(Actions::ADD_RECIPIENT) {
            let address = address("added");
            let args = Bytes::new();
            edits.push(Edit::AddRecipient { address, args });
        }
        if chance.once_in(3) && may.contains(Actions::DELETE_RECIPIENT) {
            let address = address("gone");
            edits.push(Edit::DeleteRecipient { address });
        }
        if chance.once_in(3) && may.contains(Actions::CHANGE_SENDER) {
            let address = address("sender");
            let args = Bytes::new();
            edits.push(Edit::ChangeSender { address, args });
        }
        if chance.once_in(3) && may.contains(Actions::CHANGE_BODY) {
            for piece in 0..=chance.below(2) {
                let line = format!("{name} by {filter} {piece}\r\n");
                let lines = usize::try_from(chance.below(40)).unwrap_or(1);
                edits.push(Edit::ReplaceBody(Bytes::from(line.repeat(lines))));
            }
        }
        edits
    }
}

fn word(chance: &mut Chance) -> Option<(u8, Word)> {
    if !chance.once_in(8) {
        return None;
    }
    let at = PLACES[chance.place(PLACES.len())];
    let word = match chance.below(5) {
        0 => Word::Accept,
        1 => Word::Discard,
        other => Word::Refuse(other > 2),
    };
    Some((at, word))
}

/// The message that a piece of one belongs to.
pub(super) fn name_in(bytes: &[u8]) -> Option<&str> {
    let begin = bytes.iter().position(|byte| *byte == b'm')?;
    let text = &bytes[begin..];
    let end = text.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(&text[..=end]).ok()
}
