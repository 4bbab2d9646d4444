//! milter-dkim by itself: the real binary with real keys, name server and signals.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use milter_tests::dns::NameServer;
use milter_tests::mta::{Delivery, Envelope, Message, deliver};
use milter_tests::programs::{Daemon, run};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const MESSAGE: &str = "From: Joe <joe@example.org>\n\
    To: a@example.com\n\
    Subject: greetings\n\
    \n\
    Hello.\n";

/// Runs a sub-command; its exit code and what it wrote.
fn call(configuration: &str, arguments: &[&str]) -> (i32, String) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, configuration).unwrap();
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    run(
        "milter-dkim",
        &[&[OsStr::new("--config"), file.as_os_str()], &arguments[..]].concat(),
    )
    .unwrap()
}

/// Makes a key of example.org; where it is, and its record.
fn genkey(directory: &Path, selector: &str) -> (PathBuf, String) {
    let folder = directory.to_str().unwrap();
    let names = ["genkey", "--domain", "example.org", "--selector", selector];
    let kind = ["--type", "ed25519", "--directory", folder];
    let (code, text) = call("", &[&names[..], &kind].concat());
    assert_eq!(code, 0, "{text}");
    let zone: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
    let record: String = zone.join("").split('"').skip(1).step_by(2).collect();
    (
        directory.join(format!("example.org.{selector}.pem")),
        record,
    )
}

/// The section for a key.
fn section(selector: &str, key: &Path) -> String {
    let key = key.display();
    format!("[[sign]]\ndomain = \"example.org\"\nselector = \"{selector}\"\nkey = \"{key}\"\n")
}

fn insider() -> Envelope {
    Envelope {
        client: ([127, 0, 0, 1], 25_025).into(),
        ..Envelope::default()
    }
}

async fn send(daemon: &Daemon, envelope: &Envelope, message: &Message) -> Delivery {
    let delivery = deliver(&daemon.address, envelope, message).await;
    delivery.unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.process.output()))
}

