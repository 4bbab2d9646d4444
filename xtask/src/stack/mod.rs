//! The orchestrator with the three filters behind it, configured in one folder.
//!
//! [`Site::furnish`] writes configuration and keys where there are none and leaves alone what
//! somebody may have changed; [`Stack::start`] runs the orchestrator on them. clamd and the mail
//! server are not its business.

mod settings;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{User, chown, geteuid};
use serde_json::Value;

use self::settings::Settings;
use crate::child::Child;
use crate::interrupt::Interrupt;
use crate::workspace;

/// The selector of the demonstration's keys.
pub(crate) const SELECTOR: &str = "demo";
/// An account without rights, for when root starts it all.
const ACCOUNT: &str = "nobody";

/// Where a stack lives and what is particular to it.
pub(crate) struct Site {
    /// Holds `etc`, `keys`, `state` and the log.
    pub(crate) folder: PathBuf,
    /// Holds the daemons.
    pub(crate) binaries: PathBuf,
    /// Where the MTA connects, as Sendmail writes it.
    pub(crate) listen: String,
    /// The socket of a clamd; without one there is no virus filter.
    pub(crate) clamd: Option<PathBuf>,
    /// The name in Authentication-Results, where it is not to be the MTA's own; public keys then
    /// come from a file too, so that no name is looked up.
    pub(crate) closed_as: Option<String>,
    /// The domain that is signed for.
    pub(crate) domain: String,
}

impl Site {
    /// Writes what is not there yet; returns the files that were written.
    pub(crate) fn furnish(&self) -> Result<Vec<PathBuf>> {
        for folder in ["etc", "keys", "state"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let mut written = Vec::new();
        if !self.key_file().exists() {
            written.extend(self.make_keys()?);
        }
        for (program, file, text) in [
            ("milter-clamav", "clamav.toml", Self::clamav as Furnisher),
            ("milter-dkim", "dkim.toml", Self::dkim),
            ("milter-spam", "spam.toml", Self::spam),
            (
                "milter-orchestrator",
                "orchestrator.toml",
                Self::orchestrator,
            ),
        ] {
            let path = self.etc(file);
            if path.exists() || (program == "milter-clamav" && self.clamd.is_none()) {
                continue;
            }
            let default =
                workspace::output(Command::new(self.binary(program)).arg("default-config"))?;
            let mut settings = Settings::new(std::str::from_utf8(&default)?);
            text(self, &mut settings).with_context(|| format!("default-config of {program}"))?;
            fs::write(&path, settings.text())?;
            written.push(path);
        }
        self.give_away()?;
        Ok(written)
    }

    /// Public keys, one a line, for verifying without DNS.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("keys/published")
    }

    /// A daemon.
    pub(crate) fn binary(&self, program: &str) -> PathBuf {
        self.binaries.join(program)
    }

