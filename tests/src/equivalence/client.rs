//! An SMTP client that says what a script says and keeps every reply.
//!
//! It waits for each reply and judges none. A message goes out only after a 354; where the server
//! refused to take it, its step is passed over, and the client gives the message up (RSET): a
//! server that is asked again would ask filters again, and no filter expects that. The connection
//! ends when the script does, with or without QUIT, or when the server closes it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use milter_proto::testkit::{Dialogue, SmtpStep};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::PATIENCE;

/// A step of the client's and what the server said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// The command line; empty for the greeting and for the end of a message.
    pub said: Bytes,
    /// All lines of the reply; `None` when the server had closed the connection.
    pub reply: Option<String>,
    /// Whether the reply is to a message.
    pub message: bool,
}

/// Goes through a dialogue.
///
/// # Errors
/// When the server cannot be reached, or says nothing for a while.
pub async fn converse(server: SocketAddr, dialogue: &Dialogue) -> Result<Vec<Spoken>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut spoken = vec![Spoken {
        said: Bytes::new(),
        reply: read_reply(&mut stream).await?,
        message: false,
    }];
    for step in &dialogue.steps {
        let Some(Spoken {
            said,
            reply: Some(last),
            ..
        }) = spoken.last()
        else {
            break;
        };
        if said.eq_ignore_ascii_case(b"DATA") && !last.starts_with("354") {
            let step = SmtpStep::Command(Bytes::from_static(b"RSET"));
            say(&mut stream, &step, &mut spoken).await?;
        }
        if !say(&mut stream, step, &mut spoken).await? {
            break;
        }
    }
    Ok(spoken)
}

/// Takes one step; `false` when the talk is over.
async fn say(
    stream: &mut BufStream<TcpStream>,
    step: &SmtpStep,
    spoken: &mut Vec<Spoken>,
) -> Result<bool> {
    let Some(Spoken {
        reply: Some(last), ..
    }) = spoken.last()
    else {
        return Ok(false);
    };
    let (said, bytes, message) = match step {
        // It has nothing to send where a message is waited for: it goes away.
        SmtpStep::Command(_) if last.starts_with("354") => return Ok(false),
        SmtpStep::Command(line) => (line.clone(), [line, &b"\r\n"[..]].concat(), false),
        SmtpStep::Message(_) if !last.starts_with("354") => return Ok(true),
        SmtpStep::Message(lines) => (Bytes::new(), stuffed(lines), true),
    };
    // A server that has closed the connection is met with at the reply.
    let sent = stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok();
    let reply = if sent {
        let reply = read_reply(stream).await;
        reply.with_context(|| format!("after {:?}", spoken.last()))?
    } else {
        None
    };
    spoken.push(Spoken {
        said,
        reply,
        message,
    });
    Ok(true)
}

async fn read_reply(stream: &mut BufStream<TcpStream>) -> Result<Option<String>> {
    let mut reply = Vec::new();
    loop {
        let start = reply.len();
        let read = timeout(PATIENCE, stream.read_until(b'\n', &mut reply))
            .await
            .context("the server says nothing")?;
        // A reset is an end like any other.
        if read.unwrap_or_default() == 0 {
            return Ok(None);
        }
        if reply.get(start + 3) != Some(&b'-') {
            return Ok(Some(String::from_utf8_lossy(&reply).into_owned()));
        }
    }
}

/// The lines as they go over the wire, with the final dot. A dot behind a bare LF is doubled as
/// well: Postfix takes that for the beginning of a line.
fn stuffed(lines: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let mut begins = true;
        for byte in line {
            if begins && *byte == b'.' {
                out.push(b'.');
            }
            out.push(*byte);
            begins = *byte == b'\n';
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}
