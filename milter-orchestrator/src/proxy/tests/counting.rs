//! How often the MTA is written to, counted by the stream itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use milter_proto::wire::{Command, Offer, Reply, Steps};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::harness::{Filter, Stage, header};

/// A stream that counts writes, each of which would be a system call.
struct Counting(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Writes to the MTA for the content of one message with thirty fields, until the last word.
async fn writes_for_content(steps: Steps) -> usize {
    let filters = ["a", "b", "c"].map(|name| Filter::new(name).steps(steps));
    let stage = Stage::new(vec![filters.to_vec()]);
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let mut mta = stage.mta_by(ours, Counting(theirs, Arc::clone(&writes)));
    mta.send(Command::Negotiate(Offer::full())).await;
    let Reply::Negotiate(agreed) = mta.reply().await else {
        panic!("no answer to the negotiation");
    };
    mta.agreed = agreed;
    mta.greet().await;
    mta.envelope().await;
    let before = writes.load(Ordering::SeqCst);
    for _ in 0..30 {
        assert_eq!(mta.ask(header("Received", " r")).await, Reply::Continue);
    }
    assert_eq!(mta.ask(Command::EndOfHeaders).await, Reply::Continue);
    let body = Bytes::from_static(b"hello\r\n");
    assert_eq!(mta.ask(Command::Body(body)).await, Reply::Continue);
    assert_eq!(mta.end().await, (Vec::new(), Reply::Continue));
    let written = writes.load(Ordering::SeqCst) - before;
    for filter in 0..3 {
        let heard = stage.heard(filter, 0);
        assert_eq!(heard.matches("L:Received").count(), 30, "{heard}");
    }
    mta.quit().await.unwrap();
    written
}

#[tokio::test]
async fn case_188_fields_without_a_reply_cost_no_write() {
    let silent = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY;
    let writes = writes_for_content(silent).await;
    assert!(writes <= 2, "{writes} writes to the MTA");
    // The same count sees every reply where one is due, or it would prove nothing.
    let writes = writes_for_content(Steps::empty()).await;
    assert!(writes >= 33, "{writes} writes to the MTA");
}
