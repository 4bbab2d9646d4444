//! The language of the case files: a message in a few lines, and the symbols that it must and must
//! not get.
//!
//! Each case changes an ordinary message. Lines up to `---` change the envelope and the header or
//! say what is expected, the rest is the body:
//!
//! ```text
//! = title
//! +SYMBOL … / -SYMBOL …   it gets, it does not get        only SYMBOL …    it gets just these
//! action reject           what is done                    now DATE         when it came in
//! client IP NAME          `none`: no name; `?NAME`: one that does not lead back
//! helo NAME / sender ADDRESS (`<>`) / rcpt ADDRESS … / login NAME / local / trust AUTHSERV-ID
//! no helo / no client / no sender
//! Name: value             in place of the fields of that name
//! &Name: value            one more       !Name    without it       ^text    a line as it stands
//! ---
//! body
//! ```
//!
//! `\xNN`, `\u{N}`, `\n`, `\r`, `\t`, `\\` and `\*{N:text}` (N times) stand for what cannot be
//! typed.

use milter_spam::config::Settings;
use milter_spam::date::{self, Date};
use milter_spam::envelope::{Envelope, Reverse};
use milter_spam::facts::Message;
use milter_spam::limits::Limits;
use milter_spam::mailbox::Mailbox;
use milter_spam::scan::Scanner;
use milter_spam::score::Verdict;
use std::sync::atomic::AtomicBool;

/// One case.
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) expected: Vec<String>,
    pub(crate) unexpected: Vec<String>,
    /// Whether nothing else than `expected` may hit.
    pub(crate) exact: bool,
    action: Option<String>,
    now: i64,
    envelope: Envelope,
    trusted: Vec<String>,
    header: Vec<(String, Vec<u8>)>,
    raw_lines: Vec<Vec<u8>>,
    body: Vec<u8>,
}

/// The header of the message that cases change.
const ORDINARY: &str = "\
Received: from laptop.example.org (laptop.example.org [198.51.100.9]) \
by mail.example.org (Postfix) with ESMTPSA id 4cXyz; Thu, 9 Oct 2025 08:53:00 +0000
Date: Thu, 9 Oct 2025 08:52:50 +0000
From: Ann Lee <ann@example.org>
To: Bob <bob@example.net>
Subject: Minutes of the meeting
Message-ID: <20251009085250.GA1234@mail.example.org>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit";

const BODY: &str = "Hello Bob,\n\nhere are the minutes. See you on Monday.\n\nAnn\n";

fn seconds(date: &str) -> i64 {
    match date::parse(Some(date.as_bytes())) {
        Date::At(seconds) => seconds,
        other => panic!("{date}: {other:?}"),
    }
}

/// The cases of a file.
pub(crate) fn parse(text: &str) -> Vec<Case> {
    text.split("\n= ")
        .skip(1)
        .map(|text| {
            let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
            let (head, body) = match rest.split_once("---\n") {
                Some((head, body)) => (head, Some(body)),
                None => (rest, None),
            };
            let mut case = ordinary(title);
            for line in head.lines().filter(|line| !line.trim().is_empty()) {
                case.directive(line);
            }
            if let Some(body) = body {
                case.body = crlf(&unescape(body.trim_end_matches('\n')));
            }
            case
        })
        .collect()
}

fn ordinary(title: &str) -> Case {
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.as_bytes().to_vec())
    };
    Case {
        title: title.to_owned(),
        expected: Vec::new(),
        unexpected: Vec::new(),
        exact: false,
        action: None,
        now: seconds("Thu, 9 Oct 2025 08:53:20 +0000"),
        envelope: Envelope {
            address: "192.0.2.7".parse().ok(),
            reverse: Reverse::Verified("mail.example.org".to_owned()),
            helo: Some("mail.example.org".to_owned()),
            sender: Some(Mailbox::address_only(b"ann@example.org")),
            recipients: vec![Mailbox::address_only(b"bob@example.net")],
            ..Envelope::default()
        },
        trusted: Vec::new(),
        header: ORDINARY.lines().map(field).collect(),
        raw_lines: Vec::new(),
        body: crlf(BODY.as_bytes()),
    }
}

