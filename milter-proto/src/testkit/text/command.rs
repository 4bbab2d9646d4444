//! Commands of an MTA as text, and the options of both sides.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use bitflags::Flags;
use bytes::Bytes;

use super::Mistake;
use super::line::{Line, Token, stage};
use super::print::{Quoted, Text};
use crate::message::{Address, Connection, Header, Path};
use crate::testkit::script::At;
use crate::wire::{Actions, Command, MacroStage, Macros, Offer, Steps, VERSION};

const COMMANDS: &str = "write negotiate, macros, connect, helo, mail, rcpt, data, header, \
     end-of-headers, body, end, abort, unknown, quit, quit-reuse, raw, frame, wait or close";

/// Reads a command whose first word has been read.
pub(super) fn command(word: &str, line: &mut Line) -> Result<Command, Mistake> {
    Ok(match word {
        "negotiate" => Command::Negotiate(offer(line)?),
        "macros" => Command::Macros(macros(line)?),
        "connect" => Command::Connect(connection(line)?),
        "helo" => Command::Helo(line.text("a name", "helo \"client.example\"")?),
        "mail" => Command::Mail(path(line, "mail \"<sender@example.org>\"")?),
        "rcpt" => Command::Rcpt(path(line, "rcpt \"<user@example.org>\"")?),
        "data" => Command::Data,
        "header" => {
            let example = "header \"Subject\" \" words\"";
            let name = line.text("a field's name", example)?;
            Command::Header(Header::new(name, line.text("a field's value", example)?))
        }
        "end-of-headers" => Command::EndOfHeaders,
        "body" => Command::Body(line.text("a piece of a body", "body \"line\\r\\n\"")?),
        "end" => Command::EndOfMessage(line.maybe_text()?.unwrap_or_default()),
        "abort" => Command::Abort,
        "unknown" => Command::Unknown(line.text("a command line", "unknown \"FOO\"")?),
        "quit" => Command::Quit,
        "quit-reuse" => Command::QuitReuse,
        other => return Err(Mistake::new(format!("{other:?} is no command"), COMMANDS)),
    })
}

fn path(line: &mut Line, example: &str) -> Result<Path, Mistake> {
    let address = line.text("an address", example)?;
    let mut args = Vec::new();
    while let Some(arg) = line.maybe_text()? {
        args.push(arg);
    }
    Ok(Path { address, args })
}

fn macros(line: &mut Line) -> Result<Macros, Mistake> {
    let example = "macros mail \"i\" \"4ABC\" \"{auth_authen}\" \"user\"";
    let word = line.word("the command that they belong to", example)?;
    let code = match hexadecimal(&word).map(u8::try_from) {
        Some(Ok(code)) => code,
        Some(Err(_)) | None => code_of(stage(&word)?),
    };
    let mut pairs = Vec::new();
    while let Some(name) = line.maybe_text()? {
        pairs.push((name, line.text("the macro's value", example)?));
    }
    Ok(Macros { stage: code, pairs })
}

/// The command byte of a stage; 0 where it has none.
fn code_of(at: At) -> u8 {
    CODES
        .iter()
        .find(|(_, one)| *one == at)
        .map_or(0, |(code, _)| *code)
}

/// The name of a command byte, or its number.
fn name_of(code: u8) -> String {
    let known = CODES.iter().find(|(one, _)| *one == code);
    known.map_or_else(|| format!("0x{code:02x}"), |(_, at)| at.name().to_owned())
}

const CODES: [(u8, At); 15] = [
    (b'O', At::Negotiate),
    (b'D', At::Macros),
    (b'C', At::Connect),
    (b'H', At::Helo),
    (b'M', At::Mail),
    (b'R', At::Rcpt),
    (b'T', At::Data),
    (b'L', At::Header),
    (b'N', At::EndOfHeaders),
    (b'B', At::Body),
    (b'E', At::EndOfMessage),
    (b'A', At::Abort),
    (b'U', At::Unknown),
    (b'Q', At::Quit),
    (b'K', At::QuitReuse),
];

