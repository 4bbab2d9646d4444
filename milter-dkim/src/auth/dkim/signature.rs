//! The DKIM-Signature header field (RFC 6376 §3.5): read, checked, and prepared for hashing.
//!
//! A [`Signature`] has passed every rule that needs neither clock, key nor message; the value of a
//! field that breaks one gives [`InvalidSignature`] with the reason and, for the report, the names
//! that could be read. `z=` is not looked at.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

use super::canonical::Pair;
use crate::auth::domain::Domain;
use crate::auth::tags::{TagError, TagList, colon_list, is_space, squeeze};

/// The name of the field.
pub const FIELD: &str = "DKIM-Signature";

/// Names in `h=` at most.
pub const SIGNED_MAX: usize = 1000;

/// Base64 as mail has it: padding may be missing, stray bits in the last character are forgiven.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A signature that can be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// How it was made (`a=`).
    pub algorithm: Algorithm,
    /// The signature itself (`b=`).
    pub signature: Vec<u8>,
    /// The hash of the canonical body (`bh=`).
    pub body_hash: Vec<u8>,
    /// How header and body are made canonical (`c=`).
    pub canonicalization: Pair,
    /// Who signed (`d=`).
    pub domain: Domain,
    /// Which key of theirs (`s=`).
    pub selector: Domain,
    /// Names of the signed fields, as spelled, in order (`h=`).
    pub signed: Vec<String>,
    /// On whose behalf (`i=`).
    pub identity: Identity,
    /// Canonical octets of the body that are signed (`l=`).
    pub length: Option<u64>,
    /// When it was made, seconds since 1970 (`t=`).
    pub timestamp: Option<u64>,
    /// When it ends, seconds since 1970 (`x=`).
    pub expiration: Option<u64>,
    /// Where the value of `b=` stands in the field's value.
    pub signature_span: Range<usize>,
}

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `rsa-sha256` (RFC 6376 §3.3.2).
    RsaSha256,
    /// `ed25519-sha256` (RFC 8463).
    Ed25519Sha256,
}

impl Algorithm {
    /// The word in `a=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

/// The user or agent on whose behalf a message is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Before the at sign, decoded; often empty.
    pub local: Vec<u8>,
    /// After it: the signing domain or one below it.
    pub domain: Domain,
}

/// Why a field is no usable signature. All of them are permanent (RFC 6376 §6.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// No tag list.
    #[error("signature syntax error: {0}")]
    Tags(#[from] TagError),
    /// A tag that every signature has is not there.
    #[error("signature has no {0}= tag")]
    Missing(&'static str),
    /// A tag whose value is none.
    #[error("signature has an invalid {0}= tag")]
    Invalid(&'static str),
    /// A version other than 1.
    #[error("signature version is not 1")]
    Version,
    /// An algorithm that nobody uses.
    #[error("signature algorithm is unknown")]
    Algorithm,
    /// `rsa-sha1`, which must not be verified (RFC 8301 §3.1).
    #[error("signature algorithm rsa-sha1 is obsolete")]
    Sha1,
    /// Keys are to be had in no way that we know.
    #[error("signature query method is unknown")]
    QueryMethod,
    /// The author is not signed.
    #[error("signature does not cover From")]
    FromNotSigned,
    /// `h=` has more names than anybody needs.
    #[error("signature covers more than {SIGNED_MAX} fields")]
    TooManyFields,
    /// `i=` is not within `d=`.
    #[error("signature identity is outside the signing domain")]
    IdentityMismatch,
    /// `x=` is not after `t=`.
    #[error("signature expires before it was made")]
    ExpiresBeforeMade,
}

/// A field that is no usable signature, with what could be read of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct InvalidSignature {
    /// Why.
    pub reason: SignatureError,
    /// The signing domain, if that much was clear.
    pub domain: Option<Domain>,
    /// The selector, if that much was clear.
    pub selector: Option<Domain>,
}

impl Signature {
    /// Reads the value of a DKIM-Signature field.
    ///
    /// # Errors
    /// The first rule of RFC 6376 §3.5 and §6.1.1 that it breaks.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidSignature> {
        let invalid = |tags: Option<&TagList<'_>>, reason| InvalidSignature {
            reason,
            domain: tags.and_then(|tags| domain(tags).ok()),
            selector: tags.and_then(|tags| selector(tags).ok()),
        };
        let tags = TagList::parse(value).map_err(|error| invalid(None, error.into()))?;
        Self::from_tags(&tags).map_err(|reason| invalid(Some(&tags), reason))
    }

    /// Checks every tag.
    fn from_tags(tags: &TagList<'_>) -> Result<Self, SignatureError> {
        if need(tags, "v")? != b"1" {
            return Err(SignatureError::Version);
        }
        let domain = domain(tags)?;
        let identity = identity(tags, &domain)?;
        let (timestamp, expiration) = (number(tags, "t")?, number(tags, "x")?);
        if expiration
            .zip(timestamp)
            .is_some_and(|(end, start)| end <= start)
        {
            return Err(SignatureError::ExpiresBeforeMade);
        }
        check_query_methods(tags)?;
        let signature_tag = tags.tag("b").ok_or(SignatureError::Missing("b"))?;
        Ok(Self {
            algorithm: algorithm(tags)?,
            signature: decode(tags, "b")?,
            body_hash: decode(tags, "bh")?,
            canonicalization: tags
                .value("c")
                .map_or(Ok(Pair::ALL[0]), Pair::parse)
                .map_err(|_| SignatureError::Invalid("c"))?,
            selector: selector(tags)?,
            signed: signed(tags)?,
            length: number(tags, "l")?,
            signature_span: signature_tag.span.clone(),
            domain,
            identity,
            timestamp,
            expiration,
        })
    }

    /// The name under which the key is published: `selector._domainkey.domain`.
    ///
    /// # Errors
    /// When it is longer than a name can be.
    pub fn key_name(&self) -> Result<Domain, SignatureError> {
        key_name(&self.selector, &self.domain).ok_or(SignatureError::Invalid("s"))
    }

    /// The field's value as it is hashed: without the value of `b=` and the white space around it
    /// (RFC 6376 §3.7).
    #[must_use]
    pub fn without_signature(&self, value: &[u8]) -> Vec<u8> {
        let (before, after) = (
            value.get(..self.signature_span.start),
            value.get(self.signature_span.end..),
        );
        [before.unwrap_or_default(), after.unwrap_or_default()].concat()
    }
}

