//! The milter: what it asks of the MTA, and what it does at each stage.
//!
//! Nothing is decided before the end of the message. Then the message is scanned on a thread of its
//! own kind, so that no other connection waits: as many at a time as configured, each within its
//! time. A message that could not be scanned is what the policy says, never silently clean. Every
//! message gives one line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use milter_proto::daemon::escaped;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::message::{Connection, Header, Path};
use milter_proto::verdict::{self as milter, BodyVerdict, Outcome};
use milter_proto::wire::options::{Actions, Steps};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Meaning, OnFailure, Treatment};
use crate::envelope::{Envelope, Reverse};
use crate::facts;
use crate::mailbox::Mailbox;
use crate::report::{self, Marking};
use crate::score::{Action, Verdict};

/// The filter; one for all connections.
#[derive(Debug)]
pub struct SpamFilter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    meaning: Meaning,
    places: Arc<Semaphore>,
}

/// One message.
pub struct Message {
    shared: Arc<Shared>,
    treatment: Treatment,
    envelope: Envelope,
    message: facts::Message,
    marking: Marking,
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unscanned {
    /// It took longer than it may.
    TimedOut,
    /// The scan ended by a fault of ours.
    Failed,
}

impl Unscanned {
    fn reason(self) -> &'static str {
        match self {
            Self::TimedOut => "the scan took longer than scan.time_budget",
            Self::Failed => "the scan failed by a fault of this program",
        }
    }
}

/// Fields with our names that one message may bring along; each is an edit to remove it.
const FORGED_MAX: u32 = 200;

impl SpamFilter {
    /// A filter that does what the configuration means.
    #[must_use]
    pub fn new(meaning: Meaning) -> Self {
        let places = Arc::new(Semaphore::new(meaning.concurrency.get()));
        Self {
            shared: Arc::new(Shared { meaning, places }),
        }
    }
}

impl Filter for SpamFilter {
    type Transaction = Message;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::ADD_HEADERS | Actions::CHANGE_HEADERS,
            // Body chunks are answered, so that the MTA can be told to skip the rest.
            steps: Steps::NO_DATA
                | Steps::NO_UNKNOWN
                | Steps::NR_CONNECT
                | Steps::NR_HELO
                | Steps::NR_MAIL
                | Steps::NR_RCPT
                | Steps::NR_HEADER
                | Steps::NR_EOH
                | Steps::SKIP,
            macros: Vec::new(),
        }
    }

    fn begin(&self, cx: Context<'_>) -> Message {
        let meaning = &self.shared.meaning;
        let envelope = envelope(cx, meaning);
        let clients = &meaning.clients;
        let treatment = match (&envelope.login, envelope.local) {
            (Some(_), _) => clients.authenticated,
            (None, true) => clients.local,
            (None, false) => Treatment::Scan,
        };
        let skips = envelope.login.is_some() && meaning.headers.skip_authenticated
            || envelope.local && meaning.headers.skip_local;
        let fields = if skips {
            Vec::new()
        } else {
            meaning.headers.add.clone()
        };
        Message {
            shared: Arc::clone(&self.shared),
            treatment,
            envelope,
            message: facts::Message::default(),
            marking: Marking {
                fields,
                subject: meaning.subject.clone(),
                ..Marking::default()
            },
        }
    }
}

/// What is known of the client when a message begins.
fn envelope(cx: Context<'_>, meaning: &Meaning) -> Envelope {
    let connection = cx.connection();
    let address = connection.and_then(|connection| connection.address.ip());
    let address = address.map(|ip| ip.to_canonical());
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let login = cx
        .macro_value("auth_authen")
        .filter(|login| !login.is_empty());
    Envelope {
        address,
        reverse: match connection {
            Some(connection) if address.is_some() => reverse(cx, connection),
            _ => Reverse::Untold,
        },
        helo: cx.helo().map(text),
        login: login.map(text),
        local: address.is_some_and(|address| meaning.scanner.is_local(address)),
        ..Envelope::default()
    }
}

/// The client's name. Postfix tells `unknown` where it is not verified, and the unverified one in
/// `{client_ptr}`; Sendmail tells the address in brackets, and `{client_resolve}`.
fn reverse(cx: Context<'_>, connection: &Connection) -> Reverse {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let name = &connection.hostname;
    let unnamed = name.is_empty() || name.starts_with(b"[") || &name[..] == b"unknown";
    let told = |name: &&Bytes| !name.is_empty() && &name[..] != b"unknown";
    match cx.macro_value("client_ptr").filter(told) {
        Some(pointer) if unnamed => Reverse::Unverified(text(pointer)),
        _ if unnamed => Reverse::Missing,
        _ => match cx.macro_value("client_resolve").map(|word| &word[..]) {
            Some(b"FORGED" | b"FAIL") => Reverse::Unverified(text(name)),
            _ => Reverse::Verified(text(name)),
        },
    }
}

impl Transaction for Message {
    async fn mail(&mut self, _cx: Context<'_>, sender: Path) -> milter::Verdict {
        self.envelope.sender = Some(Mailbox::address_only(sender.bare()));
        milter::Verdict::Continue
    }