fn connection(line: &mut Line) -> Result<Connection, Mistake> {
    let example = "connect \"client.example\" 192.0.2.1:4000";
    let hostname = line.text("the client's name", example)?;
    let word = line.word("the client's address", example)?;
    let address = match word.as_str() {
        "unknown" => Address::Unknown,
        "unix" => Address::Unix(line.text("a path", "connect \"host\" unix \"/path\"")?),
        "tagged" => {
            let example = "connect \"host\" tagged [2001:db8::1]:4000";
            let socket = line.word("an IPv6 address", example)?;
            Address::TaggedInet6(socket.parse().map_err(|_| {
                Mistake::new(
                    format!("{socket:?} is no IPv6 address with a port"),
                    example,
                )
            })?)
        }
        "unparsable" => {
            let example = "connect \"host\" unparsable 4 25 \"text\"";
            let family = line.word("a family", example)?;
            let port = line.number("a port", example)?;
            Address::Unparsable {
                family: *family.as_bytes().first().unwrap_or(&b'U'),
                port: u16::try_from(port)
                    .map_err(|_| Mistake::new(format!("{port} is no port"), example))?,
                text: line.text("the address", example)?,
            }
        }
        socket => Address::Inet(socket.parse::<SocketAddr>().map_err(|_| {
            let what = format!("{socket:?} is no address with a port");
            Mistake::new(what, "write 192.0.2.1:4000, [2001:db8::1]:4000 or unknown")
        })?),
    };
    Ok(Connection { hostname, address })
}

/// Reads what follows `negotiate`; nothing is the offer of an MTA that knows everything.
pub(super) fn offer(line: &mut Line) -> Result<Offer, Mistake> {
    if !matches!(line.peek(), Some(Token::Word(_))) {
        return Ok(Offer::full());
    }
    let mut offer = Offer {
        version: VERSION,
        actions: Actions::empty(),
        steps: Steps::empty(),
        macros: Vec::new(),
    };
    while let Some(word) = line.maybe_word() {
        option(&word, line, &mut offer)?;
    }
    Ok(offer)
}

/// Reads one option whose first word has been read.
pub(super) fn option(word: &str, line: &mut Line, offer: &mut Offer) -> Result<(), Mistake> {
    match word {
        "version" => offer.version = line.number("a version", "version 6")?,
        "actions" => offer.actions = bits(line, Actions::all(), "action")?,
        "steps" => offer.steps = bits(line, Steps::NEGOTIABLE, "step")?,
        "macros" => {
            let example = "macros mail \"i {auth_authen}\"";
            let at = line.at()?;
            let stage = MacroStage::from_code(code_of(at)).ok_or_else(|| {
                let what = format!("{:?} has no macros of its own", at.name());
                let stages = "write connect, helo, mail, rcpt, data, end-of-headers or end";
                Mistake::new(what, stages)
            })?;
            offer.macros.push((stage, line.text("names", example)?));
        }
        other => {
            return Err(Mistake::new(
                format!("{other:?} cannot be negotiated"),
                "write version, actions, steps or macros",
            ));
        }
    }
    Ok(())
}

/// Reads names of bits as long as there are any.
fn bits<F: Flags<Bits = u32> + Copy>(line: &mut Line, all: F, what: &str) -> Result<F, Mistake> {
    let mut found = F::empty();
    let mut some = false;
    while let Some(Token::Word(word)) = line.peek() {
        if matches!(word.as_str(), "version" | "actions" | "steps" | "macros") {
            break;
        }
        let word = word.clone();
        line.takes(&word);
        some = true;
        let named = F::FLAGS.iter().find(|flag| spelled(flag.name()) == word);
        match (word.as_str(), named, hexadecimal(&word)) {
            ("all", _, _) => found.insert(all),
            ("none", _, _) => {}
            (_, Some(flag), _) => found.insert(F::from_bits_retain(flag.value().bits())),
            (_, None, Some(number)) => found.insert(F::from_bits_retain(number)),
            (_, None, None) => {
                let names: Vec<String> = F::FLAGS.iter().map(|flag| spelled(flag.name())).collect();
                return Err(Mistake::new(
                    format!("{word:?} is no {what}"),
                    format!("write all, none, 0x…, or some of {}", names.join(", ")),
                ));
            }
        }
    }
    if some {
        return Ok(found);
    }
    Err(Mistake::new(
        format!("no {what} is named"),
        "write all, none or names",
    ))
}

