//! A private Postfix: configuration, queue and data in one folder, one port for each entry, the
//! system's own Postfix untouched.
//!
//! Needs root, because Postfix does: its master starts daemons under other accounts. It delivers
//! nothing itself: whatever it accepts goes to the sink, whoever the recipients are. A shell holds
//! it whose standard input is a pipe from this process: when this process ends, in whatever way,
//! the shell stops the server and removes the folder.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::mta::{Entry, Fate, Mta, free_ports, private_address, private_folder};
use crate::process::PATIENCE;

/// Where Debian keeps the program.
const POSTFIX: &str = "/usr/sbin/postfix";

/// The name that the server goes by.
pub const HOSTNAME: &str = "mx.equal.test";

/// Recipients that the server itself refuses, for good and for now.
pub const REFUSED: [&str; 2] = ["nobody@equal.test", "later@equal.test"];

/// Starts the server and, when its standard input is closed, stops it and removes its folder.
/// Postfix's own accounts must be able to read, whatever the umask.
const HOLDER: &str = r#"umask 022; chmod -R a+rX "$1/etc" "$1/queue"
"$0" -c "$1/etc" start-fg & read -r line; "$0" -c "$1/etc" stop; wait; rm -rf "$1""#;

/// Services of every Postfix: name, type, private, process limit, program.
const SERVICES: &[&str] = &[
    "pickup unix n - n 60 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "proxymap unix - - n - - proxymap",
    "smtp unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
];

/// A running private Postfix.
#[derive(Debug)]
pub struct Postfix {
    folder: TempDir,
    addresses: Vec<SocketAddr>,
    holder: Child,
}

