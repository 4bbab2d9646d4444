//! A private sendmail: Debian's packages, fetched and unpacked into the build folder.
//!
//! They are never installed, since sendmail and Postfix exclude each other there. Neither root nor
//! a compiler beyond rustc's own linker is needed, but apt's lists are. What stands under its
//! version's name is complete; what goes wrong on the way leaves nothing there. Programs lose
//! their set-id bits: nothing in the build folder runs as somebody else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::terminal::say;
use crate::workspace;

/// The daemon, and what its configuration is made of and with.
const PACKAGES: &[&str] = &["sendmail-bin", "sendmail-cf", "m4"];

/// Loaded before it, so that it asks neither DNS nor the system's log.
const ALONE: &str = include_str!("alone.c");

/// Finds it, or fetches it where that is wanted; an error says what to do.
pub(crate) fn ensure(install: bool) -> Result<()> {
    let shelf = workspace::target()?.join("sendmail");
    let offered = offered();
    if ready(&shelf, offered.as_deref()) {
        return Ok(());
    }
    if !install {
        bail!("{}", advice("not fetched yet"));
    }
    if let Some(version) = offered
        && fetch(&shelf, &version).is_ok()
    {
        return Ok(());
    }
    // The lists of a fresh container are empty, and those of an old one name files that are gone.
    if nix::unistd::geteuid().is_root() {
        setup::update()?;
    }
    let Some(version) = self::offered() else {
        bail!("{}", advice("apt does not offer the package sendmail-bin"));
    };
    fetch(&shelf, &version).with_context(|| advice("could not be fetched"))
}

/// What to tell somebody who lacks it.
fn advice(reason: &str) -> String {
    format!(
        "a private sendmail (for tests) {reason}: run apt-get update as root, then cargo xtask \
         setup as yourself"
    )
}

/// Whether the version that apt offers is there; where apt offers none, any will do.
fn ready(shelf: &Path, offered: Option<&str>) -> bool {
    let Ok(folders) = fs::read_dir(shelf) else {
        return false;
    };
    folders.flatten().any(|folder| {
        let is_it = offered.is_none_or(|version| folder.file_name() == version);
        is_it && works(&folder.path())
    })
}

/// The version that apt would take; its lists may be empty.
fn offered() -> Option<String> {
    let mut policy = Command::new("apt-cache");
    policy.env("LC_ALL", "C").args(["policy", PACKAGES[0]]);
    let text = workspace::output(&mut policy).ok()?;
    candidate(&String::from_utf8_lossy(&text))
}

fn candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)" && !version.contains('/'))
        .map(str::to_owned)
}

/// Fetches and unpacks everything aside, tries it, and puts it in place.
fn fetch(shelf: &Path, version: &str) -> Result<()> {
    fs::create_dir_all(shelf).with_context(|| shelf.display().to_string())?;
    let aside = tempfile::Builder::new().prefix(".new-").tempdir_in(shelf)?;
    let root = aside.path().join(version);
    fs::create_dir(&root)?;
    let mut packages: BTreeSet<String> = PACKAGES.iter().map(|&name| name.to_owned()).collect();
    packages.extend(missing_libraries()?);
    say(format_args!(
        "setup: fetching Debian's sendmail {version} into {}, not installing it",
        shelf.display()
    ));
    let mut download = Command::new("apt-get");
    download.args(["-o", "Acquire::Retries=3", "download"]);
    workspace::output(download.args(&packages).current_dir(aside.path()))?;
    for file in fs::read_dir(aside.path())? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            workspace::output(unpack.arg("-x").arg(file).arg(&root))?;
        }
    }
    workspace::output(Command::new("chmod").args(["-R", "a-s"]).arg(&root))?;
    let source = root.join("alone.c");
    fs::write(&source, ALONE)?;
    let mut compile = Command::new("cc");
    compile.args(["-O", "-shared", "-fPIC", "-o"]);
    workspace::output(compile.arg(root.join("alone.so")).arg(&source))?;
    if !works(&root) {
        bail!("the unpacked sendmail {version} does not start");
    }
    put_in_place(&root, &shelf.join(version))
}

