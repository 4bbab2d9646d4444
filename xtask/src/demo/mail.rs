//! The messages of the demonstration, written here. Test strings that scanners look for are put
//! together from halves, so that no scanner stops at this source.

use crate::clamd::eicar;
use crate::postfix::{DOMAIN, HOSTNAME};

/// A sender outside.
pub(super) const SENDER: &str = "anna@sender.test";
/// The client that such mail comes from: an address kept for documentation (RFC 5737).
pub(super) const CLIENT: (&str, &str) = ("mail.sender.test", "192.0.2.7");
/// Octets of the big attachment.
const BIG: usize = 10 << 20;

/// The spam test string, as SpamAssassin and rspamd know it.
fn gtube() -> String {
    let halves = [
        "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
        "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
    ];
    halves.concat()
}

/// An ordinary message from outside.
pub(super) fn ordinary(to: &str) -> Vec<u8> {
    let body =
        "Hello,\r\n\r\nthe minutes of Tuesday are ready; shall we meet at ten?\r\n\r\nAnna\r\n";
    message(SENDER, to, "Minutes of Tuesday", &[], body)
}

/// Mail of one of our own people to the world.
pub(super) fn outgoing(from: &str) -> Vec<u8> {
    let body = "Dear Anna,\r\n\r\nten o'clock is fine.  See you there.\r\n\r\nBerta\r\n";
    message(from, SENDER, "Re: Minutes of Tuesday", &[], body)
}

/// A message that brings results of an authentication which it claims we have made.
pub(super) fn forged(to: &str) -> Vec<u8> {
    let forged = format!("Authentication-Results: {HOSTNAME}; dkim=pass header.d=bank.test");
    let other = "Authentication-Results: elsewhere.test; spf=pass smtp.mailfrom=sender.test";
    let body = "Please trust me.\r\n";
    message(SENDER, to, "Results", &[&forged, other], body)
}

/// The spam test message.
pub(super) fn spam(to: &str) -> Vec<u8> {
    let body = format!("This is the test of the filter:\r\n\r\n{}\r\n", gtube());
    message(SENDER, to, "Test", &[], &body)
}

/// The virus test file as an attachment.
pub(super) fn infected(to: &str) -> Vec<u8> {
    attached(
        SENDER,
        to,
        "The file that you asked for",
        "eicar.com",
        &eicar(),
    )
}

/// A big attachment of bytes without pattern.
pub(super) fn big(to: &str) -> Vec<u8> {
    attached(SENDER, to, "Pictures", "pictures.bin", &noise(BIG))
}

/// The `index`-th of a series of generated messages, no two alike: plain, with HTML, with an
/// attachment.
pub(super) fn generated(index: usize, to: &str) -> Vec<u8> {
    let from = format!("writer{index}@sender.test");
    let subject = format!("Report number {index}");
    let text = format!("Paragraph of report {index}, with nothing special in it.\r\n")
        .repeat(index % 40 + 1);
    match index % 3 {
        0 => message(&from, to, &subject, &[], &text),
        1 => {
            let html = format!("<html><body><p>{text}</p></body></html>\r\n");
            let kind = [
                "MIME-Version: 1.0",
                "Content-Type: text/html; charset=utf-8",
            ];
            message(&from, to, &subject, &kind, &html)
        }
        _ => attached(&from, to, &subject, "report.bin", &noise(index * 100)),
    }
}

fn message(from: &str, to: &str, subject: &str, more: &[&str], body: &str) -> Vec<u8> {
    let mut text = String::new();
    for line in more {
        text.push_str(line);
        text.push_str("\r\n");
    }
    let id = format!(
        "{}.{}",
        to.split('@').next().unwrap_or_default(),
        subject.len()
    );
    let date = "Tue, 05 Aug 2025 10:00:00 +0000";
    text.push_str(&format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {date}\r\n\
         Message-ID: <{id}@{DOMAIN}>\r\n\r\n{body}"
    ));
    text.into_bytes()
}

fn attached(from: &str, to: &str, subject: &str, name: &str, content: &[u8]) -> Vec<u8> {
    let kind = [
        "MIME-Version: 1.0",
        "Content-Type: multipart/mixed; boundary=\"part\"",
    ];
    let body = format!(
        "--part\r\nContent-Type: text/plain\r\n\r\nPlease find it attached.\r\n--part\r\n\
         Content-Type: application/octet-stream; name=\"{name}\"\r\n\
         Content-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}--part--\r\n",
        base64_lines(content)
    );
    message(from, to, subject, &kind, &body)
}

/// Bytes that look random and are always the same (a linear congruential generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Base64 in lines of 76 characters (RFC 2045 §6.8).
fn base64_lines(content: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(content.len() * 4 / 3 + content.len() / 28 + 8);
    for line in content.chunks(57) {
        for group in line.chunks(3) {
            let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for place in 0..4 {
                let index = (bits >> (18 - 6 * place)) & 63;
                let letter = ALPHABET[usize::try_from(index).unwrap_or(0)];
                text.push(if place > group.len() {
                    '='
                } else {
                    char::from(letter)
                });
            }
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_and_folded() {
        for (content, text) in [
            (&b""[..], ""),
            (b"f", "Zg==\r\n"),
            (b"fo", "Zm8=\r\n"),
            (b"foo", "Zm9v\r\n"),
            (b"foobar", "Zm9vYmFy\r\n"),
        ] {
            assert_eq!(base64_lines(content), text);
        }
        let lines = base64_lines(&[0xff; 58]);
        assert_eq!(lines, format!("{}\r\n/w==\r\n", "/".repeat(76)));
    }

    #[test]
    fn the_test_strings_are_whole() {
        assert_eq!(gtube().len(), 68);
        let text = String::from_utf8(spam("a@demo.test")).unwrap();
        assert!(text.contains("XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE"));
        assert!(big("a@demo.test").len() > BIG * 4 / 3);
    }
}