    /// The orchestrator's configuration.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.etc("orchestrator.toml")
    }

    /// Where everything is logged.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("stack.log")
    }

    /// The account that a stack started by root gives root up for; `None` where it stays who it is.
    pub(crate) fn account(&self) -> Option<&'static str> {
        let can = geteuid().is_root() && reachable(&self.folder) && reachable(&self.binaries);
        can.then_some(ACCOUNT)
    }

    /// A file of a daemon's configuration.
    pub(crate) fn etc(&self, file: &str) -> PathBuf {
        self.folder.join("etc").join(file)
    }

    fn clamav(&self, settings: &mut Settings) -> Result<()> {
        if let Some(clamd) = &self.clamd {
            settings.set(
                "clamd",
                "servers",
                vec![format!("unix:{}", clamd.display())],
            )?;
        }
        Ok(())
    }

    fn dkim(&self, settings: &mut Settings) -> Result<()> {
        let domain = &self.domain;
        if let Some(hostname) = &self.closed_as {
            settings.set("", "authserv_id", hostname.as_str())?;
            settings.set("dns", "key_file", self.key_file().display().to_string())?;
        }
        for kind in ["rsa", "ed25519"] {
            let key = self.private_key(kind);
            settings.add(&format!(
                "[[sign]]\ndomain = \"{domain}\"\nselector = \"{SELECTOR}-{kind}\"\nkey = \"{}\"",
                key.display()
            ));
        }
        Ok(())
    }

    fn spam(&self, _settings: &mut Settings) -> Result<()> {
        Ok(())
    }

    fn orchestrator(&self, settings: &mut Settings) -> Result<()> {
        let control = self.folder.join("state/control.sock");
        settings.set("control", "socket", format!("unix:{}", control.display()))?;
        let children = self.folder.join("state/children");
        settings.set("supervisor", "directory", children.display().to_string())?;
        if let Some(account) = self.account() {
            settings.set("process", "user", account)?;
        }
        settings.add(&format!("[listen.inbound]\nsocket = \"{}\"", self.listen));
        let mut filters = vec!["dkim", "spam"];
        if self.clamd.is_some() {
            filters.insert(1, "clamav");
        }
        for filter in &filters {
            let program = self.binary(&format!("milter-{filter}"));
            let file = self.etc(&format!("{filter}.toml"));
            settings.add(&format!(
                "[milter.{filter}]\ncommand = [\"{}\", \"--config\", \"{}\"]",
                program.display(),
                file.display()
            ));
        }
        let chain = filters.join("\", \"");
        settings.add(&format!(
            "# All mail, the filters side by side on the same bytes.\n\
             [[route]]\nname = \"all\"\nchain = [[\"{chain}\"]]"
        ));
        Ok(())
    }

    fn private_key(&self, kind: &str) -> PathBuf {
        let Self { folder, domain, .. } = self;
        folder.join(format!("keys/{domain}.{SELECTOR}-{kind}.pem"))
    }

    /// An RSA and an Ed25519 key, and the file with what DNS would hold.
    fn make_keys(&self) -> Result<Vec<PathBuf>> {
        let keys = self.folder.join("keys");
        let mut published = String::from("# What DNS would hold.\n");
        let mut written = Vec::new();
        for kind in ["rsa", "ed25519"] {
            let selector = format!("{SELECTOR}-{kind}");
            let mut genkey = Command::new(self.binary("milter-dkim"));
            genkey.args(["genkey", "--domain", &self.domain, "--selector", &selector]);
            genkey.args(["--type", kind, "--directory"]).arg(&keys);
            workspace::output(&mut genkey)?;
            let record = keys.join(format!("{}.{selector}.txt", self.domain));
            let text = fs::read_to_string(&record).with_context(|| record.display().to_string())?;
            published.push_str(&text);
            written.push(self.private_key(kind));
        }
        fs::write(self.key_file(), published)?;
        written.push(self.key_file());
        Ok(written)
    }

    /// The account that the daemons become must own the keys and the folder of the sockets.
    fn give_away(&self) -> Result<()> {
        for folder in ["keys", "state"] {
            self.give(&self.folder.join(folder))?;
        }
        Ok(())
    }

    /// Gives a folder and what is in it to the account that the daemons become.
    pub(crate) fn give(&self, folder: &Path) -> Result<()> {
        let Some(account) = self.account() else {
            return Ok(());
        };
        let user = User::from_name(account)?.with_context(|| format!("no account {account}"))?;
        chown(folder, Some(user.uid), Some(user.gid))?;
        for entry in fs::read_dir(folder)? {
            chown(&entry?.path(), Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }
}

/// Fills in one daemon's settings.
type Furnisher = fn(&Site, &mut Settings) -> Result<()>;

/// Whether any account may enter a folder.
fn reachable(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else {
        return false;
    };
    let mut way = folder.ancestors();
    way.all(|part| fs::metadata(part).is_ok_and(|part| part.permissions().mode() & 0o001 != 0))
}

/// A running orchestrator and its filters.
pub(crate) struct Stack {
    orchestrator: Child,
    program: PathBuf,
    configuration: PathBuf,
}

impl Stack {
    /// Starts the orchestrator of a furnished site and waits until every filter is up.
    pub(crate) fn start(site: &Site, interrupt: &Interrupt) -> Result<Self> {
        let program = site.binary("milter-orchestrator");
        let configuration = site.configuration();
        let mut check = Command::new(&program);
        workspace::output(check.arg("--config").arg(&configuration).arg("check"))?;
        let mut start = Command::new(&program);
        start.arg("--config").arg(&configuration);
        let orchestrator = Child::start("milter-orchestrator", &mut start, &site.log())?;
        let mut stack = Self {
            orchestrator,
            program,
            configuration,
        };
        interrupt.until("every filter is up", Duration::from_secs(60), || {
            stack.must_run()?;
            let filters = stack.filters().unwrap_or_default();
            Ok(!filters.is_empty() && filters.iter().all(|filter| filter.up))
        })?;
        Ok(stack)
    }

    /// An error when the orchestrator is gone.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.orchestrator.must_run()
    }

    /// The command that shows the state.
    pub(crate) fn status_command(&self) -> String {
        let (program, file) = (self.program.display(), self.configuration.display());
        format!("{program} --config {file} status")
    }

    /// What `status` tells of the filters.
    pub(crate) fn filters(&self) -> Result<Vec<Filter>> {
        let mut status = Command::new(&self.program);
        status.arg("--config").arg(&self.configuration);
        let text = workspace::output(status.args(["status", "--json"]))?;
        read_status(&serde_json::from_slice(&text)?).context("status --json is not as expected")
    }

    /// Stops the orchestrator; an error when it does not end well.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.orchestrator.stop()?;
        ensure!(status.success(), "milter-orchestrator ended with {status}");
        Ok(())
    }
}

/// A filter as the orchestrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Whether it takes mail.
    pub(crate) up: bool,
    /// Its process, while there is one.
    pub(crate) pid: Option<i32>,
}

/// The filters in what `status --json` says.
pub(crate) fn read_status(status: &Value) -> Option<Vec<Filter>> {
    let filters = status["milters"].as_array()?;
    filters
        .iter()
        .map(|filter| {
            Some(Filter {
                name: filter["name"].as_str()?.to_owned(),
                up: filter["state"].as_str()? == "up",
                pid: filter["pid"]
                    .as_i64()
                    .and_then(|pid| i32::try_from(pid).ok()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_is_read() {
        let status = json!({ "milters": [
            { "name": "dkim", "state": "up", "pid": 7, "restarts": 0 },
            { "name": "spam", "state": "backoff", "pid": null },
        ]});
        let filters = read_status(&status).unwrap();
        assert_eq!((filters[0].up, filters[0].pid), (true, Some(7)));
        assert_eq!((filters[1].up, filters[1].pid), (false, None));
        assert_eq!(read_status(&json!({})), None);
        assert_eq!(
            read_status(&json!({ "milters": [{ "name": "dkim" }] })),
            None
        );
    }

    #[test]
    fn a_folder_behind_a_closed_one_is_not_reachable() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let allow = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(folder.path(), mode).unwrap();
        };
        allow(0o755);
        let open = reachable(&inner);
        allow(0o700);
        assert!(!reachable(&inner));
        // Where the temporary folder itself is open, so is what stands in it.
        assert_eq!(open, reachable(&std::env::temp_dir()));
    }
}
