//! The log: one subscriber, to stderr, as text on a terminal and as JSON elsewhere.
//!
//! [`plain`] serves sub-commands, whose reader sits before the terminal; [`start`] serves a daemon.
//! Our own crates log at the configured level; crates that they use never below `warn` unless
//! `trace` is asked for. A closed stderr loses lines and stops nothing, and so does one that nobody
//! reads ([`queue`]). The policy (who logs what) is at the head of [`crate::daemon`].

mod json;
mod queue;

use std::backtrace::Backtrace;
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic;
use std::time::Duration;

use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as layer, reload};

use self::queue::Queue;
use super::config::{Format, Level, Log};

/// Bytes of a value from outside that a line of the log shows at most.
pub const ESCAPED_MAX: usize = 256;

/// How long the last lines may take to be read when the program ends.
const SETTLE: Duration = Duration::from_secs(2);

/// Changes the level while the program runs, and sees to what is not written yet.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    queue: Queue,
    name: &'static str,
    filter: reload::Handle<Targets, Registry>,
    /// From the command line, which goes before the configuration.
    forced: Option<Level>,
}

/// Starts the log of a sub-command: text without time, warnings and errors unless told otherwise.
pub(crate) fn plain(name: &str, forced: Option<Level>) {
    let lines = layer::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_target(false)
        .without_time();
    // A second subscriber in the same process is refused; the first one serves.
    let _ = tracing_subscriber::registry()
        .with(targets(name, forced.unwrap_or(Level::Warn)))
        .with(lines)
        .try_init();
}

/// Starts the log of a daemon.
pub(crate) fn start(name: &'static str, log: &Log, forced: Option<Level>) -> Handle {
    let (filter, handle) = reload::Layer::new(targets(name, forced.unwrap_or(log.level)));
    let terminal = io::stderr().is_terminal();
    let text = matches!(
        (log.format, terminal),
        (Format::Text, _) | (Format::Auto, true)
    );
    let queue = Queue::new(if text { lost_as_text } else { lost_as_json });
    let lines = layer::layer()
        .with_writer(queue.clone())
        .with_ansi(terminal)
        .log_internal_errors(false);
    let lines = match text {
        true => lines.boxed(),
        false => lines.with_ansi(false).event_format(json::Json).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    log_panics();
    Handle {
        queue,
        name,
        filter: handle,
        forced,
    }
}

/// A panic is a line of the log like any other; what it says may come from outside.
fn log_panics() {
    panic::set_hook(Box::new(|panicked| {
        let payload = panicked.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown");
        let place = panicked.location().map(ToString::to_string);
        error!(
            place = place.as_deref(),
            backtrace = %Backtrace::capture(),
            "panic: {}",
            escaped(message.as_bytes())
        );
    }));
}

fn lost_as_text(lines: u64) -> String {
    format!("WARN log: {lines} lines were lost, because nobody read them\n")
}

fn lost_as_json(lines: u64) -> String {
    format!(
        "{{\"level\":\"WARN\",\"message\":\"lines of the log were lost, because nobody read \
         them\",\"lines\":{lines}}}\n"
    )
}

impl Handle {
    /// From now on nobody who logs waits for whoever reads: a thread does.
    pub(crate) fn let_go(&self) {
        if let Err(error) = self.queue.start(io::stderr()) {
            error!("every line of the log is waited for: there is no thread to write it: {error}");
        }
    }

    /// Waits for the last lines to be read, for a little while.
    pub(crate) fn settle(&self) {
        self.queue.settle(SETTLE);
    }

    /// Takes the level of a new configuration; the format stays.
    pub(crate) fn reconfigure(&self, log: &Log) {
        let level = self.forced.unwrap_or(log.level);
        // Fails only when the subscriber is gone, and then nobody listens.
        let _ = self.filter.reload(targets(self.name, level));
    }
}

/// Our crates and the program `name` at `level`, others no lower than warnings, unless everything
/// is asked for.
fn targets(name: &str, level: Level) -> Targets {
    let ours = filter(level);
    let others = match level {
        Level::Trace => ours,
        _ => ours.min(LevelFilter::WARN),
    };
    Targets::new()
        .with_default(others)
        .with_target("milter_", ours)
        .with_target(name.replace('-', "_"), ours)
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Something from outside, as a line of the log may show it: printable ASCII as it is, everything
/// else as `\xNN`, cut at [`ESCAPED_MAX`] bytes with `...`.
#[must_use]
pub fn escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped(bytes)
}

/// See [`escaped`].
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(ESCAPED_MAX) {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b' '..=b'~' => fmt::Write::write_char(f, char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        match self.0.len() > ESCAPED_MAX {
            true => f.write_str("..."),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_reaches_a_terminal() {
        for (bytes, shown) in [
            (&b"plain <a@b>"[..], "plain <a@b>"),
            (b"\x1b[31m\r\n\0", "\\x1b[31m\\x0d\\x0a\\x00"),
            (b"back\\slash", "back\\\\slash"),
            ("ü".as_bytes(), "\\xc3\\xbc"),
            (b"", ""),
        ] {
            assert_eq!(escaped(bytes).to_string(), shown);
        }
        let long = escaped(&[b'x'; ESCAPED_MAX + 1]).to_string();
        assert_eq!(long.len(), ESCAPED_MAX + 3);
        assert!(long.ends_with("x..."));
    }

    #[test]
    fn other_crates_are_quieter_than_ours() {
        use tracing::Level as L;
        for (level, target, at, shown) in [
            (Level::Debug, "milter_dkim::filter", L::DEBUG, true),
            (Level::Debug, "hickory_proto", L::DEBUG, false),
            (Level::Debug, "hickory_proto", L::WARN, true),
            (Level::Debug, "greeter::filter", L::DEBUG, true),
            (Level::Error, "hickory_proto", L::WARN, false),
            (Level::Info, "milter_spam", L::DEBUG, false),
            (Level::Trace, "hickory_proto", L::TRACE, true),
        ] {
            let enabled = targets("greeter", level).would_enable(target, &at);
            assert_eq!(enabled, shown, "{level:?} {target} {at}");
        }
    }
}
