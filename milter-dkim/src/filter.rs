//! The milter: what it asks of the MTA, and what it does at each stage.
//!
//! At the end of the header it is decided whether to sign or to verify ([`decide`]); then the
//! header is let go, the body is hashed as it comes, and keys are fetched meanwhile. The MTA is
//! never kept waiting before the end of the message. A message is never refused for what its
//! signatures are; it is put off when signing fails by our own fault, and refused when it brings
//! more forged results than can be removed ([`FORGED_MAX`]). One line of log for each message.

use std::sync::Arc;

use bytes::Bytes;
use milter_proto::daemon::escaped;
use milter_proto::edit::Edit;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::message;
use milter_proto::verdict::{BodyVerdict, Outcome, SmtpReply, Verdict};
use milter_proto::wire::options::{Actions, Steps};
use tracing::{error, info, warn};

use crate::auth::dkim::lookup::KeyLookups;
use crate::auth::dkim::private_key::CryptoError;
use crate::auth::dkim::report::{DkimResult, Report, unsigned};
use crate::auth::dkim::sign::{SignError, Signer, Signing};
use crate::auth::dkim::signature::Signature;
use crate::auth::dkim::verify::Verification;
use crate::auth::header::{Field, Header, TooLarge};
use crate::auth::results::{self, AuthenticationResults, MethodResult};
use crate::config::Meaning;
use crate::decide::{Decision, NoAuthor, Subject, author, decide};

/// How many fields in our name are removed. A message with more is refused: each removal makes an
/// MTA read through the header once more, and nobody but a forger sends that many.
pub const FORGED_MAX: usize = 1000;

/// The filter; one for all connections.
pub struct DkimFilter {
    meaning: Arc<Meaning>,
}

impl DkimFilter {
    /// A filter that does what the configuration means.
    #[must_use]
    pub fn new(meaning: Meaning) -> Self {
        Self {
            meaning: Arc::new(meaning),
        }
    }
}

impl Filter for DkimFilter {
    type Transaction = Message;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::ADD_HEADERS | Actions::CHANGE_HEADERS,
            // Body chunks are answered, so that the MTA can be told to skip the rest.
            steps: Steps::NO_HELO
                | Steps::NO_RCPT
                | Steps::NO_DATA
                | Steps::NO_UNKNOWN
                | Steps::NR_CONNECT
                | Steps::NR_MAIL
                | Steps::NR_HEADER
                | Steps::NR_EOH
                | Steps::SKIP
                | Steps::LEADING_SPACE,
            macros: Vec::new(),
        }
    }

    fn begin(&self, cx: Context<'_>) -> Message {
        Message {
            authserv_id: authserv_id(&self.meaning, cx),
            results: ResultFields::default(),
            stage: Stage::Header(Ok(Header::with_limit(self.meaning.header_max))),
            meaning: Arc::clone(&self.meaning),
        }
    }
}

/// In whose name results are written: the configured one, else the MTA's.
fn authserv_id(meaning: &Meaning, cx: Context<'_>) -> String {
    let configured = meaning.authserv_id.clone();
    let name = || {
        cx.macro_value("j")
            .map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let name = configured.or_else(name).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "localhost".to_owned())
}

/// One message.
pub struct Message {
    meaning: Arc<Meaning>,
    authserv_id: String,
    results: ResultFields,
    stage: Stage,
}

/// Authentication-Results fields seen, by the numbers that the MTA counts them with.
#[derive(Default)]
struct ResultFields {
    seen: u32,
    /// Those that claim to be ours.
    forged: Vec<u32>,
}

/// How far a message is.
enum Stage {
    /// The header comes in.
    Header(Result<Header, TooLarge>),
    /// It is ours.
    Signing(Box<Signing>, Summary),
    /// It is to be verified.
    Verifying(Box<Verification>, KeyLookups, Summary),
    /// It has a header that nobody can verify.
    Unverifiable(TooLarge, Summary),
    /// It is left alone.
    Idle(Summary),
}

/// What the log says about the decision.
#[derive(Debug, Clone)]
struct Summary {
    decision: &'static str,
    reason: String,
}

impl Transaction for Message {
    async fn header(&mut self, cx: Context<'_>, header: message::Header) -> Verdict {
        if header.is(results::FIELD) {
            self.results.note(&header.value, &self.authserv_id);
        }
        if let Stage::Header(kept) = &mut self.stage
            && let Ok(fields) = kept
            && let Err(too_large) = fields.push(field(&header, cx.leading_space()))
        {
            *kept = Err(too_large);
        }
        Verdict::Continue
    }

    async fn end_of_headers(&mut self, cx: Context<'_>) -> Verdict {
        self.decide(cx);
        Verdict::Continue
    }