    async fn rcpt(&mut self, _cx: Context<'_>, recipient: Path) -> milter::Verdict {
        let limits = &self.shared.meaning.scanner.reading.limits;
        if self.envelope.recipients.len() < limits.addresses {
            let recipient = Mailbox::address_only(recipient.bare());
            self.envelope.recipients.push(recipient);
        } else {
            self.message.reached.note("addresses");
        }
        milter::Verdict::Continue
    }

    async fn header(&mut self, _cx: Context<'_>, header: Header) -> milter::Verdict {
        let meaning = &self.shared.meaning;
        if meaning.headers.remove_forged {
            for (name, forged) in report::NAMES.iter().zip(&mut self.marking.forged) {
                *forged += u32::from(header.is(name));
            }
        }
        if self.marking.old_subject.is_none() && header.is("Subject") {
            self.marking.old_subject = Some(header.value.to_vec());
        }
        let limits = &meaning.scanner.reading.limits;
        let facts::Message {
            headers, reached, ..
        } = &mut self.message;
        headers.push(&header.name, &header.value, limits, reached);
        milter::Verdict::Continue
    }

    async fn body(&mut self, _cx: Context<'_>, chunk: Bytes) -> BodyVerdict {
        let limits = &self.shared.meaning.scanner.reading.limits;
        let more = self.treatment != Treatment::Skip && self.message.push_body(&chunk, limits);
        if more {
            BodyVerdict::default()
        } else {
            BodyVerdict::Skip
        }
    }

    async fn finish(self, cx: Context<'_>) -> Outcome {
        let (shared, marking) = (self.shared, self.marking);
        if marking.forged.iter().sum::<u32>() > FORGED_MAX {
            let (queue_id, reason) = (escaped(cx.queue_id()), "too many forged spam headers");
            warn!(%queue_id, action = "reject", reason, "message");
            return Outcome::from(milter::Verdict::Reply(shared.meaning.reject.clone()));
        }
        if self.treatment == Treatment::Skip {
            let (queue_id, reason) = (escaped(cx.queue_id()), "client is ours");
            info!(%queue_id, action = "skipped", reason, "message");
            return accept(&marking, None);
        }
        let started = Instant::now();
        let size = self.message.body.len();
        let judges_client = self.treatment == Treatment::Scan;
        let result = scan(&shared, self.message, self.envelope, judges_client).await;
        let waited = started.elapsed().as_millis();
        let queue_id = escaped(cx.queue_id());
        match result {
            Ok(verdict) => {
                let symbols = report::symbols(&verdict.symbols);
                let (action, score, required) =
                    (verdict.action.name(), verdict.score, verdict.required);
                let score = format!("{score:.2}/{required:.2}");
                info!(%queue_id, action, score, symbols, size, waited, "message");
                outcome(&verdict, &marking, &shared.meaning)
            }
            Err(unscanned) => {
                let (action, reason) = (shared.meaning.on_failure, unscanned.reason());
                warn!(%queue_id, ?action, reason, size, waited, "message");
                match action {
                    OnFailure::Accept => accept(&marking, None),
                    OnFailure::Tempfail => Outcome::from(milter::Verdict::TempFail),
                }
            }
        }
    }
}

fn accept(marking: &Marking, verdict: Option<&Verdict>) -> Outcome {
    Outcome {
        edits: marking.edits(verdict),
        verdict: milter::Verdict::Continue,
    }
}

/// What the MTA is told.
fn outcome(verdict: &Verdict, marking: &Marking, meaning: &Meaning) -> Outcome {
    match verdict.action {
        Action::Reject => Outcome::from(milter::Verdict::Reply(meaning.reject.clone())),
        Action::SoftReject => Outcome::from(milter::Verdict::Reply(meaning.soft_reject.clone())),
        Action::NoAction | Action::AddHeader | Action::RewriteSubject => {
            accept(marking, Some(verdict))
        }
    }
}

/// Tells a scan to end when nobody waits for it any more.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Scans on a thread for computing, when there is a place.
async fn scan(
    shared: &Arc<Shared>,
    message: facts::Message,
    envelope: Envelope,
    judges_client: bool,
) -> Result<Verdict, Unscanned> {
    let place = Arc::clone(&shared.places).acquire_owned().await;
    let place = place.map_err(|_closed| Unscanned::Failed)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let cancel = Cancel(Arc::clone(&cancelled));
    let budget = shared.meaning.time_budget;
    let shared = Arc::clone(shared);
    let job = spawn_blocking(move || {
        // Held until the work ends, not until somebody stops waiting for it.
        let _place = place;
        let now = now();
        shared
            .meaning
            .scanner
            .scan(message, envelope, now, judges_client, &cancelled)
    });
    let result = match timeout(budget, job).await {
        Err(_elapsed) => Err(Unscanned::TimedOut),
        Ok(Err(_panicked)) => Err(Unscanned::Failed),
        Ok(Ok(result)) => result.map_err(|_cancelled| Unscanned::TimedOut),
    };
    drop(cancel);
    result
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
