//! Is a filter ready? Asked by a real option negotiation, which costs it one connection and nothing
//! else.
//!
//! A probe connects, negotiates as an MTA would, says goodbye and hangs up; no mail is ever
//! pretended. [`Streak`] turns single outcomes into a judgement: down after three failures in a
//! row, up after two successes.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use milter_proto::net::Address;
use milter_proto::wire::{Command, Decoder, Frame, Offer, Reply, VERSION, VERSION_MIN, WireError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;

/// Failures in a row after which a filter counts as down.
pub const FALL: u32 = 3;
/// Successes in a row after which a filter that was down counts as up.
pub const RISE: u32 = 2;

/// Longest answer to a negotiation that is read: version, flags, and macro names for seven stages.
const ANSWER_MAX: u32 = 16 * 1024;

/// Why a filter is not ready.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Nothing listens there, or it may not be reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// It took the connection, or its queue did, and said nothing in time.
    #[error("no answer to a negotiation within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or was closed by it.
    #[error("connection lost in the negotiation: {0}")]
    Lost(#[from] io::Error),
    /// What it said is no milter protocol.
    #[error("it does not speak the milter protocol: {0}")]
    Wire(#[from] WireError),
    /// It spoke, and it was no negotiation.
    #[error("it answered the negotiation with {0}")]
    Answer(String),
}

/// Negotiates with the filter at `address` and says goodbye.
///
/// # Errors
/// When it is not ready.
pub async fn negotiate(address: &Address, timeout: Duration) -> Result<(), ProbeError> {
    time::timeout(timeout, connect_and_talk(address))
        .await
        .map_err(|_| ProbeError::Timeout(timeout))?
}

async fn connect_and_talk(address: &Address) -> Result<(), ProbeError> {
    let refused = |source| ProbeError::Connect {
        address: address.clone(),
        source,
    };
    match address {
        Address::Unix(path) => talk(UnixStream::connect(path).await.map_err(refused)?).await,
        Address::Inet { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await;
            talk(stream.map_err(refused)?).await
        }
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), ProbeError> {
    let mut out = BytesMut::new();
    Command::Negotiate(Offer::full()).encode(&mut out)?;
    stream.write_all(&out).await?;
    judge(Reply::parse(read_frame(&mut stream).await?)?)?;

    out.clear();
    Command::Quit.encode(&mut out)?;
    stream.write_all(&out).await?;
    // Closing in an orderly way leaves nothing for the filter to complain about.
    stream.shutdown().await?;
    Ok(())
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, ProbeError> {
    let decoder = Decoder::new(ANSWER_MAX);
    let mut buffer = BytesMut::new();
    loop {
        if let Some(frame) = decoder.decode(&mut buffer)? {
            return Ok(frame);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            decoder.finish(&buffer)?;
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Whether the reply is an answer that an MTA could work with.
fn judge(reply: Reply) -> Result<(), ProbeError> {
    match reply {
        Reply::Negotiate(offer) if (VERSION_MIN..=VERSION).contains(&offer.version) => Ok(()),
        Reply::Negotiate(offer) => Err(ProbeError::Answer(format!(
            "protocol version {}",
            offer.version
        ))),
        other => Err(ProbeError::Answer(format!("{other:?}"))),
    }
}

/// Outcomes in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    failures: u32,
    successes: u32,
}

/// What a streak amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Too early to say.
    Wait,
    /// [`FALL`] failures in a row, or more.
    Fallen,
    /// [`RISE`] successes in a row, or more.
    Risen,
}

impl Streak {
    /// Takes one outcome.
    pub fn record(&mut self, answered: bool) -> Judgement {
        if answered {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures >= FALL {
            Judgement::Fallen
        } else if self.successes >= RISE {
            Judgement::Risen
        } else {
            Judgement::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter that says `answer` to whatever comes and hangs up, and what a probe makes of it.
    async fn probe(answer: &'static [u8]) -> (String, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(4096);
        let filter = async move {
            let mut heard = Vec::new();
            let mut head = [0; 17];
            far.read_exact(&mut head).await.unwrap();
            heard.extend_from_slice(&head);
            far.write_all(answer).await.unwrap();
            far.shutdown().await.unwrap();
            // The probe may be gone already.
            let _ = far.read_to_end(&mut heard).await;
            heard
        };
        let (outcome, heard) = tokio::join!(talk(near), filter);
        let outcome = outcome.map_or_else(|error| error.to_string(), |()| "ready".to_owned());
        (outcome, heard)
    }

    #[tokio::test]
    async fn only_an_answered_negotiation_counts() {
        let offer: &[u8] = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0";
        let old: &[u8] = b"\0\0\0\x0dO\0\0\0\x01\0\0\x01\xff\0\0\0\0";
        for (answer, words) in [
            (offer, "ready"),
            (old, "protocol version 1"),
            (b"", "connection lost"),
            (b"\0\0\0\x0dO\0\0", "does not speak"),
            (b"\0\0\0\0", "does not speak"),
            (b"\xff\xff\xff\xff", "does not speak"),
            (b"\0\0\0\x01c", "Continue"),
            (b"220 mail.example.org ESMTP\r\n", "does not speak"),
        ] {
            let (outcome, _) = probe(answer).await;
            assert!(outcome.contains(words), "{answer:?}: {outcome}");
        }
    }

    #[tokio::test]
    async fn a_probe_says_goodbye_and_nothing_of_mail() {
        let (_, heard) = probe(b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0").await;
        assert_eq!(heard[4], b'O');
        assert_eq!(&heard[17..], b"\0\0\0\x01Q");
    }

    #[tokio::test]
    async fn where_nobody_listens_the_error_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("nobody.sock"));
        let error = negotiate(&address, Duration::from_secs(5))
            .await
            .unwrap_err();
        let error = error.to_string();
        assert!(error.contains("nobody.sock"), "{error}");
    }

    #[test]
    fn three_failures_fell_and_two_successes_raise() {
        for (outcomes, judgements) in [
            ("+-+-", "...."),
            ("---", "..F"),
            ("----", "..FF"),
            ("--+--", "....."),
            ("---+-", "..F.."),
            ("---++", "..F.R"),
            ("+++", ".RR"),
        ] {
            let mut streak = Streak::default();
            let got: String = outcomes
                .chars()
                .map(|outcome| match streak.record(outcome == '+') {
                    Judgement::Wait => '.',
                    Judgement::Fallen => 'F',
                    Judgement::Risen => 'R',
                })
                .collect();
            assert_eq!(got, judgements, "{outcomes}");
        }
    }
}
