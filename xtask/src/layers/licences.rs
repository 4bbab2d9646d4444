//! Which licences may enter, by the allow-list of `deny.toml`.
//!
//! An expression passes when a choice of its alternatives is wholly on the list. A package without
//! an expression, and an expression that cannot be read, are findings: nothing passes by silence.

use anyhow::{Context, Result};

use crate::finding::Finding;
use crate::workspace::Package;

/// Nesting of parentheses in a licence expression, at most.
const DEPTH: usize = 8;

/// The list in `deny.toml`: `[licenses] allow`.
pub(super) fn allowed(deny: &toml::Table) -> Result<Vec<String>> {
    let list = deny
        .get("licenses")
        .and_then(|licenses| licenses.get("allow"))
        .and_then(toml::Value::as_array)
        .context("deny.toml has no list [licenses] allow")?;
    let names = list.iter().filter_map(toml::Value::as_str);
    Ok(names.map(str::to_owned).collect())
}

/// Packages whose licence does not pass.
pub(super) fn check(packages: &[Package], allowed: &[String]) -> Vec<Finding> {
    let judge = |package: &Package| {
        let name = format!("{} {}", package.name, package.version);
        let Some(expression) = &package.license else {
            return Some(Finding::new(name, "names no licence"));
        };
        match passes(expression, allowed) {
            Some(true) => None,
            Some(false) => {
                let what = format!("licence {expression} is not allowed by deny.toml");
                Some(Finding::new(name, what))
            }
            None => {
                let what = format!("licence {expression} cannot be read");
                Some(Finding::new(name, what))
            }
        }
    };
    packages.iter().filter_map(judge).collect()
}

/// Whether an SPDX expression can be satisfied from the list; `None` when it cannot be read.
fn passes(expression: &str, allowed: &[String]) -> Option<bool> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        // The old way to write OR.
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        words: &words,
        allowed,
    };
    let passes = reader.alternatives(DEPTH)?;
    reader.words.is_empty().then_some(passes)
}

/// Reads `alternatives = all { OR all }`, `all = one { AND one }`, `one = NAME [WITH NAME] | ( …
/// )`.
struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl<'a> Reader<'a> {
    fn alternatives(&mut self, depth: usize) -> Option<bool> {
        let mut any = self.all(depth)?;
        while self.next_is("OR") {
            any |= self.all(depth)?;
        }
        Some(any)
    }

    fn all(&mut self, depth: usize) -> Option<bool> {
        let mut all = self.one(depth)?;
        while self.next_is("AND") {
            all &= self.one(depth)?;
        }
        Some(all)
    }

    fn one(&mut self, depth: usize) -> Option<bool> {
        let word = self.take()?;
        if word == "(" {
            let inner = self.alternatives(depth.checked_sub(1)?)?;
            return self.next_is(")").then_some(inner);
        }
        if ["OR", "AND", "WITH", ")"].contains(&word) {
            return None;
        }
        let mut name = word.to_owned();
        if self.next_is("WITH") {
            name = format!("{name} WITH {}", self.take()?);
        }
        Some(self.allowed.contains(&name))
    }

    fn next_is(&mut self, word: &str) -> bool {
        let yes = self.words.first() == Some(&word);
        if yes {
            self.words = &self.words[1..];
        }
        yes
    }

    fn take(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let deny = "[licenses]\nallow = ['MIT', 'ISC', 'Apache-2.0 WITH LLVM-exception']";
        let allowed = allowed(&deny.parse().unwrap()).unwrap();
        for (expression, expected) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("GPL-2.0 OR MIT", Some(true)),
            ("GPL-2.0/MIT", Some(true)),
            ("GPL-2.0 AND MIT", Some(false)),
            ("MIT AND (ISC OR GPL-2.0) AND ISC", Some(true)),
            ("MIT AND (GPL-2.0 OR LGPL-2.1)", Some(false)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("Apache-2.0", Some(false)),
            ("", None),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT ISC", None),
            ("((((((((((MIT))))))))))", None),
        ] {
            assert_eq!(passes(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn a_package_without_a_licence_is_found() {
        let package = Package {
            name: "mystery".to_owned(),
            version: "1.0.0".to_owned(),
            license: None,
            folder: std::path::PathBuf::new(),
            dependencies: Vec::new(),
            member: false,
        };
        assert_eq!(check(&[package], &[]).len(), 1);
    }
}
