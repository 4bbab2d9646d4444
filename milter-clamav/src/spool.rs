//! The message as clamd must see it, kept until clamd has answered.
//!
//! clamd can fail after it has taken half of a message that the MTA will not send again; whoever
//! is asked next gets it from here. The first bytes stay in memory, shared with the socket and
//! not copied; a message longer than [`Limits::memory`] moves to a file without a name, which
//! the system removes even when the process is killed. How long a message may be is decided by
//! the caller.
//!
//! A full disk does not end a scan that goes well: the spool is then [`lost`](Spool::lost), and
//! only a second attempt is impossible.

use std::io::{self, SeekFrom};
use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use milter_proto::message::Header;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// How much is kept where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message in memory at most.
    pub memory: usize,
    /// Where the file of a longer one is made.
    pub directory: PathBuf,
}

/// Everything that was pushed, in order.
#[derive(Debug)]
pub struct Spool {
    limits: Limits,
    length: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<Bytes>),
    File(File),
    Lost(io::Error),
}

impl Spool {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            length: 0,
            store: Store::Memory(Vec::new()),
        }
    }

    /// Appends `chunk`.
    pub async fn push(&mut self, chunk: Bytes) {
        self.length = self.length.saturating_add(chunk.len());
        let written = match &mut self.store {
            Store::Memory(chunks) => {
                chunks.push(chunk);
                if self.length <= self.limits.memory {
                    return;
                }
                let chunks = std::mem::take(chunks);
                self.move_to_file(chunks).await
            }
            Store::File(file) => file.write_all(&chunk).await,
            Store::Lost(_) => return,
        };
        if let Err(error) = written {
            self.store = Store::Lost(error);
        }
    }

    /// Why the message is not complete here, if so.
    #[must_use]
    pub fn lost(&self) -> Option<&io::Error> {
        match &self.store {
            Store::Lost(error) => Some(error),
            Store::Memory(_) | Store::File(_) => None,
        }
    }

    /// Starts to read from the beginning.
    ///
    /// # Errors
    /// When the spool is lost, or its file cannot be read.
    pub async fn replay(&mut self) -> io::Result<Replay<'_>> {
        match &mut self.store {
            Store::Memory(chunks) => Ok(Replay::Memory(chunks.iter())),
            Store::File(file) => {
                file.flush().await?;
                file.seek(SeekFrom::Start(0)).await?;
                Ok(Replay::File(file))
            }
            Store::Lost(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    async fn move_to_file(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        let directory = self.limits.directory.clone();
        let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(directory));
        let mut file = File::from_std(made.await.map_err(io::Error::other)??);
        for chunk in chunks {
            file.write_all(&chunk).await?;
        }
        self.store = Store::File(file);
        Ok(())
    }
}

/// The spool being read once more.
#[derive(Debug)]
pub enum Replay<'a> {
    /// From memory.
    Memory(std::slice::Iter<'a, Bytes>),
    /// From its file.
    File(&'a mut File),
}

impl Replay<'_> {
    /// Bytes in a chunk read from a file at most.
    const CHUNK: usize = 64 * 1024;

    /// The next chunk, never an empty one; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Memory(chunks) => Ok(chunks.next().cloned()),
            Self::File(file) => {
                let mut buffer = BytesMut::with_capacity(Self::CHUNK);
                let count = file.read_buf(&mut buffer).await?;
                Ok((count > 0).then(|| buffer.freeze()))
            }
        }
    }
}

/// What goes before every message.
///
/// clamd tells the type of a stream from its first bytes, those at fixed places up to 1024
/// included. A message begins with what its sender chose: a first field called `%PDF-1.4` or
/// `GIF89a`, or `ustar` at byte 257, make clamd take the message for something else, and its
/// attachments are not looked at. A mailbox line (`From …`) does not help, since then a line
/// `From` in the body ends the message for clamd. So the first kilobyte and more is a Received
/// field of ours: by it clamd knows a mail message, and the sender's bytes come after the last
/// fixed place.
pub const PREAMBLE: &[u8] = &preamble();

