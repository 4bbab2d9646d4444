//! The configuration file of milter-dkim, and what it means.
//!
//! [`Settings`] is what was written; [`Meaning`] holds values that every other module can use as
//! they are, keys included. Key files are read here, once; no port is opened and no name is looked
//! up.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use milter_proto::daemon::ConfigError;
use milter_proto::daemon::config::{Log, Metrics, Seconds, Server, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::dkim::canonical::Pair;
use crate::auth::dkim::sign::{Oversign, SignedFields, Signer, Style};
use crate::auth::dkim::signature::key_name;
use crate::auth::dkim::verify::Policy;
use crate::auth::dns::KeyFile;
use crate::auth::domain::Domain;
use crate::auth::header::Header;
use crate::auth::resolver::{Options, Resolver, Source};
use crate::decide::Mode;
use crate::keys::{self, Entry, SigningTable};

/// The file as written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is done: sign our mail, verify the mail of others, or both.
    pub mode: Mode,
    /// Networks (`192.0.2.0/24`, `2001:db8::/32`) and addresses whose mail is ours, to be signed.
    /// Mail of clients that have logged in is ours too.
    pub internal: Vec<String>,
    /// The name in whose name Authentication-Results are written, and under which those of others
    /// are forgeries. Without it the MTA's own name (macro `j`).
    pub authserv_id: Option<String>,
    /// Where the MTA connects.
    pub server: Server,
    /// What is logged.
    pub log: Log,
    /// Where monitoring asks: `/metrics` for Prometheus, `/livez`, `/readyz`.
    pub metrics: Metrics,
    /// How signatures are made.
    pub signature: SignatureSection,
    /// How signatures are verified.
    pub verify: VerifySection,
    /// Where public keys come from.
    pub dns: DnsSection,
    /// One table for each key. Several keys for a domain make several signatures: RSA and Ed25519,
    /// say. `milter-dkim genkey` makes a key and shows what to write here.
    pub sign: Vec<SignSection>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            internal: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
            authserv_id: None,
            server: Server::on_port(10026),
            metrics: Metrics::default(),
            log: Log::default(),
            signature: SignatureSection::default(),
            verify: VerifySection::default(),
            dns: DnsSection::default(),
            sign: Vec::new(),
        }
    }
}

/// One key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignSection {
    /// The domain in From whose mail it signs, and the signing domain (`d=`).
    pub domain: String,
    /// The selector (`s=`): DNS must have the public key at `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// The file with the private key, PEM, which only its owner (and a group) may read. RSA keys
    /// need 2048 bits.
    pub key: PathBuf,
    /// Whether it signs for subdomains of the domain that have no key of their own.
    #[serde(default)]
    pub subdomains: bool,
}

/// How signatures are made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureSection {
    /// `header/body`, each `simple` or `relaxed`.
    pub canonicalization: String,
    /// How long a signature is good (`x=`), `7d` say; without it for ever.
    pub lifetime: Option<Seconds>,
    /// Header fields that are signed, and that nobody may add, whether the message has them or not.
    /// From must be among them or among the next.
    pub oversigned: Vec<String>,
    /// Header fields that are signed, and of which nobody may add one if the message has one.
    pub oversigned_if_present: Vec<String>,
    /// Header fields that are signed as often as the message has them; more may be added.
    pub signed: Vec<String>,
}

impl Default for SignatureSection {
    fn default() -> Self {
        let defaults = SignedFields::default();
        let names = |wanted: Oversign| {
            let fitting = defaults
                .list()
                .iter()
                .filter(|(_, oversign)| *oversign == wanted);
            fitting.map(|(name, _)| name.clone()).collect()
        };
        Self {
            canonicalization: "relaxed/simple".to_owned(),
            lifetime: None,
            oversigned: names(Oversign::Always),
            oversigned_if_present: names(Oversign::IfPresent),
            signed: names(Oversign::Never),
        }
    }
}

/// How signatures are verified.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifySection {
    /// Signatures of a message that are verified at most; those of the author's domain come first.
    pub max_signatures: usize,
    /// How far the clock of a signer may be off.
    pub clock_skew: Seconds,
    /// The largest header that is signed or verified.
    pub max_header: Size,
}

impl Default for VerifySection {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            max_signatures: policy.signatures_max,
            clock_skew: Seconds::from_secs(policy.clock_skew.as_secs()),
            max_header: Size::from_bytes(Header::SIZE_MAX as u64),
        }
    }
}

