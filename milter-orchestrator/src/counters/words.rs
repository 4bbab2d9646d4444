//! The words that numbers are kept for: what a filter answers, how it fails, what it changes.
//!
//! Each is an enum with all of its values in order, so that a row of numbers can stand for it. The
//! names that they are written with are part of `status --json` and stay.

use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;
use serde::{Deserialize, Serialize};

use crate::member::OnFailure;

/// An enum that numbers are kept for: all of its values, each at the place of its number.
pub(crate) trait Label: Copy + Ord + 'static {
    /// All values, in order.
    const ALL: &'static [Self];
    /// The place of this one among them.
    fn number(self) -> usize;
}

/// Declares an enum with all of its values in order.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$one:meta])* $value:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$one])* $value,)* }

        impl $name {
            /// How many values there are.
            pub(crate) const COUNT: usize = Self::VALUES.len();
            /// All of them, in order.
            pub(crate) const VALUES: &'static [Self] = &[$(Self::$value),*];
        }

        impl Label for $name {
            const ALL: &'static [Self] = Self::VALUES;

            fn number(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What a filter answers.
    Word {
        /// Go on; at the end of the message: it may pass.
        Continue,
        /// It may pass, and the filter wants to hear no more of it.
        Accept,
        /// No, with the MTA's own text.
        Reject,
        /// Not now, with the MTA's own text.
        Tempfail,
        /// No, or not now, with a text of the filter's.
        Reply,
        /// Taken and thrown away.
        Discard,
        /// Go on, without more of the same kind.
        Skip,
    }
}

label! {
    /// How a filter failed.
    Failure {
        /// It cannot be reached.
        Connect,
        /// It did not answer, or took nothing, in time.
        Timeout,
        /// It closed the connection, or the connection broke.
        Closed,
        /// It said what nobody asked, what is not allowed there, or what is no reply at all.
        Desync,
        /// What it said is over a limit.
        Oversize,
        /// It had failed too often and was not tried.
        Breaker,
    }
}

label! {
    /// What a filter's crash in the middle of a message led to.
    Crash {
        /// It was another message that the filter crashed on: told again without being counted.
        Excused,
        /// The filter has crashed on this message twice, which is remembered.
        Poison,
        /// Not told of a message on which it had crashed twice before.
        Spared,
        /// Not told again, because that was necessary too often of late.
        Unbudgeted,
    }
}

label! {
    /// What a filter changes in a message.
    Change {
        /// Header fields added, inserted, changed or deleted.
        Header,
        /// Recipients added or removed, senders changed.
        Envelope,
        /// Bodies replaced.
        Body,
        /// Messages put into quarantine.
        Quarantine,
    }
}

label! {
    /// How a connection to a filter came about.
    Link {
        /// It was made, and negotiated.
        New,
        /// It was kept from an earlier client (`pool`).
        Kept,
    }
}

label! {
    /// What a filter was asked about.
    Phase {
        /// The client.
        Connect,
        /// Its name.
        Helo,
        /// A command that the MTA does not know.
        Unknown,
        /// The sender.
        Mail,
        /// A recipient.
        Rcpt,
        /// DATA.
        Data,
        /// A header field.
        Header,
        /// The end of the header.
        EndOfHeaders,
        /// A piece of the body.
        Body,
        /// The end of the message.
        EndOfMessage,
    }
}

label! {
    /// What came of telling a message to a filter a second time.
    Replay {
        /// The filter said its word.
        Ok,
        /// It failed again.
        Failed,
        /// The message was over before it had a word.
        Unneeded,
    }
}

label! {
    /// Which mail server it is.
    Mta {
        /// It said so, or said nothing of itself.
        Postfix,
        /// It said so.
        Sendmail,
    }
}

label! {
    /// What became of a message.
    Decision {
        /// It may pass.
        Accept,
        /// It may pass, into the MTA's quarantine.
        Quarantine,
        /// It was refused for good.
        Reject,
        /// It was refused for now.
        Tempfail,
        /// It was taken and thrown away.
        Discard,
        /// The MTA gave it up before there was a word.
        Abandoned,
    }
}

label! {
    /// How the connection of an MTA went wrong.
    MtaFault {
        /// What it sent is not the milter protocol.
        Frame,
        /// It broke the order of the protocol.
        Protocol,
        /// The connection broke.
        Broken,
        /// It took nothing, or did not complete a command.
        Stalled,
        /// It said nothing for too long.
        Idle,
    }
}

impl Decision {
    /// Of a verdict; `held` when there are reasons for quarantine.
    #[must_use]
    pub fn of(verdict: Option<&Verdict>, held: bool) -> Self {
        match verdict {
            None => Self::Abandoned,
            Some(Verdict::Continue | Verdict::Accept) if held => Self::Quarantine,
            Some(Verdict::Continue | Verdict::Accept) => Self::Accept,
            Some(Verdict::Reject) => Self::Reject,
            Some(Verdict::TempFail) => Self::Tempfail,
            Some(Verdict::Reply(reply)) if reply.is_temporary() => Self::Tempfail,
            Some(Verdict::Reply(_)) => Self::Reject,
            Some(Verdict::Discard) => Self::Discard,
        }
    }
}

impl From<&Verdict> for Word {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Continue => Self::Continue,
            Verdict::Accept => Self::Accept,
            Verdict::Reject => Self::Reject,
            Verdict::TempFail => Self::Tempfail,
            Verdict::Reply(_) => Self::Reply,
            Verdict::Discard => Self::Discard,
        }
    }
}

impl From<&Edit> for Change {
    fn from(edit: &Edit) -> Self {
        match edit {
            Edit::AddHeader { .. } | Edit::InsertHeader { .. } | Edit::ChangeHeader { .. } => {
                Self::Header
            }
            Edit::AddRecipient { .. }
            | Edit::DeleteRecipient { .. }
            | Edit::ChangeSender { .. } => Self::Envelope,
            Edit::ReplaceBody(_) => Self::Body,
            Edit::Quarantine { .. } => Self::Quarantine,
        }
    }
}

impl Label for OnFailure {
    const ALL: &'static [Self] = &[Self::Accept, Self::TempFail, Self::Reject, Self::Quarantine];

    fn number(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_the_place_of_its_number() {
        fn check<L: Label + std::fmt::Debug>() {
            for (number, value) in L::ALL.iter().enumerate() {
                assert_eq!(value.number(), number, "{value:?}");
            }
        }
        check::<Word>();
        check::<Failure>();
        check::<Change>();
        check::<Crash>();
        check::<Phase>();
        check::<Link>();
        check::<Replay>();
        check::<Mta>();
        check::<Decision>();
        check::<MtaFault>();
        check::<OnFailure>();
    }
}
