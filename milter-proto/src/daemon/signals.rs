//! Signals as values: a thread of its own turns them into [`Signal`]s on a channel.
//!
//! SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR1 asks for a report in the log. The second stop
//! reaches the program as a second [`Signal::Stop`], which ends waiting for messages in hand; the
//! third ends the process at once, in case nobody reads the channel any more.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use super::Failure;
use super::exit::EX_OSERR;

/// Stops after which the process ends without asking anybody.
const STOPS_MAX: u32 = 3;
/// Signals that wait to be read at most; further ones say nothing new.
const PENDING_MAX: usize = 16;

/// Until signals are read again after that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What somebody wants of the running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Finish and end (SIGTERM, SIGINT). A second one: end without finishing.
    Stop,
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Write the state to the log (SIGUSR1).
    Report,
}

impl Signal {
    fn of(number: i32) -> Option<Self> {
        match number {
            SIGTERM | SIGINT => Some(Self::Stop),
            SIGHUP => Some(Self::Reload),
            SIGUSR1 => Some(Self::Report),
            _ => None,
        }
    }
}

/// Catches the signals from now on.
pub(crate) fn catch() -> Result<mpsc::Receiver<Signal>, Failure> {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        .and_then(|signals| forward(signals, sender))
        .map_err(|error| Failure::new(EX_OSERR, format!("signals cannot be caught: {error}")))?;
    Ok(receiver)
}

fn forward(mut signals: Signals, sender: mpsc::Sender<Signal>) -> io::Result<()> {
    let mut stops = 0;
    let mut loop_over_signals = move || {
        for signal in signals.forever().filter_map(Signal::of) {
            stops += u32::from(signal == Signal::Stop);
            if stops >= STOPS_MAX {
                signal_hook::low_level::exit(128 + SIGTERM);
            }
            // Full: the same is already waiting. Closed: the program is about to end.
            let _ = sender.try_send(signal);
        }
    };
    // The library panics when its own socket cannot be read, and reads on when called again.
    let never_give_up = move || {
        while catch_unwind(AssertUnwindSafe(&mut loop_over_signals)).is_err() {
            thread::sleep(RETRY);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(never_give_up)
        .map(drop)
}
