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
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody asked us to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on. By handlers, which children do not inherit:
    /// a blocked signal would stay blocked in them, and they would never hear us.
    pub(crate) fn watch() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&interrupt.raised))
                .context("a signal cannot be watched")?;
        }
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
