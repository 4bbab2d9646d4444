//! What happens to a message: a table from what was found, and the configured policy, to the
//! verdict and the header fields. Pure; the only place where this is decided.
//!
//! A message that was not scanned is never marked as clean: its `X-Virus-Scanned` says `no`, and
//! why. Fields with our names that came with a message are removed, the last one first, so that
//! the counting of either kind of MTA is right.

use std::fmt;

use milter_proto::edit::Edit;
use milter_proto::verdict::{InvalidReply, Outcome, SmtpReply, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clamd::Signature;
use crate::scan::{Exemption, Finding};

/// The two fields that are written, and removed where they are forged.
pub const SCANNED: &str = "X-Virus-Scanned";
/// The result in one word, as clamav-milter has it.
pub const STATUS: &str = "X-Virus-Status";

/// How many forged fields of either name are removed. A message with more is refused: an MTA, or
/// a proxy before it, need not take that many changes.
pub const FORGED_MAX: u32 = 1000;

/// What to do with a message in which something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFound {
    /// Refuse it with `reject_text`.
    #[default]
    Reject,
    /// Let the MTA hold it until an operator looks at it.
    Quarantine,
    /// Take it and drop it silently.
    Discard,
    /// Deliver it; the header fields tell what was found.
    Tag,
}

/// What to do with a message that is too large to be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTooLarge {
    /// Refuse it for good: it will not become smaller.
    #[default]
    Reject,
    /// Let the MTA hold it until an operator looks at it.
    Quarantine,
    /// Deliver it unscanned; the header fields say so.
    Accept,
}

/// What to do with a message while no clamd scans it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Refuse it for now: the sender tries again.
    #[default]
    Tempfail,
    /// Refuse it for good.
    Reject,
    /// Let the MTA hold it until an operator looks at it.
    Quarantine,
    /// Deliver it unscanned; the header fields say so.
    Accept,
}

/// The policy for every kind of finding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Malware.
    pub infected: OnFound,
    /// Encrypted content.
    pub encrypted: OnFound,
    /// Larger than a limit.
    pub too_large: OnTooLarge,
    /// Not scanned.
    pub error: OnError,
    /// Text of the refusal of malware.
    pub reject_text: Template,
}

/// A text for the client, with [`Template::SIGNATURE`] where the name of what was found goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Goes on to be delivered.
    Accept,
    /// Is held by the MTA.
    Quarantine,
    /// Is dropped silently.
    Discard,
    /// Is refused for good.
    Reject,
    /// Is refused for now.
    Tempfail,
}

/// A decision, before it is put into the terms of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What becomes of the message.
    pub action: Action,
    /// What the client is told when it is refused.
    reply: Verdict,
    /// Why not scanned, for [`SCANNED`]; `None` when it was.
    unscanned: Option<&'static str>,
    /// For [`STATUS`] and for the quarantine.
    status: String,
}

/// What is known about the header of the message to be marked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marking {
    /// Whether fields are written.
    pub add: bool,
    /// Our host's name, for the field; empty when it is not known.
    pub host: String,
    /// Whether values begin with their own white space.
    pub leading_space: bool,
    /// How many fields [`SCANNED`] are to be removed.
    pub forged_scanned: u32,
    /// How many fields [`STATUS`] are to be removed.
    pub forged_status: u32,
}

/// Decides.
#[must_use]
pub fn rule(finding: &Finding, policy: &Policy) -> Ruling {
    let (action, code, enhanced, text) = match finding {
        Finding::Clean | Finding::Exempt(_) => (Action::Accept, 0, "", String::new()),
        Finding::Infected(name) => {
            let text = policy.reject_text.with(name);
            (policy.infected.into(), 550, "5.7.1", text)
        }
        Finding::Encrypted(name) => {
            let text = format!("encrypted content is not accepted here: {name}");
            (policy.encrypted.into(), 550, "5.7.1", text)
        }
        Finding::Forged => {
            let text = "too many header fields that claim a scan".to_owned();
            (Action::Reject, 550, "5.7.1", text)
        }
        Finding::TooLarge => {
            let text = "message is too large to be scanned for malware".to_owned();
            (policy.too_large.into(), 552, "5.3.4", text)
        }
        Finding::Unscanned(_) => {
            let (code, enhanced, text) = match policy.error {
                OnError::Tempfail => (451, "4.7.1", "malware scanner is not available, try later"),
                OnError::Reject | OnError::Quarantine | OnError::Accept => {
                    (554, "5.7.1", "message could not be scanned for malware")
                }
            };
            (policy.error.into(), code, enhanced, text.to_owned())
        }
    };
    let reply = match (action, SmtpReply::new(code, enhanced, &text)) {
        (Action::Reject | Action::Tempfail, Ok(reply)) => Verdict::Reply(reply),
        (Action::Reject, Err(_)) => Verdict::Reject,
        (Action::Tempfail, Err(_)) => Verdict::TempFail,
        (Action::Discard, _) => Verdict::Discard,
        (Action::Accept | Action::Quarantine, _) => Verdict::Continue,
    };
    Ruling {
        action,
        reply,
        unscanned: unscanned(finding),
        status: status(finding),
    }
}

