//! Public keys as they are published (RFC 6376 §3.6.1, RFC 8463): the TXT record read, checked, and
//! used.
//!
//! Keys below 1024 bits are refused (RFC 8301 §3.2), keys above 8192 too. SHA-1 is no hash here. A
//! record that cannot be used gives [`KeyError`]; where the record came from is not known here.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::rsa::{self, PublicKey as RsaKey};
use aws_lc_rs::signature::{
    ED25519, ParsedPublicKey, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
};
use base64::Engine as _;
use thiserror::Error;

use super::body_hash::Digest;
use super::signature::{Algorithm, BASE64};
use crate::auth::tags::{TagError, TagList, colon_list, squeeze};

/// Characters in `p=` at most: far more than an RSA key of 8192 bits needs.
pub const PUBLIC_MAX: usize = 4096;

/// RSA keys may have this many bits.
pub const RSA_BITS: std::ops::RangeInclusive<u32> = 1024..=8192;

/// A key record that can be used for mail.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// The key.
    pub key: PublicKey,
    /// The domain is testing DKIM (`t=y`): a signature that does not verify is to be treated as
    /// none.
    pub testing: bool,
    /// `i=` must be the very domain of `d=` (`t=s`).
    pub strict_identity: bool,
}

/// A public key.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: Algorithm,
    bits: u32,
    parsed: ParsedPublicKey,
}

/// Why a record is no key. All of them are permanent (RFC 6376 §6.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No tag list.
    #[error("key syntax error: {0}")]
    Tags(#[from] TagError),
    /// `v=` is not `DKIM1`, or not first.
    #[error("key record version is not DKIM1")]
    Version,
    /// `k=` is neither rsa nor ed25519.
    #[error("key type is unknown")]
    Type,
    /// `h=` leaves out SHA-256, the only hash that may be used.
    #[error("key does not allow sha256")]
    Hash,
    /// `s=` leaves out mail.
    #[error("key is not for email")]
    Service,
    /// There is no `p=`.
    #[error("key record has no p= tag")]
    NoKey,
    /// `p=` is empty.
    #[error("key is revoked")]
    Revoked,
    /// `p=` is not base64, too long, or not a key of its type.
    #[error("key data is invalid")]
    Invalid,
    /// An RSA key that is too short to prove anything.
    #[error("{0}-bit RSA key is too small")]
    TooSmall(u32),
}

impl KeyRecord {
    /// Reads a TXT record, its strings joined.
    ///
    /// # Errors
    /// The first thing for which the record cannot be used.
    pub fn parse(record: &[u8]) -> Result<Self, KeyError> {
        let tags = TagList::parse(record)?;
        if tags
            .value("v")
            .is_some_and(|version| version != b"DKIM1" || tags.first() != Some("v"))
        {
            return Err(KeyError::Version);
        }
        let algorithm = match tags.value("k").map(<[u8]>::to_ascii_lowercase).as_deref() {
            None | Some(b"rsa") => Algorithm::RsaSha256,
            Some(b"ed25519") => Algorithm::Ed25519Sha256,
            Some(_) => return Err(KeyError::Type),
        };
        let lists = |name: &str, words: &[&[u8]]| {
            let hit = |item: &[u8]| words.iter().any(|word| item.eq_ignore_ascii_case(word));
            tags.value(name)
                .is_none_or(|value| colon_list(value).any(hit))
        };
        if !lists("h", &[b"sha256"]) {
            return Err(KeyError::Hash);
        }
        if !lists("s", &[b"*", b"email"]) {
            return Err(KeyError::Service);
        }
        let flags = tags.value("t").unwrap_or_default();
        let flag = |letter: &[u8]| colon_list(flags).any(|item| item == letter);
        let public = squeeze(tags.value("p").ok_or(KeyError::NoKey)?);
        Ok(Self {
            testing: flag(b"y"),
            strict_identity: flag(b"s"),
            key: PublicKey::from_base64(algorithm, &public)?,
        })
    }
}

