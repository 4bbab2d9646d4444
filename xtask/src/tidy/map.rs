//! ARCHITECTURE.md names no path that is gone, and stays short enough to be read.
//!
//! A path is what stands in backticks, contains a `/` and looks like nothing else. It is sought
//! from the root, and from the path that the nearest heading above names.

use std::path::{Path, PathBuf};

use crate::finding::Finding;

/// The map.
pub(super) const FILE: &str = "ARCHITECTURE.md";
/// Lines of the map, fewer than.
const LINES: usize = 400;

/// Paths that do not exist (as `exists` answers for paths relative to the root), and a map that is
/// too long.
pub(super) fn check(text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut below = PathBuf::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let named = paths(line);
        if line.starts_with('#') {
            below = named.first().map(PathBuf::from).unwrap_or_default();
        }
        let gone = named
            .iter()
            .filter(|path| !exists(Path::new(path)) && !exists(&below.join(path)));
        findings.extend(gone.map(|path| {
            let what = format!("names `{path}`, which is not there");
            Finding::line(Path::new(FILE), index + 1, what)
        }));
    }
    if text.lines().count() >= LINES {
        findings.push(Finding::new(FILE, format!("has {LINES} lines or more")));
    }
    findings
}

/// The paths in one line, braces spelled out.
fn paths(line: &str) -> Vec<String> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| is_path(word))
        .flat_map(spelled_out)
        .collect()
}

fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-{},".contains(c);
    let file = Path::new(word)
        .extension()
        .is_some_and(|extension| ["rs", "md", "toml"].iter().any(|known| extension == *known));
    word.chars().all(plain) && !word.starts_with(['/', '.']) && (word.contains('/') || file)
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`; one pair of braces.
fn spelled_out(word: &str) -> Vec<String> {
    let inner = word
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match inner {
        Some((before, (choices, after))) => choices
            .split(',')
            .map(|choice| format!("{before}{choice}{after}"))
            .collect(),
        None => vec![word.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(text: &str) -> Vec<String> {
        let there = [
            "milter-dkim",
            "milter-dkim/src/auth/dns.rs",
            "README.md",
            "tests/it",
        ];
        let exists = |path: &Path| there.iter().any(|known| Path::new(known) == path);
        check(text, &exists)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_path_that_is_gone_is_found() {
        let good = "# Map\n`README.md`, `tests/it`, `cargo xtask run`, `/etc/milter`, `a::b`\n\
                    ### `milter-dkim/`\n* `src/auth/dns.rs`: x\n```\nsrc/none.rs\n```\n";
        assert_eq!(gone(good), [""; 0]);
        assert_eq!(
            gone("# Map\n`src/auth/dns.rs`\n"),
            ["ARCHITECTURE.md:2: names `src/auth/dns.rs`, which is not there"]
        );
        assert_eq!(gone("## `milter-dkim/`\n`src/auth/{dns,spf}.rs`").len(), 1);
        assert_eq!(gone("`SETUP.md`").len(), 1);
    }

    #[test]
    fn a_map_must_be_short() {
        assert_eq!(
            gone(&"x\n".repeat(400)),
            ["ARCHITECTURE.md: has 400 lines or more"]
        );
    }
}