/// Where public keys come from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DnsSection {
    /// Name servers, with ports where they are not 53: `127.0.0.1`, `127.0.0.1:5353`, `[::1]:5353`.
    /// Without any those of the system.
    pub name_servers: Vec<String>,
    /// How long one question may take before it is asked again.
    pub query_timeout: Seconds,
    /// How often a question is asked.
    pub attempts: usize,
    /// How long all keys of a message may take together, counted from the end of its header.
    pub message_timeout: Seconds,
    /// Answers that are kept at most, each for as long as it says.
    pub cache_size: u64,
    /// A file with public keys instead of DNS: lines of `selector._domainkey.domain` and a TXT
    /// value, or as in a zone file.
    pub key_file: Option<PathBuf>,
}

impl Default for DnsSection {
    fn default() -> Self {
        let options = Options::default();
        let timeout = u64::try_from(options.timeout.as_millis()).unwrap_or(2000);
        Self {
            name_servers: Vec::new(),
            query_timeout: Seconds::from_millis(timeout),
            attempts: options.attempts,
            message_timeout: Seconds::from_secs(5),
            cache_size: options.cache_size,
            key_file: None,
        }
    }
}

/// What the settings mean.
#[derive(Clone)]
pub struct Meaning {
    /// What is done at all.
    pub mode: Mode,
    /// Whose mail is ours.
    pub internal: Vec<IpNet>,
    /// In whose name results are written, if not the MTA's.
    pub authserv_id: Option<String>,
    /// Which sender is signed by which key.
    pub table: SigningTable,
    /// How signatures are made.
    pub style: Style,
    /// How they are verified.
    pub policy: Policy,
    /// Bytes of a header at most.
    pub header_max: usize,
    /// Who is asked for keys.
    pub dns: Arc<Source>,
    /// How long all keys of a message may take.
    pub keys_within: Duration,
    /// The time in seconds since 1970.
    pub clock: fn() -> u64,
}

impl Settings {
    /// Checks what the types cannot, and reads the keys.
    ///
    /// # Errors
    /// The first mistake.
    pub fn mean(&self) -> Result<Meaning, ConfigError> {
        let dns = match self.mode {
            // Nobody is asked for keys, so a host without name servers can sign.
            Mode::Sign => Source::File(KeyFile::default()),
            Mode::Both | Mode::Verify => self.dns.mean()?,
        };
        self.mean_asking(dns)
    }

    /// The same with keys from somewhere else than `[dns]` says.
    ///
    /// # Errors
    /// The first mistake.
    pub fn mean_asking(&self, dns: Source) -> Result<Meaning, ConfigError> {
        if self.dns.message_timeout >= self.server.finish_timeout {
            let message = "it is not shorter than server.finish_timeout";
            let help = "messages would be put off before their keys have come";
            return Err(ConfigError::at("dns.message_timeout", message).help(help));
        }
        Ok(Meaning {
            mode: self.mode,
            internal: networks(&self.internal)?,
            authserv_id: authserv_id(self.authserv_id.as_deref())?,
            table: signing_table(&self.sign)?,
            style: self.signature.mean()?,
            policy: self.verify.mean()?,
            header_max: self.verify.max_header.as_len(),
            dns: Arc::new(dns),
            keys_within: self.dns.message_timeout.get(),
            clock: system_time,
        })
    }
}

/// The time of the system.
fn system_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// `internal`: networks, with or without host bits, and single addresses.
fn networks(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |(index, text): (usize, &String)| {
        let network = text.parse::<IpNet>().ok();
        let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
        network.or_else(single).ok_or_else(|| {
            let message = format!("{text:?} is not a network");
            ConfigError::at(format!("internal.{index}"), message)
                .help("write an address or a network such as \"192.0.2.0/24\"")
        })
    };
    texts.iter().enumerate().map(parse).collect()
}

/// `authserv_id`: anything that can be written.
fn authserv_id(text: Option<&str>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text else {
        return Ok(None);
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let help = "write the host's name, or leave the key out to use the MTA's";
        return Err(ConfigError::at("authserv_id", "it is not a name").help(help));
    }
    Ok(Some(text.to_owned()))
}

