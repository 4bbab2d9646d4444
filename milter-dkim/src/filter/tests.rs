//! The filter as an MTA meets it: the protocol's own client and server on a stream in memory.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use milter_proto::message::{Address, Connection, Path};
use milter_proto::net::{Client, Limits, Peer, Response, Stop, Timeouts, converse};
use milter_proto::session::Event;
use milter_proto::wire::{Offer, VERSION};
use tokio::io::DuplexStream;

use super::*;
use crate::auth::dkim::canonical::Pair;
use crate::auth::dkim::private_key::{PrivateKey, RsaSize};
use crate::auth::dkim::sign::Signer;
use crate::auth::dkim::verify::Policy;
use crate::auth::dkim::verify_message;
use crate::auth::dns::KeyFile;
use crate::auth::domain::Domain;
use crate::auth::header::split;
use crate::auth::resolver::{Options, Resolver, Source};
use crate::config::Settings;
use crate::decide::Mode;
use crate::keys::{Entry, SigningTable};

/// 2024-01-01.
const NOW: u64 = 1_704_067_200;

/// What the defaults mean, with an RSA and an Ed25519 key for example.org, known to verifiers.
fn meaning() -> Meaning {
    let domain = Domain::parse("example.org").unwrap();
    let mut file = KeyFile::default();
    let keys = [
        ("ed", PrivateKey::generate_ed25519().unwrap()),
        ("rsa", PrivateKey::generate_rsa(RsaSize::Bits2048).unwrap()),
    ];
    let entries = keys.map(|(selector, key)| {
        let selector = Domain::parse(selector).unwrap();
        let name = Domain::parse(format!("{selector}._domainkey.{domain}")).unwrap();
        file.insert(name, key.to_record().unwrap());
        let (domain, key) = (domain.clone(), Arc::new(key));
        Entry {
            signer: Signer {
                domain,
                selector,
                key,
            },
            subdomains: false,
        }
    });
    Meaning {
        table: SigningTable::new(entries.to_vec()),
        dns: Arc::new(Source::File(file)),
        clock: || NOW,
        ..Settings::default().mean().unwrap()
    }
}

/// An MTA with one connection to a filter.
struct Mta {
    client: Client<DuplexStream>,
    exact: bool,
}

/// A message as a list of fields (name, and everything after the colon) and a body.
type Text<'a> = (&'a [(&'a str, &'a str)], &'a str);

const INSIDE: &str = "127.0.0.1:25";
const OUTSIDE: &str = "203.0.113.1:25";

impl Mta {
    /// Connects as a client; `steps` is what the MTA offers.
    async fn connect(meaning: Meaning, client: &str, steps: Steps) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let filter = Arc::new(DkimFilter::new(meaning));
        let limits = Limits::default();
        tokio::spawn(async move {
            let peer = Peer::from("test");
            converse(filter, far, peer, limits, Stop::never()).await
        });
        let offer = Offer {
            version: VERSION,
            actions: Actions::all(),
            steps,
            macros: Vec::new(),
        };
        let negotiated = Client::negotiate(near, &offer, Timeouts::default()).await;
        let exact = steps.contains(Steps::LEADING_SPACE);
        let mut mta = Self {
            client: negotiated.unwrap().0,
            exact,
        };
        let address = match client.parse::<SocketAddr>() {
            Ok(address) => Address::Inet(address),
            Err(_) => Address::Unknown,
        };
        let hostname = Bytes::from_static(b"client");
        let connect = Event::Connect(Connection { hostname, address });
        mta.tell(connect, &[("j", "mx.example.org")]).await;
        mta
    }

    async fn tell(&mut self, event: Event, macros: &[(&str, &str)]) -> Response {
        let owned = |text: &str| Bytes::from(text.to_owned());
        let macros: Vec<_> = macros.iter().map(|(n, v)| (owned(n), owned(v))).collect();
        self.client.send(event, Some(&macros)).await.unwrap()
    }

    /// Sends a message, logged in under a name or not; the body by so many bytes.
    async fn send(&mut self, login: &str, message: Text<'_>, chunk: usize) -> Response {
        let sender = Path {
            address: Bytes::from_static(b"<joe@example.org>"),
            args: Vec::new(),
        };
        self.tell(Event::Mail(sender), &[("{auth_authen}", login)])
            .await;
        for (name, value) in message.0 {
            let taken = if self.exact {
                None
            } else {
                value.strip_prefix(' ')
            };
            let value = taken.unwrap_or(value).replace("\r\n", "\n");
            let header = message::Header::new((*name).to_owned(), value);
            self.tell(Event::Header(header), &[]).await;
        }
        self.tell(Event::EndOfHeaders, &[("i", "4QUEUE")]).await;
        for chunk in message.1.as_bytes().chunks(chunk) {
            let chunk = Bytes::copy_from_slice(chunk);
            if self.tell(Event::Body(chunk), &[]).await.skip {
                break;
            }
        }
        self.tell(Event::EndOfMessage, &[("i", "4QUEUE")]).await
    }
}

