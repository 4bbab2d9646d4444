//! Debian's opendkim, private to a test: its own configuration, socket, and file of public keys.
//! The system's opendkim is not touched, and nothing is looked up in DNS.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use milter_proto::net::Address;
use tempfile::TempDir;

use crate::process::Process;

/// A running opendkim.
#[derive(Debug)]
pub struct OpenDkim {
    /// Where it listens.
    pub address: Address,
    /// The process.
    pub process: Process,
    _directory: TempDir,
}

impl OpenDkim {
    /// Where the program is; `None` where it is not installed.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|directory| directory.join("opendkim"))
            .find(|program| program.is_file())
    }

    /// Starts one and waits until it answers. `settings` are lines of its configuration,
    /// `public_keys` lines of `name record`.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn start(settings: &str, public_keys: &str) -> Result<Self> {
        let program = Self::program().context("opendkim is not installed")?;
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("opendkim.sock");
        let keys = directory.path().join("keys");
        let configuration = directory.path().join("opendkim.conf");
        fs::write(&keys, public_keys)?;
        let text = format!(
            "Syslog no\nBackground no\nRequireSafeKeys no\nSocket local:{}\nTestPublicKeys {}\n\
             {settings}\n",
            socket.display(),
            keys.display(),
        );
        fs::write(&configuration, text)?;
        let mut command = Command::new(program);
        command.arg("-f").arg("-x").arg(configuration);
        let mut process = Process::start(&mut command)?;
        process.wait_until("listening", || UnixStream::connect(&socket).is_ok())?;
        Ok(Self {
            address: Address::Unix(socket),
            process,
            _directory: directory,
        })
    }
}
