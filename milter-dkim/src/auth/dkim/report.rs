//! What came of a signature, in the words of RFC 8601 and with the reason.
//!
//! The one table that turns a failure into a result word is here ([`Failure::result`]).

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::key::KeyError;
use super::signature::{Algorithm, Identity, Signature, SignatureError};
use crate::auth::dns::DnsError;
use crate::auth::domain::Domain;
use crate::auth::results::{MethodResult, Property, PropertyValue};

/// A result word for DKIM (RFC 8601 §2.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DkimResult {
    /// Not signed.
    None,
    /// Signed, and it verifies.
    Pass,
    /// Signed, and it does not verify.
    Fail,
    /// It verifies, but is not acceptable.
    Policy,
    /// Cannot be verified now; later perhaps.
    TempError,
    /// Can never be verified.
    PermError,
}

impl DkimResult {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl fmt::Display for DkimResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a signature is not good.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The field breaks a rule.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// `x=` is over.
    #[error("signature has expired")]
    Expired,
    /// `t=` is yet to come.
    #[error("signature is from the future")]
    Future,
    /// DNS has no key of that name.
    #[error("no key for signature")]
    NoKey,
    /// DNS did not answer.
    #[error("key unavailable: {0}")]
    KeyUnavailable(DnsError),
    /// The record in DNS cannot be used.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The key in DNS is for another algorithm.
    #[error("key is not for the algorithm of the signature")]
    KeyMismatch,
    /// The key's owner forbids identities below the domain (`t=s`).
    #[error("key does not allow identities in subdomains")]
    StrictIdentity,
    /// The body was changed.
    #[error("body hash did not verify")]
    BodyHash,
    /// `l=` is larger than the body.
    #[error("body is shorter than signed")]
    BodyTooShort,
    /// A signed field was changed, or it is not this key's signature.
    #[error("signature did not verify")]
    Mismatch,
    /// Text follows the part of the body that `l=` covers, so anybody may have added it.
    #[error("signature does not cover the whole body")]
    UncoveredBody,
    /// A From field that is not signed, so anybody may have added it.
    #[error("signature does not cover every From field")]
    UncoveredFrom,
}

impl Failure {
    /// The result word for it.
    #[must_use]
    pub fn result(&self) -> DkimResult {
        match self {
            Self::KeyUnavailable(_) => DkimResult::TempError,
            Self::BodyHash | Self::Mismatch => DkimResult::Fail,
            // RFC 8301 §3.2 leaves the word open; the key exists and may well verify, we do not
            // accept it.
            Self::Key(KeyError::TooSmall(_)) | Self::UncoveredBody | Self::UncoveredFrom => {
                DkimResult::Policy
            }
            // What RFC 6376 §6.1 calls PERMFAIL.
            Self::Signature(_)
            | Self::Expired
            | Self::Future
            | Self::NoKey
            | Self::Key(_)
            | Self::KeyMismatch
            | Self::StrictIdentity
            | Self::BodyTooShort => DkimResult::PermError,
        }
    }
}

/// What came of one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Nothing, or why it is not good.
    pub outcome: Result<(), Failure>,
    /// Who signed, if it could be read.
    pub domain: Option<Domain>,
    /// With which key, if it could be read.
    pub selector: Option<Domain>,
    /// On whose behalf.
    pub identity: Option<Identity>,
    /// How.
    pub algorithm: Option<Algorithm>,
    /// The beginning of the signature, which tells it from others (`header.b`, RFC 6008).
    pub signature_start: Option<String>,
    /// The size of the key.
    pub key_bits: Option<u32>,
    /// The domain is only testing (`t=y`).
    pub testing: bool,
}

impl Report {
    /// A report on a signature that could be read.
    #[must_use]
    pub fn of(signature: &Signature, outcome: Result<(), Failure>) -> Self {
        let encoded = BASE64_STANDARD.encode(&signature.signature);
        Self {
            outcome,
            domain: Some(signature.domain.clone()),
            selector: Some(signature.selector.clone()),
            identity: Some(signature.identity.clone()),
            algorithm: Some(signature.algorithm),
            signature_start: Some(encoded.chars().take(8).collect()),
            key_bits: None,
            testing: false,
        }
    }

    /// The result word.
    #[must_use]
    pub fn result(&self) -> DkimResult {
        match &self.outcome {
            Ok(()) => DkimResult::Pass,
            Err(failure) => failure.result(),
        }
    }

    /// The result as it is put into Authentication-Results.
    #[must_use]
    pub fn to_method_result(&self) -> MethodResult {
        let text = |name, value: Option<String>| (name, value.map(PropertyValue::Text));
        let identity = self
            .identity
            .clone()
            .map(|identity| PropertyValue::Address {
                local: identity.local,
                domain: identity.domain,
            });
        let properties = [
            text("d", self.domain.as_ref().map(Domain::to_string)),
            ("i", identity),
            text("s", self.selector.as_ref().map(Domain::to_string)),
            text(
                "a",
                self.algorithm
                    .map(|algorithm| algorithm.as_str().to_owned()),
            ),
            text("b", self.signature_start.clone()),
        ];
        let property = |(name, value): (_, Option<_>)| {
            value.map(|value| Property {
                ptype: "header",
                name,
                value,
            })
        };
        MethodResult {
            method: "dkim",
            result: self.result().as_str(),
            comment: self.comment(),
            reason: self.outcome.as_ref().err().map(ToString::to_string),
            properties: properties.into_iter().filter_map(property).collect(),
        }
    }

    /// What a reader may want to know about the key.
    fn comment(&self) -> Option<String> {
        let size = self.key_bits.map(|bits| format!("{bits}-bit key"));
        let testing = self.testing.then(|| "testing".to_owned());
        let parts: Vec<String> = size.into_iter().chain(testing).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// The result for a message without any signature.
#[must_use]
pub fn unsigned() -> MethodResult {
    MethodResult {
        method: "dkim",
        result: DkimResult::None.as_str(),
        comment: None,
        reason: None,
        properties: Vec::new(),
    }
}

/// For the log: `pass d=example.org s=s1`, with the reason where there is one. Holds nothing that
/// could break a line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.result())?;
        if let Some(domain) = &self.domain {
            write!(f, " d={domain}")?;
        }
        if let Some(selector) = &self.selector {
            write!(f, " s={selector}")?;
        }
        if let Some(algorithm) = self.algorithm {
            write!(f, " a={}", algorithm.as_str())?;
        }
        match &self.outcome {
            Ok(()) => Ok(()),
            Err(failure) => write!(f, " ({})", failure.to_string().escape_debug()),
        }
    }
}
