//! Which fuzz targets there are: tests whose function holds `bolero::check!`.
//!
//! The sources say what the functions are called, the built test programs under which path they can
//! be run. A function that no program lists is an error, so that none is left out unnoticed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::source;
use crate::workspace;

/// The word that makes a test a target.
const MARK: &str = "check!()";

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The package that it belongs to.
    pub(super) package: String,
    /// Where that is.
    pub(super) folder: PathBuf,
    /// The test program.
    pub(super) binary: PathBuf,
    /// Path of the test in it.
    pub(super) test: String,
    /// How cargo is told which program it is: `--lib`, or `--test` and its name.
    pub(super) selection: Vec<String>,
}

impl Target {
    /// Package and path.
    pub(super) fn name(&self) -> String {
        format!("{}::{}", self.package, self.test)
    }

    /// Package and function, for a table.
    pub(super) fn short_name(&self) -> String {
        let function = self.test.rsplit("::").next().unwrap_or(&self.test);
        format!("{}: {function}", self.package)
    }
}

/// A test program, and the package it was built from.
struct Program {
    folder: PathBuf,
    binary: PathBuf,
    selection: Vec<String>,
}

/// Finds and builds all targets, in order of package and path.
pub(super) fn find(optimised: bool) -> Result<Vec<Target>> {
    let root = workspace::root();
    let mut functions: BTreeMap<PathBuf, (String, Vec<String>)> = BTreeMap::new();
    for package in workspace::packages()? {
        if !package.member || package.name == "xtask" {
            continue;
        }
        let folder = package
            .folder
            .strip_prefix(&root)
            .unwrap_or(&package.folder);
        let sources = source::read_tree(&root, &folder.to_string_lossy())?;
        let named: Vec<String> = sources.iter().flat_map(|file| marked(&file.text)).collect();
        if !named.is_empty() {
            functions.insert(package.folder, (package.name, named));
        }
    }
    let names = functions.values().map(|(name, _)| name.as_str());
    let programs = build(names, optimised)?;
    let mut found = Vec::new();
    for (folder, (package, named)) in &functions {
        let own = programs.iter().filter(|program| program.folder == *folder);
        let mut left: Vec<&String> = named.iter().collect();
        for program in own {
            for test in list(program, folder)? {
                let last = test.rsplit("::").next().unwrap_or(&test);
                if !named.iter().any(|name| name == last) {
                    continue;
                }
                left.retain(|name| *name != last);
                found.push(Target {
                    package: package.clone(),
                    folder: folder.clone(),
                    binary: program.binary.clone(),
                    test,
                    selection: program.selection.clone(),
                });
            }
        }
        if let Some(name) = left.first() {
            bail!("fuzz: {package} has a target {name} that none of its test programs lists");
        }
    }
    Ok(found)
}

/// The names of the functions that hold the mark.
fn marked(text: &str) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    let mut function = None;
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next();
            function = name.map(str::to_owned);
        }
        let is_marked = line.starts_with(MARK) || line.contains("bolero::check!()");
        if is_marked && !line.starts_with("//") {
            named.extend(function.take());
        }
    }
    named
}

/// Builds the tests of the packages.
fn build<'a>(packages: impl Iterator<Item = &'a str>, optimised: bool) -> Result<Vec<Program>> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--locked",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if optimised {
        cargo.args(["--profile", "fuzz"]);
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    let said = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !said.status.success() {
        bail!("fuzz: the targets cannot be built ({})", said.status);
    }
    let said = String::from_utf8_lossy(&said.stdout);
    Ok(said.lines().filter_map(read_program).collect())
}

/// A line of cargo's messages, when it is about a test program.
fn read_program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let binary = message["executable"].as_str()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let name = message["target"]["name"].as_str()?;
    let selection = match message["target"]["kind"][0].as_str()? {
        "lib" => vec!["--lib".to_owned()],
        "test" => vec!["--test".to_owned(), name.to_owned()],
        _ => return None,
    };
    is_test.then_some(Program {
        folder: manifest.parent()?.to_owned(),
        binary: PathBuf::from(binary),
        selection,
    })
}

/// The tests in a program.
fn list(program: &Program, folder: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(&program.binary);
    let text = workspace::output(
        command
            .args(["--list", "--format", "terse"])
            .current_dir(folder),
    )?;
    let text = String::from_utf8_lossy(&text);
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(tests.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_with_the_mark_is_a_target() {
        let text = "
            fn helper() {}
            #[test]
            fn fuzz_one() {
                bolero::check!()
                    .for_each(|_| ());
            }
            fn two(input: &[u8]) {
                check!()
                // bolero::check!() again
            }
            fn three() {}
        ";
        assert_eq!(marked(text), ["fuzz_one", "two"]);
    }

    #[test]
    fn test_programs_are_told_from_other_messages() {
        let line = |kind: &str, test: bool| {
            format!(
                r#"{{"executable":"/t/x","manifest_path":"/p/Cargo.toml",
                "profile":{{"test":{test}}},"target":{{"name":"it","kind":["{kind}"]}}}}"#
            )
        };
        let selection = |line: &str| read_program(line).map(|program| program.selection.join(" "));
        assert_eq!(selection(&line("lib", true)).as_deref(), Some("--lib"));
        assert_eq!(selection(&line("test", true)).as_deref(), Some("--test it"));
        assert_eq!(selection(&line("bin", true)), None);
        assert_eq!(selection(&line("lib", false)), None);
        assert_eq!(selection("warning: text"), None);
        assert_eq!(selection(r#"{"reason":"build-finished"}"#), None);
    }
}
