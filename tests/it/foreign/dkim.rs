//! milter-dkim in Postfix's own list, and behind: what one signs the other verifies.

use super::both::{Both, Letter};
use super::possible;
use super::together::{Keys, ours};

/// What a signature must survive: folds, capitals, white space at ends, empty lines, dots, octets.
const TEXT: &str = "From: Joe <joe@example.org>\n\
    To: user@example.com\n\
    SUBJECT: greetings\n\tfrom  far away \n\
    Date: Sun, 22 Nov 2026 12:00:00 +0000\n\
    Message-Id: <1@example.org>\n\
    \n\
    Hello. \n\
    .\n\
    ..\n\
    caf\u{e9}\t\n\
    \n\
    \n";

fn letter<'a>(client: Option<&'a str>, text: &'a str) -> Letter<'a> {
    Letter {
        client,
        from: "joe@example.org",
        to: "user@example.org",
        text,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn milter_dkim_signs_and_verifies_under_postfix() {
    if !possible("milter-dkim under postfix", &[]) {
        return;
    }
    let keys = Keys::make();
    let chain = ["[\"dkim\"]"];
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (signer, log) = ours("dkim", &keys.signing(), &folders[0]);
    let signing = Both::start(&[("dkim", signer)], &chain).await;
    let signed = signing.send(&letter(None, TEXT)).await;
    let message = signed.message();
    assert_eq!(message.headers[0].name, "DKIM-Signature", "{signed:#?}");
    let signature = message.values("DKIM-Signature");
    assert_eq!(signature.len(), 1, "{signed:#?}");
    assert!(signature[0].contains("d=example.org"), "{signature:?}");
    // A stranger's mail in that name is not signed.
    let strange = signing.send(&letter(Some("192.0.2.1"), TEXT)).await;
    let unsigned = strange.message().values("DKIM-Signature");
    assert!(unsigned.is_empty(), "{strange:#?}\n{}", log.output());
    signing.assert_nobody_complained();

    let (verifier, log) = ours("dkim", &keys.verifier(), &folders[1]);
    let verifying = Both::start(&[("dkim", verifier)], &chain).await;
    let sent = String::from_utf8(message.to_bytes()).unwrap();
    let sent = sent.replace("\r\n", "\n");
    let forged = "Authentication-Results: mx.equal.test; dkim=pass\n";
    for (text, result) in [
        (sent.clone(), "dkim=pass"),
        (format!("{forged}{sent}"), "dkim=pass"),
        (sent.replace("Hello.", "Hallo."), "dkim=fail"),
        (format!("{forged}{TEXT}"), "dkim=none"),
    ] {
        let verified = verifying.send(&letter(Some("192.0.2.1"), &text)).await;
        let results = verified.message().values("Authentication-Results");
        let context = || format!("{verified:#?}\n{}", log.output());
        assert_eq!(results.len(), 1, "{}", context());
        assert!(results[0].starts_with("mx.equal.test;"), "{}", context());
        assert!(results[0].contains(result), "{result}: {}", context());
    }
    verifying.assert_nobody_complained();
}
