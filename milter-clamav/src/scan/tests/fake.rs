//! A clamd for tests that does what it is told, and keeps what it was sent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milter_proto::net::Address;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What a [`Fake`] does with a connection, one after the other; then it closes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Do {
    /// Takes the command, and the stream behind `INSTREAM` up to its end.
    TakeAll,
    /// Takes the command and this many bytes of whatever follows.
    Take(usize),
    /// Takes whatever comes, and says nothing.
    Drain,
    /// Sends this.
    Say(&'static [u8]),
    /// Waits.
    Sleep(Duration),
    /// Does nothing for ever.
    Hang,
}

/// The script of a clamd that works.
pub(crate) const CLEAN: &[Do] = &[Do::TakeAll, Do::Say(b"stream: OK\0")];

/// A clamd of our own on a socket of its own; stops when it is dropped.
pub(crate) struct Fake {
    pub(crate) address: Address,
    streams: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Fake {
    /// Does the n-th of `scripts` with the n-th connection, and the last of them ever after.
    pub(crate) fn start(scripts: &[&'static [Do]]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clamd");
        let listener = UnixListener::bind(&path).unwrap();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&streams);
        let scripts = scripts.to_vec();
        let task = tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((socket, _)) = listener.accept().await {
                let script = scripts[turn.min(scripts.len() - 1)];
                turn += 1;
                tokio::spawn(play(socket, script, Arc::clone(&kept)));
            }
        });
        Self {
            address: Address::Unix(path),
            streams,
            task,
            _directory: directory,
        }
    }

    /// The address of a clamd that is not there.
    pub(crate) fn absent() -> Address {
        Address::Unix(PathBuf::from("/nonexistent/clamd"))
    }

    /// The contents of all streams that were complete.
    pub(crate) fn streams(&self) -> Vec<Vec<u8>> {
        self.streams.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn play(mut socket: UnixStream, script: &[Do], kept: Arc<Mutex<Vec<Vec<u8>>>>) {
    for step in script {
        match step {
            Do::TakeAll => {
                let Some(stream) = take_all(&mut socket).await else {
                    return;
                };
                kept.lock().unwrap().push(stream);
            }
            Do::Take(count) => {
                let mut buffer = vec![0; *count];
                let _ = socket.read_exact(&mut buffer).await;
            }
            Do::Drain => {
                let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
            }
            Do::Say(bytes) => {
                let _ = socket.write_all(bytes).await;
            }
            Do::Sleep(duration) => tokio::time::sleep(*duration).await,
            Do::Hang => std::future::pending().await,
        }
    }
}

/// Reads a command and its stream; `None` when the other side went away.
async fn take_all(socket: &mut UnixStream) -> Option<Vec<u8>> {
    let mut command = Vec::new();
    loop {
        match socket.read_u8().await.ok()? {
            0 => break,
            byte => command.push(byte),
        }
    }
    let mut stream = Vec::new();
    if command == b"zINSTREAM" {
        loop {
            let length = socket.read_u32().await.ok()?;
            if length == 0 {
                break;
            }
            let start = stream.len();
            stream.resize(start + usize::try_from(length).unwrap(), 0);
            socket.read_exact(&mut stream[start..]).await.ok()?;
        }
    }
    Some(stream)
}
