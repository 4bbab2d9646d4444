//! `milter-dkim genkey`: makes a key and the DNS record to publish for it.
//!
//! The private key is written for its owner alone, and never over another one unless that is asked
//! for. The record is a line of a zone file (over several lines, since a string holds 255 bytes),
//! printed and written beside the key; `dns.key_file` reads it too.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use milter_proto::daemon::Failure;
use milter_proto::daemon::exit::{EX_CANTCREAT, EX_SOFTWARE, EX_USAGE};

use crate::auth::dkim::private_key::{CryptoError, PrivateKey, RsaSize};
use crate::auth::dkim::signature::key_name;
use crate::auth::domain::Domain;

/// Bytes in a string of a TXT record at most (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// Which key is made, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The domain that signs
    #[arg(long)]
    domain: String,
    /// The selector, a name for this key among those of the domain
    #[arg(long)]
    selector: String,
    /// The kind of key; every verifier knows RSA, so have an RSA key beside an Ed25519 key
    #[arg(long = "type", value_enum, default_value_t = Kind::Rsa)]
    kind: Kind,
    /// Bits of an RSA key: 2048, 3072 or 4096
    #[arg(long, default_value_t = 2048)]
    bits: u32,
    /// Where DOMAIN.SELECTOR.pem and DOMAIN.SELECTOR.txt are written
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Replace a key that is there already
    #[arg(long)]
    force: bool,
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// RSA (`rsa-sha256`)
    Rsa,
    /// Ed25519 (`ed25519-sha256`)
    Ed25519,
}

/// Makes the key, writes the files, prints the record.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::print(make(arguments)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the key and writes the files; what is to be printed.
fn make(arguments: &Arguments) -> Result<String, Failure> {
    let (domain, selector) = names(arguments)?;
    let stem = arguments.directory.join(format!("{domain}.{selector}"));
    let (pem, txt) = (with_extension(&stem, "pem"), with_extension(&stem, "txt"));
    // Before the work: making a key takes a while.
    if !arguments.force && pem.exists() {
        return Err(exists(&pem));
    }
    let failed = |error: CryptoError| Failure::new(EX_SOFTWARE, error.to_string());
    let key = generate(arguments)?;
    let record = zone_lines(&domain, &selector, &key.to_record().map_err(failed)?);
    write_key(&pem, &key.to_pem().map_err(failed)?, arguments.force)?;
    fs::write(&txt, &record).map_err(|error| cannot_write(&txt, &error))?;
    Ok(summary(&domain, &selector, &pem, &record))
}

/// The names, if they are names and fit into DNS.
fn names(arguments: &Arguments) -> Result<(Domain, Domain), Failure> {
    let name = |option: &str, text: &str| {
        Domain::parse(text)
            .map_err(|error| Failure::new(EX_USAGE, format!("--{option} {text:?}: {error}")))
    };
    let domain = name("domain", &arguments.domain)?;
    let selector = name("selector", &arguments.selector)?;
    if domain.labels() < 2 {
        let message = "--domain: a signing domain has two labels at least";
        return Err(Failure::new(EX_USAGE, message));
    }
    if key_name(&selector, &domain).is_none() {
        return Err(Failure::new(
            EX_USAGE,
            "--selector: selector and domain are too long",
        ));
    }
    Ok((domain, selector))
}

/// A new key.
fn generate(arguments: &Arguments) -> Result<PrivateKey, Failure> {
    let made = match (arguments.kind, arguments.bits) {
        (Kind::Ed25519, _) => PrivateKey::generate_ed25519(),
        (Kind::Rsa, 2048) => PrivateKey::generate_rsa(RsaSize::Bits2048),
        (Kind::Rsa, 3072) => PrivateKey::generate_rsa(RsaSize::Bits3072),
        (Kind::Rsa, 4096) => PrivateKey::generate_rsa(RsaSize::Bits4096),
        (Kind::Rsa, bits) => {
            let message = format!("--bits {bits}: an RSA key has 2048, 3072 or 4096 bits");
            return Err(Failure::new(EX_USAGE, message));
        }
    };
    made.map_err(|error| Failure::new(EX_SOFTWARE, error.to_string()))
}

/// Writes the key, readable by its owner alone from the first moment on. A replaced key is replaced
/// at once, not written over.
fn write_key(path: &Path, pem: &str, force: bool) -> Result<(), Failure> {
    let create = |path: &Path| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => cannot_write(path, &error),
    };
    if !force {
        return create(path).map_err(failed);
    }
    let new = with_extension(path, "new");
    create(&new)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| {
            let failure = cannot_write(&new, &error);
            // Nobody else would clear it away; that it cannot be is told by the next attempt.
            let _ = fs::remove_file(&new);
            failure
        })
}

