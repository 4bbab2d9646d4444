//! Each filter by itself.

use std::collections::HashMap;

use milter_tests::clamd::{Clamd, SIGNATURE, eicar};
use milter_tests::dns::NameServer;
use milter_tests::foreign::{Foreign, HOSTNAME, Spamd};
use milter_tests::mta::{self, Envelope};
use milter_tests::programs::Daemon;

use super::both::{Both, Letter, Outcome};
use super::possible;

/// A letter of a stranger's with this body.
const STRANGER: Letter<'_> = Letter {
    client: Some("192.0.2.1"),
    from: "stranger@example.net",
    to: "user@example.org",
    text: "",
};

/// The text that every spam filter refuses, in halves so that none stumbles over this source.
pub(super) fn gtube() -> String {
    let halves = [
        "XJS*C4JDBQADN1.NSBN3*2IDNEN*",
        "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
    ];
    halves.concat()
}

/// A message with everything that headers can do, and this body.
pub(super) fn text(from: &str, body: &str) -> String {
    format!(
        "Received: from elsewhere.example.net (elsewhere.example.net\n\
         \t[192.0.2.9]) by relay.example.net; Mon, 1 Jan 2024 00:00:00 +0000\n\
         From: \"Somebody\"   <{from}>\n\
         To: user@example.org,\n \tothers@example.org \n\
         Subject:no  space \t here\n\
         Date:  Mon, 1 Jan 2024 00:00:00 +0000\n\
         Message-ID:\n <1@example.net>\n\
         X-Empty:\n\
         X-Virus-Status: forged\n\
         X-Spam-Status: No, forged\n\
         MIME-Version: 1.0\n\
         \n\
         {body}\n\
         .a dot\n\
         trailing blanks   \n\
         \n"
    )
}

