//! A proxy in user space that does to a connection what a network or a peer may do to it: delay,
//! cut, garble, stall. It also watches for words that must not pass.
//!
//! Mischief is done to the answers, after so many bytes of them; what is asked passes as it is.
//! Each direction of each connection has a thread, which ends with the connection or the proxy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// Bytes moved at a time.
const BUFFER: usize = 16 << 10;
/// How often a connection looks whether it is over.
const TICK: Duration = Duration::from_millis(50);

/// Where somebody listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file system.
    Unix(PathBuf),
    /// On TCP.
    Tcp(std::net::SocketAddr),
}

/// What is done to the answers on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mischief {
    /// Nothing.
    Nothing,
    /// Every piece comes so much later.
    Delay(Duration),
    /// The connection ends after so many bytes, also within a frame.
    Cut(usize),
    /// The byte after so many has its bits turned over.
    Garble(usize),
    /// Nothing more passes after so many bytes, and nothing is closed.
    Stall(usize),
}

/// A running proxy.
pub(super) struct Proxy {
    over: Arc<AtomicBool>,
    found: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

/// What all connections know.
#[derive(Clone)]
struct Shared {
    target: Place,
    needle: &'static [u8],
    over: Arc<AtomicBool>,
    found: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens at `place` for connections to `target`; `mischief` says what is done to the one of
    /// that number, from 0; `needle` is looked for in the answers.
    pub(super) fn start(
        place: &Place,
        target: Place,
        needle: &'static [u8],
        mischief: impl Fn(usize) -> Mischief + Send + 'static,
    ) -> Result<Self> {
        let listener = Listener::bind(place).with_context(|| format!("{place:?}"))?;
        let shared = Shared {
            target,
            needle,
            over: Arc::default(),
            found: Arc::default(),
            done: Arc::default(),
        };
        let (over, found, done) = (
            Arc::clone(&shared.over),
            Arc::clone(&shared.found),
            Arc::clone(&shared.done),
        );
        let accepting = thread::spawn(move || accept(&listener, &shared, mischief));
        Ok(Self {
            over,
            found,
            done,
            accepting: Some(accepting),
        })
    }

    /// How often the needle has passed.
    pub(super) fn found(&self) -> usize {
        self.found.load(Ordering::SeqCst)
    }

