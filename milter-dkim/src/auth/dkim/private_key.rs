//! Private keys: read from PEM, made anew, used, and shown as the record that DNS must hold.
//!
//! RSA keys are taken as PKCS#1 and PKCS#8 and need 2048 bits at least; Ed25519 keys are PKCS#8 of
//! either version. Encrypted keys are refused. Whose eyes may see the file is not decided here.
//! [`PrivateKeyError`] tells what the text is instead of a key.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::body_hash::Digest;
use super::signature::Algorithm;
use crate::auth::tags::squeeze;

/// Bits of an RSA key that may sign, at least. The cryptographic library does not sign with less.
pub const RSA_BITS_MIN: u32 = 2048;

/// A private key, ready to sign.
pub struct PrivateKey(Inner);

/// By algorithm.
enum Inner {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// Why a text is no private key for us.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrivateKeyError {
    /// No `-----BEGIN ...-----`.
    #[error("not a PEM file: it holds no -----BEGIN PRIVATE KEY----- line")]
    NotPem,
    /// No end, or no base64 between.
    #[error("the PEM block is damaged or cut off")]
    Damaged,
    /// A PEM block of something else.
    #[error("it holds a {0}, not a private key for RSA or Ed25519")]
    Label(String),
    /// Protected by a pass phrase.
    #[error("the key is encrypted; decrypt it with: openssl pkey -in OLD -out NEW")]
    Encrypted,
    /// An RSA key that is too short to sign.
    #[error(
        "the RSA key has fewer than {RSA_BITS_MIN} bits, which is too short to sign; \
         make a new one with: milter-dkim genkey"
    )]
    TooSmall,
    /// The block does not hold what it says.
    #[error("the key is malformed or of an unsupported kind: {0}")]
    Malformed(String),
}

/// A key could not be made or used: the library or the system's randomness failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cryptographic library failed")]
pub struct CryptoError;

