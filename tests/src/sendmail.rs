//! Debian's sendmail, private to a test: unpacked by `cargo xtask setup` and not installed, with a
//! configuration, queue and ports of its own.
//!
//! One daemon has several entries: a port of the loopback interface each, with its own filters.
//! All mail is handed to one sink before the client is told that it was taken. The recipients in
//! [`REFUSED`] are not taken. Neither DNS nor the system's log hears of it. Needs root, as
//! sendmail does.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use milter_proto::net::Address;
use tempfile::TempDir;

use crate::equivalence::mta::{self, Fate, Mta, free_ports, private_address};
use crate::process::Process;

/// The name by which it greets, and which it knows as its own.
pub const HOSTNAME: &str = "mx.equal.test";

/// Recipients that it refuses itself, for good and for now.
pub const REFUSED: [&str; 2] = ["nobody@equal.test", "later@equal.test"];

/// Filters that it can know (`MAXFILTERS`); further ones it passes over, and says so in its log.
pub const FILTERS_MAX: usize = 25;

/// Its configuration before m4 has read it.
const CONFIGURATION: &str = include_str!("sendmail.mc");

/// How a filter is mentioned in the configuration.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Where it listens.
    pub socket: Address,
    /// Further equates, as `F=T, T=R:5s`.
    pub equates: &'static str,
}

/// A port with its filters; all entries together have [`FILTERS_MAX`] different ones at most.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// In the order in which they are asked.
    pub filters: Vec<Filter>,
}

/// A running sendmail.
#[derive(Debug)]
pub struct Sendmail {
    addresses: Vec<SocketAddr>,
    /// The process.
    pub process: Process,
    directory: TempDir,
}

/// The folder that holds the unpacked packages.
#[derive(Debug, Clone)]
pub struct Installation(PathBuf);

impl Filter {
    /// One whose failure defers mail.
    #[must_use]
    pub fn new(socket: Address) -> Self {
        let equates = "F=T";
        Self { socket, equates }
    }
}

impl From<Address> for Entry {
    /// With one filter.
    fn from(socket: Address) -> Self {
        Self {
            filters: vec![Filter::new(socket)],
        }
    }
}

impl Installation {
    /// The one beside the running test.
    ///
    /// # Errors
    /// Why none can be used, and what to do.
    pub fn find() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a private sendmail needs root");
        }
        let program = std::env::current_exe()?;
        // target/<profile>/<program> or target/<profile>/deps/<test>
        let shelves = program.ancestors().skip(2).take(2);
        let mut shelves = shelves.map(|folder| folder.join("sendmail"));
        let shelf = shelves.find(|shelf| shelf.is_dir());
        let shelf = shelf.context("there is no sendmail: run cargo xtask setup")?;
        let folders = fs::read_dir(&shelf).into_iter().flatten().flatten();
        let mut ready: Vec<PathBuf> = folders
            .map(|folder| folder.path())
            .filter(|folder| !folder.file_name().is_some_and(is_hidden))
            .collect();
        ready.sort_unstable();
        let newest = ready.pop();
        let newest = newest.with_context(|| {
            format!("no sendmail in {}: run cargo xtask setup", shelf.display())
        })?;
        Ok(Self(newest))
    }

    fn m4(&self) -> Command {
        let mut m4 = self.command("usr/bin/m4");
        let folder = self.0.join("usr/share/sendmail/cf");
        m4.arg(format!("-D_CF_DIR_={}/", folder.display()));
        m4.arg("-I").arg(folder);
        m4
    }

    fn sendmail(&self) -> Command {
        let mut sendmail = self.command("usr/libexec/sendmail/sendmail");
        sendmail.env("LD_PRELOAD", self.0.join("alone.so"));
        sendmail
    }

    fn command(&self, program: &str) -> Command {
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let mut command = Command::new(self.0.join(program));
        command.env("LD_LIBRARY_PATH", self.0.join(libraries));
        command
    }
}

fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

