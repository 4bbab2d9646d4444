//! What is signed verifies, for every canonicalization and algorithm, however the message is cut.

use std::sync::Arc;
use std::time::Duration;

use milter_dkim::auth::dkim::canonical::{Canonicalization, Pair};
use milter_dkim::auth::dkim::private_key::{PrivateKey, RsaSize};
use milter_dkim::auth::dkim::report::DkimResult;
use milter_dkim::auth::dkim::sign::{SignedFields, Signer, Signing, Style};
use milter_dkim::auth::dkim::signature::Signature;
use milter_dkim::auth::dns::KeyFile;
use milter_dkim::auth::domain::Domain;
use milter_dkim::auth::header::{Field, Header, split};

use crate::check::{NOW, verify_bytes};

const MESSAGE: &[u8] = b"Received: from a\r\n\tby b\r\n\
    From:  Joe <joe@example.org>\r\n\
    To: a@example.com,\r\n\t b@example.com\r\n\
    SUBJECT:no space\r\n\
    X-Other: x\r\n\
    Subject: two\t subjects \r\n\
    \r\n\
    Hello  world \t\r\n\t\r\n .\r\nbare\rcarriage\nline\r\n\r\n\r\n";

/// Signers of both algorithms and the key file with their public keys.
pub(crate) fn signers() -> (Vec<Signer>, KeyFile) {
    let domain = Domain::parse("example.org").unwrap();
    let mut file = KeyFile::default();
    let keys = [
        ("rsa", PrivateKey::generate_rsa(RsaSize::Bits2048).unwrap()),
        ("ed", PrivateKey::generate_ed25519().unwrap()),
    ];
    let signers = keys.map(|(selector, key)| {
        let selector = Domain::parse(selector).unwrap();
        let name = Domain::parse(format!("{selector}._domainkey.{domain}")).unwrap();
        file.insert(name, key.to_record().unwrap());
        Signer {
            domain: domain.clone(),
            selector,
            key: Arc::new(key),
        }
    });
    (signers.to_vec(), file)
}

/// The signature fields for a message whose body comes in chunks of a size.
pub(crate) fn sign(message: &[u8], signers: &[Signer], style: &Style, chunk: usize) -> Vec<Field> {
    let (header, body) = split(message, Header::SIZE_MAX).unwrap();
    let mut signing = Signing::new(&header, signers, style, NOW).unwrap();
    body.chunks(chunk).for_each(|chunk| signing.body(chunk));
    signing.finish().unwrap()
}

/// The message with the fields on top.
pub(crate) fn signed(message: &[u8], fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        out.extend_from_slice(&[&field.name[..], b":", &field.value, b"\r\n"].concat());
    }
    out.extend_from_slice(message);
    out
}

pub(crate) fn style(canonicalization: Pair) -> Style {
    Style {
        canonicalization,
        fields: SignedFields::default(),
        lifetime: None,
    }
}

fn results(message: &[u8], keys: &KeyFile) -> Vec<DkimResult> {
    let reports = verify_bytes(message, keys.clone(), NOW);
    reports.iter().map(|report| report.result()).collect()
}

#[test]
fn both_algorithms_verify_for_all_canonicalizations_and_splits() {
    let (signers, keys) = signers();
    for pair in Pair::ALL {
        let whole = sign(MESSAGE, &signers, &style(pair), MESSAGE.len());
        let message = signed(MESSAGE, &whole);
        assert_eq!(results(&message, &keys), [DkimResult::Pass; 2], "{pair}");
        for chunk in 1..9 {
            assert_eq!(
                sign(MESSAGE, &signers, &style(pair), chunk),
                whole,
                "{pair} by {chunk}"
            );
        }
    }
}

#[test]
fn each_canonicalization_forgives_what_it_should() {
    let (signers, keys) = signers();
    let header = ("To: a@example.com,\r\n\t b", "to:a@example.com,   b");
    let body = ("Hello  world \t\r\n", "Hello world\r\n");
    for pair in Pair::ALL {
        let message = signed(MESSAGE, &sign(MESSAGE, &signers, &style(pair), 7));
        let text = String::from_utf8(message).unwrap();
        for (what, (from, to), side) in [("header", header, pair.header), ("body", body, pair.body)]
        {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{what}");
            let expected = match side {
                Canonicalization::Relaxed => DkimResult::Pass,
                Canonicalization::Simple => DkimResult::Fail,
            };
            assert_eq!(
                results(changed.as_bytes(), &keys),
                [expected; 2],
                "{pair} {what}"
            );
        }
    }
}

#[test]
fn nothing_can_be_added_that_is_oversigned() {
    let (signers, keys) = signers();
    let message = signed(MESSAGE, &sign(MESSAGE, &signers, &style(Pair::ALL[3]), 7));
    let cases = [
        ("From: evil@example.net\r\n", DkimResult::Fail),
        ("Subject: third\r\n", DkimResult::Fail),
        ("Cc: new@example.net\r\n", DkimResult::Fail),
        ("Reply-To: new@example.net\r\n", DkimResult::Fail),
        ("X-Other: y\r\n", DkimResult::Pass),
        ("Received: from c\r\n", DkimResult::Pass),
        ("List-Id: <l.example.org>\r\n", DkimResult::Pass),
    ];
    for (added, expected) in cases {
        let changed = [added.as_bytes(), &message].concat();
        assert_eq!(results(&changed, &keys), [expected; 2], "{added:?}");
    }
}

#[test]
fn the_field_says_what_it_should() {
    let (signers, _) = signers();
    let lifetime = Some(Duration::from_secs(86_400));
    let style = Style {
        lifetime,
        ..style(Pair::ALL[2])
    };
    for (field, signer) in sign(MESSAGE, &signers, &style, 7).iter().zip(&signers) {
        let signature = Signature::parse(&field.value).unwrap();
        assert_eq!(signature.timestamp, Some(NOW));
        assert_eq!(signature.expiration, Some(NOW + 86_400));
        assert_eq!(signature.selector, signer.selector);
        assert_eq!(signature.canonicalization, Pair::ALL[2]);
        assert_eq!(signature.length, None);
        let count = |name: &str| signature.signed.iter().filter(|n| *n == name).count();
        assert_eq!(
            (count("From"), count("Subject"), count("Cc"), count("Date")),
            (2, 3, 1, 0)
        );
        let longest = field
            .value
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::len)
            .max();
        assert!(longest < Some(80), "{}", field.value.escape_ascii());
    }
}

#[test]
fn keys_survive_being_written_and_read() {
    let (signers, _) = signers();
    for signer in signers {
        let pem = signer.key.to_pem().unwrap();
        let again = PrivateKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(again.to_record(), signer.key.to_record());
        assert_eq!(again.bits(), signer.key.bits());
    }
}
