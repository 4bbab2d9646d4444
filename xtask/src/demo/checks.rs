//! What the demonstration promises, each promise a check on the evidence.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Evidence;
use super::sending::Sent;
use crate::clamd::TEST_SIGNATURE;
use crate::postfix::{DOMAIN, HOSTNAME};
use crate::smtp::sink::Delivered;
use crate::terminal::{Tone, paint};

/// An ordinary message from outside.
pub(super) const ORDINARY: &str = "ordinary, from outside";
/// A message that leaves us.
pub(super) const OUTGOING: &str = "outgoing, from a trusted client";
/// A message with results that it claims are ours.
pub(super) const FORGED: &str = "forged Authentication-Results";
/// The spam test.
pub(super) const SPAM: &str = "GTUBE";
/// The virus test.
pub(super) const VIRUS: &str = "EICAR, attached";
/// Ten megabytes.
pub(super) const BIG: &str = "10 MB attachment";
/// One of many.
pub(super) const BULK: &str = "mixed mail";

/// A promise and whether it was kept.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    what: &'static str,
    /// Why not.
    problem: Option<String>,
}

impl Check {
    /// From the result of looking.
    pub(super) fn new(what: &'static str, result: Result<()>) -> Self {
        let problem = result.err().map(|error| format!("{error:#}"));
        Self { what, problem }
    }

    /// Whether the promise was broken.
    pub(crate) fn failed(&self) -> bool {
        self.problem.is_some()
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        json!({ "check": self.what, "passed": !self.failed(), "problem": self.problem })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "{}  {}", paint(Tone::Good, "ok"), self.what),
            Some(problem) => write!(f, "{}  {}: {problem}", paint(Tone::Bad, "NO"), self.what),
        }
    }
}

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Taken, and seen at the next hop.
    Delivered,
    /// Answered with 5xx.
    Refused,
    /// Answered with 4xx, or not at all: the sender must come again.
    Deferred,
    /// Taken, and never seen again.
    Lost,
}

impl Fate {
    /// In a word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Deferred => "deferred",
            Self::Lost => "LOST",
        }
    }
}

/// What became of one letter.
pub(super) fn fate(evidence: &Evidence, sent: &Sent) -> Fate {
    match &sent.answer {
        Err(_) => Fate::Deferred,
        Ok(answer) if answer.deferred() => Fate::Deferred,
        Ok(answer) if !answer.accepted() => Fate::Refused,
        Ok(_) if delivered(evidence, sent).is_some() => Fate::Delivered,
        Ok(_) => Fate::Lost,
    }
}

fn delivered<'a>(evidence: &'a Evidence, sent: &Sent) -> Option<&'a Delivered> {
    let to = &sent.letter.to;
    evidence
        .delivered
        .iter()
        .find(|delivered| delivered.to.contains(to))
}

/// How many letters had which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    sent: usize,
    delivered: usize,
    refused: usize,
    deferred: usize,
    lost: usize,
}

impl Counts {
    /// Of all letters.
    pub(super) fn of(evidence: &Evidence) -> Self {
        let mut counts = Self::default();
        for sent in &evidence.sent {
            counts.sent += 1;
            match fate(evidence, sent) {
                Fate::Delivered => counts.delivered += 1,
                Fate::Refused => counts.refused += 1,
                Fate::Deferred => counts.deferred += 1,
                Fate::Lost => counts.lost += 1,
            }
        }
        counts
    }

    /// As JSON.
    pub(super) fn json(self) -> Value {
        let Self {
            sent,
            delivered,
            refused,
            deferred,
            lost,
        } = self;
        json!({
            "sent": sent, "delivered": delivered, "refused": refused, "deferred": deferred,
            "lost": lost
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            delivered,
            refused,
            deferred,
            lost,
        } = self;
        write!(
            f,
            "{sent} sent, {delivered} delivered, {refused} refused, {deferred} deferred, \
             {lost} lost"
        )
    }
}

/// A promise and the look at the evidence that tells whether it was kept.
type Promise = (&'static str, fn(&Evidence) -> Result<()>);

/// All promises but the one about the end.
const PROMISES: &[Promise] = &[
    (
        "an ordinary message arrives with its body unchanged",
        ordinary_arrives,
    ),
    ("it carries our Authentication-Results", results_are_written),
    ("outgoing mail is signed for our domain", outgoing_is_signed),
    (
        "the signatures verify, and not on an altered copy",
        signatures_verify,
    ),
    (
        "a forged Authentication-Results is removed, others stay",
        forged_is_removed,
    ),
    ("GTUBE is refused, by the spam filter", spam_is_refused),
    (
        "EICAR is refused, by the virus filter, with the signature's name",
        virus_is_refused,
    ),
    ("a 10 MB attachment arrives unchanged", big_arrives),
    ("every killed filter is replaced", killed_are_replaced),
    ("the kills defer no message", nothing_deferred),
    (
        "nothing accepted is lost, and nothing is delivered twice",
        nothing_lost,
    ),
    ("nothing that was refused is delivered", nothing_smuggled),
    ("every message has a decision in the log", all_decided),
];

/// Looks at the evidence.
pub(super) fn judge(evidence: &Evidence) -> Vec<Check> {
    let look = |(what, promise): &Promise| Check::new(what, promise(evidence));
    PROMISES.iter().map(look).collect()
}

fn sent<'a>(evidence: &'a Evidence, what: &str) -> Result<&'a Sent> {
    let sent = evidence.sent.iter().find(|sent| sent.letter.what == what);
    sent.with_context(|| format!("no {what} was sent"))
}

