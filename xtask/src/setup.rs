//! `cargo xtask setup`: the Debian packages that the other commands need.
//!
//! Installs with apt when run as root, after saying what; otherwise it says what to install. No
//! service is started, nothing is left running, no question asked, an existing configuration left
//! alone. Two runs may go side by side: one waits for the other. It never removes or upgrades
//! anything. sendmail alone is not installed but unpacked into the build folder, by anybody.

mod leftovers;
mod sendmail;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use self::leftovers::Leftovers;
use crate::terminal::say;
use crate::workspace;

/// A program of another package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The program's name, looked for in `PATH` and in the folders of the administrator; or the
    /// full path of a file.
    pub(crate) program: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What it is for, where it is missing.
    pub(crate) purpose: &'static str,
}

/// clamd, the virus scanner's daemon.
pub(crate) const CLAMD: Tool = Tool {
    program: "clamd",
    package: "clamav-daemon",
    purpose: "scanning for viruses",
};
/// Postfix, run privately.
pub(crate) const POSTFIX: Tool = Tool {
    program: "postfix",
    package: "postfix",
    purpose: "a real mail server to filter for",
};
/// OpenDKIM, the other implementation that signatures are checked with.
pub(crate) const OPENDKIM: Tool = Tool {
    program: "opendkim",
    package: "opendkim",
    purpose: "checking our signatures with another implementation",
};
/// `opendkim-genkey` and friends.
pub(crate) const OPENDKIM_TOOLS: Tool = Tool {
    program: "opendkim-testmsg",
    package: "opendkim-tools",
    purpose: "checking our signatures with another implementation",
};
/// The protocol tester of the OpenDKIM project.
pub(crate) const MILTERTEST: Tool = Tool {
    program: "miltertest",
    package: "miltertest",
    purpose: "speaking to our filters with a foreign implementation of the protocol",
};
/// ClamAV's own milter, run behind the orchestrator.
pub(crate) const CLAMAV_MILTER: Tool = Tool {
    program: "clamav-milter",
    package: "clamav-milter",
    purpose: FOREIGN,
};
/// SpamAssassin's daemon, for the milter that asks it.
pub(crate) const SPAMD: Tool = Tool {
    program: "spamd",
    package: "spamd",
    purpose: FOREIGN,
};
/// The milter that asks SpamAssassin.
pub(crate) const SPAMASS_MILTER: Tool = Tool {
    program: "spamass-milter",
    package: "spamass-milter",
    purpose: FOREIGN,
};
/// rspamd, whose proxy worker is a milter.
pub(crate) const RSPAMD: Tool = Tool {
    program: "rspamd",
    package: "rspamd",
    purpose: FOREIGN,
};
/// OpenDMARC, a milter that reads what milters before it wrote.
pub(crate) const OPENDMARC: Tool = Tool {
    program: "opendmarc",
    package: "opendmarc",
    purpose: FOREIGN,
};
/// For the sample filters in C. What rustc links with is a C compiler, so it is there.
pub(crate) const LIBMILTER: Tool = Tool {
    program: "/usr/include/libmilter/mfapi.h",
    package: "libmilter-dev",
    purpose: "building sample filters against the library that most filters use",
};
/// Makes system calls fail.
pub(crate) const STRACE: Tool = Tool {
    program: "strace",
    package: "strace",
    purpose: "making system calls fail",
};
/// Prometheus' checker of metrics and of rules.
pub(crate) const PROMTOOL: Tool = Tool {
    program: "promtool",
    package: "prometheus",
    purpose: "checking the orchestrator's metrics and the alerts that are shipped",
};
/// Judges the units that are shipped.
pub(crate) const SYSTEMD_ANALYZE: Tool = Tool {
    program: "systemd-analyze",
    package: "systemd",
    purpose: "judging how closed the units of the daemons are",
};
/// For the optional archives of test mail.
pub(crate) const XZ: Tool = Tool {
    program: "xz",
    package: "xz-utils",
    purpose: "unpacking the archives of test mail",
};
/// Everything that `cargo xtask test` uses.
pub(crate) const ALL: &[Tool] = &[
    CLAMD,
    POSTFIX,
    OPENDKIM,
    OPENDKIM_TOOLS,
    MILTERTEST,
    CLAMAV_MILTER,
    SPAMD,
    SPAMASS_MILTER,
    RSPAMD,
    OPENDMARC,
    LIBMILTER,
    STRACE,
    SYSTEMD_ANALYZE,
    PROMTOOL,
    XZ,
];

const FOREIGN: &str = "showing that filters of others work behind the orchestrator";

/// Where packages put their daemons, often missing from a user's `PATH`.
const DAEMON_FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The lock that makes runs wait for each other. Only root takes it.
const LOCK: &str = "/run/milter-xtask-setup.lock";

/// Installs everything and says what is missing; an error when something is.
pub(crate) fn run(install: bool) -> Result<()> {
    let lacks = everything(install)?;
    if lacks.is_empty() {
        say("setup: everything is there");
        return Ok(());
    }
    bail!("{}", lacks.join("\n"));
}

/// Provides what `cargo xtask test` uses; says what is still missing and what to do about it.
pub(crate) fn everything(install: bool) -> Result<Vec<String>> {
    let mut lacks = Vec::new();
    let missing = ensure(ALL, install)?;
    if !missing.is_empty() {
        lacks.push(advice(&missing));
    }
    if let Err(error) = sendmail::ensure(install) {
        lacks.push(format!("{error:#}"));
    }
    Ok(lacks)
}

