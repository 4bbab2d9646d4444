//! What every Rust file has, and the names and attributes that none has.

use std::path::Path;

use crate::finding::Finding;
use crate::source::Source;

/// Names that say nothing, so that anything may end up there.
const REFUSED: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff", "types", "base",
    "core",
];

/// A head comment, a name that means something, no blanket `allow`.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = &source.path;
    let mut findings = Vec::new();
    let first = source.text.lines().find(|line| !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        let what = "does not open with a `//!` that says what the module does and refuses to do";
        findings.push(Finding::new(path.display(), what));
    }
    if let Some(name) = refused(path) {
        let what = format!("`{name}` is a name for anything: name what it holds");
        findings.push(Finding::new(path.display(), what));
    }
    let code = source.squeezed();
    if code.contains("#![allow(") || code.contains("#![expect(") {
        let what = "switches a lint off for a whole module";
        findings.push(Finding::new(path.display(), what));
    }
    findings
}

fn refused(path: &Path) -> Option<&str> {
    path.iter()
        .filter_map(|part| part.to_str())
        .map(|part| part.strip_suffix(".rs").unwrap_or(part))
        .find(|part| REFUSED.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn files_without_head_and_with_names_for_anything_are_found() {
        let good = "//! Does this, refuses that.\n\nfn a() {}\n";
        assert_eq!(said("a/src/wire.rs", good), 0);
        assert_eq!(said("a/src/wire.rs", "fn a() {}\n"), 1);
        assert_eq!(said("a/src/wire.rs", "// not a head\nfn a() {}\n"), 1);
        assert_eq!(said("a/src/wire.rs", ""), 1);
        assert_eq!(said("a/src/utils.rs", good), 1);
        assert_eq!(said("a/src/common/wire.rs", good), 1);
        assert_eq!(
            said("a/src/wire.rs", "//! X.\n#![allow(missing_docs)]\n"),
            1
        );
        // A comment that mentions it is none.
        assert_eq!(
            said("a/src/wire.rs", "//! X.\n// #![allow(missing_docs)]\n"),
            0
        );
    }
}
