//! The client against our own server, and against servers that misbehave.

use bytes::Bytes;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::edit::Edit;
use crate::message::{Address as Client4, Connection, Header, Path};
use crate::net::{Client, DialError, Response, Timeouts};
use crate::session::{Event, Fault, Reason, Stage};
use crate::verdict::Verdict;
use crate::wire::{Offer, Steps, WireError};

fn connection() -> Event {
    Event::Connect(Connection {
        hostname: Bytes::from_static(b"x"),
        address: Client4::Unknown,
    })
}

fn path(address: &str) -> Path {
    Path {
        address: Bytes::from(address.to_owned()),
        args: Vec::new(),
    }
}

async fn message(client: &mut Client, sender: &str, body: Bytes) -> Response {
    let macros = [(Bytes::from_static(b"i"), Bytes::from_static(b"ID"))];
    for event in [
        Event::Mail(path(&format!("<{sender}>"))),
        Event::Rcpt(path("<r@x>")),
        Event::Header(Header::new("Subject", "x")),
        Event::Body(body),
    ] {
        let response = patient(client.send(event, Some(&macros))).await.unwrap();
        if response.verdict != Verdict::Continue {
            return response;
        }
    }
    let end = client.send(Event::EndOfMessage, Some(&macros));
    patient(end).await.unwrap()
}

#[tokio::test]
async fn drives_our_own_server() {
    let server = Server::start(Limits::default()).await;
    let offer = Offer::full();
    let connected = Client::connect(&server.address, &offer, Timeouts::default()).await;
    let (mut client, warnings) = connected.unwrap();
    assert_eq!(warnings, []);
    assert_eq!(client.options().steps, Steps::SKIP | Steps::NO_UNKNOWN);
    client.send(connection(), Some(&[])).await.unwrap();
    let body = Bytes::from(vec![b'x'; 200_000]);
    let response = message(&mut client, "edit@end", body.clone()).await;
    let expected = Response {
        verdict: Verdict::Continue,
        edits: vec![Edit::add("X-Size", "200000")],
        skip: false,
    };
    assert_eq!(response, expected);
    let response = message(&mut client, "skip@body", body.clone()).await;
    assert_eq!(response.verdict, Verdict::Continue);
    let response = message(&mut client, "reject@eoh", body).await;
    assert_eq!(response.verdict, Verdict::Reject);
    client.quit().await;
    assert_eq!(server.stop().await.connections, 1);
}

#[tokio::test(start_paused = true)]
async fn events_without_answers_are_collected() {
    let (near, mut far) = duplex(1 << 20);
    let nr = b"O\0\0\0\x06\0\0\0\0\0\x0f\xf0\x80";
    far.write_all(&frames(&[nr])).await.unwrap();
    let mut client = opened(near).await.unwrap();
    let mut seen = vec![0; 17];
    far.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, frames(&[OFFER]));
    client.send(connection(), None).await.unwrap();
    client.send(Event::Mail(path("<s@x>")), None).await.unwrap();
    client.send(Event::Rcpt(path("<r@x>")), None).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), far.read_u8()).await;
    assert!(early.is_err());
    let end = tokio::spawn(async move {
        let response = client.send(Event::EndOfMessage, None).await;
        (client, response)
    });
    let sent = frames(&[b"Cx\0U", b"M<s@x>\0", b"R<r@x>\0", b"T", b"N", b"E"]);
    let mut seen = vec![0; sent.len()];
    patient(far.read_exact(&mut seen)).await.unwrap();
    assert_eq!(seen, sent);
    far.write_all(&frames(&[b"p", b"c", b"c"])).await.unwrap();
    let (mut client, response) = patient(end).await.unwrap();
    assert_eq!(response.unwrap().verdict, Verdict::Continue);
    // One reply too many is noticed before anything can be taken for the next answer.
    let error = client.send(Event::Mail(path("<s@x>")), None).await;
    let DialError::Protocol(error) = error.unwrap_err() else {
        panic!("not a breach of the protocol");
    };
    assert_eq!(error.reason, Reason::Unasked(b'c'));
}

async fn opened(stream: DuplexStream) -> Result<Client<DuplexStream>, DialError> {
    let timeouts = Timeouts::each(Duration::from_millis(300));
    let opened = Client::negotiate(stream, &Offer::full(), timeouts).await;
    opened.map(|(client, _)| client)
}

/// What comes of a filter that says `first` at once, and `more` after that; then closes, or not.
async fn misbehaves(first: &[&[u8]], more: &[u8], closes: bool) -> DialError {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(&frames(first)).await.unwrap();
    let mut client = match opened(near).await {
        Ok(client) => client,
        Err(error) => return error,
    };
    far.write_all(more).await.unwrap();
    let held = (!closes).then_some(far);
    let error = client.send(connection(), None).await.unwrap_err();
    drop(held);
    error
}

#[tokio::test(start_paused = true)]
async fn filters_that_misbehave() {
    let reason = |error: DialError| match error {
        DialError::Protocol(error) => (error.fault, error.reason),
        other => panic!("{other}"),
    };
    let by_filter = |reason| (Fault::Filter, reason);
    let agreed: &[u8] = b"O\0\0\0\x06\0\0\0\0\0\0\0\0";
    let newer: &[u8] = b"O\0\0\0\x07\0\0\0\0\0\0\0\0";
    let error = reason(misbehaves(&[newer], b"", false).await);
    assert_eq!(error, by_filter(Reason::Version(7)));
    let error = reason(misbehaves(&[b"c"], b"", false).await);
    assert_eq!(error, by_filter(Reason::Forbidden(b'c')));
    let error = reason(misbehaves(&[agreed, b"c"], b"", false).await);
    assert_eq!(error, by_filter(Reason::Unasked(b'c')));
    let error = reason(misbehaves(&[agreed], &frames(&[b"c"]), false).await);
    assert_eq!(error, by_filter(Reason::Unasked(b'c')));
    let error = reason(misbehaves(&[b"Z"], b"", false).await);
    assert_eq!(error, by_filter(Reason::Wire(WireError::UnknownCode(b'Z'))));
    let error = misbehaves(&[], b"", false).await;
    assert!(
        matches!(
            error,
            DialError::Late {
                stage: Stage::Start,
                ..
            }
        ),
        "{error}"
    );
    let error = misbehaves(&[agreed], b"", false).await;
    assert!(
        matches!(
            error,
            DialError::Late {
                stage: Stage::Client,
                ..
            }
        ),
        "{error}"
    );
    let error = misbehaves(&[agreed], b"", true).await;
    assert!(matches!(error, DialError::Closed(_)), "{error}");
}

#[tokio::test]
async fn nobody_there() {
    let unix: Address = "unix:/nonexistent/milter.sock".parse().unwrap();
    let connected = Client::connect(&unix, &Offer::full(), Timeouts::default()).await;
    let error = connected.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to unix:/nonexistent/milter.sock")
    );
}
