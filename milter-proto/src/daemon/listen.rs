//! Listening sockets: bound from the configuration, or inherited from who started us.
//!
//! A unix socket has its mode and group before anybody can connect. What stands at its path is
//! never overwritten blindly: a socket that nobody answers is removed, one that is answered is
//! somebody's, anything else is left alone. A socket file that we bound is removed when we end.
//! Failures name the socket and what to do, with [`EX_UNAVAILABLE`] for a port in use.

use std::env;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind,
    connect, getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use tracing::{debug, info, warn};

use super::config::{FileMode, Listener};
use super::exit::{EX_CANTCREAT, EX_NOPERM, EX_OSERR, EX_UNAVAILABLE};
use super::{Failure, privileges};
use crate::net::{self, Address};

/// A socket that accepts connections, not yet part of a runtime. It does not block.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

/// A [`Socket`] with the name that the configuration gives it.
#[derive(Debug)]
pub struct Bound {
    /// [`Listener::name`].
    pub name: String,
    /// The socket.
    pub socket: Socket,
    /// Where it is, for people.
    pub address: String,
    /// Removes the file when dropped; keep it as long as the socket.
    pub file: Option<SocketFile>,
}

/// The file of a unix socket that we bound. Dropping it removes the file, when it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// The name of the socket over which a process talks to the one that takes its place. Where it is
/// handed over, others go by their names alone.
pub const PREDECESSOR: &str = "predecessor";

/// The sockets of `listeners`, inherited ones first, and the one to a predecessor.
pub(crate) fn all(listeners: &[Listener]) -> Result<(Vec<Bound>, Option<OwnedFd>), Failure> {
    let mut inherited = Inherited::from_env();
    let predecessor = inherited.predecessor()?;
    let bound = listeners
        .iter()
        .enumerate()
        .map(
            |(index, listener)| match inherited.take(index, listener, listeners)? {
                Some(bound) => Ok(bound),
                None => bind_one(listener).map_err(|failure| in_section(failure, listener)),
            },
        )
        .collect::<Result<Vec<_>, Failure>>()?;
    inherited.warn_of_rest();
    Ok((bound, predecessor))
}

fn in_section(failure: Failure, listener: &Listener) -> Failure {
    let message = format!("[{}] {failure}", listener.section);
    Failure::new(failure.code, message)
}

/// Binds one socket.
///
/// # Errors
/// When it cannot be bound: who is in the way, and what to do.
pub fn bind_one(listener: &Listener) -> Result<Bound, Failure> {
    let address = listener.socket.to_string();
    let (socket, address, file) = match &listener.socket {
        Address::Inet { host, port } => {
            let tcp = bind_inet(host, *port, &address)?;
            let shown = tcp.local_addr().map_or(address, |at| at.to_string());
            (Socket::Tcp(tcp), shown, None)
        }
        Address::Unix(path) => {
            let (unix, file) = bind_unix(path, listener.mode, listener.group.as_deref())?;
            (Socket::Unix(unix), address, Some(file))
        }
    };
    info!(name = %listener.name, %address, "listening");
    Ok(Bound {
        name: listener.name.clone(),
        socket,
        address,
        file,
    })
}

/// Sockets that were handed over (`LISTEN_FDS`, `LISTEN_FDNAMES`).
struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
    taken: Vec<usize>,
    /// They come from a process of ours.
    succeeds: bool,
}

impl Inherited {
    fn from_env() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self {
            sockets: ListenFd::from_env(),
            names: names.split(':').map(str::to_owned).collect(),
            taken: Vec::new(),
            succeeds: false,
        }
    }

    fn predecessor(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let slot = self.names.iter().position(|name| name == PREDECESSOR);
        let Some(slot) = slot.filter(|slot| *slot < self.sockets.len()) else {
            return Ok(None);
        };
        self.taken.push(slot);
        self.succeeds = true;
        let what = "socket to a predecessor";
        let socket = self
            .sockets
            .take_custom(slot, libc::AF_UNIX, libc::SOCK_SEQPACKET, what);
        socket.map_err(|error| Failure::new(EX_OSERR, format!("inherited socket: {error}")))
    }

    /// The one for `listener`, which is the `index`th of `all`: by name, or by order where no name
    /// is known.
    fn take(
        &mut self,
        index: usize,
        listener: &Listener,
        all: &[Listener],
    ) -> Result<Option<Bound>, Failure> {
        let named = self.names.iter().position(|name| *name == listener.name);
        let is_named =
            |name: &String| *name == PREDECESSOR || all.iter().any(|one| one.name == *name);
        let any_named = self.names.iter().any(is_named);
        let slot = match (named, any_named) {
            (Some(slot), _) => slot,
            (None, true) => return Ok(None),
            (None, false) => index,
        };
        if slot >= self.sockets.len() {
            return Ok(None);
        }
        self.taken.push(slot);
        let socket = self.socket(slot).map_err(|error| {
            let message = format!("inherited socket {slot} for {}: {error}", listener.name);
            Failure::new(EX_OSERR, message)
        })?;
        let address = socket.address();
        if self.succeeds && !socket.is_at(&listener.socket) {
            // The configuration has changed since; dropped, it is closed.
            info!(name = %listener.name, %address, "the socket of our predecessor is not taken");
            return Ok(None);
        }
        info!(name = %listener.name, %address, "listening on an inherited socket");
        Ok(Some(Bound {
            name: listener.name.clone(),
            socket,
            address,
            file: None,
        }))
    }

    fn socket(&mut self, slot: usize) -> io::Result<Socket> {
        let socket = match self.sockets.take_tcp_listener(slot) {
            Ok(Some(tcp)) => Socket::Tcp(tcp),
            _ => match self.sockets.take_unix_listener(slot)? {
                Some(unix) => Socket::Unix(unix),
                None => return Err(io::Error::other("handed over twice")),
            },
        };
        let listening = match &socket {
            Socket::Tcp(tcp) => getsockopt(tcp, sockopt::AcceptConn),
            Socket::Unix(unix) => getsockopt(unix, sockopt::AcceptConn),
        };
        if !listening.unwrap_or(false) {
            return Err(io::Error::other("it does not listen"));
        }
        match &socket {
            Socket::Tcp(tcp) => tcp.set_nonblocking(true)?,
            Socket::Unix(unix) => unix.set_nonblocking(true)?,
        }
        Ok(socket)
    }

    fn warn_of_rest(&mut self) {
        let rest = (0..self.sockets.len()).filter(|slot| !self.taken.contains(slot));
        for slot in rest.collect::<Vec<_>>() {
            warn!(slot, "an inherited socket is not used");
            if self.succeeds {
                // Closed, so that nobody waits in its queue.
                drop(self.socket(slot));
            }
        }
    }
}

