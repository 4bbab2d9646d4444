//! Random messages: nothing panics, and what comes out stays within its bounds.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bolero::check;
use milter_spam::envelope::{Envelope, Reverse};
use milter_spam::facts::Message;
use milter_spam::mailbox::Mailbox;
use milter_spam::report::{Field, symbols};

use crate::case::scanner;

/// Pieces that lead a random message into the parsers; a byte of the input picks one.
const PIECES: [&[u8]; 48] = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b": ",
    b" ",
    b"\t",
    b"From: ",
    b"To: ",
    b"Subject: ",
    b"Date: ",
    b"Message-ID: <",
    b"Content-Type: ",
    b"multipart/mixed; boundary=b",
    b"multipart/alternative; boundary=\"b",
    b"text/html",
    b"text/plain; charset=",
    b"utf-8",
    b"iso-2022-jp",
    b"message/rfc822",
    b"application/zip",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable",
    b"--b\r\n",
    b"--b--\r\n",
    b"=?utf-8?B?",
    b"=?utf-8?q?",
    b"?=",
    b"=C3",
    b"w6k=",
    b"<a href=",
    b"</a>",
    b"<img src=cid:1 width=999>",
    b"<p style=\"font-size:0;color:#fff\">",
    b"http://",
    b"www.paypal.com",
    b"@",
    b"\"",
    b"(",
    b")",
    b"<",
    b">",
    b";",
    b"filename*0*=utf-8''%41",
    b"PK\x05\x06",
    b"\xff\xfe",
    b"\xd0\xb0",
    b"Authentication-Results: mx; dkim=pass (",
    b"Received: from [192.0.2.1] by x; ",
];

fn message(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in input {
        match PIECES.get(usize::from(*byte)) {
            Some(piece) => bytes.extend_from_slice(piece),
            None => bytes.push(*byte),
        }
    }
    bytes
}

#[test]
fn messages() {
    let mut scanner = scanner();
    scanner.reading.trusted_authserv_ids.push("mx".to_owned());
    let fields = [
        Field::XSpamdResult,
        Field::XSpamdBar,
        Field::XSpamLevel,
        Field::XSpamStatus,
        Field::XSpamScore,
    ];
    check!()
        .with_max_len(2048)
        .with_test_time(Duration::from_secs(2))
        .for_each(|input: &[u8]| {
            let bytes = message(input);
            let text = String::from_utf8_lossy(input).into_owned();
            let envelope = Envelope {
                reverse: Reverse::Verified(text.clone()),
                helo: Some(text),
                sender: Some(Mailbox::address_only(input)),
                recipients: vec![Mailbox::address_only(&bytes)],
                ..Envelope::default()
            };
            let message = Message::parse(&bytes, &scanner.reading.limits);
            let cancelled = AtomicBool::new(false);
            let verdict = scanner
                .scan(message, envelope, 0, true, &cancelled)
                .unwrap();
            assert!(verdict.score.is_finite());
            for symbol in &verdict.symbols {
                assert!(symbol.score.abs() <= 20.0, "{symbol:?}");
            }
            for field in fields {
                let value = field.value(&verdict).unwrap_or_default();
                assert!(
                    value
                        .bytes()
                        .all(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~')),
                    "{value}"
                );
                assert!(value.lines().all(|line| line.len() < 998), "{value}");
            }
            assert!(symbols(&verdict.symbols).is_ascii());
        });
}
