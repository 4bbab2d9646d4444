//! One connection to one clamd: connect, send, wait.
//!
//! Every step has a deadline. A [`Stream`] reads while it writes, since clamd answers early and
//! closes when a message is over its limit. Which server is asked, and who is asked next after a
//! [`Trouble`], is decided elsewhere; nothing is tried twice here.

use std::io;
use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use milter_proto::net::Address;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::codec::{BadReply, END_OF_STREAM, ReplyDecoder};
use super::{Request, Response, Signature};

/// How long each step with one clamd may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until it has accepted the connection.
    pub connect: Duration,
    /// Without taking a single chunk.
    pub write: Duration,
    /// From the last byte sent to its answer.
    pub reply: Duration,
}

/// Why a clamd gave no usable answer. None of them is the message's fault.
#[derive(Debug, Error)]
pub enum Trouble {
    /// It cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It does not accept connections in time.
    #[error("connection not accepted within {0:?}")]
    ConnectTimeout(Duration),
    /// It takes no more bytes.
    #[error("takes no more data for {0:?}")]
    Stalled(Duration),
    /// It says nothing.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// What it says makes no sense.
    #[error(transparent)]
    BadReply(#[from] BadReply),
    /// It says that it cannot.
    #[error("clamd reports \"{0}\"")]
    Failed(String),
    /// It calls a message clean of which it has not seen the end.
    #[error("clamd called the message clean before its end was sent")]
    Premature,
    /// The message is not there any more to be sent again.
    #[error("cannot read the spooled message: {0}")]
    Spool(io::Error),
}

impl Trouble {
    /// After `waited`, rounded up to what was meant.
    #[must_use]
    pub fn no_answer(waited: Duration) -> Self {
        let milliseconds = waited.as_micros().div_ceil(1000);
        Self::NoAnswer(Duration::from_millis(
            u64::try_from(milliseconds).unwrap_or(u64::MAX),
        ))
    }

    /// Whether asking the same server once more can help: it may be busy, or be starting again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Stalled(_) | Self::Lost(_) => true,
            Self::BadReply(bad) => matches!(bad, BadReply::Nothing | BadReply::CutOff(_)),
            Self::NoAnswer(_) | Self::Failed(_) | Self::Premature | Self::Spool(_) => false,
        }
    }

    /// Whether the server has not seen a byte.
    #[must_use]
    pub fn is_of_connecting(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }

    /// Whether other messages should keep away from this server for a while.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::Stalled(_) | Self::NoAnswer(_)
        )
    }
}

/// The result of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The whole stream was scanned, nothing was found.
    Clean,
    /// This was found.
    Found(Signature),
    /// The stream is over clamd's limit.
    SizeLimit,
}

/// What became of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Taken,
    /// clamd has answered already; there is no use in sending more.
    Answered(Answer),
}

/// An open `INSTREAM`. After an error or an answer it is of no further use.
pub struct Stream {
    connection: Connection,
    /// What has to go before the next length: the command, at first.
    head: &'static [u8],
    deadlines: Deadlines,
}

impl Stream {
    /// Connects to `server`. Nothing is sent before the first chunk.
    ///
    /// # Errors
    /// [`Trouble::Connect`] and [`Trouble::ConnectTimeout`].
    pub async fn open(server: &Address, deadlines: Deadlines) -> Result<Self, Trouble> {
        let request = Request::InStream;
        Ok(Self {
            connection: Connection::open(server, request, deadlines.connect).await?,
            head: request.as_bytes(),
            deadlines,
        })
    }

    /// Sends a chunk; waits while clamd is slower than the MTA, not beyond `latest`. An empty chunk
    /// is not sent, since it would end the stream.
    ///
    /// # Errors
    /// Any [`Trouble`] but those of connecting.
    pub async fn send(&mut self, chunk: Bytes, latest: Instant) -> Result<Sent, Trouble> {
        if chunk.is_empty() {
            return Ok(Sent::Taken);
        }
        let frame = self.frame(chunk);
        let limit = self.deadlines.write.min(latest - Instant::now());
        match self.connection.send(frame, limit).await? {
            None => Ok(Sent::Taken),
            Some(response) => match answer(response)? {
                Answer::Clean => Err(Trouble::Premature),
                early => Ok(Sent::Answered(early)),
            },
        }
    }

    /// Sends the last chunk (or an empty one) and the end, and waits for the answer, not beyond
    /// `latest`.
    ///
    /// # Errors
    /// Any [`Trouble`] but those of connecting.
    pub async fn finish(mut self, last: Bytes, latest: Instant) -> Result<Answer, Trouble> {
        let frame = if last.is_empty() {
            let head = std::mem::take(&mut self.head);
            BytesMut::from(head).freeze().chain(Bytes::new())
        } else {
            self.frame(last)
        };
        let frame = frame.chain(&END_OF_STREAM[..]);
        let write = self.deadlines.write.min(latest - Instant::now());
        if let Some(response) = self.connection.send(frame, write).await? {
            return match answer(response)? {
                Answer::Clean => Err(Trouble::Premature),
                early => Ok(early),
            };
        }
        let limit = latest.min(Instant::now() + self.deadlines.reply);
        answer(self.connection.receive(limit).await?)
    }

