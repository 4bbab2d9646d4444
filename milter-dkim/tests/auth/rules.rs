//! What a signature, a key or a message must not be, and the word and reason that each gets.

use std::time::Duration;

use milter_dkim::auth::dkim::canonical::Pair;
use milter_dkim::auth::dkim::lookup::KeyAnswers;
use milter_dkim::auth::dkim::private_key::{PrivateKey, PrivateKeyError};
use milter_dkim::auth::dkim::sign::Style;
use milter_dkim::auth::dkim::verify::{Policy, Verification};
use milter_dkim::auth::dns::{DnsError, KeyFile};
use milter_dkim::auth::domain::Domain;
use milter_dkim::auth::header::{Field, Header, split};

use crate::check::{NOW, verify_bytes, words};
use crate::round_trip::{sign, signed, signers, style};

const MESSAGE: &[u8] = b"From: joe@example.org\r\nTo: a@example.com\r\n\r\nHello.\r\n";

/// A message signed by the Ed25519 key, and that key's record.
fn ed25519() -> (Vec<u8>, String) {
    let (signers, _) = signers();
    let record = signers[1].key.to_record().unwrap();
    (
        signed(
            MESSAGE,
            &sign(MESSAGE, &signers[1..], &style(Pair::ALL[3]), 64),
        ),
        record,
    )
}

fn name() -> Domain {
    Domain::parse("ed._domainkey.example.org").unwrap()
}

fn with_records(records: &[String]) -> KeyFile {
    let mut file = KeyFile::default();
    for record in records {
        file.insert(name(), record.as_bytes());
    }
    file
}

#[test]
fn key_records_decide() {
    let (message, good) = ed25519();
    let (_, other) = ed25519();
    let pass = "pass d=example.org s=ed a=ed25519-sha256";
    let permerror = |reason| format!("permerror d=example.org s=ed a=ed25519-sha256 ({reason})");
    let fail = "fail d=example.org s=ed a=ed25519-sha256 (signature did not verify)";
    let cases = [
        (vec![good.clone()], pass.to_owned()),
        (vec![], permerror("no key for signature")),
        (vec![other.clone()], fail.to_owned()),
        (vec![good.replace("p=", "t=y; p=")], pass.to_owned()),
        (vec![good.replace("p=", "t=s; p=")], pass.to_owned()),
        (
            vec![good.replace("p=", "h=sha1; p=")],
            permerror("key does not allow sha256"),
        ),
        (
            vec![good.replace("p=", "s=other; p=")],
            permerror("key is not for email"),
        ),
        (
            vec!["v=DKIM1; k=ed25519; p=".to_owned()],
            permerror("key is revoked"),
        ),
        (
            vec!["v=spf1 -all".to_owned()],
            permerror("key record version is not DKIM1"),
        ),
        (
            vec!["v=spf1 -all".to_owned(), good.clone()],
            pass.to_owned(),
        ),
        (
            vec![good.replace("k=ed25519", "k=rsa")],
            permerror("key data is invalid"),
        ),
    ];
    for (records, expected) in cases {
        let got = words(&verify_bytes(&message, with_records(&records), NOW));
        assert_eq!(got, [expected], "{records:?}");
    }
}

#[test]
fn failures_of_dns_are_told_apart() {
    let (message, _) = ed25519();
    let cases = [
        (DnsError::NoRecords, "permerror", "no key for signature"),
        (DnsError::Timeout, "temperror", "key unavailable: time-out"),
        (
            DnsError::Server("server answered X".into()),
            "temperror",
            "key unavailable: server answered X",
        ),
    ];
    for (error, word, reason) in cases {
        let (header, body) = split(&message, Header::SIZE_MAX).unwrap();
        let mut verification = Verification::new(&header, &Policy::default(), NOW);
        assert_eq!(verification.key_names(), [name()]);
        verification.body(body);
        let answers = KeyAnswers::from([(name(), Err(error))]);
        let reports = verification.finish(&answers);
        assert_eq!(reports[0].result().as_str(), word);
        assert_eq!(reports[0].outcome.as_ref().unwrap_err().to_string(), reason);
    }
}

#[test]
fn time_decides() {
    let (signers, keys) = signers();
    let lifetime = Some(Duration::from_secs(1000));
    let style = Style {
        lifetime,
        ..style(Pair::ALL[3])
    };
    let message = signed(MESSAGE, &sign(MESSAGE, &signers[1..], &style, 64));
    let cases = [
        (NOW, None),
        (NOW + 1000 + 300, None),
        (NOW + 1000 + 301, Some("signature has expired")),
        (NOW - 300, None),
        (NOW - 301, Some("signature is from the future")),
    ];
    for (now, expected) in cases {
        let reports = verify_bytes(&message, keys.clone(), now);
        let reason = reports[0].outcome.as_ref().err().map(ToString::to_string);
        assert_eq!(reason.as_deref(), expected, "{now}");
    }
}