async fn send(both: &Both, body: &str) -> Outcome {
    let text = text("stranger@example.net", body);
    both.send(&Letter {
        text: &text,
        ..STRANGER
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn clamav_milter_finds_what_clamd_finds_case_088() {
    if !possible("clamav_milter", &["clamd", "clamav-milter"]) {
        return;
    }
    let clamd = Clamd::start("").unwrap();
    let filter = Foreign::clamav_milter(&clamd.address).unwrap();
    let both = Both::start(&[("clamav", filter.address)], &["[\"clamav\"]"]).await;
    let clean = send(&both, "Hello.").await;
    let status = clean.message().values("X-Virus-Status");
    assert_eq!(status, ["Clean"], "{clean:#?}\n{}", filter.process.output());
    let infected = send(&both, &eicar()).await;
    let verdict = infected.verdict();
    assert!(
        verdict.contains(&format!("5.7.1 found {SIGNATURE}")),
        "{verdict}"
    );
    both.assert_nobody_complained();
}

#[tokio::test(flavor = "multi_thread")]
async fn spamass_milter_marks_and_refuses_case_088() {
    if !possible("spamass_milter", &["spamd", "spamass-milter", "spamc"]) {
        return;
    }
    let spamd = Spamd::start().unwrap();
    let filter = Foreign::spamass_milter(&spamd).unwrap();
    let both = Both::start(&[("spamass", filter.address)], &["[\"spamass\"]"]).await;
    let ham = send(&both, "Hello.").await;
    let status = ham.message().values("X-Spam-Status");
    assert_eq!(status.len(), 1, "{ham:#?}");
    assert!(status[0].starts_with("No, score="), "{status:?}");
    let spam = send(&both, &gtube()).await;
    assert!(spam.verdict().starts_with("550 5.7.1"), "{spam:#?}");
    both.assert_nobody_complained();
}

#[tokio::test(flavor = "multi_thread")]
async fn rspamd_marks_and_refuses_case_088() {
    if !possible("rspamd", &["rspamd"]) {
        return;
    }
    let filter = Foreign::rspamd().unwrap();
    let both = Both::start(&[("rspamd", filter.address)], &["[\"rspamd\"]"]).await;
    let ham = send(&both, "Hello.").await;
    let status = ham.message().values("X-Spam-Status");
    assert!(
        status.iter().any(|status| status.starts_with("No, score=")),
        "{ham:#?}"
    );
    let spam = send(&both, &gtube()).await;
    assert!(spam.verdict().starts_with("554 5.7.1"), "{spam:#?}");
    both.assert_nobody_complained();
}

#[tokio::test(flavor = "multi_thread")]
async fn opendmarc_judges_by_the_policy_of_the_sender_case_088() {
    if !possible("opendmarc", &["opendmarc", "cc"]) {
        return;
    }
    let record = |domain: &str, policy: &str| {
        let name = format!("_dmarc.{domain}");
        (name, format!("v=DMARC1; p={policy}"))
    };
    let records = HashMap::from([
        record("example.net", "none"),
        record("example.com", "reject"),
    ]);
    let dns = NameServer::start(records).await.unwrap();
    let filter = Foreign::opendmarc(dns.address).unwrap();
    let both = Both::start(&[("dmarc", filter.address)], &["[\"dmarc\"]"]).await;
    for (domain, signed_by, expected) in [
        ("example.net", "example.net", Ok("dmarc=pass")),
        ("example.net", "example.org", Ok("dmarc=fail")),
        ("example.com", "example.com", Ok("dmarc=pass")),
        (
            "example.com",
            "example.org",
            Err("550 5.7.1 rejected by DMARC policy"),
        ),
        ("example.org", "example.org", Ok("dmarc=none")),
    ] {
        let from = format!("stranger@{domain}");
        let results = format!("{HOSTNAME}; dkim=pass header.d={signed_by}");
        let text = text(&from, "Hello.");
        let text = format!("Authentication-Results: {results}\n{text}");
        let letter = Letter {
            from: &from,
            text: &text,
            ..STRANGER
        };
        let outcome = both.send(&letter).await;
        match expected {
            Ok(word) => {
                let results = outcome
                    .message()
                    .values("Authentication-Results")
                    .join("\n");
                assert!(results.contains(word), "{domain} {signed_by}: {outcome:#?}");
            }
            Err(reply) => assert!(outcome.verdict().starts_with(reply), "{outcome:#?}"),
        }
    }
    both.assert_nobody_complained();
}

/// What opendkim signs behind the orchestrator verifies, by opendkim there and by us elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn opendkim_signs_and_verifies_case_088() {
    if !possible("opendkim", &["opendkim"]) {
        return;
    }
    let keys = super::together::Keys::make();
    let verifier = Foreign::opendkim("Mode v\nAlwaysAddARHeader yes", &keys.record()).unwrap();
    let behind = Both::start(&[("opendkim", verifier.address)], &["[\"opendkim\"]"]).await;
    let ours = Daemon::start("milter-dkim", &keys.verifier()).unwrap();
    for pair in ["simple/simple", "relaxed/relaxed"] {
        let signer = Foreign::opendkim(&keys.signer(pair), "").unwrap();
        let both = Both::start(&[("opendkim", signer.address)], &["[\"opendkim\"]"]).await;
        let text = text("joe@example.org", "Hello,  world\t \n\n \t");
        let letter = Letter {
            client: None,
            from: "joe@example.org",
            to: "friend@example.net",
            text: &text,
        };
        let signed = both.send(&letter).await;
        let message = signed.message();
        assert_eq!(message.values("DKIM-Signature").len(), 1, "{signed:#?}");
        both.assert_nobody_complained();

        let delivery = mta::deliver(&ours.address, &Envelope::default(), message).await;
        let verified = message.edited(&delivery.unwrap().edits);
        let results = verified.values("Authentication-Results").concat();
        assert!(results.contains("dkim=pass"), "{pair}: {results}");

        let text = String::from_utf8(message.to_bytes())
            .unwrap()
            .replace("\r\n", "\n");
        for (text, expected) in [
            (&text, "dkim=pass"),
            (&text.replace("Hello", "Hallo"), "dkim=fail"),
        ] {
            let outcome = behind.send(&Letter { text, ..STRANGER }).await;
            let results = outcome.message().values("Authentication-Results").concat();
            assert!(results.contains(expected), "{pair}: {outcome:#?}");
        }
    }
    behind.assert_nobody_complained();
}
