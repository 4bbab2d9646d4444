//! Signs a message (RFC 6376 §5), in two steps and without waiting for anything.
//!
//! [`Signing::new`] takes the whole header and, for each key, hashes what will be signed; the
//! header is not needed after that. [`Signing::body`] takes the body as it arrives, hashed once
//! whatever the number of keys. [`Signing::finish`] makes the fields. `l=` is never written, since
//! it lets anybody add text. Which key signs for whom is the caller's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::body_hash::{BodyHasher, BodyHashes, Digest};
use super::canonical::{self, Pair};
use super::private_key::{CryptoError, PrivateKey};
use super::signature::{FIELD, SIGNED_MAX};
use crate::auth::domain::Domain;
use crate::auth::header::{Field, Header};

/// A key and the name under which DNS has its public half.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The signing domain (`d=`).
    pub domain: Domain,
    /// The selector (`s=`).
    pub selector: Domain,
    /// The key.
    pub key: Arc<PrivateKey>,
}

/// How signatures are made, whoever signs.
#[derive(Debug, Clone)]
pub struct Style {
    /// How header and body are made canonical.
    pub canonicalization: Pair,
    /// Which fields are signed.
    pub fields: SignedFields,
    /// How long a signature is good (`x=`); for ever without it.
    pub lifetime: Option<Duration>,
}

/// Which fields are signed, and which of them once more than they occur, so that none can be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFields(Vec<(String, Oversign)>);

/// Whether a field's name is listed once more than it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversign {
    /// Whether it occurs or not: adding it breaks the signature.
    Always,
    /// If it occurs: adding a second one breaks the signature.
    IfPresent,
    /// Never: more of it may be added, as mailing lists do.
    Never,
}

/// The names are no list of fields to sign.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignedFieldsError {
    /// From is not there, or not oversigned.
    #[error("From must be signed, and signed once more than it occurs")]
    From,
    /// Not a name of a header field.
    #[error("{0:?} is not the name of a header field")]
    Name(String),
    /// The field changes on its way.
    #[error("{0} changes on the way and must not be signed")]
    Volatile(String),
    /// A name twice.
    #[error("{0} is listed twice")]
    Duplicate(String),
}

/// Why a message is not signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignError {
    /// More fields to sign than a verifier would take.
    #[error("more than {SIGNED_MAX} header fields would have to be signed")]
    TooManyFields,
    /// The library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Signed always and oversigned always.
const OVERSIGNED: [&str; 5] = ["From", "Reply-To", "Subject", "To", "Cc"];

/// Signed and oversigned if present.
const OVERSIGNED_IF_PRESENT: [&str; 10] = [
    "Sender",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "OpenPGP",
    "Autocrypt",
];

/// Signed as often as they occur.
const SIGNED: [&str; 14] = [
    "Resent-Date",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];

/// Changed, added or removed on the way by rule (RFC 6376 §5.4).
const VOLATILE: [&str; 6] = [
    "Return-Path",
    "Received",
    "Comments",
    "Keywords",
    "DKIM-Signature",
    "Authentication-Results",
];

impl Default for SignedFields {
    fn default() -> Self {
        let list = |names: &[&str], oversign| {
            let entry = |name: &&str| ((*name).to_owned(), oversign);
            names.iter().map(entry).collect::<Vec<_>>()
        };
        Self(
            [
                list(&OVERSIGNED, Oversign::Always),
                list(&OVERSIGNED_IF_PRESENT, Oversign::IfPresent),
                list(&SIGNED, Oversign::Never),
            ]
            .concat(),
        )
    }
}

impl SignedFields {
    /// A list of names, each with what is done about additions.
    ///
    /// # Errors
    /// When From is missing or not oversigned, or a name should not be there.
    pub fn new(list: Vec<(String, Oversign)>) -> Result<Self, SignedFieldsError> {
        for (index, (name, _)) in list.iter().enumerate() {
            let legal = |byte: u8| byte.is_ascii_graphic() && byte != b':' && byte != b';';
            if name.is_empty() || !name.bytes().all(legal) {
                return Err(SignedFieldsError::Name(name.clone()));
            }
            let same = |other: &str| other.eq_ignore_ascii_case(name);
            if VOLATILE.iter().any(|other| same(other)) {
                return Err(SignedFieldsError::Volatile(name.clone()));
            }
            if list.iter().take(index).any(|(other, _)| same(other)) {
                return Err(SignedFieldsError::Duplicate(name.clone()));
            }
        }
        let is_from = |(name, oversign): &(String, Oversign)| {
            name.eq_ignore_ascii_case("From") && *oversign != Oversign::Never
        };
        if !list.iter().any(is_from) {
            return Err(SignedFieldsError::From);
        }
        Ok(Self(list))
    }