impl Postfix {
    /// Why it cannot run on this machine; `None` where it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        if !Path::new(POSTFIX).exists() {
            return Some("postfix is not installed");
        }
        (!nix::unistd::geteuid().is_root()).then_some("a private Postfix needs root")
    }

    /// Starts a server with these entries that delivers to `sink`.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(entries: &[Entry], sink: SocketAddr) -> Result<Self> {
        Self::configured(entries, sink, "")
    }

    /// The same with further lines of `main.cf`.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn configured(entries: &[Entry], sink: SocketAddr, lines: &str) -> Result<Self> {
        let folder = private_folder()?;
        // Postfix's own accounts must reach the queue.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let ip = private_address();
        let ports = free_ports(ip, entries.len())?;
        let addresses: Vec<SocketAddr> = ports
            .into_iter()
            .map(|port| SocketAddr::from((ip, port)))
            .collect();
        let etc = folder.path().join("etc");
        for name in ["etc", "queue"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::write(etc.join("main.cf"), main_cf(folder.path(), sink) + lines)?;
        fs::write(etc.join("master.cf"), master_cf(entries, &addresses))?;
        let output = fs::File::create(folder.path().join("output"))?;
        let holder = Command::new("sh")
            .args(["-c", HOLDER, POSTFIX])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start Postfix")?;
        let mut postfix = Self {
            folder,
            addresses,
            holder,
        };
        postfix.wait_until_it_listens()?;
        Ok(postfix)
    }

    /// Greets every entry once: from then on it has a process, and its filters were reached.
    fn wait_until_it_listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for address in &self.addresses {
            loop {
                match greet(*address) {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => {
                        bail!("Postfix at {address}: {error}:\n{}", self.log())
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        Ok(())
    }

    fn queued_in(&self, queue: &str, queue_id: &str) -> bool {
        let queue = self.folder.path().join("queue").join(queue);
        queue.join(queue_id).exists()
    }

    /// Envelope, header and body of a message in the queue.
    fn show(&self, queue_id: &str) -> Result<Vec<u8>> {
        let mut show = Command::new("/usr/sbin/postcat");
        show.arg("-c").arg(self.folder.path().join("etc"));
        let shown = show.args(["-q", "-e", "-h", "-b", queue_id]).output()?;
        if !shown.status.success() {
            bail!("postcat: {}", String::from_utf8_lossy(&shown.stderr));
        }
        Ok(shown.stdout)
    }
}

impl Postfix {
    /// Hands it a message as a program on this machine does, without SMTP and without a sender; its
    /// queue id, once the server has taken it up.
    ///
    /// # Errors
    /// When it is not taken, or not taken up.
    pub fn submit(&self, recipients: &[&str], message: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let there = |name: &str| self.folder.path().join("queue").join(name).exists();
        while !there("maildrop") || !there("public/pickup") {
            ensure!(
                Instant::now() < deadline,
                "Postfix is not there:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut sendmail = Command::new("/usr/sbin/sendmail");
        sendmail.arg("-C").arg(self.folder.path().join("etc"));
        sendmail.args(["-f", "<>", "-i"]).args(recipients);
        let mut sendmail = sendmail.stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = sendmail.stdin.take() {
            input.write_all(message.as_bytes())?;
        }
        let status = sendmail.wait()?;
        ensure!(status.success(), "sendmail: {status}:\n{}", self.log());
        loop {
            // postfix/pickup[1]: ID: uid=0 from=<>
            let log = self.whole_log();
            let mut lines = log.lines().filter(|line| line.contains("/pickup["));
            let id =
                lines.find_map(|line| line.split(": ").nth(1).filter(|_| line.contains(" from=<")));
            if let Some(id) = id {
                return Ok(id.to_owned());
            }
            ensure!(Instant::now() < deadline, "not taken up:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All of its log so far.
    #[must_use]
    pub fn whole_log(&self) -> String {
        let read = |name| fs::read(self.folder.path().join(name)).unwrap_or_default();
        let text = [read("output"), read("maillog")].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Mta for Postfix {
    fn name(&self) -> &'static str {
        "postfix"
    }

    fn address(&self, entry: usize) -> SocketAddr {
        self.addresses[entry]
    }

    fn queue_id(&self, reply: &str) -> Option<String> {
        let (_, id) = reply.split_once("queued as ")?;
        Some(id.trim_end().to_owned())
    }

    fn fate(&self, queue_id: &str) -> Result<Fate> {
        let deadline = Instant::now() + PATIENCE;
        // In this order: a message moves from the first to the second.
        while self.queued_in("incoming", queue_id) || self.queued_in("active", queue_id) {
            if Instant::now() > deadline {
                bail!("{queue_id} is not delivered:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.queued_in("hold", queue_id) {
            return self.show(queue_id).map(Fate::Held);
        }
        // The one queue with a folder for each first letter.
        let deferred = format!("deferred/{}", queue_id.get(..1).unwrap_or_default());
        if self.queued_in(&deferred, queue_id) {
            return self.show(queue_id).map(Fate::Deferred);
        }
        Ok(Fate::Gone)
    }

    fn log(&self) -> String {
        let text = self.whole_log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The holder hears the end of its input, and stops the server.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Opens a session and ends it.
fn greet(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"QUIT\r\n")?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn main_cf(folder: &Path, sink: SocketAddr) -> String {
    let folder: PathBuf = folder.to_owned();
    let folder = folder.display();
    let next_hop = format!("smtp:[{}]:{}", sink.ip(), sink.port());
    let [nobody, later] = REFUSED;
    let mut text = format!(
        "queue_directory = {folder}/queue\n\
         data_directory = {folder}/data\n\
         maillog_file = {folder}/maillog\n\
         maillog_file_prefixes = {folder}\n\
         default_transport = {next_hop}\n\
         relay_transport = {next_hop}\n\
         smtpd_recipient_restrictions = check_recipient_access inline:{{\
         {{{nobody} = 550 5.1.1 no such user}}, {{{later} = 450 4.2.1 not now}}}}, permit\n\
         myhostname = {HOSTNAME}\n"
    );
    for (name, value) in SETTINGS {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// What does not depend on the test.
const SETTINGS: &[(&str, &str)] = &[
    ("compatibility_level", "3.6"),
    ("mydomain", "equal.test"),
    ("inet_interfaces", "127.0.0.1"),
    ("inet_protocols", "ipv4"),
    // Nothing is delivered here.
    ("mydestination", ""),
    ("alias_maps", ""),
    ("alias_database", ""),
    ("local_recipient_maps", ""),
    ("mynetworks", "127.0.0.0/8"),
    // Clients that pose as strangers (XCLIENT) may write to these.
    ("relay_domains", "example.net, example.org"),
    (
        "smtpd_relay_restrictions",
        "permit_mynetworks, reject_unauth_destination",
    ),
    ("smtpd_authorized_xclient_hosts", "127.0.0.0/8"),
    ("disable_dns_lookups", "yes"),
    ("message_size_limit", "67108864"),
    ("milter_default_action", "tempfail"),
    ("milter_protocol", "6"),
    // Mail that Postfix writes itself (bounces) is not compared.
    ("internal_mail_filter_classes", ""),
    ("notify_classes", ""),
    // Nobody is slowed down for mistakes that are made on purpose.
    ("smtpd_error_sleep_time", "0"),
    ("smtpd_soft_error_limit", "1000"),
    ("smtpd_hard_error_limit", "1000"),
    ("smtpd_junk_command_limit", "1000"),
    ("smtpd_client_connection_count_limit", "0"),
    ("smtpd_client_event_limit_exceptions", "127.0.0.0/8"),
    ("default_process_limit", "200"),
    ("initial_destination_concurrency", "20"),
    ("in_flow_delay", "0"),
    ("smtp_connection_cache_on_demand", "no"),
];

fn master_cf(entries: &[Entry], addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    for (entry, address) in entries.iter().zip(addresses) {
        let milters: Vec<String> = entry
            .milters
            .iter()
            .map(|milter| format!("inet:{}:{}", milter.ip(), milter.port()))
            .collect();
        let _ = writeln!(
            text,
            "{address} inet n - n - - smtpd -o syslog_name=postfix/{} -o smtpd_milters={}",
            entry.name,
            milters.join(",")
        );
    }
    for service in SERVICES {
        let _ = writeln!(text, "{service}");
    }
    text
}
