//! A filter that does one thing wrong, at one command, and everything else right.

use std::sync::Arc;

use anyhow::Result;
use bytes::BytesMut;
use milter_proto::net::Address;
use milter_proto::wire::{Actions, Offer, Reply, Steps, VERSION};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What goes wrong; everything that is not said here is answered with "continue".
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The command (`SMFIC_*`) at which it happens; 0 for a filter without fault.
    pub at: u8,
    /// The bytes that are sent instead of an answer.
    pub say: Vec<u8>,
    /// Whether the connection stays open after that, silent; otherwise it is closed.
    pub hang: bool,
}

/// A running filter; stops when it is dropped.
#[derive(Debug)]
pub struct Scripted {
    /// Where it listens.
    pub address: Address,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Scripted {
    /// Starts one that follows `script` on every connection.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn start(script: Script) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("milter.sock");
        let listener = UnixListener::bind(&path)?;
        let script = Arc::new(script);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                // The other side may go away at any time: that is what it is tested for.
                tokio::spawn(async move { converse(stream, &script).await.ok() });
            }
        });
        Ok(Self {
            address: Address::Unix(path),
            task,
            _directory: directory,
        })
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: UnixStream, script: &Script) -> Result<()> {
    loop {
        let length = stream.read_u32().await?;
        let mut frame = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut frame).await?;
        let code = frame.first().copied().unwrap_or_default();
        if code == script.at {
            stream.write_all(&script.say).await?;
            if script.hang {
                std::future::pending::<()>().await;
            }
            return Ok(());
        }
        let mut out = BytesMut::new();
        match code {
            b'O' => Reply::Negotiate(everything_answered()).encode(&mut out)?,
            // These are never answered.
            b'D' | b'A' | b'K' => {}
            b'Q' => return Ok(()),
            _ => Reply::Continue.encode(&mut out)?,
        }
        stream.write_all(&out).await?;
    }
}

/// It wants to see everything, and to change nothing.
fn everything_answered() -> Offer {
    Offer {
        version: VERSION,
        actions: Actions::empty(),
        steps: Steps::empty(),
        macros: Vec::new(),
    }
}
