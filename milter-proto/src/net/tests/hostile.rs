//! Bytes that no MTA sends. Each time another connection is in the middle of a message and goes on.

use std::sync::Arc;

use tokio::io::{AsyncWriteExt, duplex};

use super::*;
use crate::net::{Peer, Stop, converse};

/// Sends `bytes` after the greeting and expects `replies`, then the end of the connection.
async fn check(name: &str, bytes: &[u8], replies: &[&[u8]]) {
    let server = Server::start(Limits::default()).await;
    let mut other = server.mta().await;
    other.greet().await;
    other.message("edit@end").await;

    let mut hostile = server.mta().await;
    hostile.greet().await;
    hostile.send(bytes).await;
    hostile.expect(replies).await;
    if !replies.is_empty() {
        hostile.send(&frames(&[b"Q"])).await;
    }
    hostile.expect_close().await;

    other.turn(&[b"E"], &[b"hX-Size\x004\0", b"c"]).await;
    other.send(&frames(&[b"Q"])).await;
    other.expect_close().await;
    let served = server.stop().await;
    assert_eq!((served.connections, served.cut), (2, 0), "{name}");
}

#[tokio::test]
async fn frames_that_are_none() {
    check("length 0", b"\0\0\0\0", &[]).await;
    check("over the cap", b"\0\x10\0\x02B", &[]).await;
    check("huge", b"\xff\xff\xff\xffB", &[]).await;
    check("SMTP", b"EHLO client.test\r\n", &[]).await;
    check("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[]).await;
    check("unknown type", &frames(&[b"X"]), &[]).await;
    check("type below 0x20", &frames(&[b"\x01"]), &[]).await;
}

#[tokio::test]
async fn payloads_that_do_not_fit() {
    check("HELO without NUL", &frames(&[b"Hc.test"]), &[]).await;
    check("HELO with NULs", &frames(&[b"Hc\0test\0"]), &[]).await;
    check("MAIL without NUL", &frames(&[b"M<s@x>"]), &[]).await;
    check(
        "MAIL parameter without NUL",
        &frames(&[b"M<s@x>\0SIZE=1"]),
        &[],
    )
    .await;
    check(
        "header without value",
        &frames(&[b"M<s@x>\0", b"LX\0"]),
        &[b"c"],
    )
    .await;
    check("macro frame without stage", &frames(&[b"D"]), &[]).await;
    check("second offer", &frames(&[OFFER]), &[]).await;
}

/// What the log says of a connection that begins with the greeting and goes on with `bytes`.
async fn says(bytes: &[u8]) -> String {
    let (near, far) = duplex(1 << 16);
    let (limits, peer) = (Limits::default(), Peer::from("test"));
    let server = tokio::spawn(converse(
        Arc::new(Probe(Steps::SKIP)),
        far,
        peer,
        limits,
        Stop::never(),
    ));
    let (_read, mut write) = tokio::io::split(near);
    let greeting = frames(&[OFFER, b"Cx\0U"]);
    write.write_all(&greeting).await.unwrap();
    write.write_all(bytes).await.unwrap();
    write.shutdown().await.unwrap();
    let ended = patient(server).await.unwrap();
    ended.map_or_else(|error| error.to_string(), |()| "no error".to_owned())
}

#[tokio::test]
async fn errors_say_who_where_and_why() {
    let check = async |bytes: &[u8], expected| assert_eq!(says(bytes).await, expected);
    check(b"", "no error").await;
    check(b"\0\0\0\0", "MTA between messages: frame of length 0").await;
    let text = "MTA between messages: the peer sends text, not milter frames \
        (an SMTP or HTTP client, or a log?): \"EHLO\"";
    check(b"EHLO x\r\n", text).await;
    let large = "MTA between messages: frame of 1048578 bytes is over the limit of 1048577";
    check(b"\0\x10\0\x02B", large).await;
    let cut = "between messages: closed inside a frame, 6 bytes of which had arrived";
    check(b"\0\0\0\x05H\xff", cut).await;
    let unknown = "MTA after MAIL: unknown frame type 'X'";
    check(&frames(&[b"M<s@x>\0", b"X"]), unknown).await;
    let nul = "MTA after MAIL: malformed frame of type 'R': a string does not end in NUL";
    check(&frames(&[b"M<s@x>\0", b"R<r@x>"]), nul).await;
    let again = "MTA between messages: 'O' is out of order";
    check(&frames(&[OFFER]), again).await;
}

#[tokio::test]
async fn commands_out_of_order_are_answered() {
    check("RCPT first", &frames(&[b"R<r@x>\0"]), &[b"t"]).await;
    check("end first", &frames(&[b"E"]), &[b"t"]).await;
    let skipped = frames(&[b"M<s@x>\0", b"R<r@x>\0", b"E", b"Bx", b"M<s@x>\0"]);
    check(
        "no end of headers",
        &skipped,
        &[b"c", b"c", b"t", b"t", b"c"],
    )
    .await;
    let nested = frames(&[b"M<s@x>\0", b"M<s@x>\0", b"R<r@x>\0"]);
    check("MAIL twice", &nested, &[b"c", b"c", b"c"]).await;
    let line = frames(&[b"M<s@x>\r\nRCPT TO:<t@x>\0"]);
    check("CR LF in an address is only bytes", &line, &[b"c"]).await;
}

#[tokio::test]
async fn a_stream_that_begins_wrongly() {
    let server = Server::start(Limits::default()).await;
    let old: &[u8] = b"O\0\0\0\x01\0\0\x01\xff\0\x1f\xff\xff";
    let poor: &[u8] = b"O\0\0\0\x06\0\0\0\0\0\x1f\xff\xff";
    let short: &[u8] = b"O\0\0\0\x06";
    for first in [&b"Hc.test\0"[..], b"E", old, poor, short] {
        let mut mta = server.mta().await;
        mta.send(&frames(&[first])).await;
        mta.expect_close().await;
    }
    assert_eq!(server.stop().await.connections, 5);
}

#[tokio::test]
async fn closing_in_the_middle() {
    let server = Server::start(Limits::default()).await;
    let message = frames(&[OFFER, b"Cx\0U", b"M<s@x>\0", b"R<r@x>\0", b"T"]);
    for end in 0..message.len() {
        let mut mta = server.mta().await;
        mta.send(&message[..end]).await;
    }
    let mut other = server.mta().await;
    other.greet().await;
    other.message("edit@end").await;
    other.turn(&[b"E"], &[b"hX-Size\x004\0", b"c"]).await;
    drop(other);
    let served = server.stop().await;
    assert_eq!(served.cut, 0);
}

#[tokio::test]
async fn case_084_bytes_that_drip() {
    let limits = Limits {
        frame_time: Duration::from_millis(200),
        idle: Duration::from_secs(3600),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut mta = server.mta().await;
    mta.send(b"\0\0").await;
    mta.expect_close().await;
    // Each frame has its own time: three slow ones take longer than that together.
    let limits = Limits {
        frame_time: Duration::from_secs(3),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut mta = server.mta().await;
    mta.greet().await;
    mta.send(b"\0\0\0").await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        mta.send(b"\x03Hx\0\0\0\0").await;
    }
    mta.expect(&[&b"c"[..]; 3]).await;
    let idle = Limits {
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(idle).await;
    let mut mta = server.mta().await;
    mta.expect_close().await;
}
