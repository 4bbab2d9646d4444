//! Failing filters, limits, stopping, and the recorded conversations in one piece and in many.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::duplex;

use super::*;
use crate::filter::{Context, Filter, Needs, Transaction};
use crate::net::{Peer, Stop, converse};
use crate::session::tests::captures::{Capture, POSTFIX, SENDMAIL};
use crate::verdict::{BodyVerdict, Outcome};
use crate::wire::{Actions, Steps};

fn quick() -> Limits {
    Limits {
        stage: Duration::from_millis(100),
        finish: Duration::from_secs(5),
        progress: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// Whatever a filter does in a message, the answer is `t`, and the next message is not affected.
async fn fails(sender: &str, before: &[&[u8]], failing: &[u8]) {
    let server = Server::start(quick()).await;
    let mut mta = server.mta().await;
    mta.greet().await;
    let mail = format!("M<{sender}>\0");
    let sent: Vec<&[u8]> = [mail.as_bytes()]
        .into_iter()
        .chain(before.iter().copied())
        .collect();
    let answers: Vec<&[u8]> = vec![b"c"; sent.len()];
    if failing == mail.as_bytes() {
        mta.turn(&[failing], &[b"t"]).await;
    } else {
        mta.turn(&sent, &answers).await;
        mta.turn(&[failing], &[b"t"]).await;
    }
    mta.message("edit@end").await;
    mta.turn(&[b"E"], &[b"hX-Size\x004\0", b"c"]).await;
    mta.send(&frames(&[b"A", b"A", b"Q"])).await;
    mta.expect_close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_filter_that_panics_or_sleeps_defers() {
    let rcpt: &[u8] = b"R<r@x>\0";
    for act in ["panic", "sleep"] {
        let at = |stage: &str| format!("{act}@{stage}");
        fails(&at("mail"), &[], format!("M<{}>\0", at("mail")).as_bytes()).await;
        fails(&at("rcpt"), &[], rcpt).await;
        fails(&at("header"), &[rcpt, b"T"], b"LX\0v\0").await;
        fails(&at("eoh"), &[rcpt, b"T", b"LX\0v\0"], b"N").await;
        fails(&at("body"), &[rcpt, b"T", b"N"], b"Bhi").await;
    }
    fails("panic@end", &[rcpt, b"T", b"N"], b"E").await;
    fails("forbidden@end", &[rcpt, b"T", b"N"], b"E").await;
    fails("bad@end", &[rcpt, b"T", b"N"], b"E").await;
}

#[tokio::test]
async fn a_failed_recipient_fails_the_message() {
    let server = Server::start(quick()).await;
    let mut mta = server.mta().await;
    mta.greet().await;
    mta.turn(
        &[b"M<panic@rcpt>\0", b"R<r@x>\0", b"R<s@x>\0", b"T"],
        &[b"c", b"t", b"t", b"t"],
    )
    .await;
    mta.turn(&[b"Hpanic\0"], &[b"t"]).await;
    mta.turn(&[b"Hc\0"], &[b"c"]).await;
    server.stop().await;
}

#[tokio::test]
async fn case_046_a_verdict_where_none_can_be_sent_is_given_at_the_next_question() {
    let steps = Steps::NR_HELO | Steps::NR_HEADER | Steps::NR_BODY;
    let server = Server::negotiating(steps, Limits::default()).await;
    let mut mta = server.mta().await;
    let answer = b"O\0\0\0\x06\0\0\0\x01\0\x08\x21\x80";
    let rcpt: &[u8] = b"R<r@x>\0";
    mta.turn(&[OFFER, b"Cx\0U", b"Hc\0"], &[answer, b"c"]).await;
    mta.turn(
        &[b"M<reject@header>\0", rcpt, b"T", b"LX\0v\0", b"N"],
        &[b"c", b"c", b"c", b"r"],
    )
    .await;
    mta.turn(
        &[b"M<panic@body>\0", rcpt, b"T", b"N", b"Bx", b"By", b"E"],
        &[b"c", b"c", b"c", b"c", b"t"],
    )
    .await;
    mta.turn(
        &[b"M<skip@body>\0", rcpt, b"T", b"N", b"Bx", b"By", b"E"],
        &[&b"c"[..]; 5],
    )
    .await;
    mta.turn(&[b"Hrefuse\0", b"M<s@x>\0", b"M<s@x>\0"], &[b"r", b"r"])
        .await;
    mta.turn(&[b"K", b"Cx\0U", b"M<s@x>\0", b"A"], &[b"c", b"c"])
        .await;
    server.stop().await;
}

#[tokio::test]
async fn progress_does_not_postpone_the_deadline() {
    let server = Server::start(quick()).await;
    let mut mta = server.mta().await;
    mta.greet().await;
    mta.message("doze@end").await;
    mta.turn(&[b"E"], &[b"p", b"p"]).await;
    loop {
        let mut frame = [0; 5];
        patient(mta.stream.read_exact(&mut frame)).await.unwrap();
        match &frame {
            b"\0\0\0\x01p" => {}
            b"\0\0\0\x01c" => break,
            other => panic!("{}", other.escape_ascii()),
        }
    }
    mta.message("sleep@end").await;
    mta.send(&frames(&[b"E"])).await;
    let mut frame = *b"\0\0\0\x01p";
    while frame == *b"\0\0\0\x01p" {
        patient(mta.stream.read_exact(&mut frame)).await.unwrap();
    }
    assert_eq!(&frame, b"\0\0\0\x01t");
    server.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut first = server.mta().await;
    first.greet().await;
    let mut second = server.mta().await;
    second.send(&frames(&[OFFER])).await;
    let early = tokio::time::timeout(Duration::from_millis(200), second.stream.readable()).await;
    assert!(early.is_err());
    first.send(&frames(&[b"Q"])).await;
    second.expect(&[ANSWER]).await;
    server.stop().await;
}

#[tokio::test]
async fn case_086_stopping_finishes_the_message_in_hand() {
    let server = Server::start(Limits::default()).await;
    let mut idle = server.mta().await;
    idle.greet().await;
    let mut busy = server.mta().await;
    busy.greet().await;
    busy.message("edit@end").await;
    let address = server.address.clone();
    let stopped = tokio::spawn(server.stop());
    idle.expect_close().await;
    busy.turn(&[b"E"], &[b"hX-Size\x004\0", b"c"]).await;
    busy.expect_close().await;
    let served = patient(stopped).await.unwrap();
    assert_eq!((served.connections, served.cut), (2, 0));
    assert!(crate::net::Stream::connect(&address).await.is_err());
}

#[tokio::test]
async fn stopping_has_a_deadline() {
    let limits = Limits {
        grace: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut busy = server.mta().await;
    busy.greet().await;
    busy.message("edit@end").await;
    let served = server.stop().await;
    assert_eq!((served.connections, served.cut), (1, 1));
    busy.expect_close().await;
}

/// The filter of the recordings: asks for everything, skips bodies where it may.
struct Recorder {
    steps: Steps,
}

struct Silent {
    skip: bool,
}

impl Filter for Recorder {
    type Transaction = Silent;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::all(),
            steps: self.steps,
            macros: Vec::new(),
        }
    }

    fn begin(&self, cx: Context<'_>) -> Silent {
        assert_eq!(cx.connection().unwrap().hostname, "localhost");
        Silent {
            skip: self.steps.contains(Steps::SKIP),
        }
    }
}

impl Transaction for Silent {
    async fn body(&mut self, _cx: Context<'_>, _chunk: Bytes) -> BodyVerdict {
        if self.skip {
            BodyVerdict::Skip
        } else {
            BodyVerdict::default()
        }
    }

    async fn finish(self, _cx: Context<'_>) -> Outcome {
        Outcome::default()
    }
}

/// Plays a recording to a server in pieces of `size` bytes, and compares all that it says. The
/// trait never sees unknown commands, which shows in the answer to the offer.
async fn replay(capture: &Capture, size: usize) {
    let (input, mut expected) = capture.streams();
    expected[15] |= 0x01;
    let (near, far) = duplex(1 << 20);
    let filter = Arc::new(Recorder {
        steps: Steps::from_bits_retain(capture.steps),
    });
    let peer = Peer::from("replay");
    let limits = Limits::default();
    let server = tokio::spawn(converse(filter, far, peer, limits, Stop::never()));
    let (mut read, mut write) = tokio::io::split(near);
    for piece in input.chunks(size) {
        write.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut output = Vec::new();
    patient(read.read_to_end(&mut output)).await.unwrap();
    assert_eq!(
        output.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn recordings_in_any_pieces() {
    for capture in [&POSTFIX, &SENDMAIL] {
        for size in [1, 2, 3, 7, 64, 1000, usize::MAX] {
            replay(capture, size).await;
        }
    }
}