fn unscanned(finding: &Finding) -> Option<&'static str> {
    match finding {
        Finding::Clean | Finding::Infected(_) => None,
        Finding::Encrypted(_) => Some("encrypted content"),
        Finding::Forged => Some("forged header fields"),
        Finding::TooLarge => Some("too large"),
        Finding::Exempt(Exemption::Network) => Some("client is exempt"),
        Finding::Exempt(Exemption::Authenticated) => Some("client has authenticated"),
        Finding::Unscanned(_) => Some("scanner not available"),
    }
}

fn status(finding: &Finding) -> String {
    match finding {
        Finding::Clean => "Clean".to_owned(),
        Finding::Infected(name) => format!("Infected ({name})"),
        Finding::Encrypted(name) => format!("Encrypted ({name})"),
        Finding::Forged | Finding::TooLarge | Finding::Exempt(_) | Finding::Unscanned(_) => {
            "Not scanned".to_owned()
        }
    }
}

impl Ruling {
    /// In the terms of the protocol.
    #[must_use]
    pub fn outcome(self, marking: &Marking) -> Outcome {
        match self.action {
            Action::Reject | Action::Tempfail | Action::Discard => self.reply.into(),
            Action::Accept | Action::Quarantine => Outcome {
                edits: self.edits(marking),
                verdict: self.reply,
            },
        }
    }

    fn edits(&self, marking: &Marking) -> Vec<Edit> {
        let forged = [
            (SCANNED, marking.forged_scanned),
            (STATUS, marking.forged_status),
        ];
        let delete = |(name, count)| {
            (1..=count)
                .rev()
                .map(move |index| Edit::delete(index, name))
        };
        let mut edits: Vec<Edit> = forged.into_iter().flat_map(delete).collect();
        if marking.add {
            let by = match (self.unscanned, marking.host.as_str()) {
                (Some(reason), _) => format!("no ({reason})"),
                (None, "") => "milter-clamav".to_owned(),
                (None, host) => format!("milter-clamav at {host}"),
            };
            let space = if marking.leading_space { " " } else { "" };
            edits.push(Edit::add(SCANNED, format!("{space}{by}")));
            edits.push(Edit::add(STATUS, format!("{space}{}", self.status)));
        }
        if self.action == Action::Quarantine {
            let reason = format!("malware scan: {}", self.status).into();
            edits.push(Edit::Quarantine { reason });
        }
        edits
    }
}

impl Template {
    /// What is replaced by the name of what was found.
    pub const SIGNATURE: &'static str = "{signature}";

    /// Takes a text after it was tried with the longest name.
    ///
    /// # Errors
    /// When it has more lines than a reply can have.
    pub fn new(text: &str) -> Result<Self, InvalidReply> {
        let template = Self(text.to_owned());
        let longest = Signature::new(&[b'x'; Signature::LENGTH_MAX]);
        SmtpReply::new(550, "5.7.1", &template.with(&longest)).map(|_| template)
    }

    fn with(&self, name: &Signature) -> String {
        self.0.replace(Self::SIGNATURE, name.as_str())
    }
}

impl Default for Template {
    fn default() -> Self {
        Self(format!("malware found: {}", Self::SIGNATURE))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Quarantine => "quarantine",
            Self::Discard => "discard",
            Self::Reject => "reject",
            Self::Tempfail => "tempfail",
        })
    }
}

impl From<OnFound> for Action {
    fn from(policy: OnFound) -> Self {
        match policy {
            OnFound::Reject => Self::Reject,
            OnFound::Quarantine => Self::Quarantine,
            OnFound::Discard => Self::Discard,
            OnFound::Tag => Self::Accept,
        }
    }
}

impl From<OnTooLarge> for Action {
    fn from(policy: OnTooLarge) -> Self {
        match policy {
            OnTooLarge::Reject => Self::Reject,
            OnTooLarge::Quarantine => Self::Quarantine,
            OnTooLarge::Accept => Self::Accept,
        }
    }
}

impl From<OnError> for Action {
    fn from(policy: OnError) -> Self {
        match policy {
            OnError::Tempfail => Self::Tempfail,
            OnError::Reject => Self::Reject,
            OnError::Quarantine => Self::Quarantine,
            OnError::Accept => Self::Accept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        Signature::new(b"Win.Test.EICAR\r\n250 %s")
    }

    fn marking() -> Marking {
        Marking {
            add: true,
            host: "mx.example.org".to_owned(),
            leading_space: true,
            forged_scanned: 2,
            forged_status: 1,
        }
    }

    /// What a client is told, or the word for what happens else.
    fn shown(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Reply(reply) => String::from_utf8_lossy(reply.as_bytes()).into_owned(),
            verdict => format!("{verdict:?}"),
        }
    }