impl Socket {
    /// The same socket once more: a connection goes to whoever accepts first.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(tcp) => tcp.try_clone().map(Self::Tcp),
            Self::Unix(unix) => unix.try_clone().map(Self::Unix),
        }
    }

    /// Whether it is where the configuration wants it.
    fn is_at(&self, wanted: &Address) -> bool {
        match (self, wanted) {
            (Self::Tcp(tcp), Address::Inet { host, port }) => {
                let Ok(here) = tcp.local_addr() else {
                    return false;
                };
                let places = (host.as_str(), *port).to_socket_addrs();
                let same = |at: SocketAddr| at.ip() == here.ip() && [0, here.port()].contains(port);
                places.is_ok_and(|mut places| places.any(same))
            }
            (Self::Unix(unix), Address::Unix(path)) => unix
                .local_addr()
                .is_ok_and(|here| here.as_pathname() == Some(path)),
            _ => false,
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().map(|at| at.to_string()),
            Self::Unix(unix) => unix.local_addr().map(|at| match at.as_pathname() {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix:".to_owned(),
            }),
        }
        .unwrap_or_else(|_| "unknown".to_owned())
    }
}

impl Bound {
    /// A socket that listens already, at `address`; its file is to be ours, see [`Self::arm`].
    #[must_use]
    pub fn taken_over(name: &str, address: &Address, socket: OwnedFd) -> Self {
        let (socket, file) = match address {
            Address::Inet { .. } => (Socket::Tcp(socket.into()), None),
            Address::Unix(path) => (Socket::Unix(socket.into()), Some(SocketFile::adopt(path))),
        };
        Self {
            name: name.to_owned(),
            socket,
            address: address.to_string(),
            file,
        }
    }

    /// The file of a socket that was taken over is ours from now on.
    pub fn arm(&mut self) {
        if let Some(file) = &mut self.file {
            file.arm();
        }
    }

    /// Closes the socket and leaves its file to another process.
    pub fn leave(self) {
        if let Some(file) = self.file {
            file.leave();
        }
    }

    /// A duplicate of the socket, to be given away.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(match self.socket.try_clone()? {
            Socket::Tcp(tcp) => tcp.into(),
            Socket::Unix(unix) => unix.into(),
        })
    }

    /// The socket as part of the runtime that this is called in, and the file to keep as long.
    ///
    /// # Errors
    /// What the system says.
    pub fn into_listener(self) -> io::Result<(net::Listener, Option<SocketFile>)> {
        let listener = match self.socket {
            Socket::Tcp(tcp) => net::Listener::from_tcp(tcp)?,
            Socket::Unix(unix) => net::Listener::from_unix(unix)?,
        };
        Ok((listener, self.file))
    }
}

