//! Filters of others, private to a test: each in the foreground with its own configuration, folder
//! and port of the loopback network; nothing of the system's configuration is used or touched.
//!
//! They ask nobody on the network: no updates, no lists, no DNS but for a server of the test's own.
//! Those that refuse to run as root are told that they may.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use milter_proto::net::Address;
use nix::sys::stat::{Mode, umask};
use tempfile::TempDir;

use crate::compiled;
use crate::equivalence::mta::{free_ports, private_address};
use crate::process::Process;

/// The name that they call the mail server in what they write.
pub const HOSTNAME: &str = crate::equivalence::postfix::HOSTNAME;

/// A running filter.
#[derive(Debug)]
pub struct Foreign {
    /// Where it listens.
    pub address: SocketAddr,
    /// The process.
    pub process: Process,
    _folder: TempDir,
}

/// A running spamd, SpamAssassin's daemon.
#[derive(Debug)]
pub struct Spamd {
    socket: PathBuf,
    /// The process.
    pub process: Process,
    _folder: TempDir,
}

/// The path of a program, where Debian puts daemons too; `None` where it is not installed.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

impl Foreign {
    /// Starts a filter with what `prepare` makes of a folder and an address: it writes the
    /// configuration and adds arguments.
    fn start(
        name: &str,
        prepare: impl FnOnce(&Path, SocketAddr, &mut Command) -> Result<()>,
    ) -> Result<Self> {
        let program = program(name).with_context(|| format!("{name} is not installed"))?;
        let folder = folder_of_others()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let ip = private_address();
        let port = free_ports(ip, 1)?.pop().context("no free port")?;
        let address = SocketAddr::from((ip, port));
        let mut command = Command::new(program);
        prepare(folder.path(), address, &mut command)?;
        let mut process = Process::start(&mut command)?;
        process.wait_until("listening", || TcpStream::connect(address).is_ok())?;
        Ok(Self {
            address,
            process,
            _folder: folder,
        })
    }

    /// opendkim; `settings` are lines of its configuration, `public_keys` lines of `name record`.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn opendkim(settings: &str, public_keys: &str) -> Result<Self> {
        Self::start("opendkim", |folder, address, command| {
            let keys = folder.join("keys");
            fs::write(&keys, public_keys)?;
            let text = format!(
                "Syslog no\nBackground no\nRequireSafeKeys no\nSocket {}\nTestPublicKeys {}\n\
                 AuthservID {HOSTNAME}\n{settings}\n",
                sendmail_style(address),
                keys.display(),
            );
            configure(command.args(["-f", "-x"]), folder, &text)
        })
    }

    /// clamav-milter, which asks the clamd at `clamd` and refuses what is infected.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn clamav_milter(clamd: &Address) -> Result<Self> {
        Self::start("clamav-milter", |folder, address, command| {
            let text = format!(
                "MilterSocket {}\nForeground yes\nClamdSocket {clamd}\nTemporaryDirectory {}\n\
                 OnInfected Reject\nRejectMsg found %v\nAddHeader Replace\n\
                 ReportHostname {HOSTNAME}\nUser root\n",
                sendmail_style(address),
                folder.display(),
            );
            configure(command.arg("-c"), folder, &text)
        })
    }

    /// spamass-milter, which asks a spamd and refuses from 15 points on.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn spamass_milter(spamd: &Spamd) -> Result<Self> {
        Self::start("spamass-milter", |_, address, command| {
            command.arg("-p").arg(sendmail_style(address));
            command.args(["-r", "15", "--", "-U"]).arg(&spamd.socket);
            Ok(())
        })
    }

    /// rspamd with its milter worker alone, which scans by itself. It knows no rules but the test
    /// patterns, and writes its extended headers.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn rspamd() -> Result<Self> {
        Self::start("rspamd", |folder, address, command| {
            fs::write(folder.join("tld"), "com\nnet\norg\ntest\n")?;
            let text = RSPAMD.replace("{folder}", &folder.display().to_string());
            let text = text.replace("{address}", &address.to_string());
            command.args(["-i", "-f", "-u", "root", "-g", "root", "-c"]);
            configure(command, folder, &text)
        })
    }

    /// opendmarc, which believes results of [`HOSTNAME`], asks the name server at `dns`, and
    /// refuses what its sender's policy wants to be refused.
    ///
    /// # Errors
    /// When it is not installed or does not come up, or no C compiler is there; with the output.
    pub fn opendmarc(dns: SocketAddr) -> Result<Self> {
        let resolver = compiled::library("resolver.c")?;
        Self::start("opendmarc", |folder, address, command| {
            let nobody = folder.join("ignored-hosts");
            fs::write(&nobody, "")?;
            let text = format!(
                "AuthservID {HOSTNAME}\nTrustedAuthservIDs {HOSTNAME}\nBackground no\n\
                 Socket {}\nSyslog no\nRejectFailures yes\nIgnoreHosts {}\nUserID root\n",
                sendmail_style(address),
                nobody.display(),
            );
            command.env("LD_PRELOAD", resolver);
            command.env("RESOLVER_ADDRESS", dns.ip().to_string());
            command.env("RESOLVER_PORT", dns.port().to_string());
            configure(command.args(["-f", "-c"]), folder, &text)
        })
    }
}