#[test]
fn signatures_of_the_author_come_before_junk_on_top() {
    let (message, record) = ed25519();
    let junk =
        "DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=s; h=From; bh=YWJj; b=YWJj\r\n";
    let broken = "DKIM-Signature: junk\r\n";
    let flooded = [
        junk.repeat(50).as_bytes(),
        broken.repeat(50).as_bytes(),
        &message,
    ]
    .concat();
    let reports = verify_bytes(&flooded, with_records(&[record]), NOW);
    assert_eq!(reports.len(), Policy::default().signatures_max);
    let last = reports.last().unwrap().to_string();
    assert_eq!(last, "pass d=example.org s=ed a=ed25519-sha256");
    let (header, _) = split(&flooded, Header::SIZE_MAX).unwrap();
    let verification = Verification::new(&header, &Policy::default(), NOW);
    assert_eq!(
        verification.passed_over(),
        101 - Policy::default().signatures_max
    );
    assert_eq!(
        verification.key_names().len(),
        2,
        "each name is asked for once"
    );
}

#[test]
fn a_second_author_must_be_signed() {
    let (signers, keys) = signers();
    let mut value = sign(MESSAGE, &signers[1..], &style(Pair::ALL[3]), 64)[0]
        .value
        .clone();
    // Signs From once only, as signers do that do not oversign.
    let text = String::from_utf8(value.clone()).unwrap();
    assert!(text.contains("From:From:"));
    let signature = resign(&text.replacen("From:From:", "From:", 1), &signers[1].key);
    value.clone_from(&signature.value);
    let message = signed(MESSAGE, &[signature]);
    let pass = "pass d=example.org s=ed a=ed25519-sha256";
    assert_eq!(words(&verify_bytes(&message, keys.clone(), NOW)), [pass]);
    let added = [b"From: evil@example.net\r\n", &message[..]].concat();
    let policy =
        "policy d=example.org s=ed a=ed25519-sha256 (signature does not cover every From field)";
    assert_eq!(words(&verify_bytes(&added, keys, NOW)), [policy]);
}

#[test]
fn text_after_the_signed_length_is_not_acceptable() {
    let (signers, keys) = signers();
    let text = String::from_utf8(
        sign(MESSAGE, &signers[1..], &style(Pair::ALL[3]), 64)[0]
            .value
            .clone(),
    );
    let field = resign(
        &text.unwrap().replacen(" v=1;", " v=1; l=8;", 1),
        &signers[1].key,
    );
    let message = signed(MESSAGE, &[field]);
    let cases = [
        ("", "pass d=example.org s=ed a=ed25519-sha256".to_owned()),
        (
            "\r\n\r\n",
            "pass d=example.org s=ed a=ed25519-sha256".to_owned(),
        ),
        (
            "Buy!\r\n",
            "policy d=example.org s=ed a=ed25519-sha256 (signature does not cover the whole body)"
                .to_owned(),
        ),
    ];
    for (added, expected) in cases {
        let changed = [&message, added.as_bytes()].concat();
        assert_eq!(
            words(&verify_bytes(&changed, keys.clone(), NOW)),
            [expected],
            "{added:?}"
        );
    }
    let cut = &message[..message.len() - 4];
    let short = "permerror d=example.org s=ed a=ed25519-sha256 (body is shorter than signed)";
    assert_eq!(words(&verify_bytes(cut, keys, NOW)), [short]);
}

#[test]
fn the_body_is_not_wanted_when_nothing_depends_on_it() {
    let cases: [(&[u8], bool); 3] = [
        (b"From: joe@example.org\r\n\r\n", true),
        (
            b"DKIM-Signature: junk\r\nFrom: joe@example.org\r\n\r\n",
            true,
        ),
        (&ed25519().0, false),
    ];
    for (message, expected) in cases {
        let (header, _) = split(message, Header::SIZE_MAX).unwrap();
        let verification = Verification::new(&header, &Policy::default(), NOW);
        assert_eq!(verification.needs_no_more_body(), expected);
    }
}

#[test]
fn texts_that_are_no_private_keys_are_told_apart() {
    use PrivateKeyError as E;
    let block = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let cases = [
        (String::new(), E::NotPem),
        ("just text\n".to_owned(), E::NotPem),
        ("-----BEGIN PRIVATE KEY-----\nYWJj\n".to_owned(), E::Damaged),
        ("-----BEGIN PRIVATE KEY".to_owned(), E::Damaged),
        (block("PRIVATE KEY", "!!"), E::Damaged),
        (
            block("PUBLIC KEY", "YWJj"),
            E::Label("PUBLIC KEY".to_owned()),
        ),
        (
            block("EC PRIVATE KEY", "YWJj"),
            E::Label("EC PRIVATE KEY".to_owned()),
        ),
        (block("ENCRYPTED PRIVATE KEY", "YWJj"), E::Encrypted),
        (
            block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nYWJj"),
            E::Encrypted,
        ),
        (SHORT_RSA.to_owned(), E::TooSmall),
    ];
    for (text, expected) in cases {
        assert_eq!(
            PrivateKey::from_pem(text.as_bytes()).err(),
            Some(expected),
            "{text:?}"
        );
    }
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY"] {
        let error = PrivateKey::from_pem(block(label, "YWJj").as_bytes()).err();
        assert!(matches!(error, Some(E::Malformed(_))), "{label}: {error:?}");
    }
}

