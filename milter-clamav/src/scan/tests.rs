//! Scans against clamds that fail in every way there is.

mod fake;

use std::time::Duration;

use fake::{CLEAN, Do, Fake};
use milter_proto::net::Address;

use super::*;
use crate::clamd::Request;
use crate::clamd::client::Deadlines;
use crate::clamd::client::ask;
use crate::clamd::servers::{Order, Settings};
use crate::spool::PREAMBLE;

const FOUND: &[Do] = &[Do::TakeAll, Do::Say(b"stream: Eicar FOUND\0")];
const MEGABYTE: usize = 1 << 20;

fn settings(addresses: Vec<Address>) -> Settings {
    let wait = Duration::from_secs(2);
    Settings {
        addresses,
        order: Order::Listed,
        deadlines: Deadlines {
            connect: wait,
            write: wait,
            reply: wait,
        },
        probe_interval: Duration::from_millis(50),
    }
}

fn servers(addresses: Vec<Address>) -> Arc<Servers> {
    Arc::new(Servers::new(settings(addresses)))
}

fn limits() -> Limits {
    Limits {
        size: 4 << 20,
        stage: Duration::from_secs(5),
        total: Duration::from_secs(20),
        spool: spool::Limits {
            memory: 100_000,
            directory: std::env::temp_dir(),
        },
    }
}

/// Scans a message with a body of `body` bytes in pieces of `piece`.
async fn scan(servers: &Arc<Servers>, limits: Limits, body: usize, piece: usize) -> Finding {
    let mut scan = Scan::new(Arc::clone(servers), Arc::new(limits));
    scan.header(&Header::new("Subject", " a\n b"), true).await;
    scan.end_of_headers().await;
    for chunk in vec![b'x'; body].chunks(piece) {
        scan.body(Bytes::copy_from_slice(chunk)).await;
    }
    scan.finish().await.finding
}

/// What clamd must have been sent for a body of that many bytes.
fn expected(body: usize) -> Vec<u8> {
    let message = [PREAMBLE, b"Subject: a\r\n b\r\n\r\n"].concat();
    [message, vec![b'x'; body]].concat()
}