    async fn body(&mut self, cx: Context<'_>, chunk: Bytes) -> BodyVerdict {
        self.decide(cx);
        match &mut self.stage {
            Stage::Signing(signing, _) => {
                signing.body(&chunk);
                BodyVerdict::default()
            }
            Stage::Verifying(verification, ..) => {
                verification.body(&chunk);
                match verification.needs_no_more_body() {
                    true => BodyVerdict::Skip,
                    false => BodyVerdict::default(),
                }
            }
            Stage::Header(_) | Stage::Unverifiable(..) | Stage::Idle(_) => BodyVerdict::Skip,
        }
    }

    async fn finish(mut self, cx: Context<'_>) -> Outcome {
        // An MTA may leave out the end of an empty header.
        self.decide(cx);
        let report = Finish {
            results: self.results,
            authserv_id: self.authserv_id,
            queue_id: cx.queue_id().to_vec(),
            leading_space: cx.leading_space(),
        };
        match self.stage {
            Stage::Signing(signing, summary) => report.sign(*signing, &summary).await,
            Stage::Verifying(verification, lookups, summary) => {
                report.verify(*verification, lookups, &summary).await
            }
            Stage::Unverifiable(too_large, summary) => report.unverifiable(too_large, &summary),
            Stage::Idle(summary) => report.idle(&summary),
            Stage::Header(_) => Outcome::default(),
        }
    }
}

impl Message {
    /// Leaves the header stage, if it is still in it.
    fn decide(&mut self, cx: Context<'_>) {
        let Stage::Header(header) = &mut self.stage else {
            return;
        };
        let header = std::mem::replace(header, Ok(Header::default()));
        let no_login = Bytes::new();
        let login = ["auth_authen", "auth_type"]
            .iter()
            .find_map(|name| cx.macro_value(name).filter(|value| !value.is_empty()));
        let subject = Subject {
            client: cx.connection().map(|connection| &connection.address),
            login: login.unwrap_or(&no_login),
            author: header
                .as_ref()
                .map_or(Err(NoAuthor::HeaderTooLarge), author),
        };
        let meaning = &self.meaning;
        let decision = decide(&subject, meaning.mode, &meaning.internal, &meaning.table);
        self.stage = enter(meaning, header, &decision);
    }
}

/// The stage that a decision leads to.
fn enter(meaning: &Meaning, header: Result<Header, TooLarge>, decision: &Decision<'_>) -> Stage {
    let summary = Summary {
        decision: decision.word(),
        reason: decision.reason(),
    };
    let header = match (header, decision) {
        (Err(too_large), Decision::Verify(_)) => return Stage::Unverifiable(too_large, summary),
        (Err(too_large), _) => return Stage::Idle(summary.instead(&too_large.to_string())),
        (Ok(header), _) => header,
    };
    let now = (meaning.clock)();
    match decision {
        Decision::Nothing(_) => Stage::Idle(summary),
        Decision::Verify(_) => {
            let verification = Verification::new(&header, &meaning.policy, now);
            let names = verification.key_names();
            let lookups = KeyLookups::start(&meaning.dns, names, meaning.keys_within);
            Stage::Verifying(Box::new(verification), lookups, summary)
        }
        Decision::Sign { keys, .. } => {
            let signers: Vec<Signer> = keys.iter().map(|entry| entry.signer.clone()).collect();
            match Signing::new(&header, &signers, &meaning.style, now) {
                Ok(signing) => Stage::Signing(Box::new(signing), summary),
                Err(error) => Stage::Idle(summary.instead(&error.to_string())),
            }
        }
    }
}

impl Summary {
    /// It was decided otherwise, but it cannot be done.
    fn instead(self, reason: &str) -> Self {
        Self {
            decision: "nothing",
            reason: format!("{reason} (would {}: {})", self.decision, self.reason),
        }
    }
}

impl ResultFields {
    /// Another Authentication-Results field.
    fn note(&mut self, value: &[u8], authserv_id: &str) {
        self.seen = self.seen.saturating_add(1);
        if self.forged.len() <= FORGED_MAX && results::speaks_for(value, authserv_id) {
            self.forged.push(self.seen);
        }
    }
}

/// A field as it was signed: the MTA may have taken the space after the colon away.
fn field(header: &message::Header, leading_space: bool) -> Field {
    // Only one space is ever taken, so what still begins with a tab or a fold had none; nor can
    // anybody tell for an empty value.
    let taken =
        !leading_space && !matches!(header.value.first(), None | Some(b'\t' | b'\r' | b'\n'));
    match taken {
        true => Field::new(&header.name[..], [b" ", &header.value[..]].concat()),
        false => Field::new(&header.name[..], &header.value),
    }
}

/// What the end of a message needs beside its stage.
struct Finish {
    results: ResultFields,
    authserv_id: String,
    queue_id: Vec<u8>,
    leading_space: bool,
}