    /// How often mischief was done.
    pub(super) fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &Listener, shared: &Shared, mischief: impl Fn(usize) -> Mischief) {
    let mut connections = Vec::new();
    let mut number = 0;
    while !shared.over.load(Ordering::SeqCst) {
        let Ok(client) = listener.accept() else {
            thread::sleep(Duration::from_millis(2));
            continue;
        };
        // Whose target is gone is closed, as the target itself would have it.
        if let Ok(server) = Stream::connect(&shared.target) {
            let pump = Pump {
                shared: shared.clone(),
                mischief: mischief(number),
                passed: 0,
                gone: Arc::default(),
            };
            connections.extend(pump.start(client, server).unwrap_or_default());
        }
        connections.retain(|thread: &JoinHandle<()>| !thread.is_finished());
        number += 1;
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// The answers on one connection.
struct Pump {
    shared: Shared,
    mischief: Mischief,
    /// Bytes so far.
    passed: usize,
    /// Whether who asks has gone.
    gone: Arc<AtomicBool>,
}

impl Pump {
    fn start(mut self, client: Stream, server: Stream) -> io::Result<Vec<JoinHandle<()>>> {
        let (mut asking, mut to_server) = (client.try_clone()?, server.try_clone()?);
        let over = Arc::clone(&self.shared.over);
        let gone = Arc::clone(&self.gone);
        let questions = thread::spawn(move || {
            let _ = copy(&mut asking, &over, |bytes| to_server.write_all(bytes));
            gone.store(true, Ordering::SeqCst);
            to_server.close();
        });
        let answers = thread::spawn(move || {
            let (mut answering, mut to_client) = (server, client);
            let over = Arc::clone(&self.shared.over);
            let _ = copy(&mut answering, &over, |bytes| {
                self.pass(bytes, &mut to_client)
            });
            to_client.close();
            answering.close();
        });
        Ok(vec![questions, answers])
    }

    /// Passes a piece on, or what mischief makes of it.
    fn pass(&mut self, bytes: &mut [u8], client: &mut Stream) -> io::Result<()> {
        let needle = self.shared.needle;
        if !needle.is_empty() && bytes.windows(needle.len()).any(|window| window == needle) {
            self.shared.found.fetch_add(1, Ordering::SeqCst);
        }
        let start = self.passed;
        self.passed += bytes.len();
        let within = |at: usize| (start..start + bytes.len()).contains(&at);
        let due = match self.mischief {
            Mischief::Nothing => false,
            Mischief::Delay(_) => true,
            Mischief::Cut(at) | Mischief::Garble(at) | Mischief::Stall(at) => within(at),
        };
        if !due {
            return client.write_all(bytes);
        }
        self.shared.done.fetch_add(1, Ordering::SeqCst);
        match self.mischief {
            Mischief::Nothing => {}
            Mischief::Delay(time) => thread::sleep(time),
            Mischief::Garble(at) => bytes[at - start] ^= 0xff,
            Mischief::Cut(at) => {
                client.write_all(&bytes[..at - start])?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Mischief::Stall(at) => {
                client.write_all(&bytes[..at - start])?;
                let over = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
                while !over(&self.shared.over) && !over(&self.gone) {
                    thread::sleep(TICK);
                }
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        client.write_all(bytes)
    }
}

/// Moves bytes until either side is gone or the proxy is over.
fn copy(
    from: &mut Stream,
    over: &AtomicBool,
    mut pass: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    from.set_patience(TICK)?;
    while !over.load(Ordering::SeqCst) {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => pass(&mut buffer[..read])?,
            Err(error) if is_tick(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_tick(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// A listening socket of either kind, which does not block.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                open_to_all(path)?;
                listener.set_nonblocking(true)?;
                Self::Unix(listener)
            }
            Place::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Self::Tcp(listener)
            }
        })
    }

    fn accept(&self) -> io::Result<Stream> {
        let stream = match self {
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0),
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
        };
        stream.prepare()?;
        Ok(stream)
    }
}

/// The orchestrator connects under another account.
fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// A connection of either kind.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn connect(place: &Place) -> io::Result<Self> {
        let stream = match place {
            Place::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            Place::Tcp(address) => Self::Tcp(TcpStream::connect(address)?),
        };
        stream.prepare()?;
        Ok(stream)
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(false),
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)
            }
        }
    }

    fn set_patience(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(time)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// For both sides of it.
    fn close(&self) {
        // It may be closed already, which is what is wanted.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of "hello, GARBAGE" that an echo sends back through mischief, until the end or
    /// a second of silence.
    fn arrives(mischief: Mischief) -> (Vec<u8>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let (near, far) = (folder.path().join("near"), folder.path().join("far"));
        let echo = UnixListener::bind(&far).unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut asked = [0; 14];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&asked).unwrap();
            // Until the proxy hangs up.
            let _ = stream.read(&mut asked);
        });
        let near = Place::Unix(near);
        let proxy = Proxy::start(&near, Place::Unix(far), b"GARBAGE", move |_| mischief).unwrap();
        let mut client = Stream::connect(&near).unwrap();
        client.write_all(b"hello, GARBAGE").unwrap();
        client.set_patience(Duration::from_secs(1)).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            got.extend_from_slice(&buffer[..read]);
            if got.len() == 14 {
                break;
            }
        }
        client.close();
        let found = proxy.found();
        drop(proxy);
        echo.join().unwrap();
        (got, found)
    }

    #[test]
    fn mischief_is_done_to_the_byte() {
        let all = &b"hello, GARBAGE"[..];
        assert_eq!(arrives(Mischief::Nothing), (all.to_vec(), 1));
        let late = Mischief::Delay(Duration::from_millis(30));
        assert_eq!(arrives(late).0, all);
        assert_eq!(arrives(Mischief::Cut(5)).0, b"hello");
        assert_eq!(arrives(Mischief::Stall(5)).0, b"hello");
        assert_eq!(arrives(Mischief::Garble(0)).0, b"\x97ello, GARBAGE");
    }
}