const RECEIVED: &[u8] = b"Received: from mta by milter-clamav with milter\r\n";
const FILLER: &[u8] = b"\t(- - - - - - - - - - - - - - - - - - - - - - - - - - - - - -)\r\n";
const PREAMBLE_LENGTH: usize = RECEIVED.len() + 16 * FILLER.len();

const fn preamble() -> [u8; PREAMBLE_LENGTH] {
    let mut out = [0; PREAMBLE_LENGTH];
    let mut at = 0;
    while at < PREAMBLE_LENGTH {
        out[at] = if at < RECEIVED.len() {
            RECEIVED[at]
        } else {
            FILLER[(at - RECEIVED.len()) % FILLER.len()]
        };
        at += 1;
    }
    out
}

/// Writes a header field as it was in the message: folds are CR LF again. `leading_space` says
/// whether the value has its own white space before it.
pub fn put_field(out: &mut BytesMut, header: &Header, leading_space: bool) {
    out.put_slice(&header.name);
    out.put_slice(if leading_space { b":" } else { b": " });
    let mut previous = 0;
    for &byte in &header.value {
        if byte == b'\n' && previous != b'\r' {
            out.put_u8(b'\r');
        }
        out.put_u8(byte);
        previous = byte;
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(spool: &mut Spool) -> io::Result<Vec<u8>> {
        let mut replay = spool.replay().await?;
        let mut all = Vec::new();
        while let Some(chunk) = replay.next().await? {
            assert!(!chunk.is_empty());
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Pushes `length` bytes in pieces of `piece`, and reads them twice.
    async fn check(memory: usize, length: usize, piece: usize, in_file: bool) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(Limits {
            memory,
            directory: directory.path().to_owned(),
        });
        let message: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        for chunk in message.chunks(piece) {
            spool.push(Bytes::copy_from_slice(chunk)).await;
        }
        assert_eq!(matches!(spool.store, Store::File(_)), in_file);
        assert_eq!(read(&mut spool).await.unwrap(), message);
        assert_eq!(read(&mut spool).await.unwrap(), message);
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 0, "the file has no name");
    }

    #[tokio::test]
    async fn memory_then_file() {
        check(1000, 0, 1, false).await;
        check(1000, 1000, 7, false).await;
        check(1000, 1001, 7, true).await;
        check(0, 1, 1, true).await;
        check(1000, 300_000, 65_535, true).await;
    }

    #[tokio::test]
    async fn a_spool_that_cannot_be_written_is_lost() {
        let mut spool = Spool::new(Limits {
            memory: 2,
            directory: PathBuf::from("/nonexistent"),
        });
        spool.push(Bytes::from_static(b"ab")).await;
        assert!(spool.lost().is_none());
        spool.push(Bytes::from_static(b"c")).await;
        assert!(spool.lost().is_some());
        spool.push(Bytes::from_static(b"d")).await;
        let error = spool.replay().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn fields_are_lines_again() {
        let check = |name: &'static str, value: &'static [u8], leading, expected: &[u8]| {
            let mut out = BytesMut::new();
            put_field(&mut out, &Header::new(name, value), leading);
            assert_eq!(&out[..], expected);
        };
        check("A", b"x", false, b"A: x\r\n");
        check("A", b" x", true, b"A: x\r\n");
        check("A", b"", true, b"A:\r\n");
        check("A", b"x\n\ty\n z", false, b"A: x\r\n\ty\r\n z\r\n");
        check("A", b"x\r\n\ty", false, b"A: x\r\n\ty\r\n");
        check("A", b"\xff\rx", false, b"A: \xff\rx\r\n");
    }

    #[test]
    fn the_preamble_is_one_field_longer_than_every_fixed_place() {
        assert!(PREAMBLE.len() > 1024);
        let text = std::str::from_utf8(PREAMBLE).unwrap();
        assert!(text.ends_with("\r\n"));
        for (number, line) in text.lines().enumerate() {
            assert_eq!(line.starts_with("Received: "), number == 0);
            assert_eq!(line.starts_with('\t'), number > 0);
            assert!(line.len() < 78);
        }
    }
}
