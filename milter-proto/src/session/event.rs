//! What happens to a message and its connection, one value for each thing that a filter can be
//! told.

use bytes::Bytes;

use crate::message::{Connection, Header, Path};
use crate::session::stage::Question;
use crate::wire::command::Command;
use crate::wire::options::Steps;

/// Something that a filter is told, and mostly asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client connected.
    Connect(Connection),
    /// It gave its name; what was known of an earlier name is replaced.
    Helo(Bytes),
    /// A message begins.
    Mail(Path),
    /// One more recipient.
    Rcpt(Path),
    /// The content is about to come.
    Data,
    /// A header field.
    Header(Header),
    /// The header is complete.
    EndOfHeaders,
    /// A piece of the body.
    Body(Bytes),
    /// The message is complete: edits and the final verdict are wanted.
    EndOfMessage,
    /// A command that the MTA does not know.
    Unknown(Bytes),
    /// The message in hand will not be completed; connection and HELO stay. Never asked about.
    Abort,
    /// The client is gone and another may come on the same milter connection. Never asked about.
    QuitReuse,
}

impl Event {
    /// The command that tells it.
    #[must_use]
    pub fn into_command(self) -> Command {
        match self {
            Self::Connect(connection) => Command::Connect(connection),
            Self::Helo(name) => Command::Helo(name),
            Self::Mail(path) => Command::Mail(path),
            Self::Rcpt(path) => Command::Rcpt(path),
            Self::Data => Command::Data,
            Self::Header(header) => Command::Header(header),
            Self::EndOfHeaders => Command::EndOfHeaders,
            Self::Body(chunk) => Command::Body(chunk),
            Self::EndOfMessage => Command::EndOfMessage(Bytes::new()),
            Self::Unknown(line) => Command::Unknown(line),
            Self::Abort => Command::Abort,
            Self::QuitReuse => Command::QuitReuse,
        }
    }

    /// The bit with which it is left out (`SMFIP_NO*`); empty where it cannot be.
    #[must_use]
    pub const fn left_out_by(&self) -> Steps {
        match self {
            Self::Connect(_) => Steps::NO_CONNECT,
            Self::Helo(_) => Steps::NO_HELO,
            Self::Mail(_) => Steps::NO_MAIL,
            Self::Rcpt(_) => Steps::NO_RCPT,
            Self::Data => Steps::NO_DATA,
            Self::Header(_) => Steps::NO_HEADERS,
            Self::EndOfHeaders => Steps::NO_EOH,
            Self::Body(_) => Steps::NO_BODY,
            Self::Unknown(_) => Steps::NO_UNKNOWN,
            Self::EndOfMessage | Self::Abort | Self::QuitReuse => Steps::empty(),
        }
    }

    /// The bit with which it goes unanswered (`SMFIP_NR_*`); empty where it cannot, or never is
    /// answered.
    #[must_use]
    pub const fn unanswered_by(&self) -> Steps {
        match self {
            Self::Connect(_) => Steps::NR_CONNECT,
            Self::Helo(_) => Steps::NR_HELO,
            Self::Mail(_) => Steps::NR_MAIL,
            Self::Rcpt(_) => Steps::NR_RCPT,
            Self::Data => Steps::NR_DATA,
            Self::Header(_) => Steps::NR_HEADER,
            Self::EndOfHeaders => Steps::NR_EOH,
            Self::Body(_) => Steps::NR_BODY,
            Self::Unknown(_) => Steps::NR_UNKNOWN,
            Self::EndOfMessage | Self::Abort | Self::QuitReuse => Steps::empty(),
        }
    }

    /// What is asked with it; `None` where nothing is.
    pub(crate) const fn question(&self) -> Option<Question> {
        Some(match self {
            Self::Connect(_) => Question::Connect,
            Self::Helo(_) => Question::Helo,
            Self::Mail(_) => Question::Mail,
            Self::Rcpt(_) => Question::Rcpt,
            Self::Data => Question::Data,
            Self::Header(_) => Question::Header,
            Self::EndOfHeaders => Question::EndOfHeaders,
            Self::Body(_) => Question::Body,
            Self::EndOfMessage => Question::EndOfMessage,
            Self::Unknown(_) => Question::Unknown,
            Self::Abort | Self::QuitReuse => return None,
        })
    }
}
