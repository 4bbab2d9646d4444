//! Tells the service manager how far the program is: ready, reloading, stopping, alive, replaced.
//!
//! One datagram to the socket in `NOTIFY_SOCKET`, by path or, with a leading `@`, in the abstract
//! name space. Without the variable nothing happens. The socket is connected while the program may
//! still have the rights to. Nothing here can fail the program: a manager that does not hear is a
//! line in the log and left to its own time-outs.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The way to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match Self::to(&name) {
            Ok(manager) => Self {
                manager: Some(manager),
                watchdog: watchdog_from_env(),
            },
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET cannot be used");
                Self::default()
            }
        }
    }

    fn to(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok((socket, address))
    }

    /// Serving.
    pub(crate) fn ready(&self) {
        self.send("READY=1\n");
    }

    /// Another process is the one to watch from now on.
    pub(crate) fn successor(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\n"));
    }

    /// Reading the configuration again; [`Self::ready`] follows in any case.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let message = format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.as_micros());
        self.send(&message);
    }

    /// Ending.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// Still alive; wanted every [`Self::watchdog`].
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// Half of the time after which the manager takes silence for a hang; `None` when it does not.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.manager else {
            return;
        };
        // The connection made at the start outlives a loss of rights; the address, a new manager.
        let sent = socket
            .send(message.as_bytes())
            .or_else(|_| socket.send_to_addr(message.as_bytes(), address));
        if let Err(error) = sent {
            warn!(%error, "the service manager does not hear");
        }
    }
}

fn watchdog_from_env() -> Option<Duration> {
    let for_us = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (for_us && micros > 0).then(|| Duration::from_micros(micros / 2).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a manager listening at `address`, known as `name`, hears.
    fn check(address: &SocketAddr, name: &OsStr) {
        let manager = UnixDatagram::bind_addr(address).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let notifier = Notifier {
            manager: Some(Notifier::to(name).unwrap()),
            watchdog: None,
        };
        let heard = || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        notifier.ready();
        assert_eq!(heard(), "READY=1\n");
        notifier.reloading();
        let reloading = heard();
        let micros = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(micros.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        notifier.alive();
        assert_eq!(heard(), "WATCHDOG=1\n");
        notifier.successor(42);
        assert_eq!(heard(), "MAINPID=42\n");
        notifier.stopping();
        assert_eq!(heard(), "STOPPING=1\n");
    }

    #[test]
    fn a_socket_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        check(&SocketAddr::from_pathname(&path).unwrap(), path.as_os_str());
    }

    #[test]
    fn a_socket_by_abstract_name() {
        let name = format!("milter-proto-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        check(&address, OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn no_manager_and_one_that_is_gone_change_nothing() {
        Notifier::default().ready();
        assert!(Notifier::to(OsStr::new("/nonexistent/notify")).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier {
            manager: Some(Notifier::to(path.as_os_str()).unwrap()),
            watchdog: None,
        };
        drop(manager);
        notifier.ready();
    }

    #[test]
    fn a_manager_that_came_back_hears() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier {
            manager: Some(Notifier::to(path.as_os_str()).unwrap()),
            watchdog: None,
        };
        drop(manager);
        std::fs::remove_file(&path).unwrap();
        let manager = UnixDatagram::bind(&path).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        notifier.ready();
        let mut buffer = [0; 16];
        assert_eq!(manager.recv(&mut buffer).unwrap(), b"READY=1\n".len());
    }
}