/// `ADD_HEADERS` as it is written in scripts.
fn spelled(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn hexadecimal(word: &str) -> Option<u32> {
    u32::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// Names of bits, or "none".
pub(super) struct Bits<F>(pub(super) F);

impl<F: Flags<Bits = u32> + Copy> Display for Bits<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.bits() == 0 {
            return f.write_str("none");
        }
        let mut rest = self.0.bits();
        let mut space = "";
        for flag in F::FLAGS
            .iter()
            .filter(|flag| self.0.bits() & flag.value().bits() != 0)
        {
            write!(f, "{space}{}", spelled(flag.name()))?;
            space = " ";
            rest &= !flag.value().bits();
        }
        if rest != 0 {
            write!(f, "{space}0x{rest:x}")?;
        }
        Ok(())
    }
}

impl Display for Text<'_, Offer> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("negotiate")?;
        if *self.0 == Offer::full() {
            return Ok(());
        }
        write!(f, " version {}", self.0.version)?;
        write!(f, " actions {}", Bits(self.0.actions))?;
        write!(f, " steps {}", Bits(self.0.steps))?;
        for (stage, names) in &self.0.macros {
            write!(f, " macros {} {}", name_of(stage.code()), Quoted(names))?;
        }
        Ok(())
    }
}

/// The name of the stage that a macro list is for.
pub(super) fn macro_stage(stage: MacroStage) -> String {
    name_of(stage.code())
}

impl Display for Text<'_, Command> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = At::of(self.0).name();
        match self.0 {
            Command::Negotiate(offer) => Text(offer).fmt(f),
            Command::Macros(macros) => {
                write!(f, "{name} {}", name_of(macros.stage))?;
                let mut pairs = macros.pairs.iter();
                pairs.try_for_each(|(name, value)| write!(f, " {} {}", Quoted(name), Quoted(value)))
            }
            Command::Connect(connection) => write_connection(connection, f),
            Command::Mail(path) | Command::Rcpt(path) => {
                write!(f, "{name} {}", Quoted(&path.address))?;
                path.args
                    .iter()
                    .try_for_each(|arg| write!(f, " {}", Quoted(arg)))
            }
            Command::Header(field) => {
                write!(f, "{name} {} {}", Quoted(&field.name), Quoted(&field.value))
            }
            Command::EndOfMessage(bytes) if bytes.is_empty() => f.write_str(name),
            Command::Helo(bytes)
            | Command::Body(bytes)
            | Command::EndOfMessage(bytes)
            | Command::Unknown(bytes) => write!(f, "{name} {}", Quoted(bytes)),
            Command::Data
            | Command::EndOfHeaders
            | Command::Abort
            | Command::Quit
            | Command::QuitReuse => f.write_str(name),
        }
    }
}

fn write_connection(connection: &Connection, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "connect {} ", Quoted(&connection.hostname))?;
    match &connection.address {
        Address::Unknown => f.write_str("unknown"),
        Address::Unix(path) => write!(f, "unix {}", Quoted(path)),
        Address::Inet(socket) => write!(f, "{socket}"),
        Address::TaggedInet6(socket) => write!(f, "tagged {socket}"),
        Address::Unparsable { family, port, text } => {
            let family = char::from(*family);
            write!(f, "unparsable {family} {port} {}", Quoted(text))
        }
    }
}

/// A frame's bytes with its length.
pub(super) fn framed(content: &Bytes) -> Bytes {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], content].concat().into()
}

/// What is in bytes that are just one frame.
pub(super) fn frame_in(bytes: &Bytes) -> Option<Bytes> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let content = bytes.slice(4..);
    (usize::try_from(length).ok()? == content.len()).then_some(content)
}
