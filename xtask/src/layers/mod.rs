//! `cargo xtask layers`: the arrows of the architecture, checked.
//!
//! Which crate may depend on which, which rooms inside a crate stay free of sockets, clocks and
//! files, and which licences and second versions may enter. Every check is a function from what was
//! read to findings; this file reads, calls, and prints them. No finding is fixed here.

mod arrows;
mod licences;
mod rooms;
mod versions;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::finding;
use crate::{source, workspace};

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root();
    let packages = workspace::packages()?;
    let mut findings = arrows::check(&packages);
    findings.extend(arrows::no_tokio(&default_build_of_proto()?));
    findings.extend(rooms::check(&sources(&root, rooms::FOLDERS)?));
    let deny = root.join("deny.toml");
    let deny = fs::read_to_string(&deny).with_context(|| deny.display().to_string())?;
    let deny: toml::Table = deny.parse().context("deny.toml is not TOML")?;
    findings.extend(licences::check(&packages, &licences::allowed(&deny)?));
    findings.extend(versions::check(&packages, &versions::skipped(&deny)));
    finding::report("layers", &findings)
}

/// The crates that `milter-proto` without features pulls in, one a line.
fn default_build_of_proto() -> Result<String> {
    let mut tree: Command = workspace::cargo();
    tree.args(["tree", "--locked", "--package", "milter-proto"]);
    tree.args(["--edges", "normal", "--prefix", "none"]);
    let tree = workspace::output(&mut tree)?;
    Ok(String::from_utf8_lossy(&tree).into_owned())
}

fn sources(root: &Path, folders: &[&str]) -> Result<Vec<source::Source>> {
    let trees = folders
        .iter()
        .map(|folder| source::read_tree(root, folder))
        .collect::<Result<Vec<_>>>()?;
    Ok(trees.into_iter().flatten().collect())
}

/// For the tests of the checks: what each finding says, a line each.
#[cfg(test)]
fn said(findings: &[finding::Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