impl SocketFile {
    /// Of a socket that another process bound and is about to leave to us. Until [`Self::arm`] it
    /// is the other one's.
    #[must_use]
    pub fn adopt(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            // No file has this number.
            identity: (0, 0),
        }
    }

    /// It is ours from now on.
    pub fn arm(&mut self) {
        if let Ok(identity) = identity(&self.path) {
            self.identity = identity;
        }
    }

    /// Leaves the file to another process.
    pub fn leave(mut self) {
        // No file has this number.
        self.identity = (0, 0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|now| now == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            // Usual after root was given up; the next start removes it as stale.
            debug!(path = %self.path.display(), %error, "socket file stays");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn bind_inet(host: &str, port: u16, shown: &str) -> Result<TcpListener, Failure> {
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| Failure::new(EX_UNAVAILABLE, format!("{shown}: host {host}: {error}")))?;
    let mut last = Errno::EADDRNOTAVAIL;
    for address in addresses {
        match inet_socket(address) {
            Ok(socket) => return Ok(TcpListener::from(socket)),
            Err(error) => last = error,
        }
    }
    Err(inet_failure(last, shown, port))
}

fn inet_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = stream_socket(family)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

fn inet_failure(error: Errno, shown: &str, port: u16) -> Failure {
    match error {
        Errno::EADDRINUSE => Failure::new(
            EX_UNAVAILABLE,
            format!(
                "{shown}: the port is in use by another process; find it with \
                 `ss -ltnp 'sport = :{port}'` and stop it, or set another `socket`"
            ),
        ),
        Errno::EACCES => Failure::new(
            EX_NOPERM,
            format!(
                "{shown}: user {} may not bind port {port}; ports below 1024 \
                 need root or CAP_NET_BIND_SERVICE",
                privileges::current_user()
            ),
        ),
        Errno::EADDRNOTAVAIL => Failure::new(
            EX_UNAVAILABLE,
            format!("{shown}: this machine has no such address; see `ip address`"),
        ),
        _ => Failure::new(EX_OSERR, format!("{shown}: {}", error.desc())),
    }
}

fn bind_unix(
    path: &Path,
    mode: FileMode,
    group: Option<&str>,
) -> Result<(UnixListener, SocketFile), Failure> {
    let address = UnixAddr::new(path).map_err(|error| unix_failure(error, path))?;
    make_room(path, &address)?;
    let gid = group.map(privileges::group).transpose()?;
    let socket = stream_socket(AddressFamily::Unix).map_err(|error| unix_failure(error, path))?;
    // Nobody can connect until we listen; by then mode and group are right.
    bind(socket.as_raw_fd(), &address).map_err(|error| unix_failure(error, path))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path).unwrap_or_default(),
    };
    if let (Some(gid), Some(name)) = (gid, group) {
        lchown(path, None, Some(gid.as_raw()))
            .map_err(|error| group_failure(&error, path, name))?;
    }
    let bits = Mode::from_bits_truncate(mode.bits());
    fchmodat(AT_FDCWD, path, bits, FchmodatFlags::NoFollowSymlink)
        .map_err(|error| unix_failure(error, path))?;
    listen(&socket, Backlog::MAXCONN).map_err(|error| unix_failure(error, path))?;
    Ok((UnixListener::from(socket), file))
}

/// Removes a socket that nobody answers; refuses when there is anything else.
fn make_room(path: &Path, address: &UnixAddr) -> Result<(), Failure> {
    let shown = path.display();
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(Failure::new(
            EX_CANTCREAT,
            format!(
                "unix:{shown}: something else than a socket is there; move it away, or \
                 set another `socket`"
            ),
        ));
    }
    match probe(address) {
        Err(Errno::ECONNREFUSED) => {
            info!(path = %shown, "removing a stale socket");
            fs::remove_file(path).map_err(|error| {
                Failure::new(
                    EX_CANTCREAT,
                    format!("unix:{shown}: stale, but cannot be removed: {error}"),
                )
            })
        }
        Err(Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN) => Err(Failure::new(
            EX_UNAVAILABLE,
            format!(
                "unix:{shown}: in use by a running process; find it with \
                 `ss -lxp src {shown}` and stop it, or set another `socket`"
            ),
        )),
        Err(error) => Err(Failure::new(
            EX_NOPERM,
            format!(
                "unix:{shown}: there is a socket already, and whether it is in use cannot be \
                 told: {}",
                error.desc()
            ),
        )),
    }
}

/// Connects without waiting.
fn probe(address: &UnixAddr) -> Result<(), Errno> {
    let socket = stream_socket(AddressFamily::Unix)?;
    connect(socket.as_fd().as_raw_fd(), address as &dyn SockaddrLike)
}

fn unix_failure(error: Errno, path: &Path) -> Failure {
    let shown = path.display();
    let folder = path.parent().unwrap_or(path).display();
    match error {
        Errno::ENOENT | Errno::ENOTDIR => Failure::new(
            EX_CANTCREAT,
            format!(
                "unix:{shown}: there is no folder {folder}; create it (systemd: RuntimeDirectory=)"
            ),
        ),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => Failure::new(
            EX_NOPERM,
            format!(
                "unix:{shown}: user {} may not create files in {folder}",
                privileges::current_user()
            ),
        ),
        Errno::EADDRINUSE => Failure::new(
            EX_UNAVAILABLE,
            format!("unix:{shown}: another process has just bound it"),
        ),
        _ => Failure::new(EX_OSERR, format!("unix:{shown}: {}", error.desc())),
    }
}

fn group_failure(error: &io::Error, path: &Path, group: &str) -> Failure {
    let user = privileges::current_user();
    Failure::new(
        EX_NOPERM,
        format!(
            "unix:{}: cannot be given to group {group}: {error}; start as root, \
                 or make {user} a member of it",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests;