#[test]
fn keys_of_openssl_are_read() {
    for (text, algorithm) in [
        (OPENSSL_ED25519, "ed25519-sha256"),
        (RFC_8463_SEED, "ed25519-sha256"),
    ] {
        let key = PrivateKey::from_pem(text.as_bytes()).unwrap();
        assert_eq!(key.algorithm().as_str(), algorithm);
    }
    let record = PrivateKey::from_pem(RFC_8463_SEED.as_bytes())
        .unwrap()
        .to_record()
        .unwrap();
    assert_eq!(
        record,
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    );
}

/// The signature field with other tags, signed anew.
fn resign(value: &str, key: &PrivateKey) -> Field {
    use base64::Engine as _;
    use milter_dkim::auth::dkim::canonical::{Canonicalization, field};
    use milter_dkim::auth::dkim::signature::{FIELD, Signature};
    let signature = Signature::parse(value.as_bytes()).unwrap();
    let bare = signature.without_signature(value.as_bytes());
    let (header, _) = split(MESSAGE, Header::SIZE_MAX).unwrap();
    let mut text = Vec::new();
    for signed in header.select(&signature.signed) {
        text.extend(field(Canonicalization::Relaxed, signed));
        text.extend(b"\r\n");
    }
    text.extend(field(Canonicalization::Relaxed, &Field::new(FIELD, &bare)));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let made = key.sign(digest.as_ref().try_into().unwrap()).unwrap();
    let encoded = base64::prelude::BASE64_STANDARD.encode(made);
    Field::new(FIELD, [&bare[..], encoded.as_bytes()].concat())
}

/// An RSA key of 1024 bits (PKCS#1), made for this test.
const SHORT_RSA: &str = "\
-----BEGIN RSA PRIVATE KEY-----
MIICXgIBAAKBgQCx9xy4v3dsCQuXG+0c+8dEz42fZ8vnasi+lB/p4PpJNaeCTytg
sKz+8o3ripHzXxhhvpsrsmVatKgeBuY9CV4MKqqBaxmc+qNM/F0TzYVkU9GQKUjE
v2lJQDTL1ajgtMhK5koJwnnGEXPGqjuHjjwjnGV79qrxz6vC/OG2QFl2DQIDAQAB
AoGASQW3YEsX6llvywonaewZoK91UgIaFZOoWSKYUbQBnsaIPBzWFK+J3HaUKyDJ
sE3FyF2Yd/6UPfrAvMlh8YuFbdM/ibJiYnY/YkIm+lKMDZW8Ab0m020bPnigU+Gn
xmbIqKxGcJctRXk5lY7/ZKxj+TxXglrLf6JDqVijcXmyz8ECQQDfYj41ze1QoiM9
sN/Gghu3dOumpUWdYBuZMN6Rq7Fz8tC881VAacor/9TQT6uW95FfnPqyfJ5tWTyS
2Kx6Eo8dAkEAy/Mxb2xoWCnO63O8cVjAjeBf6vZGumVMCoxGlOIK8tFQCVdYHvYh
lyasdH8irB77DHZq6SJHaQf1k0vu+/AfsQJBAMvRovuKwk7BMbB3Mya3zjxM9Trf
L66RY30aJun5I3etBKJyz8VvASW2TuIm32RmzQDVhbTXmeIh+u/tvSnAx00CQQCI
WS/FlC42Ms05MAjdpj4lG8pEZR1n4+zwaFOPmYdESpc9h31MRbSzPpGw2IYvmA6y
iEB1WAtxtnaBYRSGrkQhAkEAjOzhJKrPmePLvat4BzDmZGX3hxyF8I7zca0BRdpG
YOjSUuGBtz+DwRkYMqNNOdqvtPjMMSODnEQnWcmvsy46fg==
-----END RSA PRIVATE KEY-----
";

/// PKCS#8 version 1, without the public key, as `openssl genpkey` writes it; made for this test.
const OPENSSL_ED25519: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEII9HnJz9BysrTvR4Ryw9OGJgDrQwj0C6OfVcRmeR8MjY
-----END PRIVATE KEY-----
";

/// The private key of RFC 8463 §A.2, as PKCS#8.
const RFC_8463_SEED: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";
