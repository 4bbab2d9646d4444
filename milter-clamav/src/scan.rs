//! One message on its way through clamd.
//!
//! Chunks go to clamd as they come, and to the [`Spool`] at the same time. Small ones are put
//! together first, and the connection is made with the first that goes out: a message of a few
//! kilobytes is one write at its end, and a client that gives up early costs clamd nothing.
//!
//! When the clamd that was streamed to fails, the message goes on into the spool alone, and
//! [`Scan::finish`] sends it to the next server. A clamd that goes away after it was sent a message
//! may have died of it: after [`SENDS_MAX`] such sends the message is given up.
//!
//! Nothing here fails: what could not be scanned is [`Finding::Unscanned`], with the reason. What
//! to do about it is decided in [`crate::outcome`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milter_proto::message::Header;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::clamd::client::{Answer, Sent, Stream, Trouble};
use crate::clamd::servers::{Server, Servers};
use crate::clamd::{Kind, Signature};
use crate::spool::{self, Spool};

/// Chunks smaller than this are put together.
const BATCH: usize = 16 * 1024;

/// How often one message is sent to a clamd that then goes away or does not answer.
pub const SENDS_MAX: usize = 2;

/// What holds for the scan of any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message that is still scanned, header fields included.
    pub size: u64,
    /// How long one stage before the end of the message may take.
    pub stage: Duration,
    /// From the end of the message to the answer, however many servers are asked; and as much in
    /// all waits for clamd to take data before that.
    pub total: Duration,
    /// What is kept where for a second attempt.
    pub spool: spool::Limits,
}

/// What is known about a message after its scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// clamd has seen all of it and found nothing. There is no other way to this value than
    /// clamd's own word after the last byte.
    Clean,
    /// Malware.
    Infected(Signature),
    /// Something in it is encrypted, and clamd is told to report that.
    Encrypted(Signature),
    /// It is larger than our limit or clamd's, or clamd reached another limit within it.
    TooLarge,
    /// It came with more than [`crate::outcome::FORGED_MAX`] fields that claim a scan.
    Forged,
    /// It does not have to be scanned.
    Exempt(Exemption),
    /// No clamd scanned it; why is for the log.
    Unscanned(String),
}

/// Why a message does not have to be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// The client is in an exempt network.
    Network,
    /// The client has authenticated.
    Authenticated,
}

/// A [`Finding`], and how it came about.
#[derive(Debug)]
pub struct Report {
    /// What was found.
    pub finding: Finding,
    /// The clamd that said so.
    pub server: Option<Arc<Server>>,
    /// Bytes of the message.
    pub size: u64,
}

/// A message being scanned. Dropping it ends the scan.
pub struct Scan {
    servers: Arc<Servers>,
    limits: Arc<Limits>,
    pending: BytesMut,
    spool: Spool,
    size: u64,
    live: Live,
    /// When the stage in hand must be done.
    stage_ends: Instant,
    /// For clamd to take what was streamed.
    waited: Duration,
    attempts: Attempts,
}

/// The stream that is fed while the message arrives.
enum Live {
    /// Not connected yet.
    Waiting,
    Streaming(Arc<Server>, Box<Stream>),
    /// clamd answered before the end.
    Answered(Arc<Server>, Answer),
    /// All of the message is still needed, but nobody takes it now.
    Failed,
    /// Over our limit.
    TooLarge,
}

/// Who was asked, and what came of it.
#[derive(Debug, Default)]
struct Attempts {
    /// To be asked again only after all others: they were there, and went away.
    passing: Vec<Arc<Server>>,
    /// Not to be asked again.
    done: Vec<Arc<Server>>,
    sends: usize,
    /// For the log.
    troubles: Vec<String>,
}

impl Scan {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(servers: Arc<Servers>, limits: Arc<Limits>) -> Self {
        Self {
            pending: BytesMut::from(spool::PREAMBLE),
            spool: Spool::new(limits.spool.clone()),
            servers,
            limits,
            size: 0,
            live: Live::Waiting,
            stage_ends: Instant::now(),
            waited: Duration::ZERO,
            attempts: Attempts::default(),
        }
    }

