//! Verifies the signatures of a message (RFC 6376 §6), in three steps and without waiting for
//! anything.
//!
//! [`Verification::new`] takes the whole header, picks the signatures worth the work and hashes
//! what they sign; the header is not needed after that. [`Verification::body`] takes the body as it
//! arrives. [`Verification::finish`] takes the keys, which the caller fetched meanwhile by the
//! names from [`Verification::key_names`], and reports on each signature. `now` comes from the
//! caller.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use super::body_hash::{BodyHash, BodyHasher, BodyHashes, Coverage, Digest};
use super::canonical;
use super::key::KeyRecord;
use super::lookup::KeyAnswers;
use super::report::{Failure, Report};
use super::signature::{FIELD, InvalidSignature, Signature};
use crate::auth::address::Mailbox;
use crate::auth::dns::{DnsError, Txt};
use crate::auth::domain::Domain;
use crate::auth::header::{Field, Header};

/// What is verified, and what is good enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Signatures verified at most; those of the author's domain come first, then the topmost.
    pub signatures_max: usize,
    /// How far the clock of a signer may be off.
    pub clock_skew: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            signatures_max: 10,
            clock_skew: Duration::from_secs(300),
        }
    }
}

/// A message being verified.
pub struct Verification {
    candidates: Vec<Candidate>,
    passed_over: usize,
    body: BodyHasher,
}

/// A signature that was picked.
enum Candidate {
    /// It needs its key and the body.
    Open(Box<Prepared>),
    /// It is decided already.
    Settled(Report),
}

/// A signature with all that is needed from the header.
struct Prepared {
    signature: Signature,
    key_name: Domain,
    header_hash: Digest,
    covers_every_from: bool,
}

impl Verification {
    /// Looks at the header, at a time in seconds since 1970.
    #[must_use]
    pub fn new(header: &Header, policy: &Policy, now: u64) -> Self {
        let all: Vec<_> = header
            .named(FIELD)
            .map(|field| (field, Signature::parse(&field.value)))
            .collect();
        let author = author(header);
        let picked = pick(&all, author.as_ref(), policy.signatures_max);
        let mut body = BodyHasher::default();
        let mut candidates = Vec::new();
        let passed_over = all.len() - picked.len();
        for (index, (field, parsed)) in all.into_iter().enumerate() {
            if !picked.contains(&index) {
                continue;
            }
            let candidate = prepare(header, field, parsed, policy, now);
            if let Candidate::Open(prepared) = &candidate {
                let signature = &prepared.signature;
                body.request(signature.canonicalization.body, signature.length);
            }
            candidates.push(candidate);
        }
        Self {
            candidates,
            passed_over,
            body,
        }
    }

    /// The names under which keys are needed, each once.
    #[must_use]
    pub fn key_names(&self) -> Vec<Domain> {
        let mut names: Vec<Domain> = Vec::new();
        for candidate in &self.candidates {
            if let Candidate::Open(prepared) = candidate
                && !names.contains(&prepared.key_name)
            {
                names.push(prepared.key_name.clone());
            }
        }
        names
    }

    /// Signatures beyond the limit, which nobody looks at.
    #[must_use]
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Takes the next chunk of the body, split anywhere.
    pub fn body(&mut self, chunk: &[u8]) {
        self.body.push(chunk);
    }

    /// Whether the rest of the body cannot change any result.
    #[must_use]
    pub fn needs_no_more_body(&self) -> bool {
        self.body.is_satisfied()
    }

    /// The body is complete and the keys are there: one report for each signature picked, in the
    /// order of the header.
    #[must_use]
    pub fn finish(self, keys: &KeyAnswers) -> Vec<Report> {
        let hashes = self.body.finish();
        let conclude = |candidate| match candidate {
            Candidate::Settled(report) => report,
            Candidate::Open(prepared) => prepared.conclude(keys, &hashes),
        };
        self.candidates.into_iter().map(conclude).collect()
    }
}

/// The domain of the author: of the topmost From field.
fn author(header: &Header) -> Option<Domain> {
    let field = header.named("From").next()?;
    Mailbox::first(&field.value).map(|mailbox| mailbox.domain)
}

/// Indexes of the signatures to verify: of the author's domain first, so that junk on top cannot
/// hide them.
fn pick(
    all: &[(&Field, Result<Signature, InvalidSignature>)],
    author: Option<&Domain>,
    limit: usize,
) -> Vec<usize> {
    let is_aligned = |index: &usize| match (all.get(*index), author) {
        (Some((_, Ok(signature))), Some(author)) => {
            author.is_within(&signature.domain) || signature.domain.is_within(author)
        }
        _ => false,
    };
    let (mut order, rest): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(is_aligned);
    order.extend(rest);
    order.truncate(limit);
    order
}

