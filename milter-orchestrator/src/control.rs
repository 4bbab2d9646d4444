//! The control socket: one JSON line a question, one JSON line an answer.
//!
//! The socket has mode 0600, and each peer is asked the kernel for its user besides: only the one
//! that we run as and root are answered. A question has a greatest length and a peer little time to
//! put it; a peer that misbehaves loses its connection and nobody notices. What a question means is
//! decided by the closure that is handed in, which may take its time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time;

use crate::status::Snapshot;

/// Bytes of a question at most.
const QUESTION_MAX: u64 = 4096;
/// Bytes of an answer that a client reads at most.
const ANSWER_MAX: u64 = 4 * 1024 * 1024;
/// Peers that are answered at the same time.
const PEERS_MAX: u32 = 8;
/// How long a process that ends waits for answers that are on their way.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time for a question, and for an answer that is there at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for an answer that has to wait for filters to start.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// How is everything?
    Status,
    /// End a milter's process and start a fresh one.
    Restart {
        /// Its name.
        milter: String,
    },
    /// Read the configuration again; answered when it counts, or has been refused.
    Reload,
    /// Take no more mail, or take it again.
    Drain {
        /// Take it again.
        undo: bool,
    },
    /// Let another process take the place of this one; answered when it has, or cannot.
    Upgrade {
        /// Its program; `None` for the path that this one was started from.
        binary: Option<PathBuf>,
    },
}

impl Question {
    /// How long its answer may take.
    fn patience(&self) -> Duration {
        match self {
            Self::Status | Self::Restart { .. } | Self::Drain { .. } => PATIENCE,
            Self::Reload | Self::Upgrade { .. } => LONG_PATIENCE,
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Everything.
    Status(Snapshot),
    /// It is done, or under way: a sentence for people.
    Done(String),
    /// It cannot be done: a sentence for people.
    Error(String),
}

/// Why a running orchestrator could not be asked.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "{socket}: {source}; does the orchestrator run, and is [control] socket the one in its \
         configuration?"
    )]
    Connect {
        /// Path of the socket.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
    /// It hung up without an answer.
    #[error(
        "no answer from the orchestrator ({0}); only root and the user it runs as are answered"
    )]
    Refused(io::Error),
    /// The answer makes no sense.
    #[error("the orchestrator's answer is not understood ({0}); is it of another version?")]
    Answer(serde_json::Error),
}

/// Those who are being answered.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Semaphore>);

impl Default for Peers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PEERS_MAX as usize)))
    }
}

impl Peers {
    /// Waits until all have been answered and gone, two seconds at most: for a process that ends
    /// upon a question and still owes the answer.
    pub async fn gone(&self) {
        // In either case there is nothing more to wait for.
        let _ = time::timeout(LAST_WORDS, self.0.acquire_many(PEERS_MAX)).await;
    }
}

/// Answers questions until the socket fails, which it does not. `answer` decides.
pub async fn serve<F, A>(listener: UnixListener, peers: Peers, answer: F)
where
    F: Fn(Question) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send,
{
    let answer = Arc::new(answer);
    loop {
        let Ok(place) = Arc::clone(&peers.0).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                // Out of descriptors, mostly: do not spin.
                time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &*answer).await {
                tracing::debug!(%error, "control connection");
            }
            drop(place);
        });
    }
}

async fn converse<A: Future<Output = Answer>>(
    mut stream: UnixStream,
    answer: &(impl Fn(Question) -> A + Sync),
) -> io::Result<()> {
    let uid = Uid::from_raw(stream.peer_cred()?.uid());
    if !is_allowed(uid, Uid::effective()) {
        tracing::warn!(%uid, "refused at the control socket");
        return Ok(());
    }
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader);
    // All questions of a peer and their reading, without the time that answers take.
    let deadline = time::Instant::now() + PATIENCE;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(QUESTION_MAX);
        let asked = time::timeout_at(deadline, limited.read_until(b'\n', &mut line));
        if asked.await?? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_slice::<Question>(&line) {
            Ok(question) => time::timeout(question.patience(), answer(question))
                .await
                .unwrap_or_else(|_| Answer::Error("it is not done yet; see the log".to_owned())),
            Err(error) => Answer::Error(format!("question not understood: {error}")),
        };
        let mut text = serde_json::to_vec(&reply).map_err(io::Error::other)?;
        text.push(b'\n');
        time::timeout(PATIENCE, writer.write_all(&text)).await??;
        if line.last() != Some(&b'\n') {
            // Cut off or too long: what follows is no question.
            return Ok(());
        }
    }
}

