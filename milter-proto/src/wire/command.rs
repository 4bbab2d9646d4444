//! What an MTA says to a filter (`SMFIC_*`).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use bytes::{Bytes, BytesMut};

use crate::message::{Address, Connection, Header, Path};
use crate::wire::COMMAND_MAX;
use crate::wire::error::{Malformed, WireError};
use crate::wire::frame::{Frame, put_frame};
use crate::wire::macros::Macros;
use crate::wire::options::Offer;
use crate::wire::strings::{Payload, check_strings};

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `O` Option negotiation.
    Negotiate(Offer),
    /// `D` Macros for a command that follows.
    Macros(Macros),
    /// `C` The client.
    Connect(Connection),
    /// `H` The name it gave.
    Helo(Bytes),
    /// `M` Envelope sender.
    Mail(Path),
    /// `R` One envelope recipient.
    Rcpt(Path),
    /// `T` DATA.
    Data,
    /// `L` One header field.
    Header(Header),
    /// `N` End of headers.
    EndOfHeaders,
    /// `B` A chunk of the body.
    Body(Bytes),
    /// `E` End of the message; may carry a last chunk (no MTA does).
    EndOfMessage(Bytes),
    /// `A` Forget the message in hand.
    Abort,
    /// `U` A command that the MTA does not know.
    Unknown(Bytes),
    /// `Q` End of the connection.
    Quit,
    /// `K` End of this SMTP connection; another follows on the same milter connection.
    QuitReuse,
}

impl Command {
    /// The command byte (`SMFIC_*`).
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Negotiate(_) => Offer::CODE,
            Self::Macros(_) => Macros::CODE,
            Self::Connect(_) => b'C',
            Self::Helo(_) => b'H',
            Self::Mail(_) => b'M',
            Self::Rcpt(_) => b'R',
            Self::Data => b'T',
            Self::Header(_) => b'L',
            Self::EndOfHeaders => b'N',
            Self::Body(_) => b'B',
            Self::EndOfMessage(_) => b'E',
            Self::Abort => b'A',
            Self::Unknown(_) => b'U',
            Self::Quit => b'Q',
            Self::QuitReuse => b'K',
        }
    }

    /// Reads a frame from an MTA.
    ///
    /// # Errors
    /// When the type is unknown or the payload does not fit it: a missing or misplaced NUL, too few
    /// bytes, bytes too many. Commands other than header fields and body have at most
    /// [`COMMAND_MAX`] bytes, since they are kept longer than their message. Strings
    /// after a header field's value are ignored, as libmilter does.
    pub fn parse(frame: Frame) -> Result<Self, WireError> {
        let code = frame.code;
        Self::read(frame)?.map_err(|reason| reason.of(code))
    }

    fn read(frame: Frame) -> Result<Result<Self, Malformed>, WireError> {
        let payload = frame.payload;
        let is_line = matches!(frame.code, b'O' | b'D' | b'C' | b'H' | b'M' | b'R' | b'U');
        if is_line && payload.len() > COMMAND_MAX {
            return Ok(Err(Malformed::TooLong(COMMAND_MAX)));
        }
        let bare = |command: Self, payload: Bytes| Payload::new(payload).end().map(|()| command);
        Ok(match frame.code {
            Offer::CODE => Offer::parse(payload).map(Self::Negotiate),
            Macros::CODE => Macros::parse(payload).map(Self::Macros),
            b'C' => read_connection(payload).map(Self::Connect),
            b'H' => Payload::new(payload).only_string().map(Self::Helo),
            b'M' => read_path(payload).map(Self::Mail),
            b'R' => read_path(payload).map(Self::Rcpt),
            b'T' => bare(Self::Data, payload),
            b'L' => read_header(payload).map(Self::Header),
            b'N' => bare(Self::EndOfHeaders, payload),
            b'B' => Ok(Self::Body(payload)),
            b'E' => Ok(Self::EndOfMessage(payload)),
            b'A' => bare(Self::Abort, payload),
            b'U' => Payload::new(payload).only_string().map(Self::Unknown),
            b'Q' => bare(Self::Quit, payload),
            b'K' => bare(Self::QuitReuse, payload),
            code => return Err(WireError::UnknownCode(code)),
        })
    }

    /// Appends the command as it goes on the wire.
    ///
    /// # Errors
    /// When a string holds a NUL; nothing is written then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        let code = self.code();
        match self {
            Self::Negotiate(offer) => offer.encode(out),
            Self::Macros(macros) => macros.encode(out),
            Self::Connect(connection) => write_connection(connection, out),
            Self::Helo(text) | Self::Unknown(text) => write_strings(code, [&text[..]], out),
            Self::Mail(path) | Self::Rcpt(path) => {
                let args = path.args.iter().map(|arg| &arg[..]);
                write_strings(code, [&path.address[..]].into_iter().chain(args), out)
            }
            Self::Header(field) => write_strings(code, [&field.name[..], &field.value[..]], out),
            Self::Body(bytes) | Self::EndOfMessage(bytes) => {
                put_frame(out, code, &[bytes]);
                Ok(())
            }
            Self::Data | Self::EndOfHeaders | Self::Abort | Self::Quit | Self::QuitReuse => {
                put_frame(out, code, &[]);
                Ok(())
            }
        }
    }
}