    /// What goes on the wire for `chunk`; it is not copied.
    fn frame(&mut self, chunk: Bytes) -> Chain<Bytes, Bytes> {
        let head = std::mem::take(&mut self.head);
        let mut start = BytesMut::with_capacity(head.len() + END_OF_STREAM.len());
        start.put_slice(head);
        start.put_u32(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        start.freeze().chain(chunk)
    }
}

/// Asks `server` a question that has no data, [`Request::Ping`] or [`Request::Version`]: its
/// answer in words.
///
/// # Errors
/// Any [`Trouble`].
pub async fn ask(
    server: &Address,
    request: Request,
    deadlines: Deadlines,
) -> Result<String, Trouble> {
    let mut connection = Connection::open(server, request, deadlines.connect).await?;
    let early = connection.send(request.as_bytes(), deadlines.write).await?;
    let response = match early {
        Some(response) => response,
        None => {
            let limit = Instant::now() + deadlines.reply;
            connection.receive(limit).await?
        }
    };
    match response {
        Response::Pong => Ok("PONG".to_owned()),
        Response::Version(text) => Ok(text),
        Response::Failed(text) => Err(Trouble::Failed(text)),
        Response::Clean | Response::Found(_) | Response::SizeLimit => {
            Err(BadReply::Unknown(format!("{response:?}")).into())
        }
    }
}

/// Tells an answer from a refusal.
fn answer(response: Response) -> Result<Answer, Trouble> {
    match response {
        Response::Clean => Ok(Answer::Clean),
        Response::Found(signature) => Ok(Answer::Found(signature)),
        Response::SizeLimit => Ok(Answer::SizeLimit),
        Response::Failed(text) => Err(Trouble::Failed(text)),
        Response::Pong => Err(BadReply::Unknown("PONG".to_owned()).into()),
        Response::Version(text) => Err(BadReply::Unknown(text).into()),
    }
}

/// Any kind of socket.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A connection on which one request is made.
struct Connection {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    decoder: ReplyDecoder,
}

impl Connection {
    async fn open(server: &Address, request: Request, limit: Duration) -> Result<Self, Trouble> {
        let socket = timeout(limit, connect(server))
            .await
            .map_err(|_| Trouble::ConnectTimeout(limit))?
            .map_err(Trouble::Connect)?;
        let (reader, writer) = split(socket);
        Ok(Self {
            reader,
            writer,
            decoder: ReplyDecoder::new(request),
        })
    }

    /// Writes all of `frame`, unless a reply comes before that is done.
    async fn send(
        &mut self,
        frame: impl Buf,
        limit: Duration,
    ) -> Result<Option<Response>, Trouble> {
        let mut frame = frame;
        let deadline = Instant::now() + limit;
        let written = {
            let reply = receive(&mut self.reader, &mut self.decoder);
            let written = self.writer.write_all_buf(&mut frame);
            let either = async {
                tokio::select! {
                    biased;
                    reply = reply => reply.map(Some),
                    written = written => written.map(|()| None).map_err(Trouble::Lost),
                }
            };
            timeout_at(deadline, either).await
        };
        match written {
            Err(_) => Err(Trouble::Stalled(limit)),
            // The other side may have said why before it closed.
            Ok(Err(Trouble::Lost(error))) => match self.receive(deadline).await {
                Ok(response) => Ok(Some(response)),
                Err(_) => Err(Trouble::Lost(error)),
            },
            Ok(result) => result,
        }
    }

    /// Waits for the reply.
    async fn receive(&mut self, latest: Instant) -> Result<Response, Trouble> {
        let started = Instant::now();
        let reply = receive(&mut self.reader, &mut self.decoder);
        timeout_at(latest, reply)
            .await
            .unwrap_or_else(|_| Err(Trouble::no_answer(latest - started)))
    }
}

async fn connect(server: &Address) -> io::Result<Box<dyn Socket>> {
    match server {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Inet { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
    }
}

/// Reads until the reply is complete. May be dropped at any time: what was read is kept in
/// `decoder`.
async fn receive(
    reader: &mut ReadHalf<Box<dyn Socket>>,
    decoder: &mut ReplyDecoder,
) -> Result<Response, Trouble> {
    let mut buffer = [0; 512];
    loop {
        let count = reader.read(&mut buffer).await.map_err(Trouble::Lost)?;
        if count == 0 {
            return Err(decoder.end().into());
        }
        if let Some(response) = decoder.feed(&buffer[..count])? {
            return Ok(response);
        }
    }
}
