//! Messages that are made to be expensive: none may cost many times what an ordinary one of the
//! same size does.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use milter_spam::envelope::Envelope;
use milter_spam::facts::Message;
use nix::time::ClockId;

use crate::case::scanner;

/// How much dearer a hostile message may be. Most cost less than an ordinary one, since limits end
/// the work.
const DEARER: u32 = 50;

/// The processor's time for a scan, whatever else it has to do; the quicker of two.
fn cost(bytes: &[u8]) -> Duration {
    let scanner = scanner();
    let once = || {
        let started = spent();
        let message = Message::parse(bytes, &scanner.reading.limits);
        let cancelled = AtomicBool::new(false);
        let verdict = scanner.scan(message, Envelope::default(), 0, true, &cancelled);
        assert!(verdict.is_ok());
        spent() - started
    };
    once().min(once())
}

/// What this thread has had of the processor.
fn spent() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap().into()
}

/// A message of `size` bytes as people send them: text, HTML with links, and an attachment in
/// base64.
fn ordinary(size: usize) -> Vec<u8> {
    let text = "Hello Bob, here are the minutes, see http://www.example.com/ for more.\r\n";
    let html =
        "<p>Hello <b>Bob</b>, <a href=\"http://www.example.com/\">here</a> they are.</p>\r\n";
    let base64 = "TWludXRlcyBvZiB0aGUgbWVldGluZyBvZiB0aGUgcGFyaXNoIGNvdW5jaWwgb2YgT2N0b2Jlcg==\r\n";
    let part = |kind: &str, line: &str, bytes: usize| {
        format!(
            "--b\r\nContent-Type: {kind}\r\n\r\n{}",
            line.repeat(bytes / line.len())
        )
    };
    let message = format!(
        "From: Ann <ann@example.org>\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n{}{}{}--b--\r\n",
        part("text/plain", text, size / 10),
        part("text/html", html, size / 10),
        part(
            "image/png\r\nContent-Transfer-Encoding: base64",
            base64,
            size * 8 / 10
        ),
    );
    message.into_bytes()
}

/// Measures both side by side, and again where the hostile one was dearer: caches and clock rates
/// change.
fn check(name: &str, hostile: &str) {
    let ordinary = ordinary(hostile.len());
    let mut measured = Vec::new();
    let harmless = (0..5).any(|_| {
        let usual = cost(&ordinary).max(Duration::from_millis(5));
        let cost = cost(hostile.as_bytes());
        measured.push((cost, usual));
        cost < usual * DEARER
    });
    assert!(
        harmless,
        "{name}: this, where an ordinary message costs that: {measured:?}"
    );
}

fn html(body: &str) -> String {
    format!("Content-Type: text/html\r\n\r\n{body}")
}

#[test]
fn structure() {
    let nested: String = (0..200_000)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    check("200,000 nested multiparts", &nested);
    let siblings = "--b\r\n\r\nx\r\n".repeat(200_000);
    check(
        "200,000 parts",
        &format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{siblings}"),
    );
    check(
        "100,000 messages within each other",
        &"Content-Type: message/rfc822\r\n\r\n".repeat(100_000),
    );
    check("lines that could be boundaries", &{
        let nested: String = (0..32)
            .map(|n| {
                format!(
                    "Content-Type: multipart/mixed; boundary={}{n}\r\n\r\n--{}{n}\r\n",
                    "b".repeat(60),
                    "b".repeat(60)
                )
            })
            .collect();
        nested + &format!("--{}\r\n", "b".repeat(60)).repeat(50_000)
    });
}

#[test]
fn header() {
    let words = "=?utf-8?q?a?= ".repeat(200_000);
    check(
        "200,000 encoded words",
        &format!("Subject: {words}\r\nFrom: {words}<a@b>\r\n\r\n"),
    );
    let starts = "=?a?b?".repeat(100_000);
    check(
        "encoded words that do not end",
        &format!("Subject: {starts}\r\n\r\n"),
    );
    check("200,000 fields", &("X: y\r\n".repeat(200_000) + "\r\n"));
    let addresses = "a@b.example, ".repeat(100_000);
    check(
        "100,000 recipients",
        &format!("To: {addresses}\r\nCc: {addresses}\r\n\r\n"),
    );
    check(
        "comments within comments",
        &format!("From: {}\r\n\r\n", "(".repeat(500_000)),
    );
    let parameters = "; a*1*=b".repeat(50_000);
    check(
        "50,000 parameters",
        &format!("Content-Type: text/plain{parameters}\r\n\r\n"),
    );
    let results = "; spf=pass (p=q)".repeat(50_000);
    check(
        "50,000 results",
        &format!("Authentication-Results: a{results}\r\n\r\n"),
    );
    check(
        "folds",
        &format!("Subject: x\r\n{}\r\n", " \r\n".repeat(300_000)),
    );
}

#[test]
fn links() {
    let anchors: String = (0..100_000)
        .map(|n| format!("<a href=http://h{n}.example.com/>http://x{n}.example.com/</a>"))
        .collect();
    check("100,000 links", &html(&anchors));
    let text: String = (0..100_000)
        .map(|n| format!("http://h{n}.example.com/ "))
        .collect();
    check("100,000 addresses in text", &format!("A: b\r\n\r\n{text}"));
    for pattern in [
        "http://",
        "://",
        "a.",
        "a@",
        "www.",
        "http://a@",
        "((http://x",
        "http:",
    ] {
        let text = pattern.repeat(300_000 / pattern.len());
        check(pattern, &format!("A: b\r\n\r\n{text}"));
        check(pattern, &html(&format!("<a href=\"{text}\">{text}</a>")));
    }
}

#[test]
fn markup() {
    check(
        "100,000 open elements",
        &html(&"<div style='color:#fff'>x".repeat(100_000)),
    );
    check(
        "60,000 stray ends",
        &html(&("<b>".repeat(300) + &"</i>x".repeat(60_000))),
    );
    check(
        "a tag that does not end",
        &html(&format!("<a {}", "x=y ".repeat(60_000))),
    );
    check(
        "many attributes",
        &html(&{
            let attributes: String = (0..30_000).map(|n| format!("a{n}=b ")).collect();
            format!("<p {attributes}>x</p>")
        }),
    );
    check(
        "many declarations",
        &html(&format!("<p style='{}'>x", "color:red;".repeat(100_000))),
    );
    check("comments", &html(&"<!--".repeat(60_000)));
    check("entities", &html(&"&amp".repeat(60_000)));
    check("signs", &html(&"<".repeat(200_000)));
}

#[test]
fn encodings() {
    let kinds = "MIME-Version: 1.0\r\nContent-Transfer-Encoding:";
    check(
        "soft breaks",
        &format!("{kinds} quoted-printable\r\n\r\n{}", "= ".repeat(500_000)),
    );
    check(
        "padding",
        &format!("{kinds} base64\r\n\r\n{}", "=".repeat(1_000_000)),
    );
    check(
        "mixed words",
        &format!("A: b\r\n\r\n{}", "a\u{430}a ".repeat(200_000)),
    );
    let zip = format!("PK\x03\x04{}", "PK\x05\x06".repeat(200_000));
    check(
        "ends of archives",
        &format!("Content-Type: application/zip\r\n\r\n{zip}"),
    );
    check(
        "one long line",
        &format!("A: b\r\n\r\n{}", "x".repeat(5_000_000)),
    );
}
