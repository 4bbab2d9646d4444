//! Ctrl-C as a value: the signals that ask a command to end set a flag, so that every child is
//! stopped and every folder removed on the way out.
//!
//! It stops nothing by itself. A command that never calls [`Interrupt::watch`] keeps the usual
//! behaviour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody asked us to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on. To be called before any thread is started:
    /// threads inherit the mask, children do not.
    pub(crate) fn watch() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals
            .thread_block()
            .context("the signals cannot be blocked")?;
        let interrupt = Self::default();
        let raised = Arc::clone(&interrupt.raised);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while signals.wait().is_ok() {
                    raised.store(true, Ordering::SeqCst);
                }
            })?;
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// An error once a signal has come, so that `?` leads out.
    pub(crate) fn check(&self) -> Result<()> {
        if self.raised() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Asks `question` every 50 ms until it answers yes.
    ///
    /// # Errors
    /// When `limit` has passed, saying that `what` did not happen; when interrupted; and whatever
    /// `question` returns.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(50);
        while !question()? {
            self.check()?;
            if waited >= limit {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            thread::sleep(step);
            waited += step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_at_yes_at_the_limit_and_when_asked_to_end() {
        let calm = Interrupt::default();
        let mut asked = 0;
        let yes = calm.until("three", Duration::from_secs(5), || {
            asked += 1;
            Ok(asked == 3)
        });
        assert!(yes.is_ok());
        let late = calm.until("never", Duration::from_millis(60), || Ok(false));
        assert!(late.unwrap_err().to_string().starts_with("never: not"));
        calm.raised.store(true, Ordering::SeqCst);
        let asked = calm.until("never", Duration::from_secs(60), || Ok(false));
        assert_eq!(asked.unwrap_err().to_string(), "interrupted");
    }
}