/// Checks what the header and the clock alone can tell, and hashes the header.
fn prepare(
    header: &Header,
    field: &Field,
    parsed: Result<Signature, InvalidSignature>,
    policy: &Policy,
    now: u64,
) -> Candidate {
    let signature = match parsed {
        Ok(signature) => signature,
        Err(invalid) => return Candidate::Settled(report_invalid(invalid)),
    };
    let key_name = match check_time(&signature, policy, now)
        .and_then(|()| signature.key_name().map_err(Failure::from))
    {
        Ok(name) => name,
        Err(failure) => return Candidate::Settled(Report::of(&signature, Err(failure))),
    };
    let is_from = |name: &&String| name.eq_ignore_ascii_case("From");
    Candidate::Open(Box::new(Prepared {
        key_name,
        header_hash: hash_header(header, field, &signature),
        covers_every_from: signature.signed.iter().filter(is_from).count() >= header.count("From"),
        signature,
    }))
}

/// A report on a field that is no signature.
fn report_invalid(invalid: InvalidSignature) -> Report {
    Report {
        outcome: Err(invalid.reason.into()),
        domain: invalid.domain,
        selector: invalid.selector,
        identity: None,
        algorithm: None,
        signature_start: None,
        key_bits: None,
        testing: false,
    }
}

/// `x=` and `t=` against the clock.
fn check_time(signature: &Signature, policy: &Policy, now: u64) -> Result<(), Failure> {
    let skew = policy.clock_skew.as_secs();
    if signature
        .expiration
        .is_some_and(|end| end.saturating_add(skew) < now)
    {
        return Err(Failure::Expired);
    }
    if signature
        .timestamp
        .is_some_and(|start| start > now.saturating_add(skew))
    {
        return Err(Failure::Future);
    }
    Ok(())
}

/// The header hash (RFC 6376 §3.7): the signed fields, then the signature's own without its value
/// of `b=`.
fn hash_header(header: &Header, field: &Field, signature: &Signature) -> Digest {
    let form = signature.canonicalization.header;
    let mut context = Context::new(&SHA256);
    for signed in header.select(&signature.signed) {
        context.update(&canonical::field(form, signed));
        context.update(b"\r\n");
    }
    let own = Field {
        name: field.name.clone(),
        value: signature.without_signature(&field.value),
    };
    context.update(&canonical::field(form, &own));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

impl Prepared {
    /// All that is needed is there.
    fn conclude(&self, keys: &KeyAnswers, hashes: &BodyHashes) -> Report {
        let record = match self.find_key(keys) {
            Ok(record) => record,
            Err(failure) => return Report::of(&self.signature, Err(failure)),
        };
        let length = self.signature.length;
        let outcome = match hashes.hash(self.signature.canonicalization.body, length) {
            Some(body) => self.check(&record, body),
            None => Err(Failure::BodyHash),
        };
        Report {
            key_bits: Some(record.key.bits()),
            testing: record.testing,
            ..Report::of(&self.signature, outcome)
        }
    }

    /// The first record that is a key for the signature's algorithm; else why the first one is not.
    fn find_key(&self, keys: &KeyAnswers) -> Result<KeyRecord, Failure> {
        let records: &[Txt] = match keys.get(&self.key_name) {
            Some(Ok(records)) => records,
            Some(Err(DnsError::NoRecords)) | None => return Err(Failure::NoKey),
            Some(Err(error)) => return Err(Failure::KeyUnavailable(error.clone())),
        };
        let mut first = None;
        for record in records {
            let parsed = KeyRecord::parse(record).map_err(Failure::from);
            let fitting = parsed.and_then(|record| {
                let fits = record.key.algorithm() == self.signature.algorithm;
                if fits {
                    Ok(record)
                } else {
                    Err(Failure::KeyMismatch)
                }
            });
            match fitting {
                Ok(record) => return Ok(record),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or(Failure::NoKey))
    }

    /// The checks in the order in which their failures say most.
    fn check(&self, record: &KeyRecord, body: BodyHash) -> Result<(), Failure> {
        let signature = &self.signature;
        if record.strict_identity && signature.identity.domain != signature.domain {
            return Err(Failure::StrictIdentity);
        }
        if body.coverage == Coverage::TooShort {
            return Err(Failure::BodyTooShort);
        }
        if signature.body_hash != body.digest {
            return Err(Failure::BodyHash);
        }
        if !record.key.verifies(&self.header_hash, &signature.signature) {
            return Err(Failure::Mismatch);
        }
        if matches!(body.coverage, Coverage::Part { .. }) {
            return Err(Failure::UncoveredBody);
        }
        if !self.covers_every_from {
            return Err(Failure::UncoveredFrom);
        }
        Ok(())
    }
}
