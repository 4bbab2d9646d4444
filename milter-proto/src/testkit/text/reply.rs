//! Replies of a filter as text, what it does beside replying, and what is expected of it.

use std::fmt::{self, Display, Formatter};

use bytes::Bytes;

use super::Mistake;
use super::command::{frame_in, framed, offer};
use super::line::Line;
use super::print::{Quoted, Text};
use crate::edit::Edit;
use crate::testkit::mta::Expect;
use crate::testkit::script::Act;
use crate::verdict::SmtpReply;
use crate::wire::Reply;

/// Every reply's word, and its byte (`SMFIR_*`).
const WORDS: [(&str, u8); 21] = [
    ("negotiate", b'O'),
    ("continue", b'c'),
    ("accept", b'a'),
    ("reject", b'r'),
    ("tempfail", b't'),
    ("discard", b'd'),
    ("skip", b's'),
    ("progress", b'p'),
    ("reply", b'y'),
    ("shutdown", b'4'),
    ("connection-failed", b'f'),
    ("add", b'h'),
    ("insert", b'i'),
    ("change", b'm'),
    ("delete", b'm'),
    ("add-recipient", b'+'),
    ("add-recipient-args", b'2'),
    ("delete-recipient", b'-'),
    ("sender", b'e'),
    ("replace-body", b'b'),
    ("quarantine", b'q'),
];

fn words() -> String {
    let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
    words.join(", ")
}

/// Reads a reply whose first word has been read.
fn reply(word: &str, line: &mut Line) -> Result<Reply, Mistake> {
    Ok(match word {
        "negotiate" => Reply::Negotiate(offer(line)?),
        "continue" => Reply::Continue,
        "accept" => Reply::Accept,
        "reject" => Reply::Reject,
        "tempfail" => Reply::TempFail,
        "discard" => Reply::Discard,
        "skip" => Reply::Skip,
        "progress" => Reply::Progress,
        "shutdown" => Reply::Shutdown,
        "connection-failed" => Reply::ConnectionFailed,
        "reply" => {
            let example = "write reply \"550 5.7.1 words\", or frame \"y…\\0\" for any text";
            let text = line.text("a reply's text", example)?;
            let reply = SmtpReply::parse(&text);
            Reply::SmtpReply(reply.map_err(|why| Mistake::new(why.to_string(), example))?)
        }
        word => Reply::Edit(edit(word, line)?),
    })
}

fn edit(word: &str, line: &mut Line) -> Result<Edit, Mistake> {
    Ok(match word {
        "add" => {
            let (name, value) = field(line, "add \"X-Seen\" \"yes\"")?;
            Edit::add(name, value)
        }
        "insert" | "change" => {
            let example = format!("{word} 1 \"X-Seen\" \"yes\"");
            let index = line.number("an index", &example)?;
            let (name, value) = field(line, &example)?;
            match word {
                "insert" => Edit::insert(index, name, value),
                _ => Edit::change(index, name, value),
            }
        }
        "delete" => {
            let example = "delete 1 \"X-Seen\"";
            let index = line.number("an index", example)?;
            Edit::delete(index, line.text("a field's name", example)?)
        }
        "add-recipient" => Edit::AddRecipient {
            address: line.text("an address", "add-recipient \"<user@example.org>\"")?,
            args: line.maybe_text()?.unwrap_or_default(),
        },
        "delete-recipient" => Edit::DeleteRecipient {
            address: line.text("an address", "delete-recipient \"<user@example.org>\"")?,
        },
        "sender" => Edit::ChangeSender {
            address: line.text("an address", "sender \"<user@example.org>\"")?,
            args: line.maybe_text()?.unwrap_or_default(),
        },
        "replace-body" => {
            Edit::ReplaceBody(line.text("a piece of a body", "replace-body \"line\\r\\n\"")?)
        }
        "quarantine" => Edit::Quarantine {
            reason: line.text("a reason", "quarantine \"for a human to see\"")?,
        },
        other => {
            return Err(Mistake::new(
                format!("{other:?} is nothing that a filter does or says"),
                format!(
                    "write {}, raw, frame, wait, close, hang or nothing",
                    words()
                ),
            ));
        }
    })
}

fn field(line: &mut Line, example: &str) -> Result<(Bytes, Bytes), Mistake> {
    let name = line.text("a field's name", example)?;
    Ok((name, line.text("a field's value", example)?))
}

/// Reads raw bytes whose first word has been read, when it is one of theirs.
pub(super) fn bytes(word: &str, line: &mut Line) -> Result<Option<Bytes>, Mistake> {
    Ok(match word {
        "raw" => Some(line.text("bytes", "raw \"\\0\\0\\0\\x01c\"")?),
        "frame" => Some(framed(&line.text("a frame's bytes", "frame \"c\"")?)),
        _ => None,
    })
}

