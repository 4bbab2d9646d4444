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
        Finding::TooLarge | Finding::Exempt(_) | Finding::Unscanned(_) => "Not scanned".to_owned(),
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
