//! Which sender is signed by which key: the signing table, and the files that hold the keys.
//!
//! A key file that others can read or change is refused, with the command that mends it. Keys are
//! read once; nothing is read here while mail flows.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::auth::dkim::private_key::{PrivateKey, PrivateKeyError};
use crate::auth::dkim::sign::Signer;
use crate::auth::dkim::signature::Algorithm;
use crate::auth::domain::Domain;

/// Bytes of a key file at most: an RSA key of 8192 bits has a tenth of it.
const FILE_MAX: u64 = 64 * 1024;

/// Bits of the mode that a key file must not have: anything for others, writing for the group.
const FORBIDDEN_MODE: u32 = 0o027;

/// A row of the signing table.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key with its domain and selector.
    pub signer: Signer,
    /// Whether it signs for subdomains of the domain too.
    pub subdomains: bool,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let name = |entry: &Self| (entry.signer.domain.clone(), entry.signer.selector.clone());
        name(self) == name(other) && self.subdomains == other.subdomains
    }
}

impl Eq for Entry {}

/// All keys, by domain.
#[derive(Debug, Clone, Default)]
pub struct SigningTable(Vec<Entry>);

impl SigningTable {
    /// A table of these rows.
    #[must_use]
    pub fn new(mut entries: Vec<Entry>) -> Self {
        // RSA first: what verifies one signature only takes the first, and all know RSA.
        entries.sort_by_key(|entry| entry.signer.key.algorithm() != Algorithm::RsaSha256);
        Self(entries)
    }

    /// The keys for an author: of the very domain, or else of the nearest domain above that signs
    /// for subdomains.
    #[must_use]
    pub fn keys_for(&self, author: &Domain) -> Vec<&Entry> {
        let mut above = Some(author.clone());
        while let Some(domain) = above {
            let fits = |entry: &&Entry| {
                entry.signer.domain == domain && (entry.subdomains || domain == *author)
            };
            let keys: Vec<&Entry> = self.0.iter().filter(fits).collect();
            if !keys.is_empty() {
                return keys;
            }
            above = domain.parent();
        }
        Vec::new()
    }

    /// All rows.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// Why a key file cannot be used. [`KeyFileError::help`] tells what to do.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// It cannot be opened or read.
    #[error("cannot read the key {path}: {error}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read or change it.
    #[error("the key {path} has mode {mode:04o}: {who}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Who may do what.
        who: &'static str,
    },
    /// It is no regular file, or too large for a key.
    #[error("{path} is not a key file: {what}")]
    NotAFile {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It holds no key that we can use.
    #[error("{path}: {error}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: PrivateKeyError,
    },
}

impl KeyFileError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Unreadable { path, error } if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or_else(|| Path::new("."));
                format!(
                    "make one with: milter-dkim genkey --domain DOMAIN --selector SELECTOR \
                     --directory {}",
                    directory.display()
                )
            }
            Self::Unreadable { path, .. } => {
                format!(
                    "let the user of this daemon read it: chown USER {}",
                    path.display()
                )
            }
            Self::Exposed { path, .. } => format!("chmod 0600 {}", path.display()),
            Self::NotAFile { .. } | Self::Unusable { .. } => {
                "a key is PEM: PKCS#1 or PKCS#8 for RSA, PKCS#8 for Ed25519".to_owned()
            }
        }
    }
}

/// Reads a private key from a file that only its owner, and perhaps a group, can read.
///
/// # Errors
/// When the file cannot be read, is open to others, or holds no key.
pub fn load(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let unreadable = |error| KeyFileError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let not_a_file = |what| KeyFileError::NotAFile {
        path: path.to_owned(),
        what,
    };
    // Before it is opened: a pipe would block.
    let meta = path.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(not_a_file("not a regular file"));
    }
    let file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that it cannot be swapped in between.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & FORBIDDEN_MODE != 0 {
        let who = match mode {
            _ if mode & 0o007 != 0 => "every user of this host has access to it",
            _ => "its group may change it",
        };
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
            mode,
            who,
        });
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_MAX {
        return Err(not_a_file("too large"));
    }
    PrivateKey::from_pem(&text).map_err(|error| KeyFileError::Unusable {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::private_key::RsaSize;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    fn entry(domain: &str, selector: &str, key: &Arc<PrivateKey>, subdomains: bool) -> Entry {
        let (domain, selector) = (
            Domain::parse(domain).unwrap(),
            Domain::parse(selector).unwrap(),
        );
        Entry {
            signer: Signer {
                domain,
                selector,
                key: key.clone(),
            },
            subdomains,
        }
    }

    #[test]
    fn the_nearest_domain_signs() {
        let ed = Arc::new(PrivateKey::generate_ed25519().unwrap());
        let rsa = Arc::new(PrivateKey::generate_rsa(RsaSize::Bits2048).unwrap());
        let table = SigningTable::new(vec![
            entry("example.org", "ed", &ed, true),
            entry("example.org", "rsa", &rsa, false),
            entry("sub.example.org", "sub", &ed, false),
            entry("example.com", "com", &ed, false),
        ]);
        let cases: &[(&str, &[&str])] = &[
            ("example.org", &["rsa", "ed"]),
            ("a.b.example.org", &["ed"]),
            ("sub.example.org", &["sub"]),
            ("x.sub.example.org", &["ed"]),
            ("example.com", &["com"]),
            ("x.example.com", &[]),
            ("badexample.org", &[]),
            ("org", &[]),
        ];
        for (author, expected) in cases {
            let keys = table.keys_for(&Domain::parse(author).unwrap());
            let got: Vec<_> = keys
                .iter()
                .map(|entry| entry.signer.selector.as_str())
                .collect();
            assert_eq!(got, *expected, "{author}");
        }
    }

    #[test]
    fn files_are_refused_by_mode_and_content() {
        let good = PrivateKey::generate_ed25519().unwrap().to_pem().unwrap();
        let large = "x".repeat(70_000);
        let cases: &[(&str, u32, Option<&str>)] = &[
            (&good, 0o600, None),
            (&good, 0o400, None),
            (&good, 0o640, None),
            (
                &good,
                0o644,
                Some("has mode 0644: every user of this host has access to it"),
            ),
            (
                &good,
                0o601,
                Some("has mode 0601: every user of this host has access to it"),
            ),
            (&good, 0o660, Some("has mode 0660: its group may change it")),
            ("not a key", 0o600, Some("not a PEM file")),
            ("", 0o600, Some("not a PEM file")),
            (&large, 0o600, Some("too large")),
        ];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        for (text, mode, expected) in cases {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            let got = load(&path).err().map(|error| error.to_string());
            let hit = match (&got, expected) {
                (Some(got), Some(part)) => got.contains(part) && got.contains("key.pem"),
                (got, expected) => got.is_none() && expected.is_none(),
            };
            assert!(hit, "mode {mode:o}: {got:?}, expected {expected:?}");
        }
    }

    #[test]
    fn errors_tell_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let help = load(&path).unwrap_err().help();
        assert!(help.contains("milter-dkim genkey"), "{help}");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let help = load(&path).unwrap_err().help();
        assert_eq!(help, format!("chmod 0600 {}", path.display()));
        let error = load(directory.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
