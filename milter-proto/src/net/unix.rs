//! A Unix socket that is watched for what its user waits for.
//!
//! Linux wakes whoever watches a Unix socket for room to write each time the peer reads from it,
//! and a milter connection is mostly waiting for the peer's next word: watched for both, every
//! frame that the peer reads would cost a wake-up that nobody needs. So room is waited for on a
//! handle of its own, which exists from the first write on that the system did not take.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Bytes read at a time at most: memory that is not initialised yet is, before it is read into.
const WINDOW: usize = 64 * 1024;

/// A connected Unix socket.
#[derive(Debug)]
pub(super) struct Unix {
    socket: AsyncFd<UnixStream>,
    /// The same socket, watched for room.
    room: Option<AsyncFd<UnixStream>>,
}

impl Unix {
    /// Takes `stream` out of the runtime's hands and watches it by itself.
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let socket = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { socket, room: None })
    }

    /// Waits until there is something to read; whether the peer has closed.
    pub(super) async fn readable(&self) -> io::Result<bool> {
        let guard = self.socket.readable().await?;
        Ok(guard.ready().is_read_closed())
    }

    /// Sends what the system takes, by `send`.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Some(room) = &self.room else {
            match send(self.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let again = self.socket.get_ref().try_clone()?;
                    self.room = Some(watch(again, Interest::WRITABLE)?);
                    return self.poll_send(cx, send);
                }
                sent => return Poll::Ready(sent),
            }
        };
        loop {
            let mut guard = ready!(room.poll_write_ready(cx))?;
            if let Ok(sent) = guard.try_io(|room| send(room.get_ref())) {
                return Poll::Ready(sent);
            }
        }
    }
}

/// Has `socket` watched.
#[expect(
    deprecated,
    reason = "its successor asks for a promise that the type keeps: a `UnixStream` owns its \
              descriptor as long as it lives, and nobody replaces it"
)]
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsFd for Unix {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl AsyncRead for Unix {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wanted = buffer.remaining().min(WINDOW);
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled_to(wanted);
            let mut socket = guard.get_inner();
            match socket.read(space) {
                Ok(read) => {
                    // The system tells again of what comes after the last byte that was there.
                    if 0 < read && read < wanted {
                        guard.clear_ready();
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Unix {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_send(cx, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_send(cx, |mut socket| socket.write_vectored(buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is collected here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{sleep, timeout};

    use super::*;

    fn pair() -> (Unix, tokio::net::UnixStream) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        (Unix::new(near).unwrap(), far)
    }

    #[tokio::test]
    async fn a_write_waits_for_room_and_goes_on() {
        let (mut near, mut far) = pair();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[0]).collect();
        let expected = bytes.clone();
        let writer = tokio::spawn(async move {
            near.write_all(&bytes).await.unwrap();
            let blocked = near.room.is_some();
            near.shutdown().await.unwrap();
            blocked
        });
        sleep(Duration::from_millis(20)).await;
        let mut read = Vec::new();
        let patience = Duration::from_secs(30);
        let all = timeout(patience, far.read_to_end(&mut read)).await;
        all.expect("the writer is told of room").unwrap();
        assert!(read == expected);
        assert!(writer.await.unwrap(), "it never had to wait");
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_ends_a_write_that_waits() {
        let (mut near, far) = pair();
        let writer = tokio::spawn(async move { near.write_all(&vec![0; 3_000_000]).await });
        sleep(Duration::from_millis(20)).await;
        drop(far);
        let ended = timeout(Duration::from_secs(30), writer).await;
        let error = ended.expect("it is told").unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_all_read_up_to_the_end() {
        let (mut near, mut far) = pair();
        let writer = tokio::spawn(async move {
            for piece in 0..50u8 {
                far.write_all(&[piece; 1000]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut read = Vec::new();
        let all = timeout(Duration::from_secs(30), near.read_to_end(&mut read)).await;
        all.expect("the reader is told of everything").unwrap();
        writer.await.unwrap();
        let expected: Vec<u8> = (0..50u8).flat_map(|piece| [piece; 1000]).collect();
        assert!(read == expected);
    }
}