/// The name under which a key is published, `None` when it would be too long.
#[must_use]
pub fn key_name(selector: &Domain, domain: &Domain) -> Option<Domain> {
    Domain::parse(format!("{selector}._domainkey.{domain}")).ok()
}

/// The value of a tag that must be there.
fn need<'a>(tags: &TagList<'a>, name: &'static str) -> Result<&'a [u8], SignatureError> {
    tags.value(name).ok_or(SignatureError::Missing(name))
}

/// `d=`: at least two labels, as the grammar has it.
fn domain(tags: &TagList<'_>) -> Result<Domain, SignatureError> {
    let value = need(tags, "d")?;
    let domain = Domain::parse(value)
        .ok()
        .filter(|domain| domain.labels() > 1);
    domain
        .filter(|_| !value.ends_with(b"."))
        .ok_or(SignatureError::Invalid("d"))
}

/// `s=`.
fn selector(tags: &TagList<'_>) -> Result<Domain, SignatureError> {
    let value = need(tags, "s")?;
    let selector = Domain::parse(value).ok().filter(|_| !value.ends_with(b"."));
    selector.ok_or(SignatureError::Invalid("s"))
}

/// `a=`.
fn algorithm(tags: &TagList<'_>) -> Result<Algorithm, SignatureError> {
    match need(tags, "a")?.to_ascii_lowercase().as_slice() {
        b"rsa-sha256" => Ok(Algorithm::RsaSha256),
        b"ed25519-sha256" => Ok(Algorithm::Ed25519Sha256),
        b"rsa-sha1" => Err(SignatureError::Sha1),
        _ => Err(SignatureError::Algorithm),
    }
}

/// A base64 value with white space in it; not empty.
fn decode(tags: &TagList<'_>, name: &'static str) -> Result<Vec<u8>, SignatureError> {
    let decoded = BASE64.decode(squeeze(need(tags, name)?));
    let decoded = decoded.ok().filter(|bytes| !bytes.is_empty());
    decoded.ok_or(SignatureError::Invalid(name))
}