/// A message that a client sends alone on its connection.
async fn send(meaning: &Meaning, client: &str, login: &str, message: Text<'_>) -> Response {
    let mut mta = Mta::connect(meaning.clone(), client, Steps::all()).await;
    mta.send(login, message, 5).await
}

/// The edits as lines, folds made visible.
fn lines(edits: &[Edit]) -> Vec<String> {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    let line = |edit: &Edit| match edit {
        Edit::InsertHeader { index, name, value } => {
            format!("insert {index} {}:{}", text(name), text(value))
        }
        Edit::ChangeHeader { index, name, value } => {
            format!("change {index} {}:{}", text(name), text(value))
        }
        other => format!("{other:?}"),
    };
    edits.iter().map(line).collect()
}

/// A message as text, with inserted fields on top, as an MTA would deliver it.
fn delivered(edits: &[Edit], exact: bool, message: Text<'_>) -> String {
    let mut out = String::new();
    for edit in edits.iter().rev() {
        let Edit::InsertHeader {
            index: 0,
            name,
            value,
        } = edit
        else {
            panic!("{edit:?}");
        };
        let value = String::from_utf8(value.to_vec())
            .unwrap()
            .replace('\n', "\r\n");
        let space = if exact { "" } else { " " };
        let name = String::from_utf8(name.to_vec()).unwrap();
        write!(out, "{name}:{space}{value}\r\n").unwrap();
    }
    for (name, value) in message.0 {
        write!(out, "{name}:{value}\r\n").unwrap();
    }
    out + "\r\n" + message.1
}

const OURS: Text<'_> = (
    &[
        ("From", "  Joe <joe@example.org>"),
        ("To", " a@example.com,\r\n\tb@example.com"),
        ("Subject", " a  b "),
        ("X", ""),
    ],
    "Hello \r\n\r\n world\r\n\r\n",
);

#[tokio::test]
async fn our_mail_is_signed_and_verifies_whatever_was_negotiated() {
    let policy = Policy::default();
    for pair in Pair::ALL {
        for exact in [true, false] {
            let mut meaning = meaning();
            meaning.style.canonicalization = pair;
            let mut steps = Steps::all();
            steps.set(Steps::LEADING_SPACE, exact);
            let mut mta = Mta::connect(meaning.clone(), INSIDE, steps).await;
            let response = mta.send("", OURS, 3).await;
            assert_eq!(response.verdict, Verdict::Continue);
            let text = delivered(&response.edits, exact, OURS);
            let within = Duration::from_secs(60);
            let reports = verify_message(text.as_bytes(), &meaning.dns, &policy, within, NOW);
            let reports = reports.await.unwrap();
            let words: Vec<String> = reports.iter().map(ToString::to_string).collect();
            let expected = [
                "pass d=example.org s=rsa a=rsa-sha256",
                "pass d=example.org s=ed a=ed25519-sha256",
            ];
            assert_eq!(words, expected, "{pair} exact={exact}\n{text}");
        }
    }
}