#[tokio::test]
async fn signed_by_login_and_verified_through_a_name_server() {
    let directory = TempDir::new().unwrap();
    let (key, record) = genkey(directory.path(), "s1");
    let name = "s1._domainkey.example.org".to_owned();
    let server = NameServer::start(HashMap::from([(name, record)]))
        .await
        .unwrap();
    let dns = format!("[dns]\nname_servers = [\"{}\"]\n", server.address);
    let sections = format!("{dns}{}", section("s1", &key));
    let daemon = Daemon::start("milter-dkim", &sections).unwrap();

    let mut message = Message::parse(MESSAGE.as_bytes());
    let login = Envelope {
        login: "joe".to_owned(),
        ..Envelope::default()
    };
    let signed = message.edited(&send(&daemon, &login, &message).await.edits);
    assert_eq!(signed.values("DKIM-Signature").len(), 1);

    let forged = "Authentication-Results: mx.example.org; dkim=pass header.d=bank.example\n";
    let text = [forged.as_bytes(), &signed.to_bytes()].concat();
    message = Message::parse(&text);
    let verified = message.edited(&send(&daemon, &Envelope::default(), &message).await.edits);
    let results = verified.values("Authentication-Results");
    assert_eq!(results.len(), 1, "{results:?}");
    assert!(
        results[0].starts_with("mx.example.org;\n\tdkim=pass (256-bit key)"),
        "{results:?}"
    );
    assert!(results[0].contains("header.d=example.org header.i=@example.org header.s=s1"));

    message
        .headers
        .retain(|header| !header.is("DKIM-Signature"));
    let unknown = String::from_utf8(signed.to_bytes())
        .unwrap()
        .replace("s=s1;", "s=s2;");
    let unknown = Message::parse(unknown.as_bytes());
    let edits = send(&daemon, &Envelope::default(), &unknown).await.edits;
    let results = unknown
        .edited(&edits)
        .values("Authentication-Results")
        .concat();
    assert!(
        results.contains("dkim=permerror reason=\"no key for signature\""),
        "{results}"
    );

    let log = daemon.process.output();
    assert_eq!(log.matches("4TEST1").count(), 3, "{log}");
    for part in [
        "the client has logged in",
        "pass d=example.org s=s1 a=ed25519-sha256",
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_the_body() {
    const MEGABYTES: usize = 64;
    let directory = TempDir::new().unwrap();
    let (key, _) = genkey(directory.path(), "s1");
    let daemon = Daemon::start("milter-dkim", &section("s1", &key)).unwrap();
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.process.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            / 1024
    };
    send(&daemon, &insider(), &Message::parse(MESSAGE.as_bytes())).await;
    let before = peak();
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
    let large = format!("{MESSAGE}{}", line.repeat(MEGABYTES << 14));
    let delivery = send(&daemon, &insider(), &Message::parse(large.as_bytes())).await;
    assert_eq!(delivery.edits.len(), 1);
    let grown = peak() - before;
    assert!(
        grown < MEGABYTES / 8,
        "{grown} MB more after a body of {MEGABYTES} MB"
    );
}

#[tokio::test]
async fn a_reload_takes_good_keys_and_refuses_bad_ones() {
    let directory = TempDir::new().unwrap();
    let (first, _) = genkey(directory.path(), "s1");
    let (second, _) = genkey(directory.path(), "s2");
    let mut daemon = Daemon::start("milter-dkim", &section("s1", &first)).unwrap();
    let file = daemon.directory().join("config.toml");
    let good = fs::read_to_string(&file).unwrap();
    let message = Message::parse(MESSAGE.as_bytes());

    fs::write(&file, good.replace("s1", "s2")).unwrap();
    fs::set_permissions(&second, fs::Permissions::from_mode(0o644)).unwrap();
    for (said, mode, selector) in [
        ("chmod 0600", 0o644, "s=s1;"),
        ("configuration reloaded", 0o600, "s=s2;"),
    ] {
        fs::set_permissions(&second, fs::Permissions::from_mode(mode)).unwrap();
        daemon.process.signal(Signal::SIGHUP).unwrap();
        daemon.process.wait_until_said(said).unwrap();
        let signed = message.edited(&send(&daemon, &insider(), &message).await.edits);
        let signature = signed.values("DKIM-Signature").concat();
        assert!(signature.contains(selector), "{signature}");
    }
}

#[test]
fn bad_keys_are_told_by_file_line_and_remedy() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key.pem");
    let (good, _) = genkey(directory.path(), "s1");
    let good = fs::read_to_string(good).unwrap();
    let cases = [
        (Some(("not a key", 0o600)), "not a PEM file", "a key is PEM"),
        (
            Some((good.as_str(), 0o644)),
            "every user of this host",
            "chmod 0600",
        ),
        (
            Some((good.as_str(), 0o660)),
            "its group may change it",
            "chmod 0600",
        ),
        (None, "No such file", "milter-dkim genkey"),
    ];
    for (content, said, help) in cases {
        let _ = fs::remove_file(&path);
        if let Some((text, mode)) = content {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let (code, text) = call(&section("s1", &path), &["check"]);
        assert_eq!(code, 78, "{text}");
        for part in [said, help, "config.toml:4:7", path.to_str().unwrap()] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}

#[test]
fn files_are_signed_verified_and_explained() {
    let directory = TempDir::new().unwrap();
    let (key, record) = genkey(directory.path(), "s1");
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("plain.eml"), MESSAGE).unwrap();
    fs::write(at("keys"), format!("s1._domainkey.example.org {record}\n")).unwrap();
    let configuration = section("s1", &key);
    let call = |arguments: &[&str]| call(&configuration, arguments);
    let (code, signed) = call(&["sign", &at("plain.eml")]);
    assert_eq!(code, 0);
    fs::write(at("signed.eml"), &signed).unwrap();
    fs::write(at("changed.eml"), signed.replace("Hello", "Goodbye")).unwrap();
    let cases = [
        ("signed.eml", 0, "pass d=example.org s=s1 a=ed25519-sha256"),
        (
            "changed.eml",
            1,
            "fail d=example.org s=s1 a=ed25519-sha256 (body hash did not verify)",
        ),
        ("plain.eml", 1, "none"),
    ];
    for (name, code, result) in cases {
        let expected = (code, format!("{}: {result}\n", at(name)));
        assert_eq!(
            call(&["verify", "--keys", &at("keys"), &at(name)]),
            expected
        );
    }
    let (code, answer) = call(&[
        "explain",
        "--from",
        "joe@example.org",
        "--client",
        "127.0.0.1",
    ]);
    assert_eq!(code, 0);
    assert!(
        answer.starts_with("sign: client 127.0.0.1 is in the internal network"),
        "{answer}"
    );
    assert_eq!(call(&["verify", &at("missing.eml")]).0, 66);
    assert_eq!(
        call(&["explain", "--from", "a@b.c", "--client", "nobody"]).0,
        64
    );
}
