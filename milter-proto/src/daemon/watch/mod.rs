//! What monitoring asks a daemon over HTTP: `/metrics`, `/livez`, `/readyz`.
//!
//! A program hands itself to [`start`] as something [`Watched`]; without a socket in its
//! `[metrics]` nothing listens. Answers are made when somebody asks, from numbers that are counted
//! anyway: being watched costs mail nothing. It changes nothing, tells nothing of single messages,
//! and knows no secret. A client's misbehaviour ends its own connection, and shows at `debug`.

mod exposition;
mod http;
mod process;
mod serve;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinHandle;

pub use self::exposition::{Exposition, Family, Labels, Syntax, Value};
use self::http::{Answer, Request};
use super::exit::EX_OSERR;
use super::{Bound, Failure, SocketFile};

/// What can be watched.
pub trait Watched: Send + Sync + 'static {
    /// Writes the program's numbers.
    fn measure(&self, page: &mut Exposition);

    /// Whether it does its work.
    fn health(&self) -> Health;
}

/// Whether a program does its work, and what keeps it from it: the answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Nothing of `reasons` blocks.
    pub ready: bool,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What it is about: `filter spam`, say.
    pub about: String,
    /// How it is, in a word or two.
    pub state: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The program is not ready because of it.
    pub blocks: bool,
    /// Whether the breaker is open: it is not even tried at the moment.
    #[serde(default)]
    pub breaker_open: bool,
    /// What it means, or what went wrong, for people.
    pub message: String,
}

impl From<Vec<Reason>> for Health {
    fn from(reasons: Vec<Reason>) -> Self {
        Self {
            ready: !reasons.iter().any(|reason| reason.blocks),
            reasons,
        }
    }
}

/// How often the runtime is asked whether it still turns.
const BEAT: Duration = Duration::from_millis(500);
/// Without a beat for so long the program is not alive.
const STILL_MAX: Duration = Duration::from_secs(5);

/// Whether the runtime turns, and how late it is.
#[derive(Debug)]
struct Pulse {
    since: Instant,
    /// When it last beat, in microseconds after `since`.
    beat: AtomicU64,
    /// How much later than it should have, in microseconds.
    lag: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            beat: AtomicU64::new(0),
            lag: AtomicU64::new(0),
        }
    }

    /// For ever.
    async fn run(&self) {
        loop {
            let begun = Instant::now();
            tokio::time::sleep(BEAT).await;
            let late = begun.elapsed().saturating_sub(BEAT);
            self.lag.store(micros(late), Ordering::Relaxed);
            let beat = micros(self.since.elapsed());
            self.beat.store(beat, Ordering::Relaxed);
        }
    }

    fn still(&self) -> Duration {
        let beat = Duration::from_micros(self.beat.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(beat)
    }

    fn lag_seconds(&self) -> f64 {
        Duration::from_micros(self.lag.load(Ordering::Relaxed)).as_secs_f64()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Answers until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends it"]
pub struct Watching {
    task: JoinHandle<()>,
    /// Removed when dropped.
    _file: Option<SocketFile>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Begins to answer on the socket of `[metrics]`; `program` is the name in the metrics.
///
/// # Errors
/// When the socket cannot be used at all.
pub fn start(
    bound: Bound,
    program: &'static str,
    watched: Arc<dyn Watched>,
) -> Result<Watching, Failure> {
    let address = bound.address.clone();
    let (listener, file) = bound
        .into_listener()
        .map_err(|error| Failure::new(EX_OSERR, format!("[metrics] {address}: {error}")))?;
    let pulse = Arc::new(Pulse::new());
    let beating = Arc::clone(&pulse);
    let answers = serve::serve(listener, move |request: &Request| {
        answer(request, program, &*watched, &pulse)
    });
    let task = tokio::spawn(async move {
        tokio::join!(beating.run(), answers);
    });
    Ok(Watching { task, _file: file })
}

fn answer(request: &Request, program: &str, watched: &dyn Watched, pulse: &Pulse) -> Answer {
    match request.path.as_str() {
        "/metrics" => metrics(request, program, watched, pulse),
        "/livez" => {
            let alive = pulse.still() < STILL_MAX;
            let body = json!({ "alive": alive, "event_loop_lag_seconds": pulse.lag_seconds() });
            as_json(alive, &body)
        }
        "/readyz" => {
            let health = watched.health();
            as_json(health.ready, &health)
        }
        _ => Answer::plain("404 Not Found", "there are /metrics, /livez and /readyz"),
    }
}

fn metrics(request: &Request, program: &str, watched: &dyn Watched, pulse: &Pulse) -> Answer {
    let syntax = match request.open_metrics {
        true => Syntax::OpenMetrics,
        false => Syntax::Text,
    };
    let mut page = Exposition::new(syntax);
    let labels = [("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    page.info("milter_build", "The program and its version.", &labels);
    page.gauge("milter_ready", "Whether /readyz says so.")
        .sample(&[], watched.health().ready);
    watched.measure(&mut page);
    page.gauge(
        "milter_event_loop_lag_seconds",
        "How late the runtime was when it last looked, in seconds.",
    )
    .sample(&[], pulse.lag_seconds());
    process::measure(&mut page);
    Answer {
        status: "200 OK",
        kind: syntax.content_type(),
        body: page.finish(),
    }
}

fn as_json(good: bool, value: &impl Serialize) -> Answer {
    let status = match good {
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    // Strings, numbers and truths: they can always be written.
    let mut body = serde_json::to_string(value).unwrap_or_default();
    body.push('\n');
    Answer {
        status,
        kind: "application/json",
        body,
    }
}
