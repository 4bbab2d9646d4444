//! Sends messages over one connection and keeps every answer.
//!
//! A refusal is an answer, not an error; an error means that the conversation itself broke.

use std::fmt;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{read_line, stuffed};

/// How long one answer may take: longer than any filter's deadline at the end of a message.
const ANSWER: Duration = Duration::from_secs(120);
/// Lines of one answer, at most.
const ANSWER_LINES: usize = 100;

/// Where in a message's way an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// To MAIL FROM.
    Mail,
    /// To RCPT TO.
    Rcpt,
    /// To DATA.
    Data,
    /// To the final dot.
    End,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::End => "end",
        })
    }
}

/// What the server said last of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// To which command.
    pub(crate) stage: Stage,
    /// The three digits.
    pub(crate) code: u16,
    /// The text of the last line, without the digits.
    pub(crate) text: String,
}

impl Answer {
    /// 2xx: the server has taken the message.
    pub(crate) fn accepted(&self) -> bool {
        self.stage == Stage::End && self.code / 100 == 2
    }

    /// 4xx: to be tried again.
    pub(crate) fn deferred(&self) -> bool {
        self.code / 100 == 4
    }

    /// The queue id in Postfix's `Ok: queued as …`.
    pub(crate) fn queue_id(&self) -> Option<&str> {
        self.text.split_once("queued as ").map(|(_, id)| id.trim())
    }
}

/// Whom Postfix shall take us for (its XCLIENT extension).
#[derive(Debug, Clone)]
pub(crate) struct Guise {
    /// The client's name.
    pub(crate) name: String,
    /// The client's address.
    pub(crate) address: String,
}

/// A connection to a server.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    helo: String,
}

impl Client {
    /// Connects and says hello, under a guise where one is given.
    pub(crate) fn connect(server: SocketAddr, guise: Option<&Guise>) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))
            .with_context(|| format!("no connection to {server}"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let helo = guise.map_or("client.demo.test", |guise| &guise.name);
        let mut client = Self {
            reader: BufReader::new(stream),
            helo: helo.to_owned(),
        };
        client.expect("the greeting", 220)?;
        client.command("EHLO", &format!("EHLO {}", client.helo), 250)?;
        if let Some(Guise { name, address }) = guise {
            client.command(
                "XCLIENT",
                &format!("XCLIENT NAME={name} ADDR={address}"),
                220,
            )?;
            client.command("EHLO", &format!("EHLO {name}"), 250)?;
        }
        Ok(client)
    }

    /// Sends one message; the answer is the first refusal, or the one to the final dot.
    pub(crate) fn send(&mut self, from: &str, to: &str, message: &[u8]) -> Result<Answer> {
        for (stage, line, expected) in [
            (Stage::Mail, format!("MAIL FROM:<{from}> BODY=8BITMIME"), 2),
            (Stage::Rcpt, format!("RCPT TO:<{to}>"), 2),
            (Stage::Data, "DATA".to_owned(), 3),
        ] {
            self.write(format!("{line}\r\n").as_bytes())?;
            let (code, text) = self.answer()?;
            if code / 100 != expected {
                self.reset(code)?;
                return Ok(Answer { stage, code, text });
            }
        }
        self.write(&stuffed(message))?;
        let (code, text) = self.answer()?;
        let stage = Stage::End;
        Ok(Answer { stage, code, text })
    }

    /// Says good-bye.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.command("QUIT", "QUIT", 221)
    }

    /// Leaves a refused transaction behind, unless the server is hanging up (421).
    fn reset(&mut self, code: u16) -> Result<()> {
        if code == 421 {
            bail!("the server ends the connection (421)");
        }
        self.command("RSET", "RSET", 250)
    }

    fn command(&mut self, what: &str, line: &str, expected: u16) -> Result<()> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(what, expected)
    }

    fn expect(&mut self, what: &str, expected: u16) -> Result<()> {
        let (code, text) = self.answer()?;
        ensure!(code == expected, "{what}: {code} {text}");
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut stream = self.reader.get_ref();
        stream.write_all(bytes).context("the server is gone")
    }

    fn answer(&mut self) -> Result<(u16, String)> {
        for _ in 0..ANSWER_LINES {
            let line = read_line(&mut self.reader)?.context("the server hung up")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else {
                bail!("not an SMTP answer: {}", line.escape_debug());
            };
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, line.get(4..).unwrap_or_default().to_owned()));
            }
        }
        bail!("an answer of more than {ANSWER_LINES} lines")
    }
}
