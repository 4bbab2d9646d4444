//! Who decides: from how each filter stands to what the MTA is told.
//!
//! Pure. The rule is the one of an MTA that asks its filters one after the other: the first filter
//! in the chain's order that does not let the event pass decides, however late its word comes and
//! whatever the filters after it have said. So a refusal counts only once everybody before it has
//! answered; for content that is when they are done with the message. A filter that failed stands
//! as its `on_failure` says; none ever passes by failing unless that was asked for.

use milter_proto::verdict::{SmtpReply, Verdict};

use crate::counters::Phase;
use crate::member::OnFailure;

/// How far a filter, or the MTA, is: what it is to be told next, or was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Position {
    /// CONNECT.
    Connect,
    /// HELO.
    Helo,
    /// A command that the MTA does not know.
    Unknown,
    /// MAIL.
    Mail,
    /// The recipient of this number.
    Rcpt(usize),
    /// DATA.
    Data,
    /// The header field of this number, as the filter sees them.
    Header(usize),
    /// The end of the header.
    EndOfHeaders,
    /// The body from this offset on.
    Body(u64),
    /// The end of the message.
    EndOfMessage,
    /// Nothing more.
    Finished,
}

impl Position {
    /// What an answer there is counted under.
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Connect => Phase::Connect,
            Self::Helo => Phase::Helo,
            Self::Unknown => Phase::Unknown,
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::Header(_) => Phase::Header,
            Self::EndOfHeaders => Phase::EndOfHeaders,
            Self::Body(_) => Phase::Body,
            Self::EndOfMessage | Self::Finished => Phase::EndOfMessage,
        }
    }
}

/// How a filter stands to the event that the MTA wants an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not answered yet.
    Waiting,
    /// It lets it pass, or need not be asked.
    Passed,
    /// It accepted the message and wants nothing more of it.
    Done,
    /// It does not let it pass.
    Refused(Verdict),
}

/// What the MTA is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing yet.
    Wait,
    /// Go on.
    Continue,
    /// Nobody wants anything more of this message.
    Accept,
    /// The verdict of the filter at this place of the order.
    Refuse {
        /// Its place.
        by: usize,
        /// Its word.
        verdict: Verdict,
    },
}

/// Decides by the standings of all filters, in the chain's order.
pub(crate) fn decide(standings: impl IntoIterator<Item = Standing>) -> Decision {
    let mut asked = false;
    let mut all_done = true;
    for (by, standing) in standings.into_iter().enumerate() {
        asked = true;
        match standing {
            Standing::Waiting => return Decision::Wait,
            Standing::Refused(verdict) => return Decision::Refuse { by, verdict },
            Standing::Passed => all_done = false,
            Standing::Done => {}
        }
    }
    // Without any filter there is nobody who could have accepted.
    if asked && all_done {
        Decision::Accept
    } else {
        Decision::Continue
    }
}

/// Decides about content before its end. There a filter that has let an event pass may still
/// refuse the message, and an MTA that asks one filter after the other would ask it about all of
/// the content before the next one hears any of it. So a refusal waits, as long as somebody before
/// it is not done with the message; what happens at the end is [`decide`]'s again.
pub(crate) fn decide_on_content(standings: impl IntoIterator<Item = Standing>) -> Decision {
    let mut undecided = false;
    decide(standings.into_iter().map(|standing| match standing {
        Standing::Refused(_) if undecided => Standing::Passed,
        Standing::Passed => {
            undecided = true;
            Standing::Passed
        }
        other => other,
    }))
}

/// A refusal in the envelope that the MTA hears of at a later stage only, where it is not asked
/// about the one that was meant. It keeps the text that it would have had: Sendmail has another one
/// for content.
pub(crate) fn held(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Reject => {
            let text = SmtpReply::new(550, "5.7.1", "Command rejected");
            text.map_or(Verdict::Reject, Verdict::Reply)
        }
        verdict => verdict,
    }
}

