//! The next hop: takes every message and keeps it.
//!
//! It never refuses: whatever Postfix lets through is to be seen here, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, bail};

use super::read_line;

/// Octets of one message, at most.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A message as it came out of Postfix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The addresses of RCPT TO.
    pub(crate) to: Vec<String>,
    /// Header and body, dots unstuffed, line ends CRLF.
    pub(crate) message: Vec<u8>,
}

/// A running sink.
pub(crate) struct Sink {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Delivered>>>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens on a free port of the loopback interface.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (keep, stopped) = (Arc::clone(&kept), Arc::clone(&stop));
        let accepting = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || accept(&listener, &keep, &stopped))?;
        Ok(Self {
            address,
            kept,
            stop,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Copies of what has come.
    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        self.lock().clone()
    }

    /// Forgets what has come.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Delivered>> {
        // A push cannot leave the list half-changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, keep: &Arc<Mutex<Vec<Delivered>>>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let keep = Arc::clone(keep);
        // A conversation that breaks is Postfix's to repeat; what counts is what was kept.
        thread::spawn(move || converse(stream, &keep));
    }
}

fn converse(stream: TcpStream, keep: &Mutex<Vec<Delivered>>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    let mut answers = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut say = |line: &str| answers.write_all(format!("{line}\r\n").as_bytes());
    say("220 sink.demo.test ESMTP")?;
    let mut to = Vec::new();
    while let Some(line) = read_line(&mut reader)? {
        let line = String::from_utf8_lossy(&line).into_owned();
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say("250-sink.demo.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN")?,
            "RCPT" => {
                to.push(address(&line).to_owned());
                say("250 2.1.5 ok")?;
            }
            "DATA" => {
                say("354 go on")?;
                let message = read_message(&mut reader)?;
                let to = std::mem::take(&mut to);
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(Delivered { to, message });
                drop(kept);
                say("250 2.0.0 kept")?;
            }
            "QUIT" => {
                say("221 2.0.0 bye")?;
                break;
            }
            "RSET" | "MAIL" => {
                to.clear();
                say("250 2.0.0 ok")?;
            }
            _ => say("250 2.0.0 ok")?,
        }
    }
    Ok(())
}

/// What stands between the angle brackets.
fn address(line: &str) -> &str {
    let after = line.split_once('<').map_or("", |(_, after)| after);
    after.split_once('>').map_or("", |(address, _)| address)
}

/// Reads up to the lonely dot and unstuffs.
fn read_message(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let start = message.len();
        let room = u64::try_from(MESSAGE_LIMIT.saturating_sub(start))?;
        let read = reader.take(room).read_until(b'\n', &mut message)?;
        if read == 0 {
            bail!("cut off, or more than {MESSAGE_LIMIT} octets");
        }
        if message[start..] == *b".\r\n" {
            message.truncate(start);
            return Ok(message);
        }
        if message[start] == b'.' {
            message.remove(start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, Stage};
    use super::*;

    #[test]
    fn what_the_client_sends_the_sink_keeps() {
        let sink = Sink::start().unwrap();
        let mut client = Client::connect(sink.address(), None).unwrap();
        let message = b"Subject: x\r\n\r\n.dot\r\n..\r\n\xff\r\n.";
        for to in ["a@demo.test", "b@demo.test"] {
            let answer = client.send("s@demo.test", to, message).unwrap();
            assert_eq!((answer.stage, answer.code), (Stage::End, 250));
            assert!(answer.accepted());
        }
        client.quit().unwrap();
        let kept = sink.delivered();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].to, ["b@demo.test"]);
        assert_eq!(
            kept[1].message,
            b"Subject: x\r\n\r\n.dot\r\n..\r\n\xff\r\n.\r\n"
        );
    }

    #[test]
    fn a_message_without_its_dot_is_not_kept() {
        assert!(read_message(&mut &b"Subject: x\r\n\r\nabc\r\n"[..]).is_err());
    }
}
