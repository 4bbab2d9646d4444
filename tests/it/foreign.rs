//! Filters of others, and milter-dkim as if it were one, behind the orchestrator do what they do
//! when Postfix asks them itself: real messages, through a real Postfix, on both ways.

mod both;
mod dkim;
mod filters;
mod together;

use milter_tests::equivalence::postfix::Postfix;
use milter_tests::skip::skip;

/// Whether a private Postfix and these programs can run here; says why not.
fn possible(test: &str, programs: &[&str]) -> bool {
    if let Some(reason) = Postfix::missing() {
        skip(test, reason);
        return false;
    }
    for program in programs {
        if milter_tests::foreign::program(program).is_none() {
            skip(test, &format!("{program} is not installed"));
            return false;
        }
    }
    true
}