/// Another run may have been faster; what stood there and does not work gives way.
fn put_in_place(root: &Path, place: &Path) -> Result<()> {
    if fs::rename(root, place).is_ok() || works(place) {
        return Ok(());
    }
    fs::remove_dir_all(place)?;
    fs::rename(root, place).with_context(|| place.display().to_string())
}

/// Whether the programs of a folder start, with their libraries and as we prepare them now.
fn works(root: &Path) -> bool {
    let prepared = fs::read_to_string(root.join("alone.c")).is_ok_and(|text| text == ALONE);
    let says = |program: &str, arguments: &[&str], word: &str| {
        let mut command = Command::new(root.join(program));
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", libraries(root))
            .env("LD_PRELOAD", root.join("alone.so"))
            .stdin(Stdio::null());
        // Without a configuration it ends with an error, after having told its version.
        let said = command.output().map(|output| output.stdout);
        said.is_ok_and(|said| String::from_utf8_lossy(&said).contains(word))
    };
    let sendmail = "usr/libexec/sendmail/sendmail";
    let version = ["-d0.1", "-bt", "-C", "/dev/null"];
    prepared && says("usr/bin/m4", &["--version"], "m4") && says(sendmail, &version, "Version 8")
}

/// Where unpacked libraries are, whatever the machine's architecture.
fn libraries(root: &Path) -> PathBuf {
    let architecture = std::env::consts::ARCH;
    root.join(format!("usr/lib/{architecture}-linux-gnu"))
}

/// Libraries that the packages need and this machine does not have.
fn missing_libraries() -> Result<BTreeSet<String>> {
    let direct = depends(&[], PACKAGES.iter().copied())?;
    let direct = direct.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("lib").then_some(name)
    });
    let all = depends(&["--recurse"], direct)?;
    let installed = installed()?;
    Ok(all
        .lines()
        .filter(|line| line.starts_with("lib") && !installed.contains(*line))
        .map(str::to_owned)
        .collect())
}

fn depends<'a>(options: &[&str], packages: impl Iterator<Item = &'a str>) -> Result<String> {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C").args(["depends", "--important"]);
    let text = workspace::output(command.args(options).args(packages))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn installed() -> Result<BTreeSet<String>> {
    let mut query = Command::new("dpkg-query");
    let format = "${db:Status-Status} ${Package}\\n";
    let text = workspace::output(query.args(["--show", "--showformat", format]))?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_a_version_or_nothing() {
        let policy = |version: &str| format!("x:\n  Installed: (none)\n  Candidate: {version}\n");
        let table = [
            ("8.17.1.9-2+deb12u2", Some("8.17.1.9-2+deb12u2")),
            ("(none)", None),
            ("../8", None),
        ];
        for (text, expected) in table {
            assert_eq!(candidate(&policy(text)).as_deref(), expected, "{text}");
        }
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn what_does_not_work_is_not_ready() {
        let shelf = tempfile::tempdir().unwrap();
        assert!(!ready(&shelf.path().join("none"), None));
        let folder = shelf.path().join("8.17");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("alone.c"), ALONE).unwrap();
        assert!(!ready(shelf.path(), None));
        assert!(!ready(shelf.path(), Some("8.17")));
    }

    #[test]
    fn what_works_replaces_what_does_not() {
        let shelf = tempfile::tempdir().unwrap();
        let (made, place) = (shelf.path().join("made"), shelf.path().join("place"));
        for folder in [&made, &place] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(place.join("rubbish"), "").unwrap();
        fs::write(made.join("good"), "").unwrap();
        put_in_place(&made, &place).unwrap();
        assert!(place.join("good").is_file() && !place.join("rubbish").exists());
    }
}
