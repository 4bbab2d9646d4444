//! A filter that misbehaves at one command, and notes how soon its connection is closed for that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::BytesMut;
use milter_proto::net::Address;
use milter_proto::wire::{Actions, Offer, Reply, Steps, VERSION};
use milter_tests::process::PATIENCE;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What follows on the bytes that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// It closes the connection.
    Closes,
    /// It is silent.
    Hangs,
    /// It goes on, a zero byte every 20 ms.
    Drips,
    /// It says this again and again, each time after so long.
    Repeats {
        /// What.
        say: Vec<u8>,
        /// How long after the last time.
        every: Duration,
    },
    /// It goes on as if nothing were.
    GoesOn,
}

/// What is wrong with it.
#[derive(Debug, Clone)]
pub(super) struct Misdeed {
    /// The command at which it happens.
    pub(super) at: u8,
    /// What is said in place of an answer.
    pub(super) say: Vec<u8>,
    /// What follows.
    pub(super) then: Then,
    /// What it has negotiated.
    pub(super) actions: Actions,
    /// What it has negotiated.
    pub(super) steps: Steps,
}

/// A running filter; stops when it is dropped.
pub(super) struct Hostile {
    pub(super) address: Address,
    /// How long its connections lived after the misdeed, as far as they were closed.
    closed: Arc<Mutex<Vec<Duration>>>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Hostile {
    pub(super) fn start(misdeed: Misdeed) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("milter.sock");
        let listener = UnixListener::bind(&path)?;
        let closed = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&closed);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                let misdeed = misdeed.clone();
                tokio::spawn(async move {
                    // The other side may go away at any time: that is what it is tested for.
                    if let Ok(Some(lived)) = converse(stream, &misdeed).await {
                        noted
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(lived);
                    }
                });
            }
        });
        Ok(Self {
            address: Address::Unix(path),
            closed,
            task,
            _directory: directory,
        })
    }

    /// How long connections lived after the misdeed, once one of them is closed.
    pub(super) async fn closed(&self) -> Vec<Duration> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let closed = self
                .closed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if !closed.is_empty() {
                return closed;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Vec::new()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection: how long it lived after the misdeed, when the other side ended it.
async fn converse(mut stream: UnixStream, misdeed: &Misdeed) -> Result<Option<Duration>> {
    loop {
        let length = stream.read_u32().await?;
        let mut frame = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut frame).await?;
        let code = frame.first().copied().unwrap_or_default();
        let mut out = BytesMut::new();
        if code == misdeed.at {
            out.extend_from_slice(&misdeed.say);
            if misdeed.then != Then::GoesOn {
                stream.write_all(&out).await?;
                return misbehave(&mut stream, &misdeed.then).await;
            }
        }
        match code {
            b'O' => Reply::Negotiate(Offer {
                version: VERSION,
                actions: misdeed.actions,
                steps: misdeed.steps,
                macros: Vec::new(),
            })
            .encode(&mut out)?,
            // These are never answered.
            b'D' | b'A' | b'K' => {}
            b'Q' => return Ok(None),
            b'L' if misdeed.steps.contains(Steps::NR_HEADER) => {}
            _ if code == misdeed.at => {}
            _ => Reply::Continue.encode(&mut out)?,
        }
        stream.write_all(&out).await?;
    }
}

async fn misbehave(stream: &mut UnixStream, then: &Then) -> Result<Option<Duration>> {
    let begin = Instant::now();
    let usual = Duration::from_millis(20);
    let (more, every): (&[u8], Duration) = match then {
        Then::Closes | Then::GoesOn => return Ok(None),
        Then::Hangs => (&[], usual),
        Then::Drips => (&[0], usual),
        Then::Repeats { say, every } => (say, *every),
    };
    let mut read = [0; 1024];
    loop {
        match timeout(every, stream.read(&mut read)).await {
            Ok(Ok(1..)) => {}
            // A reset is an end too.
            Ok(Ok(0) | Err(_)) => return Ok(Some(begin.elapsed())),
            Err(_) => {
                if stream.write_all(more).await.is_err() {
                    return Ok(Some(begin.elapsed()));
                }
            }
        }
    }
}
