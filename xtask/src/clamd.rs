//! A private clamd: its own socket and settings in one folder, the system's clamd untouched.
//!
//! It reads the system's signatures where there are any. Otherwise it gets one signature of our
//! own, for the EICAR test file, and the caller says so to whoever watches.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{User, chown, geteuid};

use crate::child::Child;
use crate::interrupt::Interrupt;
use crate::setup::{CLAMD, find};

/// Where Debian keeps the signatures that freshclam fetches.
const SYSTEM_SIGNATURES: &str = "/var/lib/clamav";
/// The account that Debian's clamd runs under.
const ACCOUNT: &str = "clamav";
/// The files of which one is enough to call it a database.
const DATABASES: &[&str] = &["main.cvd", "main.cld", "daily.cvd", "daily.cld"];
/// The name of our own signature.
pub(crate) const TEST_SIGNATURE: &str = "Eicar-Test-Signature";

/// What a clamd looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signatures {
    /// The database of the system.
    System,
    /// The EICAR test file alone.
    Test,
}

impl Signatures {
    /// The system's, where there is a database.
    pub(crate) fn best() -> Self {
        let folder = Path::new(SYSTEM_SIGNATURES);
        if DATABASES.iter().any(|file| folder.join(file).exists()) {
            Self::System
        } else {
            Self::Test
        }
    }
}

/// A running private clamd.
pub(crate) struct Clamd {
    child: Child,
    socket: PathBuf,
}

impl Clamd {
    /// Starts one below `folder` and waits until it answers.
    pub(crate) fn start(
        folder: &Path,
        signatures: Signatures,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let program = find(CLAMD.program).context("clamd is not installed")?;
        fs::create_dir_all(folder)?;
        let database = match signatures {
            Signatures::System => PathBuf::from(SYSTEM_SIGNATURES),
            Signatures::Test => test_database(folder)?,
        };
        let socket = folder.join("clamd.sock");
        let settings = folder.join("clamd.conf");
        let account = own_by_account(folder)?;
        fs::write(&settings, conf(&socket, &database, folder, account))?;
        let mut start = Command::new(program);
        start.arg("--config-file").arg(&settings);
        let mut child = Child::start("clamd", &mut start, &folder.join("clamd.log"))?;
        // A whole database takes a while to load.
        interrupt.until("clamd answers", Duration::from_secs(180), || {
            child.must_run()?;
            Ok(answers(&socket))
        })?;
        Ok(Self { child, socket })
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// An error when it is gone.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.child.must_run()
    }
}

/// The EICAR test file, put together here so that no scanner stops at our source.
pub(crate) fn eicar() -> Vec<u8> {
    let halves = [
        r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STAND",
        "ARD-ANTIVIRUS-TEST-FILE!$H+H*",
    ];
    halves.concat().into_bytes()
}

fn test_database(folder: &Path) -> Result<PathBuf> {
    use std::fmt::Write;
    let database = folder.join("signatures");
    fs::create_dir_all(&database)?;
    let mut line = format!("{TEST_SIGNATURE}:0:*:");
    for byte in eicar() {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    fs::write(database.join("test.ndb"), line)?;
    Ok(database)
}

/// As root, clamd drops to its own account, which then needs the folder.
fn own_by_account(folder: &Path) -> Result<Option<&'static str>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let Some(user) = User::from_name(ACCOUNT)? else {
        return Ok(None);
    };
    chown(folder, Some(user.uid), Some(user.gid))?;
    Ok(Some(ACCOUNT))
}

fn conf(socket: &Path, database: &Path, folder: &Path, account: Option<&str>) -> String {
    let mut lines = vec![
        format!("LocalSocket {}", socket.display()),
        "LocalSocketMode 666".to_owned(),
        "FixStaleSocket yes".to_owned(),
        format!("DatabaseDirectory {}", database.display()),
        format!("TemporaryDirectory {}", folder.display()),
        "Foreground yes".to_owned(),
        "StreamMaxLength 100M".to_owned(),
        "MaxScanSize 100M".to_owned(),
        "MaxFileSize 100M".to_owned(),
        // Nothing changes while it runs.
        "SelfCheck 0".to_owned(),
    ];
    lines.extend(account.map(|account| format!("User {account}")));
    lines.join("\n") + "\n"
}

fn answers(socket: &Path) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"zPING\0")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"PONG\0")
    };
    ping().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_file_is_found_by_the_test_signature() {
        assert_eq!(eicar().len(), 68);
        if find(CLAMD.program).is_none() {
            println!("skipped: a private clamd: needs clamd");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).unwrap();
        let interrupt = Interrupt::default();
        let clamd = Clamd::start(&folder.path().join("clamd"), Signatures::Test, &interrupt);
        let clamd = clamd.unwrap();
        let scan = |text: &[u8]| {
            let mut stream = UnixStream::connect(clamd.socket()).unwrap();
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            let stop = [0; 4];
            let request = [b"zINSTREAM\0", &length[..], text, &stop[..]].concat();
            stream.write_all(&request).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert_eq!(scan(b"hello"), "stream: OK\0");
        let found = scan(&eicar());
        assert!(
            found.contains(TEST_SIGNATURE) && found.contains("FOUND"),
            "{found}"
        );
    }
}