/// `h=`: names of fields, From among them.
fn signed(tags: &TagList<'_>) -> Result<Vec<String>, SignatureError> {
    let invalid = || SignatureError::Invalid("h");
    let mut names = Vec::new();
    for name in colon_list(need(tags, "h")?) {
        if names.len() == SIGNED_MAX {
            return Err(SignatureError::TooManyFields);
        }
        let printable = |byte: &u8| byte.is_ascii_graphic();
        if name.is_empty() || !name.iter().all(printable) {
            return Err(invalid());
        }
        names.push(String::from_utf8(name.to_vec()).map_err(|_| invalid())?);
    }
    if !names.iter().any(|name| name.eq_ignore_ascii_case("From")) {
        return Err(SignatureError::FromNotSigned);
    }
    Ok(names)
}

/// `i=`, or `@d` without it; within the signing domain.
fn identity(tags: &TagList<'_>, signer: &Domain) -> Result<Identity, SignatureError> {
    let Some(value) = tags.value("i") else {
        return Ok(Identity {
            local: Vec::new(),
            domain: signer.clone(),
        });
    };
    let invalid = || SignatureError::Invalid("i");
    let text = quoted_printable(value).ok_or_else(invalid)?;
    let at = text
        .iter()
        .rposition(|&byte| byte == b'@')
        .ok_or_else(invalid)?;
    let domain = Domain::parse(&text[at + 1..]).map_err(|_| invalid())?;
    if !domain.is_within(signer) {
        return Err(SignatureError::IdentityMismatch);
    }
    Ok(Identity {
        local: text[..at].to_vec(),
        domain,
    })
}

/// DKIM-quoted-printable (RFC 6376 §2.11); white space does not count.
fn quoted_printable(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = value.iter().copied().filter(|&byte| !is_space(byte));
    while let Some(byte) = bytes.next() {
        if byte != b'=' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// A decimal number of at most 76 digits (RFC 6376 §3.5); what does not fit is the largest there
/// is, which no clock and no body reaches.
fn number(tags: &TagList<'_>, name: &'static str) -> Result<Option<u64>, SignatureError> {
    let Some(value) = tags.value(name) else {
        return Ok(None);
    };
    if !(1..=76).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err(SignatureError::Invalid(name));
    }
    let digits = value.iter().map(|byte| u64::from(byte - b'0'));
    Ok(Some(digits.fold(0u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(digit)
    })))
}

