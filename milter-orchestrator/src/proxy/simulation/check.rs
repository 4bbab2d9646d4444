//! The invariants, as functions of what was seen.

use std::fmt;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;

use super::filter::Attempt;
use crate::member::OnFailure;

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// Number of the invariant.
    pub(super) invariant: u8,
    /// What was seen.
    pub(super) what: String,
}

pub(super) type Result<T> = std::result::Result<T, Violation>;

impl Violation {
    pub(super) fn new(invariant: u8, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I{}: {}", self.invariant, self.what)
    }
}

/// Says what does not hold.
pub(super) fn require(invariant: u8, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Violation::new(invariant, what()))
    }
}

/// What an MTA has told of one message and got for it.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) message: String,
    pub(super) client: Bytes,
    /// Those that were not refused.
    pub(super) recipients: Vec<String>,
    pub(super) header: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) edits: Vec<Edit>,
}

/// One filter, as a message sees it.
pub(super) struct Witness<'a> {
    /// The last time that it was told of the message.
    pub(super) attempt: Option<&'a Attempt>,
    pub(super) group: usize,
    pub(super) policy: OnFailure,
    /// Something was wrong with it while the message was under way.
    pub(super) troubled: bool,
    /// It hears nothing of the header, nothing of the body.
    pub(super) deaf: (bool, bool),
}

impl Witness<'_> {
    /// It accepted before the end.
    fn is_done(&self) -> bool {
        self.attempt
            .is_some_and(|one| one.word == Some(Verdict::Accept))
    }
}

/// What must hold of a message that is refused, accepted early or thrown away.
pub(super) fn refused(message: &str, word: &Verdict, witnesses: &[Witness<'_>]) -> Result<()> {
    let by_policy = |policies: &[OnFailure]| {
        let speaks = |one: &Witness<'_>| one.troubled && policies.contains(&one.policy);
        witnesses.iter().any(speaks)
    };
    let said = |one: &Witness<'_>| {
        one.attempt
            .is_some_and(|tried| tried.word.as_ref() == Some(word))
    };
    let holds = match word {
        Verdict::Continue => true,
        Verdict::Accept => witnesses.iter().all(Witness::is_done),
        Verdict::Discard => witnesses.iter().any(said),
        Verdict::Reply(reply) => {
            let text = String::from_utf8_lossy(reply.as_bytes()).into_owned();
            require(4, text.ends_with(&format!("no to {message}")), || {
                format!("{message} was answered with {text}")
            })?;
            true
        }
        Verdict::TempFail => by_policy(&[OnFailure::TempFail, OnFailure::Quarantine]),
        Verdict::Reject => by_policy(&[OnFailure::Reject]),
    };
    require(3, holds, || {
        format!("{message}: nobody who may has said {word:?}")
    })
}

