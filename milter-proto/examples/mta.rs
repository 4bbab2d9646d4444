//! A mail server's side: takes a message from a file through a filter, and prints its verdict and
//! what becomes of the header.
//!
//! Try it: `cargo run --features net --example mta -- inet:10099@127.0.0.1 message.eml [sender
//! [recipient…]]`. The exit code is 0 where the message would be taken, 1 where it would not, and 2
//! when the filter cannot be asked.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use milter_proto::mail::{Mail, Rules};
use milter_proto::message::{Address, Connection, Header, Path};
use milter_proto::net::{Client, Response, Timeouts};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::{MacroStage, Offer, Steps};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "mta: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether the message would be taken.
async fn run(arguments: &[String]) -> Result<bool, Box<dyn Error>> {
    let [socket, file, envelope @ ..] = arguments else {
        return Err("usage: mta SOCKET MESSAGE [SENDER [RECIPIENT...]]".into());
    };
    let message = std::fs::read(file)?;
    let (sender, recipients) = envelope
        .split_first()
        .map_or(("", &[][..]), |(sender, rest)| (sender.as_str(), rest));
    let to_me = [String::from("postmaster")];
    let recipients = if recipients.is_empty() {
        &to_me
    } else {
        recipients
    };

    let socket = socket.parse()?;
    let (mut filter, warnings) =
        Client::connect(&socket, &Offer::full(), Timeouts::default()).await?;
    let mut out = io::stdout().lock();
    for warning in warnings {
        writeln!(out, "put right in the negotiation: {warning:?}")?;
    }
    let mut mail = envelope_of(sender, recipients);
    let (header, body) = split(
        &message,
        filter.options().steps.contains(Steps::LEADING_SPACE),
    );
    let response = tell(&mut filter, &mail, &header, body).await?;
    filter.quit().await;

    mail = Mail::new(mail.sender, mail.recipients, received(), header);
    mail.apply(&response.edits, Rules::Postfix)?;
    writeln!(out, "verdict: {:?}", response.verdict)?;
    for field in mail.header() {
        let line = [&field.name[..], b": ", &field.value[..]].concat();
        writeln!(out, "{}", String::from_utf8_lossy(&line))?;
    }
    Ok(matches!(
        response.verdict,
        Verdict::Continue | Verdict::Accept
    ))
}

fn path(address: &str) -> Path {
    Path {
        address: format!("<{address}>").into(),
        args: Vec::new(),
    }
}

fn envelope_of(sender: &str, recipients: &[String]) -> Mail {
    let recipients = recipients.iter().map(|address| path(address)).collect();
    Mail::new(path(sender), recipients, received(), Vec::new())
}

/// What a mail server adds itself, and shows no filter.
fn received() -> Header {
    Header::new("Received", "from client.example by this example")
}

/// The fields of a message, folds with their first line, and what follows the empty line.
fn split(message: &[u8], leading_space: bool) -> (Vec<Header>, Bytes) {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut rest = message;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        if matches!(line, b"\n" | b"\r\n") {
            break;
        }
        match fields.last_mut() {
            Some(field) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                field.extend_from_slice(line);
            }
            _ => fields.push(line.to_vec()),
        }
    }
    let fields = fields.iter();
    let header = fields.filter_map(|field| Header::from_field(field, leading_space));
    (header.collect(), Bytes::copy_from_slice(rest))
}

/// Tells the filter everything, up to its first word that ends the message.
async fn tell(
    filter: &mut Client,
    mail: &Mail,
    header: &[Header],
    body: Bytes,
) -> Result<Response, Box<dyn Error>> {
    let client = SocketAddr::from(([192, 0, 2, 1], 4321));
    let mut events = vec![
        Event::Connect(Connection::nameless(Address::Inet(client))),
        Event::Helo(Bytes::from_static(b"client.example")),
        Event::Mail(mail.sender.clone()),
    ];
    events.extend(mail.recipients.iter().cloned().map(Event::Rcpt));
    events.push(Event::Data);
    events.extend(header.iter().cloned().map(Event::Header));
    events.extend([Event::EndOfHeaders, Event::Body(body), Event::EndOfMessage]);

    let known = [(Bytes::from_static(b"i"), Bytes::from_static(b"EXAMPLE"))];
    let mut response = Response::default();
    for event in events {
        // Macros go ahead of the stages that have some; by default just the queue id.
        let stage = MacroStage::from_code(event.clone().into_command().code());
        let macros = stage.map(|stage| filter.options().select(stage, &known, "i"));
        let one_recipient = matches!(event, Event::Rcpt(_));
        response = filter.send(event, macros.as_deref()).await?;
        match response.verdict {
            Verdict::Continue => {}
            // A refused recipient is not the end of the message.
            Verdict::Reject | Verdict::TempFail | Verdict::Reply(_) if one_recipient => {}
            _ => break,
        }
    }
    Ok(response)
}
