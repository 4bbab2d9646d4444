//! What a machine cannot run is named, with the reason; in CI it fails instead.

use std::io::Write;

/// Says on stderr, past the capture of the test runner, that `test` did not run.
///
/// # Panics
/// With `CI=true` in the environment, where nothing may be skipped.
pub fn skip(test: &str, reason: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "{test} must not be skipped in CI: {reason}");
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