    /// The names and what is done about additions.
    #[must_use]
    pub fn list(&self) -> &[(String, Oversign)] {
        &self.0
    }

    /// The names for `h=`: each as often as it occurs, and once more where it is oversigned.
    fn names_for(&self, header: &Header) -> Result<Vec<String>, SignError> {
        let mut names = Vec::new();
        for (name, oversign) in &self.0 {
            let present = header.count(name);
            let times = match oversign {
                Oversign::Always => present + 1,
                Oversign::IfPresent if present > 0 => present + 1,
                Oversign::IfPresent | Oversign::Never => present,
            };
            if names.len() + times > SIGNED_MAX {
                return Err(SignError::TooManyFields);
            }
            names.extend(std::iter::repeat_n(name.clone(), times));
        }
        Ok(names)
    }
}

/// A message being signed.
pub struct Signing {
    prepared: Vec<Prepared>,
    canonicalization: Pair,
    body: BodyHasher,
}

/// One signature with all that is needed from the header.
struct Prepared {
    key: Arc<PrivateKey>,
    /// The field's value up to and including `bh=`.
    start: String,
    /// The header hash so far: the signed fields.
    context: Context,
}

impl Signing {
    /// Looks at the header, at a time in seconds since 1970.
    ///
    /// # Errors
    /// When there is too much to sign.
    pub fn new(
        header: &Header,
        signers: &[Signer],
        style: &Style,
        now: u64,
    ) -> Result<Self, SignError> {
        let names = style.fields.names_for(header)?;
        let form = style.canonicalization.header;
        let mut context = Context::new(&SHA256);
        for field in header.select(&names) {
            context.update(&canonical::field(form, field));
            context.update(b"\r\n");
        }
        let prepare = |signer: &Signer| Prepared {
            key: signer.key.clone(),
            start: start_of_value(signer, style, &names, now),
            context: context.clone(),
        };
        let mut body = BodyHasher::default();
        body.request(style.canonicalization.body, None);
        Ok(Self {
            prepared: signers.iter().map(prepare).collect(),
            canonicalization: style.canonicalization,
            body,
        })
    }

    /// Takes the next chunk of the body, split anywhere.
    pub fn body(&mut self, chunk: &[u8]) {
        self.body.push(chunk);
    }

    /// The body is complete: one DKIM-Signature field for each signer, in their order. Takes about
    /// a millisecond for each RSA key.
    ///
    /// # Errors
    /// When the library fails.
    pub fn finish(self) -> Result<Vec<Field>, SignError> {
        let hashes = self.body.finish();
        let form = self.canonicalization;
        let finish = |prepared: Prepared| prepared.finish(form, &hashes);
        self.prepared.into_iter().map(finish).collect()
    }
}

impl Prepared {
    /// Adds the body hash, hashes the field itself, signs.
    fn finish(mut self, form: Pair, hashes: &BodyHashes) -> Result<Field, SignError> {
        let body = hashes.hash(form.body, None).ok_or(CryptoError)?;
        let mut value = self.start;
        let _ = write!(value, "{};\r\n\tb=", BASE64_STANDARD.encode(body.digest));
        let unsigned = Field::new(FIELD, &value);
        self.context
            .update(&canonical::field(form.header, &unsigned));
        let mut hash = Digest::default();
        hash.copy_from_slice(self.context.finish().as_ref());
        push_folded(&mut value, &BASE64_STANDARD.encode(self.key.sign(&hash)?));
        Ok(Field::new(FIELD, value))
    }
}

/// The value of the field up to and including `bh=`.
fn start_of_value(signer: &Signer, style: &Style, names: &[String], now: u64) -> String {
    let mut value = format!(
        " v=1; a={}; c={}; d={};\r\n\ts={}; t={now};",
        signer.key.algorithm().as_str(),
        style.canonicalization,
        signer.domain,
        signer.selector
    );
    if let Some(lifetime) = style.lifetime {
        // Never before t=, and strictly after it (RFC 6376 §3.5).
        let _ = write!(
            value,
            " x={};",
            now.saturating_add(lifetime.as_secs().max(1))
        );
    }
    value.push_str("\r\n\th=");
    let mut column = 10;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            value.push(':');
        }
        if column + name.len() > 74 {
            value.push_str("\r\n\t ");
            column = 9;
        }
        value.push_str(name);
        column += name.len() + 1;
    }
    value.push_str(";\r\n\tbh=");
    value
}

/// Base64 in lines that mail can carry; white space inside does not count (RFC 6376 §3.5).
fn push_folded(value: &mut String, text: &str) {
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 66 == 0 {
            value.push_str("\r\n\t ");
        }
        value.push(character);
    }
}
