//! The listener of `[metrics]`: hostile or slow clients cost it nothing but their own connection.
//!
//! A request has a time and a length, an answer has a time; at the limit of connections the newest
//! takes the place of the oldest, so that whoever holds connections open keeps nobody out. Failures
//! of single connections are logged at `debug` only.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::http::{Answer, HEAD_MAX, Refusal, Request};
use crate::net::Listener;

/// Connections at the same time.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Time for a request, and again for its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What a client says behind its request is read up to here, so that closing does not take the
/// answer back.
const REST_MAX: u64 = 64 * 1024;
/// … for so long.
const REST_TIME: Duration = Duration::from_secs(1);
/// Pause when no connection can be accepted: out of descriptors, mostly.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers for ever.
pub(super) async fn serve<F>(listener: Listener, answer: F)
where
    F: Fn(&Request) -> Answer + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let mut tasks = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = poll_fn(|cx| listener.poll_accept(cx)) => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "metrics: cannot accept a connection");
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => {
                oldest.retain(|task| !task.is_finished());
                continue;
            }
        };
        if oldest.len() >= CONNECTIONS_MAX
            && let Some(task) = oldest.pop_front()
        {
            task.abort();
        }
        let answer = Arc::clone(&answer);
        oldest.push_back(tasks.spawn(async move {
            if let Err(error) = converse(stream, &*answer).await {
                debug!(%error, "metrics: connection");
            }
        }));
    }
}

/// One request and its answer.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answer: &(impl Fn(&Request) -> Answer + Sync),
) -> io::Result<()> {
    let request = match timeout(PATIENCE, read(&mut stream)).await {
        Ok(read) => match read? {
            Some(request) => request,
            None => return Ok(()),
        },
        Err(_) => Err(Refusal::Slow),
    };
    let bytes = match &request {
        Ok(request) => answer(request).encode(request.head),
        Err(refusal) => Answer::from(*refusal).encode(false),
    };
    let finish = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    };
    timeout(PATIENCE, finish).await??;
    let mut rest = stream.take(REST_MAX);
    // Whether anything comes does not matter.
    let _ = timeout(
        REST_TIME,
        tokio::io::copy(&mut rest, &mut tokio::io::sink()),
    )
    .await;
    Ok(())
}

/// The request; `None` when the client has gone without one.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Result<Request, Refusal>>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let room = HEAD_MAX.saturating_sub(bytes.len()).min(2048);
        let mut piece = (&mut *stream).take(u64::try_from(room).unwrap_or(0));
        if piece.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        match Request::parse(&bytes) {
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Some(Ok(request))),
            Err(refusal) => return Ok(Some(Err(refusal))),
        }
    }
}
