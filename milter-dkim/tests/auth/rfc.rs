//! The examples in the appendices of RFC 6376 and RFC 8463.

use crate::check::{NOW, verify, words};

/// RFC 6376 §A.2, the key of §A.3 (2007: 1024 bits).
const RFC_6376_KEY: &str = r#"brisbane._domainkey.example.com. IN TXT (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
    "IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi"
    "tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB" )"#;

const RFC_6376_MESSAGE: &str = "\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
";

/// RFC 8463 §A.2.
const RFC_8463_KEYS: &str = r#"
brisbane._domainkey.football.example.com. IN TXT (
    "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" )
test._domainkey.football.example.com. IN TXT (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6"
    "wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5Qjv"
    "HO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB" )"#;

/// RFC 8463 §A.3.
const RFC_8463_MESSAGE: &str = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
";

#[test]
fn rfc_6376_appendix_a_verifies() {
    let reports = verify(RFC_6376_MESSAGE, RFC_6376_KEY, NOW);
    assert_eq!(
        words(&reports),
        ["pass d=example.com s=brisbane a=rsa-sha256"]
    );
    let identity = reports[0].identity.as_ref().unwrap();
    assert_eq!(identity.local, b"joe");
    assert_eq!(identity.domain.as_str(), "football.example.com");
    assert_eq!(reports[0].key_bits, Some(1024));
}

#[test]
fn rfc_8463_appendix_a_verifies() {
    let reports = verify(RFC_8463_MESSAGE, RFC_8463_KEYS, NOW);
    let expected = [
        "pass d=football.example.com s=brisbane a=ed25519-sha256",
        "pass d=football.example.com s=test a=rsa-sha256",
    ];
    assert_eq!(words(&reports), expected);
}

#[test]
fn the_examples_fail_when_anything_signed_is_changed() {
    let cases = [
        (
            "Is dinner ready?",
            "Is dinner READY?",
            "signature did not verify",
        ),
        (
            "Are you hungry",
            "Are you angry",
            "body hash did not verify",
        ),
        ("To: Suzie", "To:  Suzie", ""),
        ("Joe.\n", "Joe.\n\n\n", ""),
        ("From: Joe", "From: \"Joe\"", "signature did not verify"),
    ];
    for (from, to, reason) in cases {
        let changed = RFC_8463_MESSAGE.replacen(from, to, 1);
        assert_ne!(changed, RFC_8463_MESSAGE, "{from:?}");
        for report in verify(&changed, RFC_8463_KEYS, NOW) {
            let got = report.outcome.err().map(|failure| failure.to_string());
            assert_eq!(got.unwrap_or_default(), reason, "{from:?} to {to:?}");
        }
    }
}