impl PrivateKey {
    /// Reads the first private key of a PEM file.
    ///
    /// # Errors
    /// When there is none that we can use.
    pub fn from_pem(text: &[u8]) -> Result<Self, PrivateKeyError> {
        let (label, body) = pem_block(text)?;
        if label == "ENCRYPTED PRIVATE KEY" || body.starts_with(b"Proc-Type:") {
            return Err(PrivateKeyError::Encrypted);
        }
        let decode = || {
            BASE64_STANDARD
                .decode(squeeze(body))
                .map_err(|_| PrivateKeyError::Damaged)
        };
        match label.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&decode()?)
                .map(Self::rsa)
                .map_err(rejected),
            "PRIVATE KEY" => Self::from_pkcs8(&decode()?),
            _ => Err(PrivateKeyError::Label(label)),
        }
    }

    /// PKCS#8 of either algorithm.
    fn from_pkcs8(der: &[u8]) -> Result<Self, PrivateKeyError> {
        // Version 1, without the public key, is what `openssl genpkey` writes.
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::ed25519(pair));
        }
        RsaKeyPair::from_pkcs8(der).map(Self::rsa).map_err(rejected)
    }

    fn rsa(pair: RsaKeyPair) -> Self {
        Self(Inner::Rsa(Box::new(pair)))
    }

    fn ed25519(pair: Ed25519KeyPair) -> Self {
        Self(Inner::Ed25519(Box::new(pair)))
    }

    /// Makes an RSA key; takes a second or so.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generate_rsa(size: RsaSize) -> Result<Self, CryptoError> {
        let size = match size {
            RsaSize::Bits2048 => KeySize::Rsa2048,
            RsaSize::Bits3072 => KeySize::Rsa3072,
            RsaSize::Bits4096 => KeySize::Rsa4096,
        };
        RsaKeyPair::generate(size)
            .map(Self::rsa)
            .map_err(|_| CryptoError)
    }

    /// Makes an Ed25519 key.
    ///
    /// # Errors
    /// When the library fails.
    pub fn generate_ed25519() -> Result<Self, CryptoError> {
        Ed25519KeyPair::generate()
            .map(Self::ed25519)
            .map_err(|_| CryptoError)
    }

    /// The key as PEM (PKCS#8).
    ///
    /// # Errors
    /// When the library fails.
    pub fn to_pem(&self) -> Result<String, CryptoError> {
        let der = match &self.0 {
            Inner::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(&**pair),
            Inner::Ed25519(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(&**pair),
        };
        let encoded = BASE64_STANDARD.encode(der.map_err(|_| CryptoError)?.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (index, character) in encoded.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// The TXT record under which the public key is to be published.
    ///
    /// # Errors
    /// When the library fails.
    pub fn to_record(&self) -> Result<String, CryptoError> {
        let (kind, public) = match &self.0 {
            Inner::Rsa(pair) => {
                let der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key());
                ("rsa", der.map_err(|_| CryptoError)?.as_ref().to_vec())
            }
            Inner::Ed25519(pair) => ("ed25519", pair.public_key().as_ref().to_vec()),
        };
        Ok(format!(
            "v=DKIM1; k={kind}; p={}",
            BASE64_STANDARD.encode(public)
        ))
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Inner::Rsa(_) => Algorithm::RsaSha256,
            Inner::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// Its size.
    #[must_use]
    pub fn bits(&self) -> usize {
        match &self.0 {
            Inner::Rsa(pair) => pair.public_modulus_len() * 8,
            Inner::Ed25519(_) => 256,
        }
    }

    /// Signs a header hash. An RSA signature takes about a millisecond.
    ///
    /// # Errors
    /// When the library fails.
    pub fn sign(&self, hash: &Digest) -> Result<Vec<u8>, CryptoError> {
        match &self.0 {
            Inner::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                digest::Digest::import_less_safe(hash, &SHA256)
                    .and_then(|hash| pair.sign_digest(&RSA_PKCS1_SHA256, &hash, &mut signature))
                    .map_err(|_| CryptoError)?;
                Ok(signature)
            }
            // The hash itself is the message (RFC 8463 §3).
            Inner::Ed25519(pair) => {
                let signature = pair.try_sign(hash).map_err(|_| CryptoError)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }
}

/// Never shows the key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PrivateKey({}, {} bits)",
            self.algorithm().as_str(),
            self.bits()
        )
    }
}

/// Sizes in which RSA keys are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaSize {
    /// 2048 bits, which fit into every DNS answer.
    Bits2048,
    /// 3072 bits.
    Bits3072,
    /// 4096 bits.
    Bits4096,
}

/// What the library's refusal means.
fn rejected(error: aws_lc_rs::error::KeyRejected) -> PrivateKeyError {
    match error.to_string().as_str() {
        "TooSmall" => PrivateKeyError::TooSmall,
        other => PrivateKeyError::Malformed(other.to_owned()),
    }
}

/// Label and content of the first PEM block that could be a private key, or of the first block.
fn pem_block(text: &[u8]) -> Result<(String, &[u8]), PrivateKeyError> {
    let mut first = None;
    let mut rest = text;
    while let Some(block) = next_block(&mut rest)? {
        if block.0.ends_with("PRIVATE KEY") {
            return Ok(block);
        }
        first = first.or(Some(block));
    }
    first.ok_or(PrivateKeyError::NotPem)
}

/// The next PEM block of any kind.
fn next_block<'a>(rest: &mut &'a [u8]) -> Result<Option<(String, &'a [u8])>, PrivateKeyError> {
    let Some(begin) = find(rest, b"-----BEGIN ") else {
        return Ok(None);
    };
    let after = &rest[begin + 11..];
    let label_end = find(after, b"-----").ok_or(PrivateKeyError::Damaged)?;
    let label = String::from_utf8_lossy(&after[..label_end]).into_owned();
    let body = &after[label_end + 5..];
    let end = find(body, format!("-----END {label}-----").as_bytes());
    let end = end.ok_or(PrivateKeyError::Damaged)?;
    *rest = &body[end + 1..];
    Ok(Some((label, body[..end].trim_ascii())))
}

/// Where a pattern begins.
fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len())
        .position(|window| window == pattern)
}