impl Sendmail {
    /// Starts one with these entries, whose mail goes to `sink`, and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be found or does not come up; with its output.
    pub fn start(entries: &[Entry], sink: SocketAddr) -> Result<Self> {
        let installation = Installation::find()?;
        let directory = mta::private_folder()?;
        let folder = directory.path();
        let ip = private_address();
        let ports = free_ports(ip, entries.len())?.into_iter();
        let addresses: Vec<_> = ports.map(|port| SocketAddr::from((ip, port))).collect();
        fs::create_dir(folder.join("queue"))?;
        fs::write(
            folder.join("switch"),
            "hosts files\naliases files\npasswd files\n",
        )?;
        fs::write(folder.join("hosts"), "127.0.0.1 localhost\n")?;
        let mc = configuration(folder, entries, &addresses, sink)?;
        fs::write(folder.join("sendmail.mc"), mc)?;
        let cf = installation.m4().arg(folder.join("sendmail.mc")).output()?;
        if !cf.status.success() {
            bail!("m4: {}", String::from_utf8_lossy(&cf.stderr));
        }
        fs::write(folder.join("sendmail.cf"), cf.stdout)?;
        let mut command = installation.sendmail();
        command.arg("-bD").arg("-C").arg(folder.join("sendmail.cf"));
        command.env("SENDMAIL_LOG", folder.join("log"));
        let mut process = Process::start(&mut command)?;
        let pid = folder.join("pid");
        let open = || pid.exists() && addresses.iter().all(|address| listens(*address));
        let started = process.wait_until("listening", open);
        started.with_context(|| fs::read_to_string(folder.join("log")).unwrap_or_default())?;
        Ok(Self {
            addresses,
            process,
            directory,
        })
    }

    /// The queue id in the reply to a message that was taken (RFC 3463 codes come first).
    #[must_use]
    pub fn queue_id(reply: &str) -> Option<String> {
        let (before, _) = reply.split_once(" Message accepted for delivery")?;
        Some(before.split_whitespace().next_back()?.to_owned())
    }

    /// How many messages are in the queue, in quarantine or not.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn queued(&self) -> Result<usize> {
        let mut count = 0;
        for file in fs::read_dir(self.directory.path().join("queue"))? {
            let name = file?.file_name();
            let name = name.as_encoded_bytes();
            count += usize::from(name.starts_with(b"qf") || name.starts_with(b"hf"));
        }
        Ok(count)
    }
}

/// Whether a program listens there. Nothing is connected: Sendmail would call its filters.
fn listens(address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else {
        return false;
    };
    let local = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    );
    // proc(5): number, local address, remote address, state; 0A is LISTEN.
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    sockets.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(&*local) && columns.nth(1) == Some("0A")
    })
}

impl Mta for Sendmail {
    fn name(&self) -> &'static str {
        "sendmail"
    }

    fn address(&self, entry: usize) -> SocketAddr {
        self.addresses[entry]
    }

    fn queue_id(&self, reply: &str) -> Option<String> {
        Self::queue_id(reply)
    }

    /// It has tried to deliver before it says that it has taken a message.
    fn fate(&self, queue_id: &str) -> Result<Fate> {
        let queue = self.directory.path().join("queue");
        let read = |kind: &str| fs::read(queue.join(format!("{kind}{queue_id}")));
        let body = read("df").unwrap_or_default();
        if let Ok(envelope) = read("hf") {
            return Ok(Fate::Held(shown(&envelope, &body)));
        }
        if let Ok(envelope) = read("qf") {
            return Ok(Fate::Deferred(shown(&envelope, &body)));
        }
        Ok(Fate::Gone)
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A message in the queue: sender, recipients, header, reason of a quarantine, and the body; the
/// rest is bookkeeping.
fn shown(envelope: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut wanted = false;
    for line in envelope.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b"\t") && !line.starts_with(b" ") {
            wanted = matches!(line.first(), Some(b'S' | b'R' | b'H' | b'M' | b'q'));
        }
        if wanted {
            out.extend_from_slice(line);
        }
    }
    [&out[..], body].concat()
}