    fn check(finding: &Finding, policy: &Policy, action: Action, verdict: &str, fields: &[&str]) {
        let ruling = rule(finding, policy);
        assert_eq!(ruling.action, action, "{finding:?}");
        let outcome = ruling.outcome(&marking());
        assert_eq!(shown(&outcome.verdict), verdict, "{finding:?}");
        let mut expected: Vec<Edit> = Vec::new();
        if !fields.is_empty() {
            expected.push(Edit::delete(2, SCANNED));
            expected.push(Edit::delete(1, SCANNED));
            expected.push(Edit::delete(1, STATUS));
            expected.push(Edit::add(SCANNED, fields[0].to_owned()));
            expected.push(Edit::add(STATUS, fields[1].to_owned()));
        }
        if action == Action::Quarantine {
            let reason = format!("malware scan:{}", fields[1]).into();
            expected.push(Edit::Quarantine { reason });
        }
        assert_eq!(outcome.edits, expected, "{finding:?}");
    }

    #[test]
    fn clean_and_exempt() {
        let policy = Policy::default();
        let by = " milter-clamav at mx.example.org";
        let clean = [by, " Clean"];
        check(&Finding::Clean, &policy, Action::Accept, "Continue", &clean);
        for (why, text) in [
            (Exemption::Network, " no (client is exempt)"),
            (Exemption::Authenticated, " no (client has authenticated)"),
        ] {
            let fields = [text, " Not scanned"];
            let finding = Finding::Exempt(why);
            check(&finding, &policy, Action::Accept, "Continue", &fields);
        }
    }

    #[test]
    fn found() {
        let infected = Finding::Infected(signature());
        let status = " Infected (Win.Test.EICAR__250_%s)";
        let fields = [" milter-clamav at mx.example.org", status];
        let text = "550 5.7.1 malware found: Win.Test.EICAR__250_%%s";
        for (on, action, verdict, fields) in [
            (OnFound::Reject, Action::Reject, text, &[][..]),
            (OnFound::Discard, Action::Discard, "Discard", &[]),
            (OnFound::Tag, Action::Accept, "Continue", &fields),
            (OnFound::Quarantine, Action::Quarantine, "Continue", &fields),
        ] {
            let policy = Policy {
                infected: on,
                ..Policy::default()
            };
            check(&infected, &policy, action, verdict, fields);
        }
    }

    #[test]
    fn encrypted() {
        let encrypted = Finding::Encrypted(Signature::new(b"Heuristics.Encrypted.Zip"));
        let text = "550 5.7.1 encrypted content is not accepted here: Heuristics.Encrypted.Zip";
        check(&encrypted, &Policy::default(), Action::Reject, text, &[]);
        let policy = Policy {
            encrypted: OnFound::Tag,
            ..Policy::default()
        };
        let fields = [
            " no (encrypted content)",
            " Encrypted (Heuristics.Encrypted.Zip)",
        ];
        check(&encrypted, &policy, Action::Accept, "Continue", &fields);
    }

    /// None of these is ever called clean.
    #[test]
    fn not_scanned() {
        let text = "552 5.3.4 message is too large to be scanned for malware";
        let fields = [" no (too large)", " Not scanned"];
        for (on, action, verdict, fields) in [
            (OnTooLarge::Reject, Action::Reject, text, &[][..]),
            (OnTooLarge::Accept, Action::Accept, "Continue", &fields),
            (
                OnTooLarge::Quarantine,
                Action::Quarantine,
                "Continue",
                &fields,
            ),
        ] {
            let policy = Policy {
                too_large: on,
                ..Policy::default()
            };
            check(&Finding::TooLarge, &policy, action, verdict, fields);
        }
        let text = "550 5.7.1 too many header fields that claim a scan";
        let policy = Policy::default();
        check(&Finding::Forged, &policy, Action::Reject, text, &[]);
        let later = "451 4.7.1 malware scanner is not available, try later";
        let never = "554 5.7.1 message could not be scanned for malware";
        let fields = [" no (scanner not available)", " Not scanned"];
        for (on, action, verdict, fields) in [
            (OnError::Tempfail, Action::Tempfail, later, &[][..]),
            (OnError::Reject, Action::Reject, never, &[]),
            (OnError::Accept, Action::Accept, "Continue", &fields),
            (OnError::Quarantine, Action::Quarantine, "Continue", &fields),
        ] {
            let policy = Policy {
                error: on,
                ..Policy::default()
            };
            let finding = Finding::Unscanned("unix:/secret/path: gone".to_owned());
            check(&finding, &policy, action, verdict, fields);
        }
    }

    #[test]
    fn nothing_is_written_where_nothing_is_wanted() {
        let marking = Marking::default();
        let outcome = rule(&Finding::Clean, &Policy::default()).outcome(&marking);
        assert_eq!(outcome, Outcome::default());
        let marking = Marking {
            add: true,
            ..marking
        };
        let outcome = rule(&Finding::Clean, &Policy::default()).outcome(&marking);
        assert_eq!(outcome.edits[0], Edit::add(SCANNED, "milter-clamav"));
    }

    #[test]
    fn a_text_has_to_fit_into_a_reply() {
        assert!(Template::new("no {signature}, please\nread https://example.org").is_ok());
        assert!(Template::new(&"x\n".repeat(33)).is_err());
    }
}
