//! Each filter by itself: the real binary on a socket of its own, driven as an MTA does.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Result;
use milter_proto::net::Address;
use milter_proto::verdict::Verdict;
use milter_tests::clamd::{Clamd, SIGNATURE, eicar};
use milter_tests::mta::{Delivery, Envelope, Message, deliver};
use milter_tests::programs::{Daemon, run};
use milter_tests::skip::skip;

/// An ordinary message, with fields that claim a scan.
const FORGED: &str = "From: <stranger@example.net>\n\
    To: <user@example.org>\n\
    X-Virus-Scanned: by somebody else\n\
    Subject: greetings\n\
    x-virus-status: Clean\n\
    X-Virus-Scanned: twice\n\
    \n\
    Hello.\n";

/// A message with EICAR in a base64 attachment, below a field that the sender chose.
fn infected(first_field: &str, text: &str) -> Message {
    let attachment = base64(eicar().as_bytes());
    let message = format!(
        "{first_field}From: <stranger@example.net>\n\
         Subject: see attachment\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/mixed; boundary=\"part\"\n\
         \n\
         --part\n\
         Content-Type: text/plain\n\
         \n\
         {text}\n\
         --part\n\
         Content-Type: application/octet-stream; name=\"test.com\"\n\
         Content-Transfer-Encoding: base64\n\
         \n\
         {attachment}\n\
         --part--\n"
    );
    Message::parse(message.as_bytes())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}

/// The section that names the clamd, and others.
fn clamav(clamd: &Address, sections: &str) -> Result<Daemon> {
    let servers = format!("[clamd]\nservers = [\"{clamd}\"]\n");
    Daemon::start("milter-clamav", &format!("{servers}{sections}"))
}

/// A clamd, or `None` after saying why there is none.
fn clamd(test: &str, settings: &str) -> Option<Clamd> {
    if Clamd::program().is_none() {
        skip(test, "clamd is not installed");
        return None;
    }
    Some(Clamd::start(settings).unwrap())
}

async fn send(daemon: &Daemon, message: &Message) -> Delivery {
    let delivery = deliver(&daemon.address, &Envelope::default(), message).await;
    delivery.unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.process.output()))
}

#[tokio::test]
async fn clamav_marks_clean_mail_and_removes_forged_marks() {
    let Some(clamd) = clamd("clamav_marks_clean_mail", "") else {
        return;
    };
    let daemon = clamav(&clamd.address, "").unwrap();
    let message = Message::parse(FORGED.as_bytes());
    let delivery = send(&daemon, &message).await;
    assert_eq!(delivery.verdict, Verdict::Continue);
    let marked = message.edited(&delivery.edits);
    let by = "milter-clamav at mx.example.org";
    assert_eq!(marked.values("X-Virus-Scanned"), [by]);
    assert_eq!(marked.values("X-Virus-Status"), ["Clean"]);
    assert_eq!(marked.values("Subject"), ["greetings"]);
    let log = daemon.process.output();
    assert_eq!(log.matches("4TEST1").count(), 1, "{log}");
}

/// The signature is found wherever the message hides it: the type of a message is not for its
/// sender to choose.
#[tokio::test]
async fn clamav_refuses_eicar() {
    let Some(clamd) = clamd("clamav_refuses_eicar", "") else {
        return;
    };
    let daemon = clamav(&clamd.address, "").unwrap();
    let mailbox_line = "hello\n\nFrom x@y Mon Jan  1 00:00:00 2024\nA: b\n";
    // As far as a tar archive has its mark from the first byte of a message.
    let tar = format!("X: {}ustar\n", "x".repeat(254));
    for (first_field, text) in [
        ("", "hello"),
        ("", mailbox_line),
        ("%PDF-1.4: x\n", "hello"),
        ("GIF89a: x\n", "hello"),
        ("MZ: x\n", "hello"),
        ("From x: y\n", "hello"),
        (tar.as_str(), "hello"),
    ] {
        let delivery = send(&daemon, &infected(first_field, text)).await;
        let reply = format!("550 5.7.1 malware found: {SIGNATURE}");
        assert_eq!(delivery.reply(), Some(reply), "{first_field:?} {text:?}");
        assert_eq!(delivery.edits, []);
    }
}

#[tokio::test]
async fn clamav_scans_a_large_message_and_refuses_one_that_is_too_large() {
    let Some(clamd) = clamd("clamav_scans_a_large_message", "StreamMaxLength 2M") else {
        return;
    };
    let sections = "[scan]\nmax_size = \"3MB\"\nspool_memory = \"64KB\"\n";
    let daemon = clamav(&clamd.address, sections).unwrap();
    let too_large = "552 5.3.4 message is too large to be scanned for malware";
    for (megabytes, reply) in [(1, None), (2, Some(too_large)), (4, Some(too_large))] {
        let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
        let body = line.repeat(megabytes << 14);
        let message = Message::parse(format!("Subject: large\n\n{body}").as_bytes());
        let delivery = send(&daemon, &message).await;
        assert_eq!(delivery.reply().as_deref(), reply, "{megabytes} MB");
    }
    // A message at the end of which there is something to be found.
    let text = "filler\n".repeat(200_000);
    let delivery = send(&daemon, &infected("", &text)).await;
    assert!(
        delivery
            .reply()
            .is_some_and(|reply| reply.contains(SIGNATURE))
    );
}