fn exists(path: &Path) -> Failure {
    let message = format!(
        "{} is there already; choose another selector, or replace it with --force",
        path.display()
    );
    Failure::new(EX_CANTCREAT, message)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        EX_CANTCREAT,
        format!("cannot write {}: {error}", path.display()),
    )
}

/// `path.extension`; names of domains have dots, which are no extensions.
fn with_extension(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// The record as in a zone file.
fn zone_lines(domain: &Domain, selector: &Domain, record: &str) -> String {
    let mut out = format!("{selector}._domainkey.{domain}. IN TXT (");
    let mut rest = record;
    while !rest.is_empty() {
        // A record is ASCII, so any place is a boundary.
        let (string, after) = rest.split_at(rest.len().min(STRING_MAX));
        // Writing to a String cannot fail.
        let _ = write!(out, "\n    \"{string}\"");
        rest = after;
    }
    out.push_str(" )\n");
    out
}

/// What is printed: the record, and as comments what to do next.
fn summary(domain: &Domain, selector: &Domain, pem: &Path, record: &str) -> String {
    format!(
        "{record}\
         ; publish this record, then write into the configuration of milter-dkim:\n\
         ;   [[sign]]\n\
         ;   domain = \"{domain}\"\n\
         ;   selector = \"{selector}\"\n\
         ;   key = \"{}\"\n\
         ; the user of the daemon must be able to read the key, and nobody else\n",
        pem.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::key::KeyRecord;
    use crate::auth::dns::{Dns, KeyFile};
    use crate::keys;

    fn arguments(directory: &Path, kind: Kind, bits: u32) -> Arguments {
        Arguments {
            domain: "Example.org".to_owned(),
            selector: "s1".to_owned(),
            kind,
            bits,
            directory: directory.to_owned(),
            force: false,
        }
    }

    #[tokio::test]
    async fn key_and_record_belong_together() {
        for (kind, bits) in [(Kind::Ed25519, 256), (Kind::Rsa, 2048)] {
            let directory = tempfile::tempdir().unwrap();
            make(&arguments(directory.path(), kind, 2048)).unwrap();
            let key = keys::load(&directory.path().join("example.org.s1.pem")).unwrap();
            let text = fs::read_to_string(directory.path().join("example.org.s1.txt")).unwrap();
            assert!(
                text.lines().all(|line| line.len() <= STRING_MAX + 20),
                "{text}"
            );
            let file = KeyFile::parse(&text).unwrap();
            let name = Domain::parse("s1._domainkey.example.org").unwrap();
            let records = file.txt(&name).await.unwrap();
            let record = KeyRecord::parse(&records[0]).unwrap();
            assert_eq!(
                (record.key.algorithm(), record.key.bits()),
                (key.algorithm(), bits)
            );
            assert_eq!(records[0], key.to_record().unwrap().into_bytes());
        }
    }

    #[test]
    fn a_key_is_never_lost() {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = arguments(directory.path(), Kind::Ed25519, 0);
        let pem = directory.path().join("example.org.s1.pem");
        make(&arguments).unwrap();
        let first = fs::read(&pem).unwrap();
        let failure = make(&arguments).unwrap_err();
        assert!(failure.message.contains("--force"), "{}", failure.message);
        assert_eq!(fs::read(&pem).unwrap(), first);
        arguments.force = true;
        make(&arguments).unwrap();
        assert_ne!(fs::read(&pem).unwrap(), first);
        assert!(keys::load(&pem).is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let good = || arguments(directory.path(), Kind::Rsa, 2048);
        let cases = [
            (
                Arguments {
                    bits: 1024,
                    ..good()
                },
                "2048, 3072 or 4096",
            ),
            (
                Arguments {
                    domain: "org".to_owned(),
                    ..good()
                },
                "two labels",
            ),
            (
                Arguments {
                    domain: "a b.org".to_owned(),
                    ..good()
                },
                "--domain",
            ),
            (
                Arguments {
                    selector: "../x".to_owned(),
                    ..good()
                },
                "--selector",
            ),
            (
                Arguments {
                    directory: "/nonexistent".into(),
                    ..good()
                },
                "cannot write",
            ),
        ];
        for (arguments, part) in cases {
            let failure = make(&arguments).unwrap_err();
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