/// `q=`: one of the methods must be DNS TXT; unknown ones are passed over.
fn check_query_methods(tags: &TagList<'_>) -> Result<(), SignatureError> {
    let Some(value) = tags.value("q") else {
        return Ok(());
    };
    let known = |method: &[u8]| method.eq_ignore_ascii_case(b"dns/txt");
    if colon_list(value).any(known) {
        return Ok(());
    }
    Err(SignatureError::QueryMethod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "v=1; a=rsa-sha256; d=example.org; s=s1; h=From:To; bh=YWJj; b=YWJj";

    /// The good one with a tag replaced, added or (`None`) left out.
    fn with(name: &str, value: Option<&str>) -> String {
        let tags = GOOD.split("; ");
        let others = tags.filter(|tag| tag.split_once('=').unwrap().0 != name);
        let mut list: Vec<String> = others.map(str::to_owned).collect();
        list.extend(value.map(|value| format!("{name}={value}")));
        list.join("; ")
    }

    #[test]
    fn a_minimal_signature_has_the_defaults() {
        let signature = Signature::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(signature.algorithm, Algorithm::RsaSha256);
        assert_eq!(signature.canonicalization, Pair::ALL[0]);
        assert_eq!(signature.identity.domain.as_str(), "example.org");
        assert_eq!(
            (signature.length, signature.timestamp, signature.expiration),
            (None, None, None)
        );
        assert_eq!(signature.signed, ["From", "To"]);
        assert_eq!(signature.signature, b"abc");
        assert_eq!(
            signature.key_name().unwrap().as_str(),
            "s1._domainkey.example.org"
        );
    }

    #[test]
    fn rules_of_the_standard_are_kept() {
        use SignatureError as E;
        let many = "From:".repeat(SIGNED_MAX) + "To";
        let huge = "9".repeat(76);
        let cases: &[(&str, Option<&str>, Option<SignatureError>)] = &[
            ("v", None, Some(E::Missing("v"))),
            ("v", Some("2"), Some(E::Version)),
            ("v", Some("01"), Some(E::Version)),
            ("a", None, Some(E::Missing("a"))),
            ("a", Some("RSA-SHA256"), None),
            ("a", Some("ed25519-sha256"), None),
            ("a", Some("rsa-sha1"), Some(E::Sha1)),
            ("a", Some("rsa-md5"), Some(E::Algorithm)),
            ("b", None, Some(E::Missing("b"))),
            ("b", Some(""), Some(E::Invalid("b"))),
            ("b", Some("Y W\r\n\tJj"), None),
            ("b", Some("YW*j"), Some(E::Invalid("b"))),
            ("b", Some("YWJ"), None),
            ("bh", None, Some(E::Missing("bh"))),
            ("bh", Some("=="), Some(E::Invalid("bh"))),
            ("c", Some("relaxed"), None),
            ("c", Some("relaxed/nowsp"), Some(E::Invalid("c"))),
            ("d", None, Some(E::Missing("d"))),
            ("d", Some("org"), Some(E::Invalid("d"))),
            ("d", Some("exa mple.org"), Some(E::Invalid("d"))),
            ("d", Some("example.org."), Some(E::Invalid("d"))),
            ("d", Some("example.org\"x"), Some(E::Invalid("d"))),
            ("s", None, Some(E::Missing("s"))),
            ("s", Some("a..b"), Some(E::Invalid("s"))),
            ("s", Some("2024.k_1"), None),
            ("h", None, Some(E::Missing("h"))),
            ("h", Some("To:Subject"), Some(E::FromNotSigned)),
            ("h", Some("fRoM"), None),
            ("h", Some(" from :\r\n\t to "), None),
            ("h", Some("from::to"), Some(E::Invalid("h"))),
            ("h", Some("from:b c"), Some(E::Invalid("h"))),
            ("h", Some(&many), Some(E::TooManyFields)),
            ("i", Some("@example.org"), None),
            ("i", Some("joe=40x@mail.Example.org"), None),
            ("i", Some("joe@example.com"), Some(E::IdentityMismatch)),
            ("i", Some("joe@badexample.org"), Some(E::IdentityMismatch)),
            ("i", Some("joe"), Some(E::Invalid("i"))),
            ("i", Some("=4@example.org"), Some(E::Invalid("i"))),
            ("l", Some("0"), None),
            ("l", Some("-1"), Some(E::Invalid("l"))),
            ("l", Some(&huge), None),
            ("l", Some(""), Some(E::Invalid("l"))),
            ("t", Some("1e3"), Some(E::Invalid("t"))),
            ("x", Some("12345"), None),
            ("x", Some("soon"), Some(E::Invalid("x"))),
            ("q", Some("dns/txt"), None),
            ("q", Some("http : dns/txt"), None),
            ("q", Some("dns"), Some(E::QueryMethod)),
            ("z", Some("anything|at all="), None),
            ("unknown", Some("x"), None),
        ];
        for (name, value, expected) in cases {
            let got = Signature::parse(with(name, *value).as_bytes());
            assert_eq!(got.err().map(|e| e.reason), *expected, "{name}={value:?}");
        }
    }

    #[test]
    fn expiry_must_be_after_the_making() {
        for (expiration, legal) in [(9, false), (10, false), (11, true)] {
            let text = format!("{GOOD}; t=10; x={expiration}");
            assert_eq!(Signature::parse(text.as_bytes()).is_ok(), legal, "{text}");
        }
    }

    #[test]
    fn an_invalid_signature_still_tells_whose_it_was() {
        let error = Signature::parse(with("v", Some("3")).as_bytes()).unwrap_err();
        assert_eq!(error.domain, Domain::parse("example.org").ok());
        assert_eq!(error.selector, Domain::parse("s1").ok());
        let error = Signature::parse(b"d=example.org; d=example.com").unwrap_err();
        assert_eq!(error.domain, None);
    }

    #[test]
    fn the_value_of_b_is_cut_out_and_nothing_else() {
        let text = b" v=1; a=rsa-sha256; b = YW\r\n\tJj ; bh=YWJj; d=example.org; s=b; h=From; ";
        let signature = Signature::parse(text).unwrap();
        let expected = b" v=1; a=rsa-sha256; b =; bh=YWJj; d=example.org; s=b; h=From; ";
        assert_eq!(
            signature.without_signature(text).escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn nothing_makes_the_parser_panic() {
        bolero::check!()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|input: &[u8]| {
                let _ = Signature::parse(input);
                let text = [GOOD.as_bytes(), b"; ", input].concat();
                if let Ok(signature) = Signature::parse(&text) {
                    assert!(signature.without_signature(&text).len() < text.len());
                }
            });
    }
}
