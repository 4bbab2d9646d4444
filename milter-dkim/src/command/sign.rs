//! `milter-dkim sign`: signs a message file with the keys that the configuration has for its
//! author, or with one given key.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use milter_proto::daemon::exit::{EX_DATAERR, EX_NOINPUT, EX_SOFTWARE, EX_USAGE};
use milter_proto::daemon::{CommandContext, Failure};

use crate::Dkim;
use crate::auth::dkim::sign::{SignError, Signer, Signing};
use crate::auth::dns::KeyFile;
use crate::auth::domain::Domain;
use crate::auth::header::{Header, split};
use crate::auth::resolver::Source;
use crate::config::Meaning;
use crate::decide::author;
use crate::keys;

/// What is signed, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The message file; `-` is standard input
    file: PathBuf,
    /// Sign with this key instead of those of the configuration
    #[arg(long, value_name = "FILE", requires = "domain", requires = "selector")]
    key: Option<PathBuf>,
    /// The signing domain for --key
    #[arg(long, requires = "key")]
    domain: Option<String>,
    /// The selector for --key
    #[arg(long, requires = "key")]
    selector: Option<String>,
}

/// Prints the message with its signatures on top.
pub(super) fn run(
    arguments: &Arguments,
    context: &CommandContext<'_, Dkim>,
) -> Result<ExitCode, Failure> {
    let meaning = meaning(arguments, context)?;
    let message = super::read_message(&arguments.file)?;
    let failed = |code: u8, why: &dyn std::fmt::Display| {
        Failure::new(code, format!("{}: {why}", arguments.file.display()))
    };
    let (header, body) = split(&message, Header::SIZE_MAX).map_err(|e| failed(EX_DATAERR, &e))?;
    let signers = signers(arguments, &header, &meaning)?;
    let signing = Signing::new(&header, &signers, &meaning.style, (meaning.clock)());
    let fields = signing.and_then(|mut signing| {
        signing.body(body);
        signing.finish()
    });
    let fields = fields.map_err(|error| match error {
        SignError::TooManyFields => failed(EX_DATAERR, &error),
        SignError::Crypto(_) => failed(EX_SOFTWARE, &error),
    })?;
    let mut out = Vec::new();
    for field in fields {
        out.extend_from_slice(&[&field.name[..], b":", &field.value, b"\r\n"].concat());
    }
    out.extend_from_slice(&message);
    super::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// What the configuration means; its keys do not matter where one is given.
fn meaning(arguments: &Arguments, context: &CommandContext<'_, Dkim>) -> Result<Meaning, Failure> {
    if arguments.key.is_none() {
        return Ok(context.prepare()?.meaning().clone());
    }
    let mut settings = context.settings()?;
    settings.sign.clear();
    // No key is looked up to sign.
    let nobody = Source::File(KeyFile::default());
    settings.mean_asking(nobody).map_err(super::mistaken)
}

/// The given key, or those for the author.
fn signers(
    arguments: &Arguments,
    header: &Header,
    meaning: &Meaning,
) -> Result<Vec<Signer>, Failure> {
    let given = (&arguments.key, &arguments.domain, &arguments.selector);
    if let (Some(path), Some(domain), Some(selector)) = given {
        let name = |option: &str, text: &str| {
            Domain::parse(text)
                .map_err(|error| Failure::new(EX_USAGE, format!("--{option} {text:?}: {error}")))
        };
        let key = keys::load(path)
            .map_err(|error| Failure::new(EX_NOINPUT, format!("{error}\n{}", error.help())))?;
        let (domain, selector) = (name("domain", domain)?, name("selector", selector)?);
        return Ok(vec![Signer {
            domain,
            selector,
            key: Arc::new(key),
        }]);
    }
    let author = author(header).map_err(|_| {
        let message = "the message has no From field, several, or none with an address";
        Failure::new(EX_DATAERR, message)
    })?;
    let entries = meaning.table.keys_for(&author);
    if entries.is_empty() {
        let message = format!(
            "the configuration has no key for {author}: add one, or give --key, --domain and \
             --selector"
        );
        return Err(Failure::new(EX_DATAERR, message));
    }
    Ok(entries.iter().map(|entry| entry.signer.clone()).collect())
}
