//! An MTA's end of a milter connection on a socket that blocks: no runtime, so that what it costs
//! is next to nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use milter_proto::message::{Address as ClientAddress, Connection};
use milter_proto::net::Address;
use milter_proto::session::{Answer, Event, Expect, MtaSide};
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Decoder, Offer, Reply};

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that are collected before they are written; Postfix has a buffer like it.
const COLLECT: usize = 64 * 1024;

/// TCP or Unix.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP, sending at once.
    Inet(TcpStream),
    /// A socket in the file system.
    Unix(UnixStream),
}

impl Socket {
    /// Connects.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Inet { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                Self::Inet(stream)
            }
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        })
    }

    /// Another handle on the same socket.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Inet(stream) => Self::Inet(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Closes one direction.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Inet(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    fn set_patience(&self) -> io::Result<()> {
        match self {
            Self::Inet(stream) => stream.set_read_timeout(Some(PATIENCE)),
            Self::Unix(stream) => stream.set_read_timeout(Some(PATIENCE)),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Inet(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Inet(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Mta {
    socket: Socket,
    side: MtaSide,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    buffer: Box<[u8]>,
}

/// Macro names and values.
pub(crate) type Macros = [(Bytes, Bytes)];

impl Mta {
    /// Connects, negotiates, and introduces a client.
    pub(crate) fn connect(address: &Address) -> Result<Self> {
        let socket =
            Socket::connect(address).with_context(|| format!("connecting to {address}"))?;
        socket.set_patience()?;
        let offer = Offer::full();
        let (side, command) = MtaSide::offer(offer.version, offer.actions, offer.steps);
        let mut mta = Self {
            socket,
            side,
            decoder: Decoder::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            buffer: vec![0; 8 * 1024].into_boxed_slice(),
        };
        command.encode(&mut mta.output)?;
        mta.flush()?;
        let reply = mta.reply()?;
        mta.side.negotiated(reply)?;
        let pair = |name: &'static str, value: &'static str| (name.into(), value.into());
        let macros = [pair("j", "mx.example.org"), pair("v", "Postfix 3.7.11")];
        let connection = Connection {
            hostname: "client.example.net".into(),
            address: ClientAddress::Inet(([192, 0, 2, 10], 40_000).into()),
        };
        mta.tell(Event::Connect(connection), Some(&macros))?;
        mta.tell(Event::Helo("client.example.net".into()), None)?;
        Ok(mta)
    }

    /// Tells the filter of an event and waits for its word, if it has one: it must let it pass.
    pub(crate) fn tell(&mut self, event: Event, macros: Option<&Macros>) -> Result<()> {
        let mut next = Some(event);
        while let Some(event) = next {
            let sent = self.side.send(event, macros)?;
            for command in &sent.commands {
                command.encode(&mut self.output)?;
            }
            if sent.expect != Expect::Nothing {
                self.flush()?;
                self.answer()?;
            } else if self.output.len() >= COLLECT {
                self.flush()?;
            }
            next = sent.then;
        }
        Ok(())
    }

    /// Ends the session.
    pub(crate) fn quit(mut self) -> Result<()> {
        for command in self.side.clone().quit() {
            command.encode(&mut self.output)?;
        }
        self.flush()?;
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        loop {
            let reply = self.reply()?;
            match self.side.receive(reply)? {
                Answer::Progress | Answer::Edit(_) => {}
                Answer::Skip | Answer::Verdict(Verdict::Continue) => return Ok(()),
                Answer::Verdict(verdict) => bail!("{}: answered {verdict:?}", self.side.stage()),
            }
        }
    }

    fn reply(&mut self) -> Result<Reply> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input)? {
                return Ok(Reply::parse(frame)?);
            }
            let read = self.socket.read(&mut self.buffer);
            let read = read.with_context(|| format!("no answer {}", self.side.stage()))?;
            ensure!(read > 0, "closed the connection {}", self.side.stage());
            self.input.extend_from_slice(&self.buffer[..read]);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }
}