/// `[[sign]]`: names, and keys from their files.
fn signing_table(sections: &[SignSection]) -> Result<SigningTable, ConfigError> {
    let mut entries: Vec<Entry> = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        let path = |key: &str| format!("sign.{index}.{key}");
        let name = |key: &str, text: &str| {
            Domain::parse(text).map_err(|error| ConfigError::at(path(key), error.to_string()))
        };
        let domain = name("domain", &section.domain)?;
        let selector = name("selector", &section.selector)?;
        if domain.labels() < 2 {
            let message = "a signing domain has two labels at least";
            return Err(ConfigError::at(path("domain"), message));
        }
        if key_name(&selector, &domain).is_none() {
            return Err(ConfigError::at(
                path("selector"),
                "selector and domain are too long",
            ));
        }
        let same =
            |entry: &Entry| entry.signer.domain == domain && entry.signer.selector == selector;
        if entries.iter().any(same) {
            let help = "each key of a domain needs a selector of its own";
            let message = format!("{selector} of {domain} is there already");
            return Err(ConfigError::at(path("selector"), message).help(help));
        }
        let key = keys::load(&section.key)
            .map_err(|error| ConfigError::at(path("key"), error.to_string()).help(error.help()))?;
        let signer = Signer {
            domain,
            selector,
            key: Arc::new(key),
        };
        entries.push(Entry {
            signer,
            subdomains: section.subdomains,
        });
    }
    Ok(SigningTable::new(entries))
}

impl SignatureSection {
    /// How signatures are made.
    fn mean(&self) -> Result<Style, ConfigError> {
        let canonicalization = Pair::parse(self.canonicalization.as_bytes()).map_err(|error| {
            ConfigError::at("signature.canonicalization", error.to_string())
                .help("write \"relaxed/simple\" or another pair of the two words")
        })?;
        let lists = [
            (&self.oversigned, Oversign::Always),
            (&self.oversigned_if_present, Oversign::IfPresent),
            (&self.signed, Oversign::Never),
        ];
        let list = lists
            .iter()
            .flat_map(|(names, oversign)| names.iter().map(|name| (name.clone(), *oversign)));
        let fields = SignedFields::new(list.collect())
            .map_err(|error| ConfigError::at("signature", error.to_string()))?;
        if self
            .lifetime
            .is_some_and(|lifetime| lifetime.get() < Duration::from_secs(1))
        {
            let message = "a signature must be good for a second at least";
            return Err(ConfigError::at("signature.lifetime", message));
        }
        Ok(Style {
            canonicalization,
            fields,
            lifetime: self.lifetime.map(Seconds::get),
        })
    }
}

impl VerifySection {
    /// What is verified.
    fn mean(&self) -> Result<Policy, ConfigError> {
        if self.max_signatures == 0 {
            let help = "to verify nothing, write: mode = \"s\"";
            let message = "no signature would be verified";
            return Err(ConfigError::at("verify.max_signatures", message).help(help));
        }
        Ok(Policy {
            signatures_max: self.max_signatures,
            clock_skew: self.clock_skew.get(),
        })
    }
}

impl DnsSection {
    /// Who is asked for keys.
    ///
    /// # Errors
    /// When the key file or a name server cannot be used.
    pub fn mean(&self) -> Result<Source, ConfigError> {
        if let Some(path) = &self.key_file {
            let at = |message: String| ConfigError::at("dns.key_file", message);
            let text = fs::read_to_string(path)
                .map_err(|error| at(format!("cannot read {}: {error}", path.display())))?;
            let file = KeyFile::parse(&text)
                .map_err(|error| at(format!("{}: {error}", path.display())))?;
            return Ok(Source::File(file));
        }
        let servers = self.name_servers.iter().enumerate().map(|(index, text)| {
            name_server(text).ok_or_else(|| {
                let message = format!("{text:?} is not a name server");
                ConfigError::at(format!("dns.name_servers.{index}"), message)
                    .help("write an address, or address and port such as \"127.0.0.1:5353\"")
            })
        });
        let options = Options {
            name_servers: servers.collect::<Result<_, _>>()?,
            timeout: self.query_timeout.get(),
            attempts: self.attempts,
            cache_size: self.cache_size,
        };
        let resolver = Resolver::new(&options).map_err(|error| {
            ConfigError::at("dns.name_servers", error.to_string())
                .help("name the servers here, or mend /etc/resolv.conf")
        })?;
        Ok(Source::Network(resolver))
    }
}

