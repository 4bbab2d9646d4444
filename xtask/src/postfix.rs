//! A private Postfix: its own configuration, queue and data in one folder, on a loopback port, the
//! system's Postfix untouched.
//!
//! Needs root, because Postfix does: its master starts daemons under other accounts. It delivers
//! nothing itself; every accepted message goes to one next hop.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::Child;
use crate::interrupt::Interrupt;
use crate::setup::{POSTFIX, find};
use crate::workspace;

/// The name that the private server goes by, and the authserv-id of its filters.
pub(crate) const HOSTNAME: &str = "mx.demo.test";
/// The domain that it takes mail for.
pub(crate) const DOMAIN: &str = "demo.test";

/// The services of Postfix that this server needs: name, type, private, process limit, program.
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
    "flush unix n - n 1000? 0 flush",
    "proxymap unix - - n - - proxymap",
    "smtp unix - - n - - smtp",
    "relay unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
];

/// A running private Postfix.
pub(crate) struct Postfix {
    etc: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    /// The launcher; it stays until the server has stopped.
    launcher: Child,
}

impl Postfix {
    /// Starts a server below `folder` with `milter` (as Postfix writes sockets) and `next_hop`.
    pub(crate) fn start(
        folder: &Path,
        milter: &str,
        next_hop: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let program = find(POSTFIX.program).context("postfix is not installed")?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a private Postfix needs root: Postfix starts its daemons under other accounts"
        );
        let etc = folder.join("etc");
        let log = folder.join("maillog");
        fs::create_dir_all(&etc)?;
        fs::create_dir_all(folder.join("queue"))?;
        // Postfix's own accounts must reach the queue.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        fs::write(etc.join("main.cf"), main_cf(folder, milter, next_hop))?;
        fs::write(etc.join("master.cf"), master_cf(address))?;
        let mut start = Command::new(program);
        start.arg("-c").arg(&etc).arg("start-fg");
        let launcher = Child::start("postfix", &mut start, &folder.join("postfix.out"))?;
        let mut postfix = Self {
            etc,
            log,
            address,
            launcher,
        };
        interrupt.until("Postfix listens", Duration::from_secs(30), || {
            postfix
                .launcher
                .must_run()
                .with_context(|| postfix.logged(15))?;
            Ok(TcpStream::connect(address).is_ok())
        })?;
        Ok(postfix)
    }

    /// Where it takes mail.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many messages are still in its queue.
    pub(crate) fn queued(&self) -> Result<usize> {
        let mut list = Command::new(find("postqueue").context("postqueue is not installed")?);
        let list = workspace::output(list.arg("-c").arg(&self.etc).arg("-j"))?;
        Ok(list.iter().filter(|byte| **byte == b'\n').count())
    }

    /// Its log.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// The end of its log.
    pub(crate) fn logged(&self, lines: usize) -> String {
        crate::child::tail(&self.log, 0, lines)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if let Some(program) = find(POSTFIX.program) {
            let mut stop = Command::new(program);
            let _ = workspace::output(stop.arg("-c").arg(&self.etc).arg("stop"));
        }
        let _ = self.launcher.stop();
    }
}

fn main_cf(folder: &Path, milter: &str, next_hop: SocketAddr) -> String {
    let (ip, port) = (next_hop.ip(), next_hop.port());
    let next_hop = format!("smtp:[{ip}]:{port}");
    let folder = folder.display().to_string();
    let mut text = String::new();
    for (name, value) in [
        ("compatibility_level", "3.6"),
        ("queue_directory", &format!("{folder}/queue")),
        ("data_directory", &format!("{folder}/data")),
        ("maillog_file", &format!("{folder}/maillog")),
        ("maillog_file_prefixes", &folder),
        ("myhostname", HOSTNAME),
        ("mydomain", DOMAIN),
        ("inet_interfaces", "127.0.0.1"),
        ("inet_protocols", "ipv4"),
        // Nothing is delivered here: all mail goes on to the next hop.
        ("mydestination", ""),
        ("alias_maps", ""),
        ("alias_database", ""),
        ("relay_domains", DOMAIN),
        ("relay_transport", &next_hop),
        ("default_transport", &next_hop),
        ("mynetworks", "127.0.0.0/8"),
        (
            "smtpd_relay_restrictions",
            "permit_mynetworks, reject_unauth_destination",
        ),
        // So that a client can pose as one from outside.
        ("smtpd_authorized_xclient_hosts", "127.0.0.1"),
        ("message_size_limit", "67108864"),
        // The point of it all.
        ("smtpd_milters", milter),
        ("milter_default_action", "tempfail"),
        ("milter_protocol", "6"),
        // Mail that Postfix writes itself (bounces) is not what is being shown.
        ("internal_mail_filter_classes", ""),
        ("notify_classes", ""),
        // Refused mail is expected here and nobody needs to be slowed down for it.
        ("smtpd_error_sleep_time", "0"),
        ("smtpd_soft_error_limit", "1000"),
        ("smtpd_hard_error_limit", "1000"),
        ("in_flow_delay", "0"),
    ] {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

fn master_cf(address: SocketAddr) -> String {
    let mut text = format!("{address} inet n - n - - smtpd\n");
    for service in SERVICES {
        text.push_str(service);
        text.push('\n');
    }
    text
}

/// A port of the loopback interface that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client::{Client, Guise};
    use crate::smtp::sink::Sink;

    #[test]
    fn a_message_goes_through_a_private_server() {
        if find(POSTFIX.program).is_none() || !nix::unistd::geteuid().is_root() {
            println!("skipped: a private Postfix: needs Postfix and root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::start().unwrap();
        let interrupt = Interrupt::default();
        let postfix = Postfix::start(folder.path(), "", sink.address(), &interrupt).unwrap();
        let guise = Guise {
            name: "mail.sender.test".to_owned(),
            address: "192.0.2.7".to_owned(),
        };
        let mut client = Client::connect(postfix.address(), Some(&guise)).unwrap();
        let message = b"Subject: x\n\nhello\n";
        let answer = client
            .send("a@sender.test", "b@demo.test", message)
            .unwrap();
        assert!(answer.accepted(), "{answer:?}");
        assert!(answer.queue_id().is_some());
        let relayed = client
            .send("a@sender.test", "b@elsewhere.test", message)
            .unwrap();
        assert_eq!(
            relayed.code, 554,
            "a foreign client is no relay: {relayed:?}"
        );
        client.quit().unwrap();
        let limit = Duration::from_secs(30);
        interrupt
            .until("delivery", limit, || {
                Ok(sink.delivered().len() == 1 && postfix.queued()? == 0)
            })
            .unwrap();
        let kept = sink.delivered().remove(0);
        assert_eq!(kept.to, ["b@demo.test"]);
        assert!(kept.message.ends_with(b"\r\n\r\nhello\r\n"));
    }
}