/// The input of m4.
fn configuration(
    folder: &Path,
    entries: &[Entry],
    addresses: &[SocketAddr],
    sink: SocketAddr,
) -> Result<String> {
    let mut lines = String::new();
    let mut known: Vec<String> = Vec::new();
    for (entry, address) in entries.iter().zip(addresses) {
        let mut names = Vec::new();
        for filter in &entry.filters {
            let definition = format!("S={}, {}", filter.socket, filter.equates);
            let number = known.iter().position(|one| *one == definition);
            let number = number.unwrap_or(known.len());
            if number == known.len() {
                writeln!(lines, "MAIL_FILTER(`filter{number}', `{definition}')")?;
                known.push(definition);
            }
            names.push(format!("filter{number}"));
        }
        let (ip, port) = (address.ip(), address.port());
        write!(
            lines,
            "DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr={ip}, Port={port}"
        )?;
        if !names.is_empty() {
            write!(lines, ", InputFilter={}", names.join(";"))?;
        }
        writeln!(lines, "')")?;
    }
    if known.len() > FILTERS_MAX {
        let count = known.len();
        bail!("sendmail knows {FILTERS_MAX} filters at most, not {count}: take fewer lanes");
    }
    let user = nix::unistd::geteuid().to_string();
    Ok(CONFIGURATION
        .replace("<FOLDER>", &folder.display().to_string())
        .replace("<USER>", &user)
        .replace("<SINK>", &sink.ip().to_string())
        .replace("<SINK_PORT>", &sink.port().to_string())
        .replace("<HOSTNAME>", HOSTNAME)
        .replace("<NOBODY>", &tokens(REFUSED[0]))
        .replace("<LATER>", &tokens(REFUSED[1]))
        .replace("<ENTRIES>\n", &lines))
}

/// An address as a pattern of a ruleset.
fn tokens(address: &str) -> String {
    address.replace('@', " @ ").replace('.', " . ")
}

/// A sendmail with these entries, as [`StartMta`](crate::equivalence::rig::StartMta) wants it.
///
/// # Errors
/// As [`Sendmail::start`].
pub fn start_mta(entries: &[mta::Entry], sink: SocketAddr) -> Result<Arc<dyn Mta>> {
    let entries: Vec<Entry> = entries.iter().map(Entry::from).collect();
    Ok(Arc::new(Sendmail::start(&entries, sink)?))
}

impl From<&mta::Entry> for Entry {
    fn from(entry: &mta::Entry) -> Self {
        let sockets = entry.milters.iter().map(|socket| Address::Inet {
            host: socket.ip().to_string(),
            port: socket.port(),
        });
        Self {
            filters: sockets.map(Filter::new).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::skip::skip;

    /// Says each line and returns the last line of each reply, the greeting first.
    fn talk(server: SocketAddr, lines: &[&str]) -> Vec<String> {
        let stream = TcpStream::connect(server).unwrap();
        let mut reader = BufReader::new(stream);
        let mut replies = Vec::new();
        for line in std::iter::once(&"").chain(lines) {
            if !line.is_empty() {
                let line = format!("{line}\r\n");
                reader.get_mut().write_all(line.as_bytes()).unwrap();
            }
            let mut reply = String::new();
            while reply.as_bytes().get(3) != Some(&b' ') {
                reply.clear();
                reader.read_line(&mut reply).unwrap();
                assert!(!reply.is_empty(), "{line}: the server has gone away");
            }
            replies.push(reply.trim_end().to_owned());
        }
        replies
    }

    #[test]
    fn a_message_is_taken_and_kept_while_the_sink_is_away() {
        if let Err(error) = Installation::find() {
            skip("a private sendmail", &format!("{error:#}"));
            return;
        }
        // Nobody listens there, whoever looks for a free port.
        let sink = SocketAddr::from((private_address(), 1));
        let entries = [Entry::default(), Entry::default()];
        let sendmail = Sendmail::start(&entries, sink).unwrap();
        let rcpt = REFUSED.map(|address| format!("RCPT TO:<{address}>"));
        let replies = talk(
            sendmail.address(1),
            &[
                "EHLO client.test",
                "MAIL FROM:<a@x.test>",
                &rcpt[0],
                &rcpt[1],
                "RCPT TO:<b@y.test>",
                "DATA",
                "Subject: x\r\n\r\nhello\r\n.",
                "QUIT",
            ],
        );
        let codes: Vec<&str> = replies.iter().map(|reply| &reply[..3]).collect();
        let expected = [
            "220", "250", "250", "550", "450", "250", "354", "250", "221",
        ];
        assert_eq!(codes, expected, "{replies:?}\n{}", sendmail.log());
        let id = Sendmail::queue_id(&replies[7]).unwrap();
        let fate = sendmail.fate(&id).unwrap();
        assert!(matches!(fate, Fate::Deferred(_)), "{fate:?}");
        assert_eq!(sendmail.fate("nothing").unwrap(), Fate::Gone);
        assert_eq!(sendmail.queued().unwrap(), 1);
        assert!(sendmail.log().contains(&id), "{}", sendmail.log());
    }
}