/// One server with a script a connection: what is found, for a small and a large message.
async fn check(scripts: &[&'static [Do]], small: &Finding, large: &Finding) {
    for (body, finding) in [(10, small), (2 * MEGABYTE, large)] {
        let fake = Fake::start(scripts);
        let servers = servers(vec![fake.address.clone()]);
        let found = scan(&servers, limits(), body, 65_535).await;
        match (&found, finding) {
            (Finding::Unscanned(reason), Finding::Unscanned(part)) => {
                assert!(reason.contains(part), "{scripts:?}: {reason}");
            }
            _ => assert_eq!(&found, finding, "{scripts:?}"),
        }
    }
}

async fn check_same(scripts: &[&'static [Do]], finding: Finding) {
    check(scripts, &finding, &finding).await;
}

fn unscanned(reason: &str) -> Finding {
    Finding::Unscanned(reason.to_owned())
}

fn infected(name: &str) -> Finding {
    Finding::Infected(Signature::new(name.as_bytes()))
}

#[tokio::test]
async fn answers_become_findings() {
    check_same(&[CLEAN], Finding::Clean).await;
    check_same(&[FOUND], infected("Eicar")).await;
    let encrypted: &[Do] = &[
        Do::TakeAll,
        Do::Say(b"stream: Heuristics.Encrypted.Zip FOUND\0"),
    ];
    let name = Signature::new(b"Heuristics.Encrypted.Zip");
    check_same(&[encrypted], Finding::Encrypted(name)).await;
    let limit: &[Do] = &[
        Do::TakeAll,
        Do::Say(b"stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0"),
    ];
    check_same(&[limit], Finding::TooLarge).await;
    const IN_PIECES: &[Do] = &[
        Do::TakeAll,
        Do::Say(b"stream: Eic"),
        Do::Sleep(Duration::from_millis(20)),
        Do::Say(b"ar FOUND\0"),
    ];
    check_same(&[IN_PIECES], infected("Eicar")).await;
}

#[tokio::test]
async fn an_early_answer_ends_the_stream() {
    let size: &[Do] = &[
        Do::Take(1000),
        Do::Say(b"INSTREAM size limit exceeded. ERROR\0"),
    ];
    check_same(&[size], Finding::TooLarge).await;
    let found: &[Do] = &[Do::Take(1000), Do::Say(b"stream: Eicar FOUND\0")];
    check_same(&[found], infected("Eicar")).await;
}

/// Never "clean" without clamd's word for all of the message.
#[tokio::test]
async fn what_is_no_answer_is_not_clean() {
    let premature: &[Do] = &[Do::Take(1000), Do::Say(b"stream: OK\0"), Do::Hang];
    // A small message is one write: there is no "before" that could be seen.
    let fake = Fake::start(&[premature]);
    let one = servers(vec![fake.address.clone()]);
    let found = scan(&one, limits(), 2 * MEGABYTE, 65_535).await;
    let Finding::Unscanned(reason) = &found else {
        panic!("{found:?}");
    };
    assert!(reason.contains("before its end was sent"), "{reason}");

    let check = async |say: &'static [Do], part: &str| check_same(&[say], unscanned(part)).await;
    check(&[Do::TakeAll], "without an answer").await;
    check(&[Do::TakeAll, Do::Say(b"stream: OK")], "in the middle").await;
    check(
        &[Do::TakeAll, Do::Say(b"stream: OK\0stream: X FOUND\0")],
        "more than one answer",
    )
    .await;
    check(
        &[Do::TakeAll, Do::Say(b"220 mx ESMTP\r\n\0")],
        "220 mx ESMTP",
    )
    .await;
    check(&[Do::TakeAll, Do::Say(b"\0")], "not one that clamd gives").await;
    check(&[Do::TakeAll, Do::Say(&[b'x'; 5000])], "longer than").await;
    check(
        &[Do::TakeAll, Do::Say(b"stream: Can't open file ERROR\0")],
        "open file ERROR",
    )
    .await;
    check(&[Do::TakeAll, Do::Hang], "no answer within 2s").await;
    check(
        &[Do::TakeAll, Do::Say(b"stream: OK"), Do::Hang],
        "no answer",
    )
    .await;
}

#[tokio::test]
async fn clamds_that_take_nothing_or_go_away() {
    check(
        &[&[Do::Hang]],
        &unscanned("no answer within 2s"),
        &unscanned("takes no more data for 2s"),
    )
    .await;
    check(
        &[&[Do::Take(500)]],
        &unscanned("clamd"),
        &unscanned("connection lost"),
    )
    .await;
    let servers = servers(vec![Fake::absent()]);
    let found = scan(&servers, limits(), 10, 10).await;
    let Finding::Unscanned(reason) = found else {
        panic!("{found:?}");
    };
    assert!(reason.contains("cannot connect"), "{reason}");
}

/// A clamd that is restarted under a message gets it once more; one that dies twice does not.
#[tokio::test]
async fn a_message_is_sent_again() {
    let dies: &[Do] = &[Do::Take(100)];
    check_same(&[dies, CLEAN], Finding::Clean).await;
    check_same(&[dies, FOUND], infected("Eicar")).await;
    let lost = unscanned("clamd: c");
    check(&[dies, dies, CLEAN], &lost, &lost).await;
}

/// Whatever the first does, the second is sent the whole message.
#[tokio::test]
async fn the_next_server_gets_every_byte() {
    let failures: [&[Do]; 6] = [
        &[Do::Take(30)],
        &[Do::Take(500_000)],
        &[Do::TakeAll],
        &[Do::TakeAll, Do::Say(b"what?\0")],
        &[Do::TakeAll, Do::Say(b"stream: x ERROR\0")],
        &[Do::TakeAll, Do::Hang],
    ];
    for failure in failures {
        for (body, piece) in [(0, 1), (10, 3), (90_000, 999), (MEGABYTE, 65_535)] {
            let first = Fake::start(&[failure]);
            let second = Fake::start(&[CLEAN]);
            let servers = servers(vec![first.address.clone(), second.address.clone()]);
            let found = scan(&servers, limits(), body, piece).await;
            // An answer that clamd gives before the end is one of its own.
            assert_eq!(found, Finding::Clean, "{failure:?} {body}");
            let streams = second.streams();
            assert_eq!(streams.len(), 1, "{failure:?} {body}");
            assert!(streams[0] == expected(body), "{failure:?} {body}");
        }
    }
}

#[tokio::test]
async fn any_pieces_are_the_same_message() {
    for piece in [1, 7, BATCH - 1, BATCH, BATCH + 1, 65_535] {
        let fake = Fake::start(&[CLEAN]);
        let servers = servers(vec![fake.address.clone()]);
        let found = scan(&servers, limits(), 100_000, piece).await;
        assert_eq!(found, Finding::Clean);
        assert!(fake.streams() == [expected(100_000)], "pieces of {piece}");
    }
}

#[tokio::test]
async fn our_own_limit_counts_header_and_body() {
    let fake = Fake::start(&[CLEAN]);
    let servers = servers(vec![fake.address.clone()]);
    let header = "Subject: a\r\n b\r\n\r\n".len();
    for (body, finding) in [(1000, Finding::Clean), (1001, Finding::TooLarge)] {
        let limits = Limits {
            size: (header + 1000) as u64,
            ..limits()
        };
        assert_eq!(scan(&servers, limits, body, 100).await, finding);
    }
}

/// clamd sees the message grow before the MTA has sent all of it.
#[tokio::test]
async fn the_message_is_streamed() {
    let found_early: &[Do] = &[Do::Take(100_000), Do::Say(b"stream: Early FOUND\0")];
    let fake = Fake::start(&[found_early]);
    let servers = servers(vec![fake.address.clone()]);
    let mut scan = Scan::new(servers, Arc::new(limits()));
    scan.end_of_headers().await;
    for _ in 0..4 {
        scan.body(Bytes::from(vec![b'x'; 50_000])).await;
    }
    // Everybody's turn comes, however slowly: all of this is one thread.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scan.body(Bytes::from(vec![b'x'; 50_000])).await;
    assert!(matches!(scan.live, Live::Answered(..)));
    assert_eq!(scan.finish().await.finding, infected("Early"));
}

/// A server that hangs costs the message that found out, and none after it until it is back.
#[tokio::test]
async fn a_server_that_hangs_is_asked_last() {
    let hangs: &[Do] = &[Do::Hang];
    let pong: &[Do] = &[Do::Take(6), Do::Say(b"PONG\0")];
    let first = Fake::start(&[hangs, hangs, pong, CLEAN]);
    let second = Fake::start(&[CLEAN]);
    let servers = servers(vec![first.address.clone(), second.address.clone()]);
    let order = || servers.candidates().first().unwrap().address.clone();
    assert_eq!(scan(&servers, limits(), 10, 10).await, Finding::Clean);
    assert_eq!(order(), second.address);
    // The first probe hangs, the second is answered.
    for _ in 0..1500 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if order() == first.address {
            break;
        }
        assert_eq!(scan(&servers, limits(), 10, 10).await, Finding::Clean);
    }
    assert_eq!(scan(&servers, limits(), 10, 10).await, Finding::Clean);
    assert_eq!(first.streams(), [expected(10)]);
}

#[tokio::test]
async fn a_full_disk_costs_the_second_attempt_only() {
    let full = || Limits {
        spool: spool::Limits {
            memory: 10,
            directory: "/nonexistent".into(),
        },
        ..limits()
    };
    let fake = Fake::start(&[CLEAN, &[Do::Take(100)]]);
    let servers = servers(vec![fake.address.clone()]);
    assert_eq!(scan(&servers, full(), 50_000, 999).await, Finding::Clean);
    let found = scan(&servers, full(), 50_000, 999).await;
    assert!(matches!(found, Finding::Unscanned(_)), "{found:?}");
    assert_eq!(fake.streams().len(), 1);
}

#[tokio::test]
async fn messages_rotate() {
    let fakes = [Fake::start(&[CLEAN]), Fake::start(&[CLEAN])];
    let addresses = fakes.iter().map(|fake| fake.address.clone()).collect();
    let settings = Settings {
        order: Order::Rotate,
        ..settings(addresses)
    };
    let servers = Arc::new(Servers::new(settings));
    for _ in 0..4 {
        assert_eq!(scan(&servers, limits(), 10, 10).await, Finding::Clean);
    }
    assert_eq!(fakes.map(|fake| fake.streams().len()), [2, 2]);
}

#[tokio::test]
async fn questions_without_data() {
    let check = async |request, say: &'static [Do], expected: &str| {
        let fake = Fake::start(&[say]);
        let deadlines = settings(Vec::new()).deadlines;
        let shown = match ask(&fake.address, request, deadlines).await {
            Ok(text) => text,
            Err(trouble) => trouble.to_string(),
        };
        assert_eq!(shown, expected);
    };
    let pong: &[Do] = &[Do::TakeAll, Do::Say(b"PONG\0")];
    check(Request::Ping, pong, "PONG").await;
    let version: &[Do] = &[Do::TakeAll, Do::Say(b"ClamAV 1.4.6/1/x\0")];
    check(Request::Version, version, "ClamAV 1.4.6/1/x").await;
    let unknown: &[Do] = &[Do::TakeAll, Do::Say(b"UNKNOWN COMMAND\0")];
    check(Request::Ping, unknown, "clamd reports \"UNKNOWN COMMAND\"").await;
    check(Request::Ping, &[Do::Hang], "no answer within 2s").await;
}

/// A server that says nothing takes its chunks one by one: the sum of the waits has a limit.
#[tokio::test]
async fn a_server_that_is_always_slow_is_given_up() {
    const SLOW: &[Do] = &[
        Do::Take(400_000),
        Do::Sleep(Duration::from_millis(200)),
        Do::Take(400_000),
        Do::Sleep(Duration::from_millis(200)),
        Do::Drain,
    ];
    let fake = Fake::start(&[SLOW]);
    let servers = servers(vec![fake.address.clone()]);
    let limits = Limits {
        total: Duration::from_millis(250),
        ..limits()
    };
    let found = scan(&servers, limits, 2 * MEGABYTE, 65_535).await;
    let Finding::Unscanned(reason) = found else {
        panic!("{found:?}");
    };
    assert!(reason.contains("takes no more data"), "{reason}");
}
