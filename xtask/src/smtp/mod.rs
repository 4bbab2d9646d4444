//! Just enough SMTP to send mail to a private Postfix and to take it back from there.
//!
//! Loopback only, blocking, one thread a connection. It is no mail program: no TLS, no queue, no
//! address parsing beyond angle brackets. Everything read has a limit and a time-out.

pub(crate) mod client;
pub(crate) mod sink;

use std::io::{BufRead, ErrorKind, Read};

use anyhow::{Result, bail};

/// Octets of a command or reply line, at most (RFC 5321 §4.5.3.1 asks for 512; Postfix may say
/// more).
const LINE_LIMIT: usize = 4096;

/// Reads one line up to LF and returns it without its line end; `None` at the end of the stream.
fn read_line(stream: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_LIMIT)?;
    match stream.take(limit).read_until(b'\n', &mut line) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if line.pop() != Some(b'\n') {
        bail!("a line without end or of more than {LINE_LIMIT} octets");
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

/// A message for the wire: every line end CRLF, a dot before each leading dot, the final dot.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 32 + 8);
    let body = message.strip_suffix(b"\n").unwrap_or(message);
    for line in body.split(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_stuffed() {
        for (message, wire) in [
            (
                &b"a: b\n\n.c\r\nd\n"[..],
                &b"a: b\r\n\r\n..c\r\nd\r\n.\r\n"[..],
            ),
            (b"a: b\n\nc", b"a: b\r\n\r\nc\r\n.\r\n"),
            (b"a: b\n\n.\n", b"a: b\r\n\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(message), wire);
        }
    }

    #[test]
    fn a_line_has_a_limit() {
        assert_eq!(read_line(&mut &b"a\r\nb"[..]).unwrap().unwrap(), b"a");
        assert_eq!(read_line(&mut &b""[..]).unwrap(), None);
        assert!(read_line(&mut &b"cut"[..]).is_err());
        assert!(read_line(&mut vec![b'x'; 5000].as_slice()).is_err());
    }
}
