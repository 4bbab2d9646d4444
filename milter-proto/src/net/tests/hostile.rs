//! Bytes that no MTA sends. Each time another connection is in the middle of a message and goes on.

use super::*;

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
async fn bytes_that_drip() {
    let limits = Limits {
        frame_time: Duration::from_millis(200),
        idle: Duration::from_secs(3600),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut mta = server.mta().await;
    mta.send(b"\0\0").await;
    mta.expect_close().await;
    let idle = Limits {
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(idle).await;
    let mut mta = server.mta().await;
    mta.expect_close().await;
}