/// Appends a frame of strings, each with its NUL.
pub(crate) fn write_strings<'a>(
    code: u8,
    strings: impl IntoIterator<Item = &'a [u8]>,
    out: &mut BytesMut,
) -> Result<(), WireError> {
    let strings: Vec<&[u8]> = strings.into_iter().collect();
    check_strings(strings.iter().copied()).map_err(|reason| reason.of(code))?;
    let parts: Vec<&[u8]> = strings
        .into_iter()
        .flat_map(|string| [string, &b"\0"[..]])
        .collect();
    put_frame(out, code, &parts);
    Ok(())
}

/// What Sendmail writes ahead of an IPv6 address.
const TAG: &[u8] = b"IPv6:";

fn read_path(payload: Bytes) -> Result<Path, Malformed> {
    let mut payload = Payload::new(payload);
    let address = payload.string()?;
    let args = payload.strings()?;
    Ok(Path { address, args })
}

fn read_header(payload: Bytes) -> Result<Header, Malformed> {
    let mut payload = Payload::new(payload);
    let name = payload.string()?;
    if name.is_empty() {
        return Err(Malformed::NoName);
    }
    let value = payload.string()?;
    payload.strings()?;
    Ok(Header { name, value })
}

fn read_connection(payload: Bytes) -> Result<Connection, Malformed> {
    let mut payload = Payload::new(payload);
    let hostname = payload.string()?;
    let family = payload.u8()?;
    let address = match family {
        // Nothing is known; some senders fill the fields anyway.
        b'U' => Address::Unknown,
        b'L' | b'4' | b'6' => {
            let port = payload.u16()?;
            read_address(family, port, payload.only_string()?)
        }
        other => return Err(Malformed::Family(other)),
    };
    Ok(Connection { hostname, address })
}

fn read_address(family: u8, port: u16, text: Bytes) -> Address {
    if family == b'L' && port == 0 {
        return Address::Unix(text);
    }
    let tagged = text.strip_prefix(TAG);
    let ip = std::str::from_utf8(tagged.unwrap_or(&text))
        .ok()
        .and_then(|text| text.parse::<IpAddr>().ok());
    match (family, ip, tagged) {
        (b'6', Some(IpAddr::V6(ip)), Some(_)) => {
            Address::TaggedInet6(SocketAddrV6::new(ip, port, 0, 0))
        }
        (b'6', Some(ip @ IpAddr::V6(_)), None) | (b'4', Some(ip @ IpAddr::V4(_)), None) => {
            Address::Inet(SocketAddr::new(ip, port))
        }
        _ => Address::Unparsable { family, port, text },
    }
}

fn write_connection(connection: &Connection, out: &mut BytesMut) -> Result<(), WireError> {
    let written;
    let (family, port, text): (u8, u16, &[u8]) = match &connection.address {
        Address::Unknown => {
            check_strings([&connection.hostname[..]]).map_err(|reason| reason.of(b'C'))?;
            put_frame(out, b'C', &[&connection.hostname, b"\0U"]);
            return Ok(());
        }
        Address::Unix(path) => (b'L', 0, path),
        Address::Inet(socket) => {
            written = socket.ip().to_string();
            let family = if socket.is_ipv6() { b'6' } else { b'4' };
            (family, socket.port(), written.as_bytes())
        }
        Address::TaggedInet6(socket) => {
            written = format!("IPv6:{}", socket.ip());
            (b'6', socket.port(), written.as_bytes())
        }
        Address::Unparsable { family, port, text } => (*family, *port, text),
    };
    check_strings([&connection.hostname[..], text]).map_err(|reason| reason.of(b'C'))?;
    let [high, low] = port.to_be_bytes();
    put_frame(
        out,
        b'C',
        &[&connection.hostname, &[0, family, high, low], text, b"\0"],
    );
    Ok(())
}