impl PublicKey {
    /// Reads the value of `p=`.
    fn from_base64(algorithm: Algorithm, text: &[u8]) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Revoked);
        }
        if text.len() > PUBLIC_MAX {
            return Err(KeyError::Invalid);
        }
        let bytes = BASE64.decode(text).map_err(|_| KeyError::Invalid)?;
        match algorithm {
            Algorithm::RsaSha256 => Self::rsa(&bytes),
            Algorithm::Ed25519Sha256 => Self::ed25519(&bytes),
        }
    }

    /// An RSA key as SubjectPublicKeyInfo or, as RFC 6376 has it by the letter, as bare
    /// RSAPublicKey.
    ///
    /// # Errors
    /// When it is neither, or its size is not within [`RSA_BITS`].
    pub fn rsa(der: &[u8]) -> Result<Self, KeyError> {
        let key = RsaKey::from_der(der).map_err(|_| KeyError::Invalid)?;
        let bits = rsa::RsaParameters::public_modulus_len(key.as_ref());
        let bits = bits.map_err(|_| KeyError::Invalid)?;
        if bits < *RSA_BITS.start() {
            return Err(KeyError::TooSmall(bits));
        }
        if bits > *RSA_BITS.end() {
            return Err(KeyError::Invalid);
        }
        let parsed = ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, der);
        Ok(Self {
            algorithm: Algorithm::RsaSha256,
            bits,
            parsed: parsed.map_err(|_| KeyError::Invalid)?,
        })
    }

    /// An Ed25519 key: its 32 bytes (RFC 8463 §4).
    ///
    /// # Errors
    /// When it is not that.
    pub fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != 32 {
            return Err(KeyError::Invalid);
        }
        let parsed = ParsedPublicKey::new(&ED25519, bytes);
        Ok(Self {
            algorithm: Algorithm::Ed25519Sha256,
            bits: 256,
            parsed: parsed.map_err(|_| KeyError::Invalid)?,
        })
    }

    /// What it is for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its size.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether `signature` is this key's over the header hash.
    #[must_use]
    pub fn verifies(&self, hash: &Digest, signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::RsaSha256 => digest::Digest::import_less_safe(hash, &SHA256)
                .and_then(|hash| self.parsed.verify_digest_sig(&hash, signature))
                .is_ok(),
            // The hash itself is the message (RFC 8463 §3).
            Algorithm::Ed25519Sha256 => self.parsed.verify_sig(hash, signature).is_ok(),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKey({}, {} bits)",
            self.algorithm.as_str(),
            self.bits
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Ed25519 key of RFC 8463 §A.2.
    const ED: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    /// The RSA key of RFC 6376 §C: 1024 bits, SubjectPublicKeyInfo.
    const RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkM\
        oGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/R\
        tdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToI\
        MmPSPDdQPNUYckcQ2QIDAQAB";

    /// The same key as bare RSAPublicKey: SubjectPublicKeyInfo without its first 22 bytes.
    fn bare_rsa() -> String {
        BASE64.encode(&BASE64.decode(RSA).unwrap()[22..])
    }

    /// DER of an RSAPublicKey with a modulus of that many bytes, all ones.
    fn rsa_of(bytes: usize) -> String {
        let length = |n: usize| match u8::try_from(n) {
            Ok(short @ 0..128) => vec![short],
            Ok(long) => vec![0x81, long],
            Err(_) => [&[0x82][..], &u16::try_from(n).unwrap().to_be_bytes()].concat(),
        };
        let modulus = [vec![2], length(bytes + 1), vec![0], vec![0xff; bytes]].concat();
        let body = [modulus, vec![2, 3, 1, 0, 1]].concat();
        BASE64.encode([vec![0x30], length(body.len()), body].concat())
    }

    #[test]
    fn records_are_read_by_the_rules() {
        use KeyError as E;
        let cases: Vec<(String, Result<_, E>)> = vec![
            (format!("v=DKIM1; k=rsa; p={RSA}"), Ok(("rsa-sha256", 1024))),
            (format!("p={RSA}"), Ok(("rsa-sha256", 1024))),
            (format!("p={}", bare_rsa()), Ok(("rsa-sha256", 1024))),
            (
                format!("v=DKIM1;k=ed25519;p={ED};"),
                Ok(("ed25519-sha256", 256)),
            ),
            (
                format!("v=DKIM1; k=ed25519; p={}", &ED[..43]),
                Ok(("ed25519-sha256", 256)),
            ),
            (
                format!("h=sha1:sha256; s=email; n=note; x=y; p={RSA}"),
                Ok(("rsa-sha256", 1024)),
            ),
            (
                format!("s=*:other; t=y:s:z; p={RSA}"),
                Ok(("rsa-sha256", 1024)),
            ),
            (format!("k=rsa; v=DKIM1; p={RSA}"), Err(E::Version)),
            (format!("v=DKIM2; p={RSA}"), Err(E::Version)),
            (format!("v=dkim1; p={RSA}"), Err(E::Version)),
            (format!("k=ed448; p={RSA}"), Err(E::Type)),
            (format!("h=sha1; p={RSA}"), Err(E::Hash)),
            (format!("s=tlsrpt; p={RSA}"), Err(E::Service)),
            ("v=DKIM1".to_owned(), Err(E::NoKey)),
            ("v=DKIM1; p=".to_owned(), Err(E::Revoked)),
            ("v=DKIM1; k=ed25519; p= ;".to_owned(), Err(E::Revoked)),
            ("p=!!!".to_owned(), Err(E::Invalid)),
            ("p=YWJj".to_owned(), Err(E::Invalid)),
            (format!("k=ed25519; p={RSA}"), Err(E::Invalid)),
            (format!("k=rsa; p={ED}"), Err(E::Invalid)),
            (format!("p={}", "A".repeat(PUBLIC_MAX + 4)), Err(E::Invalid)),
            (format!("p={}", rsa_of(64)), Err(E::TooSmall(512))),
            (format!("p={}", rsa_of(127)), Err(E::TooSmall(1016))),
            (format!("p={}", rsa_of(256)), Ok(("rsa-sha256", 2048))),
            (format!("p={}", rsa_of(1025)), Err(E::Invalid)),
            (
                format!("p={RSA}; p={RSA}"),
                Err(E::Tags(TagError::Duplicate("p".to_owned()))),
            ),
            ("spf".to_owned(), Err(E::Tags(TagError::Form(1)))),
        ];
        for (record, expected) in cases {
            let got = KeyRecord::parse(record.as_bytes());
            let got = got.map(|record| (record.key.algorithm().as_str(), record.key.bits()));
            assert_eq!(got, expected, "{record}");
        }
    }

    #[test]
    fn flags_are_told() {
        for (flags, expected) in [
            ("y", (true, false)),
            ("s", (false, true)),
            ("y : s", (true, true)),
            ("", (false, false)),
        ] {
            let record = KeyRecord::parse(format!("t={flags}; p={RSA}").as_bytes()).unwrap();
            assert_eq!(
                (record.testing, record.strict_identity),
                expected,
                "t={flags}"
            );
        }
    }

    #[test]
    fn nothing_makes_the_parser_panic() {
        bolero::check!()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|input: &[u8]| {
                let _ = KeyRecord::parse(input);
                let _ = KeyRecord::parse(&[b"k=rsa; p=", BASE64.encode(input).as_bytes()].concat());
                let _ = KeyRecord::parse(&[b"v=DKIM1; p=", input].concat());
            });
    }
}
