//! The daemons under test: their binaries, and one of them running with a configuration.
//!
//! A test of this package does not make cargo build the binaries of other packages, so the first
//! that needs one builds them all; where they are fresh, that takes less than a second.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use milter_proto::net::Address;
use tempfile::TempDir;

use crate::process::Process;

/// Packages with a binary of the same name.
pub const DAEMONS: [&str; 4] = [
    "milter-clamav",
    "milter-dkim",
    "milter-orchestrator",
    "milter-spam",
];

/// Where the binary called `name` is, built if need be in the profile of the running test.
///
/// # Errors
/// When it cannot be built.
pub fn binary(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match directory {
        Ok(directory) => Ok(directory.join(name)),
        Err(error) => bail!("{error}"),
    }
}

/// Builds all daemons; the folder of their binaries.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test>, or target/<profile>/<program of this package>
    let folder = test.parent();
    let folder = folder.map(|folder| {
        folder
            .parent()
            .filter(|_| folder.ends_with("deps"))
            .unwrap_or(folder)
    });
    let directory = folder.context("the test is in no target folder")?;
    let name = directory.file_name().and_then(|name| name.to_str());
    let profile = match name {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // All that `cargo xtask test` has built: of fewer packages the dependencies would have other
    // features, and be built once more.
    build.args(["build", "--quiet", "--profile", profile]);
    build.args(["--workspace", "--bins", "--examples"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = build.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(directory.to_owned())
}

/// Runs a daemon's binary to its end, for what ends by itself: its exit code, and what it wrote.
///
/// # Errors
/// When it cannot be built or started, still runs after a while, or was ended by a signal.
pub fn run(name: &str, arguments: &[&OsStr]) -> Result<(i32, String)> {
    let mut command = Command::new(binary(name)?);
    let mut process = Process::start(command.args(arguments))?;
    let status = process.wait()?;
    let code = status.code().with_context(|| format!("{name}: {status}"))?;
    Ok((code, process.output()))
}

/// A daemon that serves a socket of its own in a folder of its own.
#[derive(Debug)]
pub struct Daemon {
    /// Where it listens.
    pub address: Address,
    /// The process.
    pub process: Process,
    directory: TempDir,
}

impl Daemon {
    /// Starts the filter called `name` and waits until its socket accepts connections. The section
    /// `[server]` is written here: `sections` holds all others.
    ///
    /// # Errors
    /// When it does not come up; with its output.
    pub fn start(name: &str, sections: &str) -> Result<Self> {
        let server = "[server]\nsocket = \"unix:{folder}/milter.sock\"\n";
        Self::configured(name, &format!("{server}{sections}"))
    }

    /// Starts an orchestrator and waits until its socket accepts connections. A listener, the
    /// control socket and the supervision are written here: `sections` holds all others. Filters
    /// are probed once; further probes would be in their logs.
    ///
    /// # Errors
    /// When it does not come up; with its output.
    pub fn orchestrator(sections: &str) -> Result<Self> {
        let frame = r#"
            listen.inbound.socket = "unix:{folder}/milter.sock"
            control.socket = "unix:{folder}/control.sock"
            supervisor = { directory = "{folder}/children", probe_interval = "1h" }
        "#;
        Self::configured("milter-orchestrator", &format!("{frame}{sections}"))
    }

    /// Starts the daemon called `name` with this configuration, in which `{folder}` stands for a
    /// folder of its own, and waits until the socket `{folder}/milter.sock` accepts connections.
    ///
    /// # Errors
    /// When it does not come up; with its output.
    pub fn configured(name: &str, configuration: &str) -> Result<Self> {
        Self::behind(&[], name, configuration)
    }

    /// The same, by way of a command that puts the daemon in its own place: its program and
    /// arguments come behind those of `wrapper`.
    ///
    /// # Errors
    /// When it does not come up; with its output.
    pub fn behind(wrapper: &[&str], name: &str, configuration: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let folder = directory.path().to_str();
        let folder = folder.context("the folder for temporary files has a strange name")?;
        let socket = directory.path().join("milter.sock");
        let file = directory.path().join("config.toml");
        std::fs::write(&file, configuration.replace("{folder}", folder))?;
        let program = binary(name)?;
        let mut words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("--config").arg(&file);
        let mut process = Process::start(&mut command)?;
        process.wait_until("listening", || UnixStream::connect(&socket).is_ok())?;
        Ok(Self {
            address: Address::Unix(socket),
            process,
            directory,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