impl Finish {
    /// Signs, away from the threads that serve connections: an RSA signature takes a millisecond.
    async fn sign(self, signing: Signing, summary: &Summary) -> Outcome {
        let signed = tokio::task::spawn_blocking(move || signing.finish()).await;
        let queue_id = escaped(&self.queue_id);
        let fields = match signed {
            Ok(Ok(fields)) => fields,
            Ok(Err(error)) => return self.failed(&error),
            Err(_) => {
                return self.failed(&SignError::Crypto(CryptoError));
            }
        };
        let keys: Vec<String> = fields.iter().map(key_of).collect();
        let keys = keys.join(", ");
        info!(%queue_id, decision = summary.decision, reason = summary.reason, keys);
        // The first ends up on top.
        let edits = fields.iter().rev().map(|field| self.insert(field));
        Outcome {
            edits: edits.collect(),
            verdict: Verdict::Continue,
        }
    }

    /// Signing failed by our own fault: the MTA shall try again.
    fn failed(&self, reason: &SignError) -> Outcome {
        let queue_id = escaped(&self.queue_id);
        error!(%queue_id, decision = "tempfail", %reason);
        Verdict::TempFail.into()
    }

    /// Waits for the keys and reports.
    async fn verify(
        self,
        verification: Verification,
        lookups: KeyLookups,
        summary: &Summary,
    ) -> Outcome {
        let keys = lookups.collect().await;
        let passed_over = verification.passed_over();
        let reports = verification.finish(&keys);
        let queue_id = escaped(&self.queue_id);
        let results: Vec<String> = reports.iter().map(ToString::to_string).collect();
        let results = match results.is_empty() {
            true => DkimResult::None.to_string(),
            false => results.join(", "),
        };
        let forged = self.results.forged.len();
        info!(
            %queue_id, decision = summary.decision, reason = summary.reason, results, passed_over,
            forged
        );
        let results = match reports.is_empty() {
            true => vec![unsigned()],
            false => reports.iter().map(Report::to_method_result).collect(),
        };
        self.report(results)
    }

    /// The header was too large to keep.
    fn unverifiable(self, too_large: TooLarge, summary: &Summary) -> Outcome {
        let queue_id = escaped(&self.queue_id);
        warn!(%queue_id, decision = summary.decision, reason = %too_large, results = "permerror");
        self.report(vec![MethodResult {
            result: DkimResult::PermError.as_str(),
            reason: Some(too_large.to_string()),
            ..unsigned()
        }])
    }

    /// Nothing is done.
    fn idle(&self, summary: &Summary) -> Outcome {
        let queue_id = escaped(&self.queue_id);
        info!(%queue_id, decision = summary.decision, reason = summary.reason);
        Outcome::default()
    }

    /// Removes the results of others in our name, from the last to the first since each removal
    /// renumbers those behind it, and puts ours on top.
    fn report(self, results: Vec<MethodResult>) -> Outcome {
        if self.results.forged.len() > FORGED_MAX {
            return refused(&self.queue_id);
        }
        let forged = self.results.forged.iter().rev();
        let mut edits: Vec<Edit> = forged
            .map(|&index| Edit::delete(index, results::FIELD))
            .collect();
        let authserv_id = self.authserv_id.clone();
        let value = AuthenticationResults {
            authserv_id,
            results,
        }
        .to_value();
        edits.push(self.insert(&Field::new(results::FIELD, value)));
        Outcome {
            edits,
            verdict: Verdict::Continue,
        }
    }

    /// A field on top of the message. Milters write folds as LF; the space after the colon is ours
    /// to write only where that was agreed.
    fn insert(&self, field: &Field) -> Edit {
        let text: Vec<u8> = field
            .value
            .iter()
            .copied()
            .filter(|&byte| byte != b'\r')
            .collect();
        let value = match (self.leading_space, text.strip_prefix(b" ")) {
            (false, Some(rest)) => rest.to_vec(),
            _ => text,
        };
        Edit::insert(0, field.name.clone(), value)
    }
}

/// More forged results than are removed: with some of them left in, the message must not go on.
fn refused(queue_id: &[u8]) -> Outcome {
    let queue_id = escaped(queue_id);
    warn!(%queue_id, decision = "reject", reason = "more forged results than can be removed");
    let text = "too many Authentication-Results fields in our name";
    let reply = SmtpReply::new(550, "5.7.1", text);
    reply.map_or(Verdict::Reject, Verdict::Reply).into()
}

/// Domain, selector and algorithm of a signature just made.
fn key_of(field: &Field) -> String {
    match Signature::parse(&field.value) {
        Ok(made) => {
            format!(
                "d={} s={} a={}",
                made.domain,
                made.selector,
                made.algorithm.as_str()
            )
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
