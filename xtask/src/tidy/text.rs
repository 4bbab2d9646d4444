//! White space and width of the files that we write ourselves.
//!
//! Test mail and other fixtures are bytes that must stay as they are; they are left alone.

use std::path::Path;

use crate::finding::Finding;

/// Columns of a line of Rust, at most.
const COLUMNS: usize = 100;
/// The kinds of file that are written by hand.
const KINDS: &[&str] = &["rs", "md", "toml", "sh", "service", "socket", "lua"];

/// Whether a file is one of those checked here.
pub(super) fn is_ours(path: &Path) -> bool {
    let kind = path.extension().and_then(|extension| extension.to_str());
    kind.is_some_and(|kind| KINDS.contains(&kind)) || path.starts_with(".ci")
}

/// Trailing white space, tabs, carriage returns, a missing last line end, lines that are too wide.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Vec<Finding> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return vec![Finding::new(path.display(), "is not UTF-8")];
    };
    let rust = path.extension().is_some_and(|extension| extension == "rs");
    let mut findings = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let mut found = |what: &str| findings.push(Finding::line(path, index + 1, what));
        if line.contains('\r') {
            found("carriage return");
        } else if line.ends_with(char::is_whitespace) {
            found("white space at the end");
        }
        if line.contains('\t') {
            found("tab");
        }
        if rust && line.chars().count() > COLUMNS {
            found("more than 100 columns");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::new(path.display(), "has no line end at its end"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &[u8]) -> Vec<String> {
        let findings = check(Path::new(path), text);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn untidy_lines_are_found() {
        assert_eq!(said("a.rs", b"fn a() {}\n\n    b\n"), [""; 0]);
        assert_eq!(
            said("a.rs", b"a \n\tb"),
            [
                "a.rs:1: white space at the end",
                "a.rs:2: tab",
                "a.rs: has no line end at its end"
            ]
        );
        assert_eq!(said("a.rs", b"a\r\n"), ["a.rs:1: carriage return"]);
        assert_eq!(said("a.rs", b"\xff"), ["a.rs: is not UTF-8"]);
        let wide = format!("{}\n", "é".repeat(101));
        assert_eq!(
            said("a.rs", wide.as_bytes()),
            ["a.rs:1: more than 100 columns"]
        );
        assert_eq!(said("a.md", wide.as_bytes()), [""; 0]);
        let full = format!("{}\n", "é".repeat(100));
        assert_eq!(said("a.rs", full.as_bytes()), [""; 0]);
    }

    #[test]
    fn fixtures_are_not_ours() {
        assert!(is_ours(Path::new("milter-dkim/src/lib.rs")));
        assert!(is_ours(Path::new(".ci/run")));
        assert!(!is_ours(Path::new("tests/mail/plain.eml")));
    }
}