/// Whether a peer of user `peer` may ask a program of user `us`.
fn is_allowed(peer: Uid, us: Uid) -> bool {
    peer.is_root() || peer == us
}

/// Asks a running orchestrator.
///
/// # Errors
/// When it does not run there, does not answer us, or not in words that we understand.
pub fn ask(socket: &Path, question: &Question) -> Result<Answer, AskError> {
    let mut stream = StdUnixStream::connect(socket).map_err(|source| AskError::Connect {
        socket: socket.display().to_string(),
        source,
    })?;
    let line = exchange(&mut stream, question).map_err(AskError::Refused)?;
    serde_json::from_str(&line).map_err(AskError::Answer)
}

fn exchange(stream: &mut StdUnixStream, question: &Question) -> io::Result<String> {
    stream.set_read_timeout(Some(question.patience() + PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(question)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A served socket that answers restarts with the milter's name.
    fn start(directory: &Path) -> (PathBuf, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let path = directory.join("control.sock");
        let listener = runtime.block_on(async { UnixListener::bind(&path).unwrap() });
        runtime.spawn(serve(listener, Peers::default(), |question| async {
            match question {
                Question::Status => Answer::Error("no status here".to_owned()),
                Question::Restart { milter } => Answer::Done(milter),
                Question::Reload | Question::Drain { .. } | Question::Upgrade { .. } => {
                    Answer::Done(String::new())
                }
            }
        }));
        (path, runtime)
    }

    #[test]
    fn questions_are_answered_and_nonsense_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _runtime) = start(directory.path());
        let restart = Question::Restart {
            milter: "dkim".to_owned(),
        };
        assert_eq!(
            ask(&path, &restart).unwrap(),
            Answer::Done("dkim".to_owned())
        );

        for (sent, words) in [
            (&b"{\"ask\":\"status\"}\n"[..], "no status here"),
            (b"{\"ask\":\"dance\"}\n", "not understood"),
            (b"{\"ask\":\"restart\"}\n", "not understood"),
            (b"\xff\xfe\n", "not understood"),
            (b"GET / HTTP/1.0\r\n\r\n", "not understood"),
        ] {
            let mut stream = StdUnixStream::connect(&path).unwrap();
            stream.write_all(sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.contains(words), "{sent:?}: {text}");
        }
    }

    #[test]
    fn an_endless_question_is_cut_and_costs_the_others_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _runtime) = start(directory.path());
        let mut endless = StdUnixStream::connect(&path).unwrap();
        // The peer may be gone before all is written.
        let _ = endless.write_all(&vec![b'x'; 100_000]);
        let mut text = String::new();
        let _ = endless.read_to_string(&mut text);
        assert!(text.is_empty() || text.contains("not understood"), "{text}");

        let silent: Vec<_> = (0..PEERS_MAX - 1)
            .map(|_| StdUnixStream::connect(&path).unwrap())
            .collect();
        assert!(ask(&path, &Question::Status).is_ok());
        drop(silent);
    }

    #[test]
    fn only_root_and_our_own_user_may_ask() {
        let (root, us, other) = (Uid::from_raw(0), Uid::from_raw(107), Uid::from_raw(1000));
        for (peer, allowed) in [(root, true), (us, true), (other, false)] {
            assert_eq!(is_allowed(peer, us), allowed, "{peer}");
        }
        assert!(
            !is_allowed(us, root),
            "a dropped user may not ask one that is still root"
        );
    }

    #[test]
    fn where_nobody_runs_the_error_says_what_to_look_at() {
        let directory = tempfile::tempdir().unwrap();
        let error = ask(&directory.path().join("none.sock"), &Question::Status).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("none.sock") && error.contains("[control] socket"),
            "{error}"
        );
    }
}