    /// Takes a header field.
    pub async fn header(&mut self, header: &Header, leading_space: bool) {
        self.stage_ends = Instant::now() + self.limits.stage;
        let before = self.pending.len();
        if !self.is_wanted() {
            self.count(header.name.len() + header.value.len());
            return;
        }
        spool::put_field(&mut self.pending, header, leading_space);
        self.count(self.pending.len() - before);
        self.advance(BATCH).await;
    }

    /// Takes the empty line after the header fields.
    pub async fn end_of_headers(&mut self) {
        self.body(Bytes::from_static(b"\r\n")).await;
    }

    /// Takes any further bytes of the message; waits while clamd is slower than the sender.
    pub async fn body(&mut self, chunk: Bytes) {
        self.stage_ends = Instant::now() + self.limits.stage;
        self.count(chunk.len());
        if !self.is_wanted() {
            return;
        }
        if self.pending.len() + chunk.len() <= BATCH {
            self.pending.extend_from_slice(&chunk);
            self.advance(BATCH).await;
            return;
        }
        self.advance(1).await;
        if chunk.len() < BATCH {
            self.pending.extend_from_slice(&chunk);
        } else {
            self.forward(chunk).await;
        }
    }

    /// The message is complete: waits for the answer.
    pub async fn finish(mut self) -> Report {
        let latest = Instant::now() + self.limits.total;
        let last = self.pending.split().freeze();
        let live = std::mem::replace(&mut self.live, Live::Failed);
        let size = self.size;
        let report = |finding, server| Report {
            finding,
            server,
            size,
        };
        match live {
            Live::TooLarge => return report(Finding::TooLarge, None),
            Live::Answered(server, answer) => return report(answer.into(), Some(server)),
            Live::Waiting | Live::Failed => self.spool.push(last).await,
            Live::Streaming(server, stream) => {
                self.spool.push(last.clone()).await;
                match stream.finish(last, latest).await {
                    Ok(answer) => {
                        self.servers.note(&server, None);
                        return report(answer.into(), Some(server));
                    }
                    Err(trouble) => self.attempts.add(&self.servers, &server, &trouble),
                }
            }
        }
        match self.replay(latest).await {
            Some((server, answer)) => report(answer.into(), Some(server)),
            None => report(Finding::Unscanned(self.attempts.troubles.join("; ")), None),
        }
    }

    /// Whether further bytes can make a difference.
    fn is_wanted(&self) -> bool {
        match self.live {
            Live::Waiting | Live::Streaming(..) | Live::Failed => true,
            Live::Answered(..) | Live::TooLarge => false,
        }
    }

    fn count(&mut self, length: usize) {
        self.size = self.size.saturating_add(length as u64);
        if self.size > self.limits.size && self.is_wanted() {
            self.live = Live::TooLarge;
            self.pending = BytesMut::new();
            self.spool = Spool::new(self.limits.spool.clone());
        }
    }

    /// Sends what is pending from `least` bytes on.
    async fn advance(&mut self, least: usize) {
        if self.pending.len() >= least {
            let chunk = self.pending.split().freeze();
            self.forward(chunk).await;
        }
    }

    async fn connect(&mut self) -> Live {
        for server in self.servers.candidates() {
            let mut deadlines = self.servers.deadlines();
            deadlines.connect = deadlines.connect.min(self.stage_ends - Instant::now());
            match Stream::open(&server.address, deadlines).await {
                Ok(stream) => return Live::Streaming(server, Box::new(stream)),
                Err(trouble) => self.attempts.add(&self.servers, &server, &trouble),
            }
        }
        Live::Failed
    }

