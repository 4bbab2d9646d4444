//! The driving side's cases of the conformance list that need a stream or a clock. The clock is the
//! test's own.

use bytes::Bytes;
use tokio::io::{DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::counting::{Count, Counting};
use super::*;
use crate::message::{Address as ClientAddress, Connection, Header, Path};
use crate::net::{Client, DialError, Timeouts};
use crate::session::{Event, Fault, Reason, Stage};
use crate::verdict::Verdict;
use crate::wire::Offer;

/// What a filter says to a command, and after how many seconds.
type Script = fn(u8) -> Vec<(u64, &'static [u8])>;

fn continues(code: u8) -> Vec<(u64, &'static [u8])> {
    match code {
        b'D' => vec![],
        _ => vec![(0, b"c")],
    }
}

/// Plays a filter that wants these steps; an empty reply closes the connection. Gives the codes of
/// the commands that it got.
async fn play(mut stream: DuplexStream, steps: Steps, script: Script) -> String {
    let mut codes = String::new();
    while let Ok(length) = stream.read_u32().await {
        let mut command = vec![0; length as usize];
        stream.read_exact(&mut command).await.unwrap();
        codes.push(char::from(command[0]));
        let mut answer = b"O\0\0\0\x06\0\0\x01\xff".to_vec();
        answer.extend_from_slice(&steps.bits().to_be_bytes());
        if command[0] == b'O' {
            stream.write_all(&frames(&[&answer])).await.unwrap();
            continue;
        }
        for (delay, reply) in script(command[0]) {
            sleep(Duration::from_secs(delay)).await;
            // Whoever was waited for too long has gone.
            if reply.is_empty() || stream.write_all(&frames(&[reply])).await.is_err() {
                return codes;
            }
        }
    }
    codes
}

type Driving = Client<Counting>;

async fn agreed(steps: Steps, script: Script) -> (Driving, JoinHandle<String>, Count) {
    let (near, far) = duplex(1 << 20);
    let filter = tokio::spawn(play(far, steps, script));
    let count = Count::default();
    let stream = Counting(near, count.clone());
    let negotiated = Client::negotiate(stream, &Offer::full(), Timeouts::default()).await;
    let (client, warnings) = negotiated.unwrap();
    assert_eq!(warnings, []);
    (client, filter, count)
}

fn path(address: &'static str) -> Path {
    Path {
        address: Bytes::from_static(address.as_bytes()),
        args: Vec::new(),
    }
}

fn connect() -> Event {
    Event::Connect(Connection::nameless(ClientAddress::Unknown))
}

/// The events of a message up to its end.
fn events() -> [Event; 7] {
    [
        connect(),
        Event::Mail(path("<s@x>")),
        Event::Rcpt(path("<r@x>")),
        Event::Data,
        Event::Header(Header::new("X", "v")),
        Event::EndOfHeaders,
        Event::EndOfMessage,
    ]
}

/// Sends a whole message; what became of its end, and how long that took.
async fn finished(script: Script) -> (Result<Verdict, DialError>, u64) {
    let (mut client, _filter, _) = agreed(Steps::NR_ALL, script).await;
    let begun = Instant::now();
    for event in events() {
        let end = event == Event::EndOfMessage;
        let response = client.send(event, None).await;
        if end || response.is_err() {
            let verdict = response.map(|response| response.verdict);
            return (verdict, begun.elapsed().as_secs());
        }
    }
    panic!("no end");
}

#[tokio::test(start_paused = true)]
async fn case_095_a_filter_that_closes_after_the_negotiation() {
    let (mut client, filter, _) = agreed(Steps::empty(), |_| vec![(0, b"")]).await;
    let error = client.send(connect(), None).await.unwrap_err();
    assert!(matches!(error, DialError::Closed(Stage::Client)), "{error}");
    assert_eq!(filter.await.unwrap(), "OC");
}

fn slow_but_alive(code: u8) -> Vec<(u64, &'static [u8])> {
    let mut replies: Vec<(u64, &'static [u8])> = vec![(40, b"p"); 5];
    replies.push((0, b"c"));
    if code == b'E' { replies } else { vec![] }
}

#[tokio::test(start_paused = true)]
async fn case_103_progress_buys_time() {
    let (verdict, after) = finished(slow_but_alive).await;
    assert_eq!((verdict.unwrap(), after), (Verdict::Continue, 200));
    let (near, far) = duplex(1 << 20);
    let _filter = tokio::spawn(play(far, Steps::NR_ALL, slow_but_alive));
    let timeouts = Timeouts {
        silence: Duration::from_secs(30),
        ..Timeouts::default()
    };
    let negotiated = Client::negotiate(near, &Offer::full(), timeouts).await;
    let (mut client, _) = negotiated.unwrap();
    for event in events() {
        let end = event == Event::EndOfMessage;
        if let Err(error) = client.send(event, None).await {
            let DialError::Late { stage, after } = error else {
                panic!("{error}");
            };
            assert_eq!((stage, after), (Stage::End, timeouts.silence));
            return;
        }
        assert!(!end, "nobody minded the silence");
    }
}

#[tokio::test(start_paused = true)]
async fn case_104_progress_without_end() {
    let endless: Script = |code| match code {
        b'E' => vec![(1, b"p"); 1000],
        _ => vec![],
    };
    let (verdict, after) = finished(endless).await;
    let error = verdict.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no answer at the end of the message within 240 s"
    );
    assert_eq!(after, 240);
}

/// The second answer of two is found before it could be taken for the next one.
#[tokio::test(start_paused = true)]
async fn case_109_an_answer_too_many() {
    let twice: Script = |_| vec![(0, b"c"), (0, b"c")];
    let (mut client, filter, _) = agreed(Steps::empty(), twice).await;
    client.send(connect(), None).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    unasked(
        client
            .send(Event::Mail(path("<s@x>")), None)
            .await
            .unwrap_err(),
    );
    drop(client);
    assert_eq!(filter.await.unwrap(), "OC");
}

fn unasked(error: DialError) {
    let DialError::Protocol(error) = error else {
        panic!("{error}");
    };
    let expected = (Fault::Filter, Reason::Unasked(b'c'));
    assert_eq!((error.fault, error.reason), expected);
}

#[tokio::test(start_paused = true)]
async fn case_110_nothing_waits_where_nothing_is_answered() {
    let script: Script = |code| match code {
        b'L' | b'N' | b'B' => vec![],
        _ => vec![(0, b"c")],
    };
    let steps = Steps::NR_HEADER | Steps::NR_EOH | Steps::NR_BODY;
    let (mut client, filter, count) = agreed(steps, script).await;
    for event in events().into_iter().take(4) {
        client.send(event, None).await.unwrap();
    }
    let (writes, reads) = (count.writes(), count.reads());
    for _ in 0..30 {
        let field = Header::new("Received", "x".repeat(100));
        client.send(Event::Header(field), None).await.unwrap();
    }
    client.send(Event::EndOfHeaders, None).await.unwrap();
    assert_eq!(count.writes(), writes);
    let body = Bytes::from(vec![b'x'; 300_000]);
    client.send(Event::Body(body), None).await.unwrap();
    assert!(count.writes() - writes <= 300_000 / (64 * 1024) + 1);
    assert_eq!(count.reads(), reads);
    client.send(Event::EndOfMessage, None).await.unwrap();
    assert!(count.reads() > reads);
    client.quit().await;
    let codes = filter.await.unwrap();
    assert_eq!(codes, format!("OCMRT{}NBBBBBEQ", "L".repeat(30)));
}

#[tokio::test(start_paused = true)]
async fn case_111_an_answer_that_was_agreed_away() {
    let (mut client, _filter, _) = agreed(Steps::NR_RCPT, continues).await;
    for event in events().into_iter().take(3) {
        client.send(event, None).await.unwrap();
    }
    // Only now does the recipient leave, and its answer come ahead of that to DATA.
    let first = client.send(Event::Data, None).await;
    sleep(Duration::from_secs(1)).await;
    let error = match first {
        Ok(_) => client.send(Event::EndOfHeaders, None).await.unwrap_err(),
        Err(error) => error,
    };
    unasked(error);
}

fn silent_at_rcpt(code: u8) -> Vec<(u64, &'static [u8])> {
    match code {
        b'R' => vec![(60, b"c")],
        _ => vec![(0, b"c")],
    }
}

/// A conversation that waits for an answer to RCPT in vain.
async fn late_at_rcpt() -> (Driving, JoinHandle<String>) {
    let (mut client, filter, _) = agreed(Steps::empty(), silent_at_rcpt).await;
    for event in events().into_iter().take(2) {
        client.send(event, None).await.unwrap();
    }
    let begun = Instant::now();
    let error = client.send(Event::Rcpt(path("<r@x>")), None).await;
    let Err(DialError::Late { stage, after }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((stage, after), (Stage::Rcpt, begun.elapsed()));
    (client, filter)
}

#[tokio::test(start_paused = true)]
async fn case_112_no_answer() {
    let (client, filter) = late_at_rcpt().await;
    drop(client);
    assert_eq!(filter.await.unwrap(), "OCMR");
    let (mut client, _filter, _) = agreed(Steps::empty(), continues).await;
    for event in events() {
        let response = client.send(event, None).await.unwrap();
        assert_eq!(response.verdict, Verdict::Continue);
    }
}

#[tokio::test(start_paused = true)]
async fn case_113_a_late_answer_is_no_answer() {
    let (mut client, filter) = late_at_rcpt().await;
    sleep(Duration::from_secs(120)).await;
    for event in [Event::Rcpt(path("<r2@x>")), Event::Data, Event::Abort] {
        assert!(client.send(event, None).await.is_err());
    }
    drop(client);
    assert_eq!(filter.await.unwrap(), "OCMR");
}

#[tokio::test(start_paused = true)]
async fn case_140_a_reused_connection_that_does_not_answer() {
    // Takes the first client, and no second one.
    let (near, far) = duplex(1 << 20);
    let filter = tokio::spawn(async move {
        let mut far = far;
        let mut sent = vec![0; frames(&[OFFER, b"Cunknown\0U", b"M<s@x>\0"]).len()];
        far.read_exact(&mut sent[..17]).await.unwrap();
        let answer: &[u8] = b"O\0\0\0\x06\0\0\0\0\0\0\0\0";
        far.write_all(&frames(&[answer])).await.unwrap();
        for (from, to) in [(17, 31), (31, sent.len())] {
            far.read_exact(&mut sent[from..to]).await.unwrap();
            far.write_all(&frames(&[b"c"])).await.unwrap();
        }
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        rest
    });
    let timeouts = Timeouts::each(Duration::from_secs(2));
    let negotiated = Client::negotiate(near, &Offer::full(), timeouts).await;
    let (mut client, _) = negotiated.unwrap();
    client.send(connect(), None).await.unwrap();
    assert!(
        client.send(Event::QuitReuse, None).await.is_err(),
        "no message yet"
    );
    client.send(Event::Mail(path("<s@x>")), None).await.unwrap();
    client.send(Event::Abort, None).await.unwrap();
    client.send(Event::QuitReuse, None).await.unwrap();
    let error = client.send(connect(), None).await.unwrap_err();
    assert!(matches!(error, DialError::Late { .. }), "{error}");
    drop(client);
    assert_eq!(filter.await.unwrap(), frames(&[b"A", b"K", b"Cunknown\0U"]));
    let (mut client, _filter, _) = agreed(Steps::empty(), continues).await;
    client.send(connect(), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn case_141_macros_leave_with_their_event() {
    let (mut client, filter, count) = agreed(Steps::empty(), continues).await;
    let macros = [(Bytes::from_static(b"i"), Bytes::from_static(b"ID"))];
    for event in events() {
        let writes = count.writes();
        client.send(event, Some(&macros)).await.unwrap();
        assert_eq!(count.writes(), writes + 1);
    }
    drop(client);
    assert_eq!(filter.await.unwrap(), "ODCDMDRDTDLDNDE");
}

#[tokio::test(start_paused = true)]
async fn case_142_a_filter_that_closes_at_any_stage() {
    let closes: [Script; 7] = [
        |code| closing(b'C', code),
        |code| closing(b'M', code),
        |code| closing(b'R', code),
        |code| closing(b'T', code),
        |code| closing(b'L', code),
        |code| closing(b'N', code),
        |code| closing(b'E', code),
    ];
    for (number, script) in closes.into_iter().enumerate() {
        let (mut client, filter, _) = agreed(Steps::empty(), script).await;
        for (place, event) in events().into_iter().enumerate() {
            let sent = client.send(event, None).await;
            if place < number {
                sent.unwrap();
                continue;
            }
            // It stays so: whoever drives the filter has a policy, and another connection.
            let error = sent.unwrap_err();
            assert!(
                place > number || matches!(error, DialError::Closed(_)),
                "{error}"
            );
        }
        drop(client);
        assert_eq!(filter.await.unwrap(), "OCMRTLNE"[..number + 2]);
    }
}

fn closing(at: u8, code: u8) -> Vec<(u64, &'static [u8])> {
    vec![(0, if code == at { b"" } else { b"c" })]
}