/// The delivered form of a special letter.
fn arrived<'a>(evidence: &'a Evidence, what: &str) -> Result<&'a Delivered> {
    let sent = sent(evidence, what)?;
    delivered(evidence, sent).with_context(|| format!("not delivered: {:?}", sent.answer))
}

fn ordinary_arrives(evidence: &Evidence) -> Result<()> {
    same_body(evidence, ORDINARY)
}

fn big_arrives(evidence: &Evidence) -> Result<()> {
    same_body(evidence, BIG)
}

fn same_body(evidence: &Evidence, what: &str) -> Result<()> {
    let arrived = arrived(evidence, what)?;
    let body = split(&sent(evidence, what)?.letter.message).1;
    ensure!(split(&arrived.message).1 == body, "the body has changed");
    Ok(())
}

fn results_are_written(evidence: &Evidence) -> Result<()> {
    let fields = results(arrived(evidence, ORDINARY)?);
    ensure!(
        fields.iter().any(|field| field.starts_with(HOSTNAME)),
        "no Authentication-Results of {HOSTNAME}: {fields:?}"
    );
    Ok(())
}

fn outgoing_is_signed(evidence: &Evidence) -> Result<()> {
    let arrived = arrived(evidence, OUTGOING)?;
    let signatures = fields(&arrived.message, "DKIM-Signature");
    let domain = format!("d={DOMAIN};");
    ensure!(
        signatures
            .iter()
            .any(|field| field.replace(' ', "").contains(&domain)),
        "no DKIM-Signature of {DOMAIN}: {signatures:?}"
    );
    Ok(())
}

fn signatures_verify(evidence: &Evidence) -> Result<()> {
    ensure!(!evidence.signature.is_empty(), "nothing to verify");
    for opinion in &evidence.signature {
        ensure!(opinion.good, "{} says: {}", opinion.who, opinion.said);
    }
    Ok(())
}

fn forged_is_removed(evidence: &Evidence) -> Result<()> {
    let fields = results(arrived(evidence, FORGED)?);
    let forged = fields.iter().any(|field| field.contains("bank.test"));
    ensure!(!forged, "it is still there: {fields:?}");
    let other = fields
        .iter()
        .any(|field| field.starts_with("elsewhere.test"));
    ensure!(other, "the other one is gone: {fields:?}");
    Ok(())
}

fn spam_is_refused(evidence: &Evidence) -> Result<()> {
    refused_by(evidence, SPAM, "spam").map(drop)
}

fn virus_is_refused(evidence: &Evidence) -> Result<()> {
    let text = refused_by(evidence, VIRUS, "clamav")?;
    ensure!(
        text.contains(TEST_SIGNATURE),
        "no name of a signature: {text}"
    );
    Ok(())
}

/// Refused at the end of the message by a filter; returns the text of the answer.
fn refused_by<'a>(evidence: &'a Evidence, what: &str, filter: &str) -> Result<&'a str> {
    let sent = sent(evidence, what)?;
    ensure!(fate(evidence, sent) == Fate::Refused, "{:?}", sent.answer);
    let decision = evidence.decisions.of(sent).context("nothing is logged")?;
    ensure!(decision.by == filter, "decided by {}", decision.by);
    let answer = sent.answer.as_ref().ok().context("no answer")?;
    Ok(&answer.text)
}

fn killed_are_replaced(evidence: &Evidence) -> Result<()> {
    let killed = evidence.kills.len();
    let filters = evidence.filters.len();
    ensure!(
        killed == filters && killed > 0,
        "{killed} of {filters} were killed"
    );
    for kill in &evidence.kills {
        ensure!(
            kill.successor.is_some(),
            "nobody took over from {}",
            kill.filter
        );
    }
    Ok(())
}

fn nothing_deferred(evidence: &Evidence) -> Result<()> {
    let deferred = evidence
        .sent
        .iter()
        .find(|sent| fate(evidence, sent) == Fate::Deferred);
    match deferred {
        None => Ok(()),
        Some(sent) => anyhow::bail!("{}: {:?}", sent.letter.to, sent.answer),
    }
}

fn nothing_lost(evidence: &Evidence) -> Result<()> {
    ensure!(
        evidence.queued == 0,
        "{} stay in the queue",
        evidence.queued
    );
    let counts = Counts::of(evidence);
    ensure!(counts.lost == 0, "{} lost", counts.lost);
    let arrived = evidence.delivered.len();
    ensure!(arrived == counts.delivered, "{arrived} arrived of {counts}");
    Ok(())
}

fn nothing_smuggled(evidence: &Evidence) -> Result<()> {
    for sent in &evidence.sent {
        if fate(evidence, sent) == Fate::Refused {
            let to = &sent.letter.to;
            ensure!(
                delivered(evidence, sent).is_none(),
                "{to} was refused and delivered"
            );
        }
    }
    Ok(())
}

fn all_decided(evidence: &Evidence) -> Result<()> {
    for sent in &evidence.sent {
        let decided = evidence.decisions.of(sent).is_some();
        ensure!(
            decided,
            "nothing is logged of {}: {:?}",
            sent.letter.to,
            sent.answer
        );
    }
    Ok(())
}

fn results(delivered: &Delivered) -> Vec<String> {
    fields(&delivered.message, "Authentication-Results")
}

/// The values of the header fields of a name, unfolded.
fn fields(message: &[u8], name: &str) -> Vec<String> {
    let header = String::from_utf8_lossy(split(message).0).into_owned();
    let unfolded = header.replace("\r\n\t", " ").replace("\r\n ", " ");
    unfolded
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// Header and body of a message with CRLF.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or((message, b""), |at| (&message[..at], &message[at + 4..]))
}

#[cfg(test)]
mod tests;