impl Spamd {
    /// Starts one with Debian's rules, as far as they need no network.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its output.
    pub fn start() -> Result<Self> {
        let program = program("spamd").context("spamd is not installed")?;
        let folder = folder_of_others()?;
        let path = |name: &str| folder.path().join(name);
        let socket = path("spamd.sock");
        for name in ["site", "home"] {
            fs::create_dir(path(name))?;
        }
        fs::write(path("site").join("init.pre"), SPAMD_PLUGINS)?;
        fs::write(path("site").join("local.cf"), SPAMD_SETTINGS)?;
        let option = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("--{name}="));
            option.push(value);
            option
        };
        let mut command = Command::new(program);
        command
            .args(["--local", "--nouser-config", "--max-children=2"])
            .args(["--syslog=stderr", "--configpath=/usr/share/spamassassin"])
            .arg(option("siteconfigpath", &path("site")))
            .arg(option("socketpath", &socket))
            .arg(option("helper-home-dir", &path("home")))
            .arg(option("pidfile", &path("pid")));
        let mut process = Process::start(&mut command)?;
        process.wait_until("listening", || UnixStream::connect(&socket).is_ok())?;
        Ok(Self {
            socket,
            process,
            _folder: folder,
        })
    }
}

/// A folder whose files others will be able to read: some filters go on as another user, whatever
/// the umask is that they are started with.
fn folder_of_others() -> Result<TempDir> {
    umask(Mode::from_bits_truncate(0o022));
    Ok(tempfile::tempdir()?)
}

/// A socket as Sendmail writes it, which everything built on libmilter understands.
#[must_use]
pub fn sendmail_style(address: SocketAddr) -> String {
    format!("inet:{}@{}", address.port(), address.ip())
}

/// Writes the configuration and adds its path.
fn configure(command: &mut Command, folder: &Path, text: &str) -> Result<()> {
    let file = folder.join("configuration");
    fs::write(&file, text)?;
    command.arg(file);
    Ok(())
}

const SPAMD_PLUGINS: &str = "loadplugin Mail::SpamAssassin::Plugin::Check\n\
    loadplugin Mail::SpamAssassin::Plugin::HeaderEval\n\
    loadplugin Mail::SpamAssassin::Plugin::BodyEval\n\
    loadplugin Mail::SpamAssassin::Plugin::MIMEEval\n";

const SPAMD_SETTINGS: &str = "required_score 5\nreport_safe 0\nuse_bayes 0\nskip_rbl_checks 1\n\
    dns_available no\n";

const RSPAMD: &str = r#"
options {
  pidfile = false;
  filters = "";
  dns { nameserver = ["127.0.0.1:9"]; timeout = 0.05s; retransmits = 1; }
  url_tld = "{folder}/tld";
  local_addrs = [];
  gtube_patterns = "all";
  control_socket = "{folder}/control.sock mode=0600";
  tempdir = "{folder}";
  hs_cache_dir = "{folder}";
}
logging { type = "console"; level = "info"; }
actions { reject = 15; add_header = 6; greylist = 4 }
modules { path = "/usr/share/rspamd/plugins/milter_headers.lua"; }
milter_headers { use = ["x-spamd-bar", "x-spam-level", "x-spam-status"]; }
worker "rspamd_proxy" {
  bind_socket = "{address}";
  milter = yes;
  timeout = 20s;
  count = 1;
  upstream "local" { default = yes; self_scan = yes; }
}
"#;