/// Whether a refusal is for good.
pub(crate) fn is_permanent(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Reject => true,
        Verdict::Reply(reply) => reply.code() >= 500,
        Verdict::Continue | Verdict::Accept | Verdict::TempFail | Verdict::Discard => false,
    }
}

/// How a failed filter stands. Where the MTA cannot quarantine, the message is refused for now.
pub(crate) fn failed(policy: OnFailure, can_quarantine: bool) -> Standing {
    match policy {
        OnFailure::Accept => Standing::Passed,
        OnFailure::Reject => Standing::Refused(Verdict::Reject),
        OnFailure::Quarantine if can_quarantine => Standing::Passed,
        OnFailure::TempFail | OnFailure::Quarantine => Standing::Refused(Verdict::TempFail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.` waits, `c` passed, `a` done, `r` and `t` refused.
    fn standings(text: &str) -> impl Iterator<Item = Standing> {
        text.chars().map(|standing| match standing {
            '.' => Standing::Waiting,
            'c' => Standing::Passed,
            'a' => Standing::Done,
            'r' => Standing::Refused(Verdict::Reject),
            't' => Standing::Refused(Verdict::TempFail),
            other => panic!("unknown standing {other}"),
        })
    }

    fn in_words(decision: Decision) -> String {
        match decision {
            Decision::Wait => "wait".to_owned(),
            Decision::Continue => "continue".to_owned(),
            Decision::Accept => "accept".to_owned(),
            Decision::Refuse { by, verdict } => format!("{verdict:?} by {by}"),
        }
    }

    #[test]
    fn the_first_in_order_decides_once_all_before_it_have_answered() {
        let table = [
            ("", "continue"),
            ("c", "continue"),
            ("cc", "continue"),
            ("a", "accept"),
            ("aa", "accept"),
            ("ac", "continue"),
            (".", "wait"),
            ("c.", "wait"),
            (".r", "wait"),
            ("r.", "Reject by 0"),
            ("cr.", "Reject by 1"),
            ("ctr", "TempFail by 1"),
            ("art", "Reject by 1"),
            ("a.r", "wait"),
        ];
        for (text, expected) in table {
            assert_eq!(in_words(decide(standings(text))), expected, "{text}");
        }
    }

    #[test]
    fn about_content_nobody_decides_before_those_in_front_are_done() {
        let table = [
            ("c", "continue"),
            ("r", "Reject by 0"),
            ("cr", "continue"),
            ("ar", "Reject by 1"),
            ("acr", "continue"),
            ("aa", "accept"),
            ("ca", "continue"),
            (".r", "wait"),
            ("cr.", "wait"),
            ("tcr", "TempFail by 0"),
        ];
        for (text, expected) in table {
            assert_eq!(
                in_words(decide_on_content(standings(text))),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_failure_passes_only_where_that_was_asked_for() {
        let refused = Standing::Refused;
        let table = [
            (OnFailure::Accept, true, Standing::Passed),
            (OnFailure::TempFail, true, refused(Verdict::TempFail)),
            (OnFailure::Reject, true, refused(Verdict::Reject)),
            (OnFailure::Quarantine, true, Standing::Passed),
            (OnFailure::Quarantine, false, refused(Verdict::TempFail)),
        ];
        for (policy, can_quarantine, expected) in table {
            assert_eq!(failed(policy, can_quarantine), expected, "{policy:?}");
        }
    }

    #[test]
    fn a_verdict_keeps_its_text() {
        let text = SmtpReply::new(550, "5.7.1", "no").unwrap();
        let verdict = Verdict::Reply(text);
        let refused = [Standing::Passed, Standing::Refused(verdict.clone())];
        assert_eq!(decide(refused), Decision::Refuse { by: 1, verdict });
    }

    #[test]
    fn positions_are_in_the_order_of_a_session() {
        use Position::*;
        let order = [
            Connect,
            Helo,
            Unknown,
            Mail,
            Rcpt(0),
            Rcpt(1),
            Data,
            Header(0),
            Header(9),
            EndOfHeaders,
            Body(0),
            Body(u64::MAX),
            EndOfMessage,
            Finished,
        ];
        assert!(order.is_sorted());
    }
}