#[tokio::test]
async fn who_is_signed_and_who_is_verified() {
    let meaning = meaning();
    let signs = |response: &Response| {
        lines(&response.edits)
            .iter()
            .filter(|line| line.contains("DKIM-Signature:"))
            .count()
    };
    let foreign: Text<'_> = (&[("From", " joe@example.com")], "x\r\n");
    let none: Text<'_> = (&[("Subject", " x")], "x\r\n");
    let two: Text<'_> = (
        &[("From", " joe@example.org"), ("From", " eve@example.org")],
        "x\r\n",
    );
    let cases = [
        (INSIDE, "", OURS, 2),
        (OUTSIDE, "joe", OURS, 2),
        (OUTSIDE, "", OURS, 0),
        ("unknown", "", OURS, 0),
        (INSIDE, "", foreign, 0),
        (INSIDE, "", none, 0),
        (INSIDE, "", two, 0),
    ];
    for (client, login, message, expected) in cases {
        let response = send(&meaning, client, login, message).await;
        assert_eq!(signs(&response), expected, "{client} {login:?} {message:?}");
        let report = lines(&response.edits)
            .iter()
            .any(|line| line.contains("dkim=none"));
        assert_eq!(report, expected == 0, "{client} {login:?} {message:?}");
    }
}

#[tokio::test]
async fn forged_results_go_from_the_last_to_the_first() {
    let message: Text<'_> = (
        &[
            ("Authentication-Results", " mx.example.org; dkim=pass"),
            ("From", " joe@example.com"),
            ("authentication-results", " other.example.org; dkim=pass"),
            (
                "Authentication-Results",
                "\r\n\t(x) \"MX.example.org\" 1; spf=pass",
            ),
            (
                "Authentication-Results",
                " mx.example.org.example.net; none",
            ),
        ],
        "x\r\n",
    );
    let response = send(&meaning(), OUTSIDE, "", message).await;
    let expected = [
        "change 3 Authentication-Results:",
        "change 1 Authentication-Results:",
        "insert 0 Authentication-Results: mx.example.org;\\n\\tdkim=none",
    ];
    assert_eq!(lines(&response.edits), expected);
    let mut named = meaning();
    named.authserv_id = Some("other.example.org".to_owned());
    let response = send(&named, OUTSIDE, "", message).await;
    let expected = [
        "change 2 Authentication-Results:",
        "insert 0 Authentication-Results: other.example.org;\\n\\tdkim=none",
    ];
    assert_eq!(lines(&response.edits), expected);
}

#[tokio::test]
async fn more_forged_results_than_are_removed_refuse_the_message() {
    for (count, refused) in [(FORGED_MAX, false), (FORGED_MAX + 1, true)] {
        let forged = ("Authentication-Results", " mx.example.org; dkim=pass");
        let fields = vec![forged; count];
        let response = send(&meaning(), OUTSIDE, "", (&fields, "x\r\n")).await;
        let edits = if refused { 0 } else { count + 1 };
        assert_eq!(response.edits.len(), edits, "{count}");
        let reply = matches!(&response.verdict, Verdict::Reply(reply) if reply.code() == 550);
        assert_eq!(reply, refused, "{count}: {:?}", response.verdict);
    }
}

#[tokio::test]
async fn modes_are_kept() {
    for (mode, client, expected) in [
        (Mode::Sign, OUTSIDE, ""),
        (Mode::Sign, INSIDE, "insert 0 DKIM-Signature:"),
        (Mode::Verify, INSIDE, "insert 0 Authentication-Results:"),
        (Mode::Verify, OUTSIDE, "insert 0 Authentication-Results:"),
    ] {
        let meaning = Meaning { mode, ..meaning() };
        let response = send(&meaning, client, "", OURS).await;
        let first = lines(&response.edits).first().cloned().unwrap_or_default();
        assert!(first.starts_with(expected), "{mode:?} {client}: {first}");
        assert_eq!(
            first.is_empty(),
            expected.is_empty(),
            "{mode:?} {client}: {first}"
        );
    }
}

#[tokio::test]
async fn the_rest_of_a_body_is_skipped_when_nothing_depends_on_it() {
    let mut mta = Mta::connect(meaning(), OUTSIDE, Steps::all()).await;
    for (signature, skips) in [
        (None, true),
        (Some(" junk"), true),
        (
            Some(" v=1; a=rsa-sha256; d=a.example; s=s; h=From; bh=YWJj; b=YWJj"),
            false,
        ),
    ] {
        mta.tell(
            Event::Mail(Path {
                address: Bytes::new(),
                args: vec![],
            }),
            &[],
        )
        .await;
        for (name, value) in [
            ("From", Some(" a@b.example")),
            ("DKIM-Signature", signature),
        ] {
            if let Some(value) = value {
                let header = message::Header::new(name, value.to_owned());
                mta.tell(Event::Header(header), &[]).await;
            }
        }
        mta.tell(Event::EndOfHeaders, &[]).await;
        let response = mta.tell(Event::Body(Bytes::from_static(b"x")), &[]).await;
        assert_eq!(response.skip, skips, "{signature:?}");
        mta.tell(Event::EndOfMessage, &[]).await;
    }
}