/// What must hold of a message that has passed; how many filters it passed without.
pub(super) fn passed(delivery: &Delivery, witnesses: &[Witness<'_>]) -> Result<Vec<usize>> {
    let name = &delivery.message;
    let held = delivery
        .edits
        .iter()
        .any(|edit| matches!(edit, Edit::Quarantine { .. }));
    let mut unseen = Vec::new();
    let mut doubtful = false;
    let mut expected: Vec<Edit> = Vec::new();
    let mut body: Option<Vec<u8>> = None;
    // What filters of this group see.
    let mut shown = (Vec::new(), delivery.body.clone());
    let mut group = 0;
    for (index, witness) in witnesses.iter().enumerate() {
        if witness.group != group {
            group = witness.group;
            shown = (
                marks(&expected),
                body.clone().unwrap_or_else(|| delivery.body.clone()),
            );
        }
        if !is_marked(&delivery.edits, index) {
            if witness.is_done() {
                // Whether its word arrived is not known where something went wrong.
                doubtful |= witness.attempt.is_some_and(|attempt| attempt.broken);
                continue;
            }
            let excused = match witness.policy {
                OnFailure::Accept => witness.troubled,
                OnFailure::Quarantine => witness.troubled && held,
                OnFailure::TempFail | OnFailure::Reject => false,
            };
            require(3, excused, || {
                format!(
                    "{name} passed without filter {index}: {:?}",
                    witness.attempt
                )
            })?;
            unseen.push(index);
            continue;
        }
        let attempt = witness.attempt.filter(|attempt| attempt.message == *name);
        let own = attempt.and_then(|attempt| attempt.passed.as_ref());
        let (Some(attempt), Some(own)) = (attempt, own) else {
            let what = format!("{name} has marks of filter {index}, which did not pass it");
            return Err(Violation::new(3, what));
        };
        seen(delivery, index, witness, attempt, &shown)?;
        add(&mut expected, &mut body, own);
    }
    let expected = (expected, body);
    arrived(delivery, expected, held && unseen.is_empty() && !doubtful)?;
    Ok(unseen)
}

/// The edits that the MTA got are those of the filters that passed the message, all of each and in
/// the chain's order.
fn arrived(
    delivery: &Delivery,
    (expected, body): (Vec<Edit>, Option<Vec<u8>>),
    held_for_nothing: bool,
) -> Result<()> {
    let name = &delivery.message;
    require(3, !held_for_nothing, || {
        format!("{name} was held for nothing")
    })?;
    for edit in &delivery.edits {
        if let Edit::AddHeader { value, .. } = edit {
            let own = super::letter::name_in(value) == Some(name);
            require(4, own, || format!("{name} got a field of {value:?}"))?;
        }
    }
    let of_header = |edit: &&Edit| {
        matches!(
            edit,
            Edit::AddHeader { .. } | Edit::InsertHeader { .. } | Edit::ChangeHeader { .. }
        )
    };
    let of_envelope = |edit: &&Edit| {
        matches!(
            edit,
            Edit::AddRecipient { .. } | Edit::DeleteRecipient { .. } | Edit::ChangeSender { .. }
        )
    };
    let fields = |edits: &[Edit]| -> Vec<String> {
        let shown = edits.iter().filter(of_header).map(|edit| match edit {
            Edit::AddHeader { name, value } => {
                format!("{}:{}", shown(name), shown(value).trim_start())
            }
            other => format!("{other:?}"),
        });
        shown.collect()
    };
    let (got, wanted) = (fields(&delivery.edits), fields(&expected));
    require(5, got == wanted, || {
        format!("{name} got {got:?} for {wanted:?}")
    })?;
    let got: Vec<&Edit> = delivery.edits.iter().filter(of_envelope).collect();
    let wanted: Vec<&Edit> = expected.iter().filter(of_envelope).collect();
    require(5, got == wanted, || {
        format!("{name} got {got:?} for {wanted:?}")
    })?;
    let got = replaced(&delivery.edits);
    require(5, got == body, || format!("{name} got another new body"))
}

/// A filter saw header, body and recipients as those before it left them.
fn seen(
    delivery: &Delivery,
    index: usize,
    witness: &Witness<'_>,
    attempt: &Attempt,
    (marks, body): &(Vec<String>, Vec<u8>),
) -> Result<()> {
    let name = &delivery.message;
    require(4, attempt.client == delivery.client, || {
        format!(
            "filter {index} knows {:?} as the client of {name}",
            attempt.client
        )
    })?;
    let header: Vec<String> = delivery.header.iter().chain(marks).cloned().collect();
    require(6, witness.deaf.0 || attempt.header == header, || {
        format!(
            "filter {index} saw of {name} {:?} for {header:?}",
            attempt.header
        )
    })?;
    require(6, witness.deaf.1 || attempt.body == *body, || {
        let (saw, all) = (attempt.body.len(), body.len());
        format!("filter {index} saw another body of {name}: {saw} bytes for {all}")
    })?;
    let knows = |one: &String| attempt.recipients.is_empty() || attempt.recipients.contains(one);
    require(6, delivery.recipients.iter().all(knows), || {
        format!("filter {index} does not know all recipients of {name}")
    })
}

/// Adds a filter's edits to those before.
fn add(expected: &mut Vec<Edit>, body: &mut Option<Vec<u8>>, own: &[Edit]) {
    if let Some(new) = replaced(own) {
        *body = Some(new);
    }
    for edit in own {
        if matches!(edit, Edit::ChangeSender { .. }) {
            expected.retain(|other| !matches!(other, Edit::ChangeSender { .. }));
        }
        if !matches!(edit, Edit::ReplaceBody(_)) {
            expected.push(edit.clone());
        }
    }
}

/// Header fields that edits add, as later filters see them.
fn marks(edits: &[Edit]) -> Vec<String> {
    let marks = edits.iter().filter_map(|edit| match edit {
        Edit::AddHeader { name, value } => {
            Some(format!("{}:{}", shown(name), shown(value).trim_start()))
        }
        _ => None,
    });
    marks.collect()
}

fn shown(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the first mark of a filter is among the edits.
fn is_marked(edits: &[Edit], filter: usize) -> bool {
    let mark = format!("X-{filter}-0");
    edits
        .iter()
        .any(|edit| matches!(edit, Edit::AddHeader { name, .. } if *name == mark.as_bytes()))
}

/// Whether an edit is one of that filter's marks.
pub(super) fn is_mark(edit: &Edit, filter: usize) -> bool {
    let mark = format!("X-{filter}-");
    matches!(edit, Edit::AddHeader { name, .. } if name.starts_with(mark.as_bytes()))
}

/// The body that edits put in place of the old one.
fn replaced(edits: &[Edit]) -> Option<Vec<u8>> {
    let pieces = edits.iter().filter_map(|edit| match edit {
        Edit::ReplaceBody(piece) => Some(&piece[..]),
        _ => None,
    });
    let pieces: Vec<&[u8]> = pieces.collect();
    (!pieces.is_empty()).then(|| pieces.concat())
}
