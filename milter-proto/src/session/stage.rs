//! The order of a conversation: one table, followed by both sides.

use std::fmt;

use crate::verdict::Verdict;
use crate::wire::command::Command;
use crate::wire::options::Steps;

/// How far a conversation is. From `Mail` on there is a message in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Nothing was said.
    Start,
    /// Options are negotiated; no client yet.
    Fresh,
    /// There is a client, but no message.
    Client,
    /// The sender is known.
    Mail,
    /// At least one recipient is known.
    Rcpt,
    /// DATA was said.
    Data,
    /// At least one header field is known.
    Headers,
    /// The header is complete.
    Body,
    /// The message is complete, and its verdict is owed.
    End,
}

impl Stage {
    /// Whether there is a message that can be aborted.
    #[must_use]
    pub fn in_message(self) -> bool {
        self >= Self::Mail
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "before the negotiation",
            Self::Fresh => "before CONNECT",
            Self::Client => "between messages",
            Self::Mail => "after MAIL",
            Self::Rcpt => "after RCPT",
            Self::Data => "after DATA",
            Self::Headers => "in the header",
            Self::Body => "in the body",
            Self::End => "at the end of the message",
        })
    }
}

/// What an answer is owed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Connect,
    Helo,
    Mail,
    Rcpt,
    Data,
    Header,
    EndOfHeaders,
    Body,
    EndOfMessage,
    Unknown,
}

impl Question {
    /// Whether it is about a part of the message that is told in one go with others.
    pub(crate) const fn is_content(self) -> bool {
        matches!(self, Self::Header | Self::EndOfHeaders | Self::Body)
    }

    /// Whether `verdict` ends the message in hand. A refusal at RCPT is about one recipient; a
    /// discard there is ended by the MTA with an ABORT.
    pub(crate) const fn is_ended_by(self, verdict: &Verdict) -> bool {
        match self {
            Self::Connect | Self::Helo => false,
            Self::Rcpt | Self::Unknown => matches!(verdict, Verdict::Accept),
            Self::Mail | Self::Data | Self::Header | Self::EndOfHeaders | Self::Body => {
                !matches!(verdict, Verdict::Continue)
            }
            Self::EndOfMessage => true,
        }
    }
}

/// What a command does to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// In order: the stage that follows.
    Go(Stage),
    /// In order, and the end of the message in hand if there is one.
    Restart(Stage),
    /// Means nothing here, and does no harm.
    Ignore,
    /// Out of order: the message in hand is dropped, and an answer is due where one is expected.
    Refuse,
    /// The conversation is over.
    Close,
    /// Not a conversation in this protocol.
    Fault,
}

/// The table.
pub(crate) fn follow(stage: Stage, command: &Command, steps: Steps) -> Move {
    use Command as C;
    use Move::{Close, Fault, Go, Ignore, Refuse, Restart};
    use Stage::{Body, Client, Data, End, Fresh, Headers, Mail, Rcpt, Start};

    match (reached(stage, command, steps), command) {
        // The negotiation comes first, and once.
        (Start, C::Negotiate(_)) => Go(Fresh),
        (Fresh | Client | Mail | Rcpt | Data | Headers | Body | End, C::Negotiate(_)) => Fault,
        // Macros belong to the command that follows, which is judged for itself.
        (Fresh | Client | Mail | Rcpt | Data | Headers | Body | End, C::Macros(_)) => Ignore,

        (Fresh, C::Connect(_)) => Go(Client),
        (Client | Mail | Rcpt | Data | Headers | Body | End, C::Connect(_)) => Refuse,

        // STARTTLS and a second EHLO, inside a message too: Postfix sends no ABORT first.
        (Fresh, C::Helo(_)) => Refuse,
        (Client, C::Helo(_)) => Go(Client),
        (Mail | Rcpt | Data | Headers | Body | End, C::Helo(_)) => Restart(Client),

        (Fresh, C::Mail(_)) => Refuse,
        (Client, C::Mail(_)) => Go(Mail),
        (Mail | Rcpt | Data | Headers | Body | End, C::Mail(_)) => Restart(Mail),

        (Mail | Rcpt, C::Rcpt(_)) => Go(Rcpt),
        (Fresh | Client | Data | Headers | Body | End, C::Rcpt(_)) => Refuse,

        (Rcpt, C::Data) => Go(Data),
        (Fresh | Client | Mail | Data | Headers | Body | End, C::Data) => Refuse,

        // MTAs before version 4 send no DATA.
        (Rcpt | Data | Headers, C::Header(_)) => Go(Headers),
        (Fresh | Client | Mail | Body | End, C::Header(_)) => Refuse,

        (Rcpt | Data | Headers, C::EndOfHeaders) => Go(Body),
        (Fresh | Client | Mail | Body | End, C::EndOfHeaders) => Refuse,

        (Rcpt | Data | Headers, C::Body(_) | C::EndOfMessage(_))
            if !steps.contains(Steps::NO_EOH) =>
        {
            Refuse
        }
        (Rcpt | Data | Headers | Body, C::Body(_)) => Go(Body),
        (Rcpt | Data | Headers | Body, C::EndOfMessage(_)) => Go(End),
        (Fresh | Client | Mail | End, C::Body(_) | C::EndOfMessage(_)) => Refuse,

        (Fresh | Client | Mail | Rcpt, C::Unknown(_)) => Go(stage),
        (Data | Headers | Body | End, C::Unknown(_)) => Refuse,

        // Postfix sends ABORT after every message, and often once more.
        (Fresh | Client, C::Abort) => Ignore,
        (Mail | Rcpt | Data | Headers | Body | End, C::Abort) => Restart(Client),

        (Fresh | Client | Mail | Rcpt | Data | Headers | Body | End, C::QuitReuse) => {
            Restart(Fresh)
        }
        (Start | Fresh | Client | Mail | Rcpt | Data | Headers | Body | End, C::Quit) => Close,

        (
            Start,
            C::Macros(_)
            | C::Connect(_)
            | C::Helo(_)
            | C::Mail(_)
            | C::Rcpt(_)
            | C::Data
            | C::Header(_)
            | C::EndOfHeaders
            | C::Body(_)
            | C::EndOfMessage(_)
            | C::Abort
            | C::Unknown(_)
            | C::QuitReuse,
        ) => Fault,
    }
}

/// Where the MTA may be ahead of `command`, given that it leaves out what was negotiated away.
fn reached(stage: Stage, command: &Command, steps: Steps) -> Stage {
    let mut reached = stage;
    for (at, left_out, next) in [
        (Stage::Fresh, Steps::NO_CONNECT, Stage::Client),
        (Stage::Client, Steps::NO_MAIL, Stage::Mail),
        (Stage::Mail, Steps::NO_RCPT, Stage::Rcpt),
    ] {
        if reached == at && reached < expected_before(command) && steps.contains(left_out) {
            reached = next;
        }
    }
    reached
}

/// The stage that normally comes right before a command; `Start` where any will do.
const fn expected_before(command: &Command) -> Stage {
    match command {
        Command::Helo(_) | Command::Mail(_) => Stage::Client,
        Command::Rcpt(_) => Stage::Mail,
        Command::Data
        | Command::Header(_)
        | Command::EndOfHeaders
        | Command::Body(_)
        | Command::EndOfMessage(_) => Stage::Rcpt,
        Command::Negotiate(_)
        | Command::Macros(_)
        | Command::Connect(_)
        | Command::Abort
        | Command::Unknown(_)
        | Command::Quit
        | Command::QuitReuse => Stage::Start,
    }
}