#[tokio::test]
async fn messages_on_one_connection_do_not_mix() {
    let mut mta = Mta::connect(meaning(), INSIDE, Steps::all()).await;
    let foreign: Text<'_> = (
        &[
            ("From", " joe@example.com"),
            ("Authentication-Results", " mx.example.org; none"),
        ],
        "x\r\n",
    );
    for _ in 0..2 {
        let verified = mta.send("", foreign, 9).await;
        let expected = [
            "change 1 Authentication-Results:",
            "insert 0 Authentication-Results: mx.example.org;\\n\\tdkim=none",
        ];
        assert_eq!(lines(&verified.edits), expected);
        assert_eq!(mta.send("", OURS, 9).await.edits.len(), 2);
    }
}

#[tokio::test]
async fn a_header_that_is_too_large_is_told_and_passes() {
    let large = format!(" {}", "x".repeat(2000));
    let fields = [("From", " joe@example.org"), ("X-Large", large.as_str())];
    let message: Text<'_> = (&fields, "x\r\n");
    let meaning = Meaning {
        header_max: 1500,
        ..meaning()
    };
    let response = send(&meaning, OUTSIDE, "", message).await;
    assert_eq!(response.verdict, Verdict::Continue);
    let expected = "insert 0 Authentication-Results: mx.example.org;\\n\\tdkim=permerror \
                    reason=\\\"the header is larger than 1500 bytes\\\"";
    assert_eq!(lines(&response.edits), [expected]);
    let sign = Meaning {
        mode: Mode::Sign,
        ..meaning
    };
    assert_eq!(send(&sign, INSIDE, "", message).await.edits, []);
}

#[tokio::test]
async fn a_message_with_too_much_to_sign_passes_unsigned() {
    let fields = vec![("To", " a@example.com"); 1000];
    let fields = [&[("From", " joe@example.org")], &fields[..]].concat();
    let response = send(&meaning(), INSIDE, "", (&fields, "x\r\n")).await;
    assert_eq!(
        (response.verdict, response.edits),
        (Verdict::Continue, vec![])
    );
}

#[tokio::test]
async fn name_servers_that_are_silent_cost_a_bounded_time() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        name_servers: vec![silent.local_addr().unwrap()],
        timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let signed = send(&meaning(), INSIDE, "", OURS).await;
    let text = delivered(&signed.edits, true, OURS);
    let (header, body) = split(text.as_bytes(), 1 << 16).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let owned: Vec<_> = header
        .fields()
        .iter()
        .map(|field| (text(&field.name), text(&field.value)))
        .collect();
    let fields: Vec<_> = owned
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let slow = Meaning {
        dns: Arc::new(Source::Network(Resolver::new(&options).unwrap())),
        keys_within: Duration::from_millis(100),
        ..meaning()
    };
    let start = std::time::Instant::now();
    let response = send(&slow, OUTSIDE, "", (&fields, &text(body))).await;
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    let results = lines(&response.edits).concat();
    let reason = "dkim=temperror reason=\\\"key unavailable: time-out\\\"";
    assert_eq!(results.matches(reason).count(), 2, "{results}");
}

#[test]
fn spaces_that_the_mta_took_are_given_back() {
    let cases = [
        (true, "", ""),
        (true, " a", " a"),
        (true, "a", "a"),
        (false, "a", " a"),
        (false, " a", "  a"),
        (false, "", ""),
        (false, "\ta", "\ta"),
        (false, "\n a", "\r\n a"),
    ];
    for (exact, value, expected) in cases {
        let header = message::Header::new("A", value);
        assert_eq!(
            field(&header, exact).value,
            expected.as_bytes(),
            "{exact} {value:?}"
        );
    }
}
