//! C sources of the folder `c`, built when a test needs them, into the build folder.
//!
//! What is newer than its source is not built again. Tests that build the same at the same time do
//! not see each other's halves: the result gets its name when it is complete.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A shared library.
///
/// # Errors
/// When there is no C compiler, or it refuses the source; with what it says.
pub fn library(source: &str) -> Result<PathBuf> {
    let ending = source.replace(".c", ".so");
    build(source, &ending, &["-shared", "-fPIC"], &["-ldl"])
}

/// A program on top of libmilter.
///
/// # Errors
/// When there is no C compiler or no libmilter, or it refuses the source; with what it says.
pub fn milter(source: &str) -> Result<PathBuf> {
    build(
        source,
        &source.replace(".c", ""),
        &[],
        &["-lmilter", "-lpthread"],
    )
}

/// Where libmilter's header is, if anywhere.
#[must_use]
pub fn libmilter() -> Option<PathBuf> {
    let header = Path::new("/usr/include/libmilter/mfapi.h");
    header.is_file().then(|| header.to_owned())
}

fn build(source: &str, name: &str, flags: &[&str], libraries: &[&str]) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test>
    let folder = test.parent().and_then(Path::parent);
    let folder = folder.context("the test is in no target folder")?.join("c");
    std::fs::create_dir_all(&folder)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c").join(source);
    let built = folder.join(name);
    let changed = |file: &Path| file.metadata().and_then(|file| file.modified());
    if changed(&built).is_ok_and(|built| changed(&source).is_ok_and(|source| source < built)) {
        return Ok(built);
    }
    let draft = folder.join(format!("{name}.{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1"]);
    cc.args(flags)
        .arg("-o")
        .arg(&draft)
        .arg(&source)
        .args(libraries);
    let output = cc.output().context("cannot run cc")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&draft, &built)?;
    Ok(built)
}
