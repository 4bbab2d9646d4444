//! The shape of the workspace: what stands at the top, and lints that every member obeys.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Table;

use crate::finding::Finding;

/// The members, by folder.
pub(super) const MEMBERS: &[&str] = &[
    "milter-proto",
    "milter-dkim",
    "milter-spam",
    "milter-clamav",
    "milter-orchestrator",
    "xtask",
    "tests",
];

/// What else stands at the top.
const BESIDE: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "rustfmt.toml",
];

/// Strangers at the top level, and what is missing there.
pub(super) fn top_level(files: &[PathBuf]) -> Vec<Finding> {
    let there: BTreeSet<String> = files
        .iter()
        .filter_map(|file| file.iter().next())
        .map(|first| first.to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = [MEMBERS, BESIDE]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let strangers = there
        .difference(&known)
        .map(|name| Finding::new(name, "does not belong at the top level"));
    let missing = known
        .difference(&there)
        .map(|name| Finding::new(name, "is missing at the top level"));
    strangers.chain(missing).collect()
}

/// The root manifest: its members, and `unsafe` forbidden for all.
pub(super) fn workspace(manifest: &Table) -> Vec<Finding> {
    const FILE: &str = "Cargo.toml";
    let mut findings = Vec::new();
    let workspace = manifest.get("workspace");
    let members: BTreeSet<&str> = workspace
        .and_then(|workspace| workspace.get("members")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .collect();
    if members != MEMBERS.iter().copied().collect() {
        findings.push(Finding::new(
            FILE,
            "other members than the architecture names",
        ));
    }
    let unsafe_code = workspace.and_then(|workspace| {
        workspace
            .get("lints")?
            .get("rust")?
            .get("unsafe_code")?
            .as_str()
    });
    if unsafe_code != Some("forbid") {
        findings.push(Finding::new(FILE, "unsafe_code is not forbidden"));
    }
    findings
}

/// The manifest of a member: the lints of the workspace, nothing switched off.
pub(super) fn member(folder: &str, manifest: &Table) -> Option<Finding> {
    let lints = manifest.get("lints").and_then(toml::Value::as_table);
    let inherits = lints.is_some_and(|lints| {
        lints.len() == 1 && lints.get("workspace") == Some(&toml::Value::Boolean(true))
    });
    if inherits {
        return None;
    }
    let file = format!("{folder}/Cargo.toml");
    Some(Finding::new(
        file,
        "does not take [lints] from the workspace, or adds to them",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_gaps_at_the_top_are_found() {
        let mut files: Vec<PathBuf> = [MEMBERS, BESIDE]
            .concat()
            .iter()
            .map(PathBuf::from)
            .collect();
        assert_eq!(top_level(&files), []);
        files.retain(|file| !file.ends_with("SECURITY.md"));
        files.push(PathBuf::from("scripts/build.sh"));
        let said: Vec<String> = top_level(&files).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "scripts: does not belong at the top level",
                "SECURITY.md: is missing at the top level"
            ]
        );
    }

    #[test]
    fn manifests_that_loosen_are_found() {
        let members = MEMBERS.join("', '");
        let root = format!("[workspace]\nmembers = ['{members}']\n[workspace.lints.rust]\n");
        let good = format!("{root}unsafe_code = 'forbid'\n");
        assert_eq!(workspace(&good.parse().unwrap()), []);
        let loose = format!("{root}unsafe_code = 'warn'\n");
        assert_eq!(workspace(&loose.parse().unwrap()).len(), 1);
        assert_eq!(workspace(&Table::new()).len(), 2);

        for (text, found) in [
            ("[lints]\nworkspace = true\n", false),
            ("[lints]\nworkspace = false\n", true),
            ("[lints.clippy]\nunwrap_used = 'allow'\n", true),
            ("", true),
        ] {
            let finding = member("milter-dkim", &text.parse().unwrap());
            assert_eq!(finding.is_some(), found, "{text}");
        }
    }
}
