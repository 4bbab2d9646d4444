//! DKIM (RFC 6376, with RFC 8301 and RFC 8463): signing and verifying, without sockets, files or
//! clocks.
//!
//! ```text
//! header ─▶ Signature::parse ─▶ Verification ─▶ key_names ─▶ KeyLookups ─▶ KeyAnswers ─┐
//!                                    ▲                                                 ▼
//! body ──────────────────────────────┘ (BodyHasher: canonical::Body, SHA-256)   finish ─▶ Report
//!
//! header, Signer ─▶ Signing ◀─ body;  finish ─▶ DKIM-Signature fields
//! ```
//!
//! [`verify_message`] does it all for a message that is at hand as a whole. What to do with a
//! report is the caller's.

pub mod body_hash;
pub mod canonical;
pub mod key;
pub mod lookup;
pub mod private_key;
pub mod report;
pub mod sign;
pub mod signature;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use self::lookup::KeyLookups;
use self::report::Report;
use self::verify::{Policy, Verification};
use super::dns::Dns;
use super::header::{self, Header, TooLarge};

/// Verifies the signatures of a whole message, whose keys must come `within` a time; `now` is in
/// seconds since 1970.
///
/// # Errors
/// When the header is larger than [`Header::SIZE_MAX`].
pub async fn verify_message<D: Dns>(
    message: &[u8],
    dns: &Arc<D>,
    policy: &Policy,
    within: Duration,
    now: u64,
) -> Result<Vec<Report>, TooLarge> {
    let (header, body) = header::split(message, Header::SIZE_MAX)?;
    let mut verification = Verification::new(&header, policy, now);
    let keys = KeyLookups::start(dns, verification.key_names(), within);
    verification.body(body);
    Ok(verification.finish(&keys.collect().await))
}
