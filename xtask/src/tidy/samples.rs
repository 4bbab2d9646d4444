//! The shipped sample configurations are what the daemons write, and pass their own check.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::finding::Finding;
use crate::workspace::{self, Profile};

/// The daemons and the file of each below `deploy/config`.
const SAMPLES: &[(&str, &str)] = &[
    ("milter-clamav", "clamav.toml"),
    ("milter-dkim", "dkim.toml"),
    ("milter-orchestrator", "orchestrator.toml"),
    ("milter-spam", "spam.toml"),
];

/// The orchestrator has no filters of its own, so its sample gets the ones that everybody starts
/// with.
const EXAMPLE: &str = r#"
# An example to begin with: mail on one socket, the three filters side by side.

[listen.inbound]
socket = "inet:10025@127.0.0.1"

[milter.dkim]
command = ["milter-dkim", "--config", "/etc/milter/dkim.toml"]

[milter.clamav]
command = ["milter-clamav", "--config", "/etc/milter/clamav.toml"]

[milter.spam]
command = ["milter-spam", "--config", "/etc/milter/spam.toml"]
on_failure = "accept"

[[route]]
name = "all"
chain = [["dkim", "clamav", "spam"]]
"#;

/// Builds the daemons and compares; with `bless`, writes the files anew first.
pub(super) fn check(root: &Path, bless: bool) -> Result<Vec<Finding>> {
    let binaries = workspace::build_daemons(Profile::Dev)?;
    let folder = root.join("deploy/config");
    let mut findings = Vec::new();
    for (program, file) in SAMPLES {
        let binary = binaries.join(program);
        let mut default = workspace::output(Command::new(&binary).arg("default-config"))?;
        if *program == "milter-orchestrator" {
            default.extend_from_slice(EXAMPLE.as_bytes());
        }
        let path = folder.join(file);
        if bless {
            fs::create_dir_all(&folder)?;
            fs::write(&path, &default).with_context(|| path.display().to_string())?;
        }
        let place = format!("deploy/config/{file}");
        let shipped = fs::read(&path).unwrap_or_default();
        findings.extend(compare(&place, program, &shipped, &default));
        let mut check = Command::new(&binary);
        // The example names its filters without a path, as if they were installed.
        check.env("PATH", &binaries);
        check.arg("--config").arg(&path).arg("check");
        if let Err(error) = workspace::output(&mut check) {
            findings.push(Finding::new(place, format!("does not pass: {error:#}")));
        }
    }
    Ok(findings)
}

fn compare(place: &str, program: &str, shipped: &[u8], default: &[u8]) -> Option<Finding> {
    if default.is_empty() {
        return Some(Finding::new(
            place,
            format!("`{program} default-config` writes nothing"),
        ));
    }
    let what = "is not what `default-config` writes: run `cargo xtask tidy --bless`";
    (shipped != default).then(|| Finding::new(place, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_differs_is_found() {
        assert_eq!(compare("a.toml", "a", b"x = 1\n", b"x = 1\n"), None);
        assert!(compare("a.toml", "a", b"x = 2\n", b"x = 1\n").is_some());
        assert!(compare("a.toml", "a", b"", b"x = 1\n").is_some());
        assert!(compare("a.toml", "a", b"", b"").is_some());
    }
}