/// Installs what is missing of `tools`, when that is wanted and can be; returns what is still
/// missing.
pub(crate) fn ensure(tools: &[Tool], install: bool) -> Result<Vec<Tool>> {
    let missing = absent(tools);
    if missing.is_empty() || !install {
        return Ok(missing);
    }
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        return Ok(missing);
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(LOCK)
        .with_context(|| format!("{LOCK} cannot be opened"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("{LOCK} cannot be locked"))?;
    // Another run may have done it while we waited.
    let missing = absent(tools);
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    Ok(absent(tools))
}

/// What to tell somebody who lacks `missing`.
pub(crate) fn advice(missing: &[Tool]) -> String {
    let packages = packages(missing).join(" ");
    let mut lines = vec![format!(
        "not installed: {packages}; as root: apt-get install --no-install-recommends {packages}"
    )];
    for tool in missing {
        lines.push(format!(
            "  {} ({}): {}",
            tool.program, tool.package, tool.purpose
        ));
    }
    lines.join("\n")
}

/// The full path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(DAEMON_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn absent(tools: &[Tool]) -> Vec<Tool> {
    let mut absent = tools.to_vec();
    absent.retain(|tool| find(tool.program).is_none() && !Path::new(tool.program).is_file());
    absent
}

fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install_packages(missing: &[Tool]) -> Result<()> {
    let mut packages = packages(missing);
    if packages.contains(&OPENDMARC.package) && find("dbconfig-generate-include").is_none() {
        // OpenDMARC can do with this instead of a client of a database.
        packages.push("dbconfig-no-thanks");
    }
    say(format_args!(
        "setup: installing Debian packages with apt: {}",
        packages.join(" ")
    ));
    if packages.contains(&POSTFIX.package) {
        leave_postfix_unconfigured()?;
    }
    let _leftovers = Leftovers::begin()?;
    let _no_services = NoServices::begin()?;
    let install = || {
        let mut apt = apt("install");
        apt.arg("--no-install-recommends").args(&packages);
        workspace::output(&mut apt)
    };
    // The lists of a fresh container are empty, and those of an old one name files that are gone.
    if known_to_apt(&packages) && install().is_ok() {
        return Ok(());
    }
    update()?;
    install().map(drop)
}

/// Whether apt's lists offer every package.
fn known_to_apt(packages: &[&str]) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.env("LC_ALL", "C").arg("policy").args(packages);
    let Ok(text) = workspace::output(&mut policy) else {
        return false;
    };
    let text = String::from_utf8_lossy(&text);
    let offered = text
        .lines()
        .filter(|line| line.contains("Candidate: ") && !line.contains("(none)"));
    offered.count() == packages.len()
}

/// Refreshes apt's lists. Another apt may hold them; no option waits for that lock, so we try
/// again.
fn update() -> Result<()> {
    const TRIES: u32 = 12;
    for _ in 1..TRIES {
        if workspace::output(&mut apt("update")).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(5));
    }
    workspace::output(&mut apt("update")).map(drop)
}

fn apt(verb: &str) -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        // Another package manager at work is waited for.
        .args(["--yes", "-o", "DPkg::Lock::Timeout=300"])
        .args(["-o", "Acquire::Retries=3", verb]);
    apt
}

/// Postfix's installer asks what kind of server this machine is; we want none, only the programs.
fn leave_postfix_unconfigured() -> Result<()> {
    let mut set = Command::new("debconf-set-selections")
        .stdin(Stdio::piped())
        .spawn()
        .context("debconf-set-selections cannot be started")?;
    if let Some(mut answers) = set.stdin.take() {
        writeln!(
            answers,
            "postfix postfix/main_mailer_type select No configuration"
        )?;
    }
    set.wait()?;
    Ok(())
}

/// Forbids packages to start services while it lives, by the file that Debian asks for that.
struct NoServices {
    ours: bool,
}

impl NoServices {
    const POLICY: &'static str = "/usr/sbin/policy-rc.d";
    /// In the first lines, so that a file left by a killed run is known as ours.
    const MARK: &'static str = "# written by cargo xtask setup, gone when it ends";

    fn begin() -> Result<Self> {
        match fs::read_to_string(Self::POLICY) {
            // The administrator's own policy (a container's image has one) stays.
            Ok(policy) if !policy.contains(Self::MARK) => Ok(Self { ours: false }),
            _ => {
                let script = format!("#!/bin/sh\n{}\nexit 101\n", Self::MARK);
                fs::write(Self::POLICY, script).context(Self::POLICY)?;
                fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
                Ok(Self { ours: true })
            }
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let tool = Tool {
            program: "no-such-program-anywhere",
            package: "no-such-package",
            purpose: "nothing",
        };
        let shell = Tool {
            program: "sh",
            package: "dash",
            purpose: "everything",
        };
        let missing = ensure(&[shell, tool], false).unwrap();
        assert_eq!(missing, [tool]);
        assert_eq!(
            advice(&missing),
            "not installed: no-such-package; as root: apt-get install --no-install-recommends \
             no-such-package\n  no-such-program-anywhere (no-such-package): nothing"
        );
    }

    #[test]
    fn two_tools_of_one_package_are_one_package() {
        let clamd_again = Tool {
            program: "clamconf",
            ..CLAMD
        };
        assert_eq!(
            packages(&[XZ, CLAMD, clamd_again]),
            ["clamav-daemon", "xz-utils"]
        );
    }
}
