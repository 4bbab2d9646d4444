//! The next hop of a mail server under test: takes every message and keeps it as it came.
//!
//! It offers the extensions whose parameters a filter can set (DSN, SIZE, 8BITMIME, SMTPUTF8), so
//! that the server passes them on. It refuses nothing and delivers nothing. A connection that
//! breaks off loses the message in hand, as SMTP has it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::mta::private_address;

/// A message as the sink was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What followed `MAIL FROM:`, parameters included.
    pub from: String,
    /// What followed each `RCPT TO:`.
    pub to: Vec<String>,
    /// The message, without stuffed dots.
    pub message: Vec<u8>,
}

/// A running sink; its task ends when this is dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Delivery>>>,
    task: JoinHandle<()>,
}

impl Sink {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((private_address(), 0)).await?;
        let address = listener.local_addr()?;
        let kept = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&kept)));
        Ok(Self {
            address,
            kept,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes out the deliveries of the message with that queue id: one, or one for each group of
    /// recipients.
    #[must_use]
    pub fn take(&self, queue_id: &str) -> Vec<Delivery> {
        let mark = format!("id {queue_id}");
        // One id can be the beginning of another.
        let is_it = |text: &[u8]| {
            let behind = text.strip_prefix(mark.as_bytes()).map(<[u8]>::first);
            behind.is_some_and(|byte| !byte.is_some_and(u8::is_ascii_alphanumeric))
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = |delivery: &mut Delivery| {
            let message = &delivery.message;
            (0..message.len()).any(|start| is_it(&message[start..]))
        };
        kept.extract_if(.., theirs).collect()
    }

    /// Forgets what nobody asked for: notices of the server itself.
    pub fn clear(&self) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, kept: Arc<Mutex<Vec<Delivery>>>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let kept = Arc::clone(&kept);
                // A client that goes away takes its message with it.
                clients.spawn(async move { converse(stream, &kept).await.ok() });
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, kept: &Mutex<Vec<Delivery>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    let (mut from, mut to) = (String::new(), Vec::new());
    loop {
        stream.flush().await?;
        let line = read_line(&mut stream).await?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb: String = text
            .chars()
            .take(4)
            .collect::<String>()
            .to_ascii_uppercase();
        let reply: &[u8] = match verb.as_str() {
            "EHLO" => {
                b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE\r\n250-DSN\r\n250-8BITMIME\r\n\
                  250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n"
            }
            "MAIL" => {
                from = after_colon(&text);
                to.clear();
                b"250 2.1.0 ok\r\n"
            }
            "RCPT" => {
                to.push(after_colon(&text));
                b"250 2.1.5 ok\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                stream.flush().await?;
                let message = read_message(&mut stream).await?;
                let delivery = Delivery {
                    from: from.clone(),
                    to: std::mem::take(&mut to),
                    message,
                };
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(delivery);
                b"250 2.0.0 kept\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 bye\r\n").await?;
                stream.flush().await?;
                return Ok(());
            }
            _ => b"250 2.0.0 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}

/// A line with its end.
async fn read_line(stream: &mut BufStream<TcpStream>) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if stream.read_until(b'\n', &mut line).await? == 0 {
            anyhow::bail!("the client has gone away");
        }
    }
    Ok(line)
}

async fn read_message(stream: &mut BufStream<TcpStream>) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let line = read_line(stream).await?;
        if line == b".\r\n" {
            return Ok(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}

fn after_colon(line: &str) -> String {
    line.split_once(':')
        .map_or_else(String::new, |(_, rest)| rest.to_owned())
}