    /// Into the spool and to clamd, to which it connects if that is still to be done.
    async fn forward(&mut self, chunk: Bytes) {
        if !self.is_wanted() {
            return;
        }
        if matches!(self.live, Live::Waiting) {
            self.live = self.connect().await;
        }
        self.spool.push(chunk.clone()).await;
        let Live::Streaming(server, stream) = &mut self.live else {
            return;
        };
        let started = Instant::now();
        let sent = stream.send(chunk, self.stage_ends).await;
        self.waited += started.elapsed();
        match sent {
            Ok(Sent::Taken) if self.waited < self.limits.total => {}
            Ok(Sent::Taken) => {
                let trouble = Trouble::Stalled(self.waited);
                self.attempts.add(&self.servers, server, &trouble);
                self.live = Live::Failed;
            }
            Ok(Sent::Answered(answer)) => {
                self.live = Live::Answered(Arc::clone(server), answer);
            }
            Err(trouble) => {
                self.attempts.add(&self.servers, server, &trouble);
                self.live = Live::Failed;
            }
        }
    }

    /// Sends the spooled message to one server after the other, and once more to those that may
    /// have been busy or starting.
    async fn replay(&mut self, latest: Instant) -> Option<(Arc<Server>, Answer)> {
        if let Some(error) = self.spool.lost() {
            warn!(%error, "spool not written: a message cannot be sent to another clamd");
            return None;
        }
        let first = self.attempts.again(self.servers.candidates());
        let second = first.clone();
        for server in first.into_iter().chain(second) {
            if self.attempts.sends >= SENDS_MAX || Instant::now() >= latest {
                break;
            }
            if self.attempts.is_done(&server) {
                continue;
            }
            debug!(clamd = %server.address, "sending a spooled message");
            let started = Instant::now();
            let answer = timeout_at(latest, self.resend(&server, latest)).await;
            match answer.unwrap_or_else(|_| Err(Trouble::no_answer(latest - started))) {
                Ok(answer) => {
                    self.servers.note(&server, None);
                    return Some((server, answer));
                }
                Err(trouble) => self.attempts.add(&self.servers, &server, &trouble),
            }
        }
        None
    }

    async fn resend(&mut self, server: &Server, latest: Instant) -> Result<Answer, Trouble> {
        let mut stream = Stream::open(&server.address, self.servers.deadlines()).await?;
        let mut replay = self.spool.replay().await.map_err(Trouble::Spool)?;
        let mut last = Bytes::new();
        while let Some(chunk) = replay.next().await.map_err(Trouble::Spool)? {
            let before = std::mem::replace(&mut last, chunk);
            if let Sent::Answered(answer) = stream.send(before, latest).await? {
                return Ok(answer);
            }
        }
        stream.finish(last, latest).await
    }
}

impl Attempts {
    fn add(&mut self, servers: &Servers, server: &Arc<Server>, trouble: &Trouble) {
        servers.note(server, Some(trouble));
        self.sends += usize::from(!trouble.is_of_connecting());
        let asked = if trouble.is_passing() {
            &mut self.passing
        } else {
            &mut self.done
        };
        asked.push(Arc::clone(server));
        let trouble = format!("{}: {trouble}", server.address);
        if !self.troubles.contains(&trouble) {
            self.troubles.push(trouble);
        }
    }

    fn is_done(&self, server: &Arc<Server>) -> bool {
        self.done.iter().any(|done| Arc::ptr_eq(done, server))
    }

    /// `candidates`, with those last that had the message already.
    fn again(&self, mut candidates: Vec<Arc<Server>>) -> Vec<Arc<Server>> {
        let had = |server: &Arc<Server>| self.passing.iter().any(|had| Arc::ptr_eq(had, server));
        candidates.sort_by_key(had);
        candidates
    }
}

impl From<Answer> for Finding {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Clean => Self::Clean,
            Answer::SizeLimit => Self::TooLarge,
            Answer::Found(signature) => match signature.kind() {
                Kind::Malware => Self::Infected(signature),
                Kind::Encrypted => Self::Encrypted(signature),
                Kind::LimitsExceeded => Self::TooLarge,
            },
        }
    }
}

#[cfg(test)]
mod tests;
