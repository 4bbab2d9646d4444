//! The workspace on disk: its root, its build folder, cargo itself, and what `cargo metadata` says
//! of it.
//!
//! It holds no policy; `layers` and `tidy` judge what is read here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::{Mode, umask};
use serde_json::Value;

/// The root folder of the workspace: the parent of this crate's.
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| own.clone(), Path::to_owned)
}

/// Longest path of the folder for temporary files: those of sockets have 108 octets.
const TEMPORARY_MAX: usize = 40;

/// Undoes what a user may have set for good reasons of his own and what servers could not do with,
/// for this process and all that it starts: a umask that keeps files from the accounts of mail
/// servers, and a folder for temporary files that is too deep for sockets.
pub(crate) fn make_ordinary() {
    umask(Mode::from_bits_truncate(0o022));
    if std::env::temp_dir().as_os_str().len() > TEMPORARY_MAX {
        // It is the first word on that, which is the one that counts.
        let _ = tempfile::env::override_temp_dir(Path::new("/tmp"));
    }
}

/// `cargo`, the same that runs us, in the root folder.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo.env("TMPDIR", tempfile::env::temp_dir());
    // Set by `cargo run` for this crate; the builds that we start are of others.
    cargo.env_remove("CARGO_MANIFEST_DIR");
    cargo
}

/// Runs `command` with our output; an error names it when it fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs `command` and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}:\n{words}", output.status);
    }
    Ok(output.stdout)
}

/// How the daemons are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `target/debug`
    Dev,
    /// `target/release`
    Release,
}

/// Builds the four daemons and returns the folder that holds them.
pub(crate) fn build_daemons(profile: Profile) -> Result<PathBuf> {
    build(profile, &["--bins", "--workspace", "--exclude", "xtask"])
}

/// Builds these programs and returns the folder that holds them.
pub(crate) fn build_programs(profile: Profile, names: &[&str]) -> Result<PathBuf> {
    let mut selection = vec!["--workspace"];
    for name in names {
        selection.extend(["--bin", name]);
    }
    build(profile, &selection)
}

fn build(profile: Profile, selection: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--locked"]).args(selection);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            build.arg("--release");
            "release"
        }
    };
    succeed(&mut build)?;
    Ok(target()?.join(folder))
}

/// The build folder.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(folder))
}

/// How a crate depends on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `[dependencies]` and `[build-dependencies]`
    Normal,
    /// `[dev-dependencies]`
    Dev,
}

/// A package as `cargo metadata` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its licence expression (SPDX), where it has one.
    pub(crate) license: Option<String>,
    /// The folder of its manifest.
    pub(crate) folder: PathBuf,
    /// What it depends on directly.
    pub(crate) dependencies: Vec<(String, Kind)>,
    /// Whether it is one of ours.
    pub(crate) member: bool,
}

/// Every package of the build on this platform: ours and all that they lead to.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let host = host()?;
    let metadata = metadata(&["--locked", "--filter-platform", &host])?;
    let members = array(&metadata["workspace_members"]);
    array(&metadata["packages"])
        .iter()
        .map(|package| read_package(package, members.contains(&package["id"])))
        .collect()
}

fn read_package(package: &Value, member: bool) -> Result<Package> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let manifest = PathBuf::from(text("manifest_path").context("a package without a manifest")?);
    let dependencies = array(&package["dependencies"])
        .iter()
        .filter_map(|dependency| {
            let name = dependency["name"].as_str()?.to_owned();
            let kind = match dependency["kind"].as_str() {
                Some("dev") => Kind::Dev,
                _ => Kind::Normal,
            };
            Some((name, kind))
        })
        .collect();
    Ok(Package {
        name: text("name").context("a package without a name")?,
        version: text("version").unwrap_or_default(),
        license: text("license"),
        folder: manifest
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .to_owned(),
        dependencies,
        member,
    })
}

fn metadata(arguments: &[&str]) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1"]);
    let text = output(command.args(arguments))?;
    serde_json::from_slice(&text).context("cargo metadata is not JSON")
}

/// The platform that rustc builds for here (`x86_64-unknown-linux-gnu`).
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = output(Command::new(rustc).arg("-vV"))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("rustc -vV names no host")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