/// Reads acts up to the end of the line.
pub(super) fn acts(line: &mut Line) -> Result<Vec<Act>, Mistake> {
    let mut acts = Vec::new();
    if line.takes("nothing") {
        line.end()?;
        return Ok(acts);
    }
    loop {
        let word = line.word("what the filter does", "at rcpt 2: reject")?;
        acts.push(match (word.as_str(), bytes(&word, line)?) {
            (_, Some(bytes)) => Act::Raw(bytes),
            ("wait", _) => Act::Wait(line.time()?),
            ("close", _) => Act::Close,
            ("hang", _) => Act::Hang,
            (word, None) => Act::Say(reply(word, line)?),
        });
        if line.is_done() {
            return Ok(acts);
        }
        line.mark(';', "at end: add \"X-Seen\" \"yes\"; continue")?;
    }
}

/// Reads expectations up to the end of the line.
pub(super) fn expectations(line: &mut Line) -> Result<Vec<Expect>, Mistake> {
    let mut expected = Vec::new();
    loop {
        let word = line.word("what must come", "< continue")?;
        expected.push(match word.as_str() {
            "nothing" => Expect::Silence,
            "closed" => Expect::Closed,
            "any" => {
                let word = line.word("a reply", "< any change")?;
                let known = WORDS.iter().find(|(name, _)| *name == word);
                let (_, code) = known.ok_or_else(|| {
                    Mistake::new(
                        format!("{word:?} is no reply"),
                        format!("write {}", words()),
                    )
                })?;
                Expect::Kind(*code)
            }
            word => Expect::Reply(reply(word, line)?),
        });
        if line.is_done() {
            return Ok(expected);
        }
        line.mark(';', "< change 1 \"Subject\" \" words\"; continue")?;
    }
}

/// The first word of that byte.
fn word_of(code: u8) -> &'static str {
    let known = WORDS.iter().find(|(_, one)| *one == code);
    known.map_or("unknown", |(word, _)| word)
}

impl Display for Text<'_, Reply> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Negotiate(offer) => Text(offer).fmt(f),
            Reply::SmtpReply(reply) => write!(f, "reply {}", Quoted(reply.as_bytes())),
            Reply::Edit(edit) => Text(edit).fmt(f),
            Reply::Continue
            | Reply::Accept
            | Reply::Reject
            | Reply::TempFail
            | Reply::Discard
            | Reply::Skip
            | Reply::Progress
            | Reply::Shutdown
            | Reply::ConnectionFailed => f.write_str(word_of(self.0.code())),
        }
    }
}

impl Display for Text<'_, Edit> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let arguments = |args: &Bytes| match args.is_empty() {
            true => String::new(),
            false => format!(" {}", Quoted(args)),
        };
        match self.0 {
            Edit::AddHeader { name, value } => {
                write!(f, "add {} {}", Quoted(name), Quoted(value))
            }
            Edit::InsertHeader { index, name, value } => {
                write!(f, "insert {index} {} {}", Quoted(name), Quoted(value))
            }
            Edit::ChangeHeader { index, name, value } if value.is_empty() => {
                write!(f, "delete {index} {}", Quoted(name))
            }
            Edit::ChangeHeader { index, name, value } => {
                write!(f, "change {index} {} {}", Quoted(name), Quoted(value))
            }
            Edit::AddRecipient { address, args } => {
                write!(f, "add-recipient {}{}", Quoted(address), arguments(args))
            }
            Edit::DeleteRecipient { address } => write!(f, "delete-recipient {}", Quoted(address)),
            Edit::ChangeSender { address, args } => {
                write!(f, "sender {}{}", Quoted(address), arguments(args))
            }
            Edit::ReplaceBody(piece) => write!(f, "replace-body {}", Quoted(piece)),
            Edit::Quarantine { reason } => write!(f, "quarantine {}", Quoted(reason)),
        }
    }
}

/// Raw bytes: as a frame when they are one.
pub(super) fn write_bytes(bytes: &Bytes, f: &mut Formatter<'_>) -> fmt::Result {
    match frame_in(bytes) {
        Some(content) => write!(f, "frame {}", Quoted(&content)),
        None => write!(f, "raw {}", Quoted(bytes)),
    }
}

impl Display for Text<'_, Act> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Act::Say(reply) => Text(reply).fmt(f),
            Act::Raw(bytes) => write_bytes(bytes, f),
            Act::Wait(time) => write!(f, "wait {}ms", time.as_millis()),
            Act::Close => f.write_str("close"),
            Act::Hang => f.write_str("hang"),
        }
    }
}

impl Display for Text<'_, Expect> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expect::Reply(reply) => Text(reply).fmt(f),
            Expect::Kind(code) => write!(f, "any {}", word_of(*code)),
            Expect::Silence => f.write_str("nothing"),
            Expect::Closed => f.write_str("closed"),
        }
    }
}
