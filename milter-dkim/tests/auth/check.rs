//! Verifies whole messages against keys from a text, in one call.

use std::sync::Arc;
use std::time::Duration;

use milter_dkim::auth::dkim::report::Report;
use milter_dkim::auth::dkim::verify::Policy;
use milter_dkim::auth::dkim::verify_message;
use milter_dkim::auth::dns::KeyFile;
use milter_dkim::auth::header::crlf;

/// A time at which no vector has expired: 2024-01-01.
pub(crate) const NOW: u64 = 1_704_067_200;

/// The reports on a message (line ends may be LF alone) with the keys of a key file.
pub(crate) fn verify(message: &str, keys: &str, now: u64) -> Vec<Report> {
    let keys = KeyFile::parse(keys).unwrap();
    verify_bytes(&crlf(message.as_bytes()), keys, now)
}

/// The same for bytes that are taken as they are.
pub(crate) fn verify_bytes(message: &[u8], keys: KeyFile, now: u64) -> Vec<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let dns = Arc::new(keys);
    let within = Duration::from_secs(5);
    runtime
        .block_on(verify_message(
            message,
            &dns,
            &Policy::default(),
            within,
            now,
        ))
        .unwrap()
}

/// The reports as they are logged.
pub(crate) fn words(reports: &[Report]) -> Vec<String> {
    reports.iter().map(ToString::to_string).collect()
}
