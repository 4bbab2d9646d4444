//! `cargo xtask tidy`: the habits of the code base that a command can check.
//!
//! Each file here is one kind of check, a function from what was read to findings. Only
//! `samples` runs anything (the daemons, for their default configuration). Nothing is changed
//! unless `--bless` asks for the shipped samples to be written anew.

mod manifests;
mod map;
mod modules;
mod samples;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::source::Source;
use crate::{finding, source, workspace};

/// Runs every check on the workspace.
pub(crate) fn run(bless: bool) -> Result<()> {
    let root = workspace::root();
    let files = tracked(&root)?;
    let mut findings = Vec::new();
    for path in files.iter().filter(|path| text::is_ours(path)) {
        let bytes = fs::read(root.join(path)).with_context(|| path.display().to_string())?;
        findings.extend(text::check(path, &bytes));
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = Source::new(path, &String::from_utf8_lossy(&bytes));
            findings.extend(modules::check(&source));
        }
    }
    findings.extend(manifests::top_level(&files));
    findings.extend(manifests::workspace(&manifest(&root, "")?));
    for member in manifests::MEMBERS {
        findings.extend(manifests::member(member, &manifest(&root, member)?));
    }
    let map = fs::read_to_string(root.join(map::FILE)).context(map::FILE)?;
    findings.extend(map::check(&map, &|path| root.join(path).exists()));
    findings.extend(samples::check(&root, bless)?);
    finding::report("tidy", &findings)
}

fn manifest(root: &Path, folder: &str) -> Result<toml::Table> {
    let file = root.join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    text.parse().with_context(|| file.display().to_string())
}

/// The files of the project, relative to its root: what git knows or would take; without git, all.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    if let Ok(list) = workspace::output(&mut git) {
        let list = String::from_utf8_lossy(&list);
        let mut files: Vec<PathBuf> = list.split_terminator('\0').map(PathBuf::from).collect();
        // Deleted but not yet committed.
        files.retain(|file| root.join(file).is_file());
        files.sort();
        files.dedup();
        return Ok(files);
    }
    let all = source::files_below(root)?;
    let relative = |file: PathBuf| file.strip_prefix(root).map(Path::to_owned).unwrap_or(file);
    Ok(all.into_iter().map(relative).collect())
}
