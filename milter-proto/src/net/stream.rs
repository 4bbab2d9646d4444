//! TCP and Unix sockets as one type.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::net::address::Address;
use crate::net::unix::Unix;

/// A connected socket. TCP is set to send at once (`TCP_NODELAY`), since writes are collected here,
/// and to find out about peers that are gone without a word (`SO_KEEPALIVE`, after five minutes).
#[derive(Debug)]
pub struct Stream(Socket);

/// What a stream is.
#[derive(Debug)]
enum Socket {
    /// TCP.
    Inet(TcpStream),
    /// A socket in the file system.
    Unix(Unix),
}

/// What every TCP connection is set to.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(30));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Who is at the other end, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(String);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Peer {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl Stream {
    /// Connects to `address`; a name is looked up, and its addresses are tried in turn.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        Ok(Self(match address {
            Address::Inet { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                prepare(&stream)?;
                Socket::Inet(stream)
            }
            Address::Unix(path) => Socket::Unix(Unix::new(UnixStream::connect(path).await?)?),
        }))
    }

    /// Whether the peer has said nothing that was not read, and has not closed: nothing that was
    /// kept open unwatched can be used again otherwise. Reads nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match &self.0 {
            Socket::Inet(stream) => SockRef::from(stream).peek(&mut byte),
            Socket::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until there is something to read; whether the peer has closed. Reads nothing.
    ///
    /// # Errors
    /// What the system says.
    pub async fn readable(&self) -> io::Result<bool> {
        match &self.0 {
            Socket::Inet(stream) => {
                let ready = stream.ready(Interest::READABLE).await?;
                Ok(ready.is_read_closed())
            }
            Socket::Unix(stream) => stream.readable().await,
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener(Listening);

/// What a listener is.
#[derive(Debug)]
enum Listening {
    /// TCP.
    Inet(TcpListener),
    /// A socket in the file system.
    Unix(UnixListener),
}

impl Listener {
    /// Binds `address` as it is: modes, groups and left-over sockets are the business of `daemon`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        Ok(Self(match address {
            Address::Inet { host, port } => {
                Listening::Inet(TcpListener::bind((host.as_str(), *port)).await?)
            }
            Address::Unix(path) => Listening::Unix(UnixListener::bind(path)?),
        }))
    }

    /// A TCP socket that was bound elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(|listener| Self(Listening::Inet(listener)))
    }

    /// A Unix socket that was bound elsewhere.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(|listener| Self(Listening::Unix(listener)))
    }

    /// Where it listens; the port that the system chose, when it was left to it.
    ///
    /// # Errors
    /// What the system says; a Unix socket without a path is an error.
    pub fn address(&self) -> io::Result<Address> {
        match &self.0 {
            Listening::Inet(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Inet {
                    host: address.ip().to_string(),
                    port: address.port(),
                })
            }
            Listening::Unix(listener) => listener
                .local_addr()?
                .as_pathname()
                .map(|path| Address::Unix(path.to_owned()))
                .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)),
        }
    }

    /// The next connection, if there is one.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match &self.0 {
            Listening::Inet(listener) => listener.poll_accept(cx).map(|accepted| {
                let (stream, address) = accepted?;
                prepare(&stream)?;
                Ok((Stream(Socket::Inet(stream)), Peer(address.to_string())))
            }),
            Listening::Unix(listener) => listener.poll_accept(cx).map(|accepted| {
                let (stream, _) = accepted?;
                // A client's own end has no name: say which socket it came in by.
                let peer = self.address().map_or_else(|_| "unix".into(), String::from);
                Ok((Stream(Socket::Unix(Unix::new(stream)?)), Peer(peer)))
            }),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Listening::Inet(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Inet(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Inet(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    // Without these two, a write of several buffers would be as many system calls.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Inet(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Socket::Inet(stream) => stream.is_write_vectored(),
            Socket::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Inet(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Inet(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn several_buffers_are_one_write() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = Stream(Socket::Unix(Unix::new(near).unwrap()));
        assert!(near.is_write_vectored());
        let buffers = [IoSlice::new(b"one "), IoSlice::new(b"write")];
        let written = poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &buffers));
        assert_eq!(written.await.unwrap(), 9);
        let mut read = [0; 9];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one write");
    }

    #[tokio::test]
    async fn both_ends_of_tcp_notice_a_peer_that_is_gone() {
        let any = "inet:0@127.0.0.1".parse().unwrap();
        let listener = Listener::bind(&any).await.unwrap();
        let near = Stream::connect(&listener.address().unwrap()).await.unwrap();
        let (far, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        for stream in [near, far] {
            let Socket::Inet(stream) = stream.0 else {
                panic!("not TCP");
            };
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            assert!(socket.tcp_keepalive_time().unwrap() < Duration::from_secs(600));
            assert!(stream.nodelay().unwrap());
        }
    }
}
