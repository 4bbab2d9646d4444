//! Published suites, where the archive with them is at hand; their terms forbid to copy them here.
//!
//! The archive is unpacked once into the build folder. Without it these tests say so and
//! pass, but in CI they fail.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use milter_dkim::auth::dkim::report::{DkimResult, Failure, Report};
use milter_dkim::auth::dkim::signature::{Signature, SignatureError};
use milter_dkim::auth::dns::KeyFile;
use milter_dkim::auth::domain::Domain;
use milter_dkim::auth::header::{Header, crlf, split};

use crate::check::{NOW, verify_bytes};

/// The unpacked suite, or `None`, said with the name of the test.
fn suite(test: &str, name: &str) -> Option<PathBuf> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let root = ROOT.get_or_init(unpack);
    if root.is_none() {
        let reason = "../shared/data/conformance.tar.xz is not there";
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "{test} must not be skipped in CI: {reason}");
        // Past the capture of the test runner; that nobody reads it changes nothing.
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
    }
    Some(root.as_ref()?.join("conformance/dkim").join(name))
}

/// Unpacks the archive into a folder that its checksum names.
fn unpack() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let archive = root.join("../shared/data/conformance.tar.xz");
    let bytes = fs::read(&archive).ok()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let key: String = digest
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-dkim-{key}"));
    if !target.exists() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("xJf").arg(&archive).arg("-C").arg(fresh.path());
        let status = tar.arg("conformance/dkim").status().unwrap();
        assert!(status.success(), "tar cannot unpack {}", archive.display());
        // Whoever comes second finds it done.
        let _ = fs::rename(fresh.path(), &target);
    }
    Some(target)
}

/// Key files of several forms: `name value` or `name<TAB>value`, comments, and lines to leave out.
fn keys(path: &Path) -> KeyFile {
    key_lines(&fs::read_to_string(path).unwrap())
}

/// The same from a text.
fn key_lines(text: &str) -> KeyFile {
    let mut file = KeyFile::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once([' ', '\t']) else {
            continue;
        };
        if let Ok(name) = Domain::parse(name) {
            file.insert(name, value.trim_start());
        }
    }
    file
}

/// The best word for a message, as suites with one result a message have it.
fn best(reports: &[Report]) -> DkimResult {
    let order = [
        DkimResult::Pass,
        DkimResult::Fail,
        DkimResult::Policy,
        DkimResult::TempError,
    ];
    let has = |wanted: &&DkimResult| reports.iter().any(|report| report.result() == **wanted);
    *order.iter().find(has).unwrap_or(&DkimResult::PermError)
}

/// Whether a signature is older than the standard or uses SHA-1.
fn is_obsolete(report: &Report) -> bool {
    use SignatureError::{Missing, Sha1, Version};
    let old = [Missing("v"), Sha1, Version].map(|error| Err(Failure::Signature(error)));
    old.contains(&report.outcome)
}

/// When a message was signed: the latest `t=`.
fn signing_time(message: &[u8]) -> u64 {
    let (header, _) = split(message, Header::SIZE_MAX).unwrap();
    let times = header.named("DKIM-Signature").filter_map(|field| {
        let signature = Signature::parse(&field.value).ok()?;
        signature.timestamp
    });
    times.max().unwrap_or(NOW)
}

#[test]
fn messages_of_mailing_lists() {
    let Some(suite) = suite("messages_of_mailing_lists", "realworld/dev") else {
        return;
    };
    let keys = keys(&suite.join("dns_txt.tsv"));
    let table = fs::read_to_string(suite.join("expected.tsv")).unwrap();
    let mut wrong = Vec::new();
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let message = fs::read(suite.join(columns[0])).unwrap();
        let reports = verify_bytes(&message, keys.clone(), signing_time(&message) + 30);
        let index: usize = columns[1].parse().unwrap();
        let got = match reports.get(index).map(|report| &report.outcome) {
            Some(Ok(())) => "pass".to_owned(),
            Some(Err(Failure::BodyHash)) => "fail_body".to_owned(),
            Some(Err(Failure::Mismatch)) => "fail_sig".to_owned(),
            Some(Err(Failure::NoKey)) => "nokey".to_owned(),
            other => format!("{other:?}"),
        };
        rows += 1;
        if got != columns[7] {
            wrong.push(format!(
                "{} {index}: {got}, expected {}",
                columns[0], columns[7]
            ));
        }
    }
    assert!(rows > 100, "{rows} rows");
    assert!(
        wrong.is_empty(),
        "{} of {rows}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn messages_of_mail_dkim() {
    let Some(suite) = suite("messages_of_mail_dkim", "mail-dkim") else {
        return;
    };
    let keys = keys(&suite.join("FAKE_DNS.dat"));
    let table = fs::read_to_string(suite.join("expected.tsv")).unwrap();
    let mut wrong = Vec::new();
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let message = crlf(&fs::read(suite.join("corpus").join(columns[0])).unwrap());
        let reports = verify_bytes(&message, keys.clone(), signing_time(&message) + 30);
        let got = best(&reports);
        let fits = match columns[1] {
            // Signatures of drafts, of DomainKeys and with SHA-1 must not pass any more.
            _ if reports.is_empty() || reports.iter().any(is_obsolete) => got != DkimResult::Pass,
            "pass" => got == DkimResult::Pass,
            "fail" => got == DkimResult::Fail,
            _ => got != DkimResult::Pass && got != DkimResult::Fail,
        };
        if !fits {
            wrong.push(format!(
                "{} {:?}: {got} {reports:?}",
                columns[0],
                &columns[1..]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn messages_of_mail_auth() {
    let Some(suite) = suite("messages_of_mail_auth", "mail-auth") else {
        return;
    };
    let mut wrong = Vec::new();
    for number in 1..=6 {
        let text = fs::read(suite.join(format!("{number:03}.txt"))).unwrap();
        let blank = text
            .windows(2)
            .position(|window| window == b"\n\n")
            .unwrap();
        let records = std::str::from_utf8(&text[..blank]).unwrap();
        let message = crlf(&text[blank + 2..]);
        let reports = verify_bytes(&message, key_lines(records), signing_time(&message) + 30);
        if reports.is_empty() || reports.iter().any(|report| report.outcome.is_err()) {
            wrong.push(format!("{number:03}: {reports:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