#[tokio::test]
async fn clamav_without_clamd_follows_its_policy() {
    let nowhere: Address = "unix:/nonexistent/clamd".parse().unwrap();
    let message = Message::parse(FORGED.as_bytes());
    for (policy, reply) in [
        ("tempfail", Some("451 4.7.1")),
        ("reject", Some("554 5.7.1")),
        ("accept", None),
        ("quarantine", None),
    ] {
        let section = format!("[policy]\non_error = \"{policy}\"\n");
        let daemon = clamav(&nowhere, &section).unwrap();
        let delivery = send(&daemon, &message).await;
        match (delivery.reply(), reply) {
            (Some(got), Some(expected)) => assert!(got.starts_with(expected), "{got}"),
            (None, None) => {
                assert_eq!(delivery.verdict, Verdict::Continue, "{policy}");
                let marked = message.edited(&delivery.edits);
                let why = "no (scanner not available)";
                assert_eq!(marked.values("X-Virus-Scanned"), [why], "{policy}");
                assert_eq!(marked.values("X-Virus-Status"), ["Not scanned"]);
            }
            (got, expected) => panic!("{policy}: {got:?}, not {expected:?}"),
        }
    }
}

/// A clamd that is killed and started again while mail comes in: mail is deferred, and later
/// refused or taken as ever.
#[tokio::test]
async fn clamav_survives_its_clamd() {
    let Some(first) = clamd("clamav_survives_its_clamd", "") else {
        return;
    };
    let second = Clamd::start("").unwrap();
    let servers = format!(
        "[clamd]\nservers = [\"{}\", \"{}\"]\nprobe_interval = \"50ms\"\n",
        first.address, second.address
    );
    let daemon = Daemon::start("milter-clamav", &servers).unwrap();
    let clean = Message::parse(FORGED.as_bytes());
    assert!(send(&daemon, &clean).await.is_taken());
    drop(first);
    assert!(
        send(&daemon, &clean).await.is_taken(),
        "the second takes over"
    );
    assert!(send(&daemon, &infected("", "x")).await.reply().is_some());
    drop(second);
    let reply = send(&daemon, &clean).await.reply();
    assert!(reply.is_some_and(|reply| reply.starts_with("451 4.7.1")));
}

/// The text that every spam filter takes for spam, put together here so that none stumbles over
/// this source.
#[tokio::test]
async fn spam_refuses_gtube() {
    let daemon = Daemon::start("milter-spam", "").unwrap();
    let gtube = [
        "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
        "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
    ];
    for (text, reply) in [("hello", None), (&gtube.concat(), Some("554 5.7.1"))] {
        let message = format!("From: <stranger@example.net>\nSubject: x\n\n{text}\n");
        let delivery = send(&daemon, &Message::parse(message.as_bytes())).await;
        let got = delivery.reply();
        let start = got.as_deref().map(|got| got.split_at(9).0);
        assert_eq!(start, reply, "{got:?}");
    }
    let log = daemon.process.output();
    assert!(log.contains("GTUBE"), "{log}");
}

/// What one milter-dkim signs, another verifies; and it does not verify when a byte has changed.
#[tokio::test]
async fn dkim_signs() {
    let directory = tempfile::tempdir().unwrap();
    let mut sections = String::new();
    let mut records = String::new();
    for (selector, kind) in [("rsa", "rsa"), ("ed", "ed25519")] {
        let (code, output) = genkey(directory.path(), selector, kind).unwrap();
        assert_eq!(code, 0, "{output}");
        let file = directory.path().join(format!("example.org.{selector}"));
        let record = std::fs::read_to_string(file.with_extension(format!("{selector}.txt")));
        records.push_str(&record.unwrap());
        let key = file.with_extension(format!("{selector}.pem"));
        sections.push_str(&format!(
            "[[sign]]\ndomain = \"example.org\"\nselector = \"{selector}\"\nkey = \"{}\"\n",
            key.display()
        ));
    }
    let keys = directory.path().join("keys");
    std::fs::write(&keys, records).unwrap();
    let dns = format!("[dns]\nkey_file = \"{}\"\n", keys.display());
    let signer = Daemon::start("milter-dkim", &sections).unwrap();
    let verifier = Daemon::start("milter-dkim", &dns).unwrap();

    let ours = Envelope {
        client: ([127, 0, 0, 1], 25).into(),
        sender: "user@example.org".to_owned(),
        ..Envelope::default()
    };
    let message = Message::parse(FORGED.replace("example.net", "example.org").as_bytes());
    let delivery = deliver(&signer.address, &ours, &message).await.unwrap();
    let signed = message.edited(&delivery.edits);
    let signatures = signed.values("DKIM-Signature");
    assert_eq!(signatures.len(), 2, "{signatures:?}");

    let verified = signed.edited(&send(&verifier, &signed).await.edits);
    let results = verified.values("Authentication-Results").concat();
    assert!(results.starts_with("mx.example.org"), "{results}");
    assert_eq!(results.matches("dkim=pass").count(), 2, "{results}");

    let mut changed = signed.clone();
    changed.body = "Hallo.\r\n".into();
    let verified = changed.edited(&send(&verifier, &changed).await.edits);
    let results = verified.values("Authentication-Results").concat();
    assert!(!results.contains("dkim=pass"), "{results}");
    assert_eq!(results.matches("dkim=fail").count(), 2, "{results}");
}

fn genkey(directory: &Path, selector: &str, kind: &str) -> Result<(i32, String)> {
    let words = [
        "genkey",
        "--domain",
        "example.org",
        "--selector",
        selector,
        "--type",
        kind,
    ];
    let mut arguments: Vec<&OsStr> = words.map(OsStr::new).to_vec();
    arguments.extend([OsStr::new("--directory"), directory.as_os_str()]);
    run("milter-dkim", &arguments)
}