impl Case {
    fn directive(&mut self, line: &str) {
        if let Some(symbols) = line.strip_prefix('+') {
            return self.expected.extend(words(symbols));
        }
        if let Some(symbols) = line.strip_prefix('-') {
            return self.unexpected.extend(words(symbols));
        }
        if let Some(name) = line.strip_prefix('!') {
            return self
                .header
                .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        }
        if let Some(raw) = line.strip_prefix('^') {
            return self.raw_lines.push(unescape(raw));
        }
        if let Some(field) = line.strip_prefix('&') {
            let (name, value) = split_field(field);
            return self.header.push((name, value));
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word.ends_with(':') {
            let (name, value) = split_field(line);
            self.header
                .retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
            return self.header.push((name, value));
        }
        self.word(word, rest);
    }

    fn word(&mut self, word: &str, rest: &str) {
        let rest = String::from_utf8(unescape(rest)).unwrap();
        let mailbox =
            |address: &str| Mailbox::address_only(address.trim_matches(['<', '>']).as_bytes());
        let envelope = &mut self.envelope;
        match (word, &rest[..]) {
            ("only", symbols) => {
                self.exact = true;
                self.expected.extend(words(symbols));
            }
            ("action", action) => self.action = Some(action.to_owned()),
            ("now", date) => self.now = seconds(date),
            ("client", client) => {
                let (address, name) = client.split_once(' ').unwrap();
                envelope.address = Some(address.parse().unwrap());
                envelope.reverse = match (name, name.strip_prefix('?')) {
                    ("none", _) => Reverse::Missing,
                    (_, Some(name)) => Reverse::Unverified(name.to_owned()),
                    _ => Reverse::Verified(name.to_owned()),
                };
            }
            ("helo", name) => envelope.helo = Some(name.to_owned()),
            ("sender", address) => envelope.sender = Some(mailbox(address)),
            ("rcpt", addresses) => {
                envelope.recipients = addresses.split(' ').map(mailbox).collect()
            }
            ("login", name) => envelope.login = Some(name.to_owned()),
            ("local", "") => envelope.local = true,
            ("trust", id) => self.trusted.push(id.to_owned()),
            ("no", "helo") => envelope.helo = None,
            ("no", "sender") => envelope.sender = None,
            ("no", "client") => {
                envelope.address = None;
                envelope.reverse = Reverse::Untold;
            }
            _ => panic!("{}: {word} {rest}: not a line of a case", self.title),
        }
    }

    fn message(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.header {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        for line in &self.raw_lines {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Scans the message with the default configuration.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut scanner = scanner();
        scanner
            .reading
            .trusted_authserv_ids
            .clone_from(&self.trusted);
        let message = match (
            self.header.is_empty(),
            self.raw_lines.is_empty(),
            self.body.is_empty(),
        ) {
            (true, true, true) => Message::default(),
            _ => Message::parse(&self.message(), &Limits::default()),
        };
        let judges_client = !self.envelope.is_ours();
        let cancelled = AtomicBool::new(false);
        scanner
            .scan(
                message,
                self.envelope.clone(),
                self.now,
                judges_client,
                &cancelled,
            )
            .unwrap()
    }

    /// What is not as expected; empty when all is.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let verdict = self.verdict();
        let got: Vec<&str> = verdict.symbols.iter().map(|symbol| symbol.name).collect();
        let has = |name: &String| got.contains(&&name[..]);
        let missing = self.expected.iter().filter(|name| !has(name));
        let wrong = self.unexpected.iter().filter(|name| has(name));
        let mut mistakes: Vec<String> = missing
            .map(|name| format!("{}: {name} is missing", self.title))
            .chain(wrong.map(|name| format!("{}: {name} is wrong", self.title)))
            .collect();
        let is_expected = |name: &&&str| self.expected.iter().any(|known| known == **name);
        if self.exact {
            let more = got.iter().filter(|name| !is_expected(name));
            mistakes.extend(more.map(|name| format!("{}: {name} is too much", self.title)));
        }
        if let Some(action) = self
            .action
            .as_ref()
            .filter(|action| **action != verdict.action.name())
        {
            let got = verdict.action.name();
            mistakes.push(format!("{}: {got} instead of {action}", self.title));
        }
        mistakes
    }
}

/// A scanner of the default configuration.
pub(crate) fn scanner() -> Scanner {
    Settings::default().mean().unwrap().scanner
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

fn split_field(line: &str) -> (String, Vec<u8>) {
    let (name, value) = line.split_once(':').unwrap();
    (
        name.to_owned(),
        unescape(value.strip_prefix(' ').unwrap_or(value)),
    )
}

fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        if line.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let (bytes, length) = one_escape(escape);
        out.extend(bytes);
        rest = &escape[length..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// What an escape stands for, and how long it is.
fn one_escape(escape: &str) -> (Vec<u8>, usize) {
    let braced = |start: &str| {
        let inner = escape.strip_prefix(start)?;
        let end = inner.find('}')?;
        Some((&inner[..end], start.len() + end + 1))
    };
    if let Some((number, length)) = braced("u{") {
        let letter = char::from_u32(u32::from_str_radix(number, 16).unwrap()).unwrap();
        return (letter.to_string().into_bytes(), length);
    }
    if let Some((repeat, length)) = braced("*{") {
        let (times, text) = repeat.split_once(':').unwrap();
        return (unescape(text).repeat(times.parse().unwrap()), length);
    }
    match escape.as_bytes() {
        [b'x', ..] => (vec![u8::from_str_radix(&escape[1..3], 16).unwrap()], 3),
        [b'n', ..] => (b"\n".to_vec(), 1),
        [b'r', ..] => (b"\r".to_vec(), 1),
        [b't', ..] => (b"\t".to_vec(), 1),
        _ => (b"\\".to_vec(), 1),
    }
}