/// An address with or without a port.
#[must_use]
pub fn name_server(text: &str) -> Option<SocketAddr> {
    let address = || {
        text.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, 53))
    };
    text.parse::<SocketAddr>().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::private_key::PrivateKey;
    use std::os::unix::fs::PermissionsExt;

    fn mistake(change: impl FnOnce(&mut Settings)) -> Option<(String, String)> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
            .mean()
            .err()
            .map(|error| (error.path, error.message))
    }

    #[test]
    fn the_defaults_mean_something() {
        let meaning = Settings::default().mean().unwrap();
        assert_eq!(meaning.style.canonicalization.to_string(), "relaxed/simple");
        assert_eq!(meaning.style.fields, SignedFields::default());
        assert_eq!(meaning.policy, Policy::default());
        assert!((meaning.clock)() > 1_700_000_000);
    }

    #[test]
    fn mistakes_name_their_place() {
        type Change = fn(&mut Settings);
        let cases: &[(Change, &str, &str)] = &[
            (
                |s| s.internal.push("192.0.2.0/33".into()),
                "internal.2",
                "is not a network",
            ),
            (
                |s| s.internal[0] = "localhost".into(),
                "internal.0",
                "is not a network",
            ),
            (
                |s| s.authserv_id = Some("a b".into()),
                "authserv_id",
                "it is not a name",
            ),
            (
                |s| s.signature.canonicalization = "nowsp".into(),
                "signature.canonicalization",
                "",
            ),
            (
                |s| s.signature.lifetime = Some(Seconds::from_millis(1)),
                "signature.lifetime",
                "",
            ),
            (
                |s| s.signature.oversigned.clear(),
                "signature",
                "From must be signed",
            ),
            (
                |s| s.signature.signed.push("Received".into()),
                "signature",
                "must not be signed",
            ),
            (
                |s| s.signature.signed.push("to".into()),
                "signature",
                "to is listed twice",
            ),
            (
                |s| s.signature.signed.push("a:b".into()),
                "signature",
                "is not the name",
            ),
            (|s| s.verify.max_signatures = 0, "verify.max_signatures", ""),
            (
                |s| s.dns.name_servers = vec!["a".into()],
                "dns.name_servers.0",
                "\"a\"",
            ),
            (
                |s| s.dns.key_file = Some("/nonexistent".into()),
                "dns.key_file",
                "cannot read",
            ),
        ];
        for (change, path, message) in cases {
            let (got_path, got_message) = mistake(change).unwrap();
            assert_eq!(got_path, *path);
            assert!(got_message.contains(message), "{got_path}: {got_message}");
        }
    }

    #[test]
    fn keys_are_loaded_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key.pem");
        fs::write(
            &key,
            PrivateKey::generate_ed25519().unwrap().to_pem().unwrap(),
        )
        .unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let section = |domain: &str, selector: &str, key: &PathBuf| SignSection {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            key: key.clone(),
            subdomains: false,
        };
        let good = section("example.org", "a", &key);
        let long = ["x".repeat(60).as_str(); 4].join(".");
        let cases = [
            (section("example.org", "b", &key), None),
            (section("org", "b", &key), Some("sign.1.domain")),
            (section("exa mple.org", "b", &key), Some("sign.1.domain")),
            (section("example.org", "", &key), Some("sign.1.selector")),
            (section("example.org", &long, &key), Some("sign.1.selector")),
            (section("Example.org", "A", &key), Some("sign.1.selector")),
            (
                section("example.org", "b", &"/nonexistent".into()),
                Some("sign.1.key"),
            ),
        ];
        for (second, expected) in cases {
            let got = mistake(|settings| settings.sign = vec![good.clone(), second.clone()]);
            assert_eq!(got.map(|(path, _)| path).as_deref(), expected, "{second:?}");
        }
    }

    #[test]
    fn name_servers_have_ports() {
        let cases = [
            ("127.0.0.1", Some("127.0.0.1:53")),
            ("127.0.0.1:5353", Some("127.0.0.1:5353")),
            ("::1", Some("[::1]:53")),
            ("[::1]:5353", Some("[::1]:5353")),
            ("localhost", None),
            ("127.0.0.1:x", None),
        ];
        for (text, expected) in cases {
            let got = name_server(text).map(|address| address.to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}
