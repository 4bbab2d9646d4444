//! Debian's clamd, private to a test: its own configuration, socket, and a folder of signatures
//! that holds one, for the EICAR test file. The system's clamd and its signatures are not touched.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use milter_proto::net::Address;
use tempfile::TempDir;

use crate::process::Process;

/// The name under which clamd reports [`eicar`]: signatures that are not its makers' have the
/// ending.
pub const SIGNATURE: &str = "Eicar-Test-Signature.UNOFFICIAL";

/// The test file that every scanner knows, put together here so that no scanner finds it in this
/// source.
#[must_use]
pub fn eicar() -> String {
    let halves = [
        r"X5O!P%@AP[4\PZX54(P^)7CC)7}$",
        "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*",
    ];
    halves.concat()
}

/// A running clamd.
#[derive(Debug)]
pub struct Clamd {
    /// Where it listens.
    pub address: Address,
    /// The process.
    pub process: Process,
    directory: TempDir,
}

impl Clamd {
    /// Where the program is; `None` where it is not installed.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|directory| directory.join("clamd"))
            .find(|program| program.is_file())
    }

    /// Starts one and waits until it answers. `settings` are further lines of its configuration.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn start(settings: &str) -> Result<Self> {
        let program = Self::program().context("clamd is not installed")?;
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("clamd.sock");
        let configuration = write_files(directory.path(), &socket, settings)?;
        let mut command = Command::new(program);
        command
            .arg("--foreground")
            .arg("--config-file")
            .arg(configuration);
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

/// Signatures, folders and configuration; returns the path of the latter.
fn write_files(directory: &Path, socket: &Path, settings: &str) -> Result<PathBuf> {
    let signatures = directory.join("signatures");
    let temporary = directory.join("temporary");
    fs::create_dir(&signatures)?;
    fs::create_dir(&temporary)?;
    let bytes: Vec<String> = eicar().bytes().map(|byte| format!("{byte:02x}")).collect();
    let signature = format!("Eicar-Test-Signature:0:*:{}\n", bytes.concat());
    fs::write(signatures.join("test.ndb"), signature)?;
    let configuration = directory.join("clamd.conf");
    let text = format!(
        "LocalSocket {}\nDatabaseDirectory {}\nTemporaryDirectory {}\nSelfCheck 0\n{settings}\n",
        socket.display(),
        signatures.display(),
        temporary.display(),
    );
    fs::write(&configuration, text)?;
    Ok(configuration)
}
