//! The configuration file of milter-clamav, and what it means.
//!
//! [`Settings`] is what was written; [`Meaning`] holds values that every other module can use as
//! they are. Nothing is opened here: that a clamd cannot be reached is no mistake of the file.

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use milter_proto::daemon::ConfigError;
use milter_proto::daemon::config::{Log, Metrics, Seconds, Server, Size};
use milter_proto::net::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clamd::client::Deadlines;
use crate::clamd::servers::{self, Servers};
use crate::outcome::{OnError, OnFound, OnTooLarge, Policy, Template};
use crate::{scan, spool};

/// The file as written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the MTA connects.
    pub server: Server,
    /// What is logged.
    pub log: Log,
    /// Where monitoring asks: `/metrics` for Prometheus, `/livez`, `/readyz`.
    pub metrics: Metrics,
    /// Where clamd is, and how long it may take.
    pub clamd: Clamd,
    /// What is scanned.
    pub scan: Scan,
    /// What becomes of a message.
    pub policy: PolicySection,
    /// What is written into a message.
    pub headers: Headers,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: Server::on_port(10028),
            metrics: Metrics::default(),
            log: Log::default(),
            clamd: Clamd::default(),
            scan: Scan::default(),
            policy: PolicySection::default(),
            headers: Headers::default(),
        }
    }
}

/// Where clamd is, and how long it may take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clamd {
    /// One or more clamds: `unix:/path` or `inet:port@host`. When one fails, also in the middle of
    /// a message, the next is asked.
    pub servers: Vec<Address>,
    /// `listed` asks the first that works, `rotate` each in turn.
    pub order: Order,
    /// How long a clamd may take to accept a connection.
    pub connect_timeout: Seconds,
    /// How long a clamd may take none of the data that is sent to it.
    pub write_timeout: Seconds,
    /// How long a clamd may take from the last byte to its answer.
    pub reply_timeout: Seconds,
    /// How long all attempts together may take after the last byte. Shorter than
    /// `server.finish_timeout`.
    pub total_timeout: Seconds,
    /// How often a clamd that failed is asked whether it is back.
    pub probe_interval: Seconds,
}

impl Default for Clamd {
    fn default() -> Self {
        Self {
            servers: vec![Address::Unix(PathBuf::from("/run/clamav/clamd.ctl"))],
            order: Order::Listed,
            connect_timeout: Seconds::from_secs(2),
            write_timeout: Seconds::from_secs(5),
            reply_timeout: Seconds::from_secs(60),
            total_timeout: Seconds::from_secs(110),
            probe_interval: Seconds::from_secs(2),
        }
    }
}

/// Which clamd is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The first that works, as they are listed.
    #[default]
    Listed,
    /// Each in turn.
    Rotate,
}

/// What is scanned.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scan {
    /// The largest message that is scanned. Not more than `StreamMaxLength`, `MaxFileSize` and
    /// `MaxScanSize` of clamd.conf: what is beyond the last two clamd leaves out and calls clean,
    /// unless it has `AlertExceedsMax yes`.
    pub max_size: Size,
    /// How much of a message is kept in memory for a second attempt; what is longer goes to a file.
    pub spool_memory: Size,
    /// Directory of that file. It needs no name there, and is gone when the message is.
    pub spool_directory: PathBuf,
    /// Networks (`192.0.2.0/24`, `2001:db8::/32`) whose mail is not scanned.
    #[schemars(with = "Vec<String>")]
    pub exempt_networks: Vec<IpNet>,
    /// Whether mail of clients that have authenticated is not scanned.
    pub exempt_authenticated: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            max_size: Size::from_bytes(25 << 20),
            spool_memory: Size::from_bytes(256 << 10),
            spool_directory: PathBuf::from("/var/tmp"),
            exempt_networks: Vec::new(),
            exempt_authenticated: false,
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySection {
    /// With malware in it: `reject`, `quarantine`, `discard`, or `tag` (deliver, told in its
    /// header).
    pub on_infected: OnFound,
    /// With encrypted content, where clamd.conf has `AlertEncrypted yes`: as for `on_infected`.
    pub on_encrypted: OnFound,
    /// Larger than `scan.max_size` or a limit that clamd reports: `reject`, `quarantine`, or
    /// `accept`, which delivers it unscanned and says so in its header.
    pub on_too_large: OnTooLarge,
    /// When no clamd gives an answer: `tempfail`, `reject`, `quarantine`, or `accept`, which
    /// delivers it unscanned and says so in its header.
    pub on_error: OnError,
    /// What the client is told when malware is refused, after `550 5.7.1`. `{signature}` stands
    /// for the name of what was found.
    pub reject_text: String,
}

impl Default for PolicySection {
    fn default() -> Self {
        Self {
            on_infected: OnFound::default(),
            on_encrypted: OnFound::default(),
            on_too_large: OnTooLarge::default(),
            on_error: OnError::default(),
            reject_text: Template::default().to_string(),
        }
    }
}

/// What is written into a message.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// Whether `X-Virus-Scanned` and `X-Virus-Status` are added to every message that is taken.
    pub add: bool,
    /// Whether fields with these names are removed that a message came with.
    pub remove_forged: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            add: true,
            remove_forged: true,
        }
    }
}

/// What the file means, ready for use.
#[derive(Debug)]
pub struct Meaning {
    /// All clamds.
    pub servers: Arc<Servers>,
    /// For every scan.
    pub limits: Arc<scan::Limits>,
    /// Who is not scanned.
    pub exempt: Exempt,
    /// What becomes of a message.
    pub policy: Policy,
    /// What is written into it.
    pub headers: Headers,
}

/// Who is not scanned; nobody by default.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Exempt {
    /// Clients in these networks.
    pub networks: Vec<IpNet>,
    /// Clients that have authenticated.
    pub authenticated: bool,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first mistake.
    pub fn meaning(self) -> Result<Meaning, ConfigError> {
        let servers = self.servers()?;
        let limits = self.limits()?;
        let policy = self.policy()?;
        Ok(Meaning {
            servers: Arc::new(Servers::new(servers)),
            limits: Arc::new(limits),
            exempt: Exempt {
                networks: self.scan.exempt_networks,
                authenticated: self.scan.exempt_authenticated,
            },
            policy,
            headers: self.headers,
        })
    }

    fn servers(&self) -> Result<servers::Settings, ConfigError> {
        let clamd = &self.clamd;
        if clamd.servers.is_empty() {
            return Err(ConfigError::at("clamd.servers", "no clamd is named")
                .help("name at least one, such as \"unix:/run/clamav/clamd.ctl\""));
        }
        let waits = [
            ("connect_timeout", clamd.connect_timeout),
            ("write_timeout", clamd.write_timeout),
            ("reply_timeout", clamd.reply_timeout),
            ("total_timeout", clamd.total_timeout),
            ("probe_interval", clamd.probe_interval),
        ];
        for (key, wait) in waits {
            if wait.get().is_zero() {
                return Err(ConfigError::at(
                    format!("clamd.{key}"),
                    "no clamd can do it in no time",
                )
                .help("write a duration such as \"5s\""));
            }
        }
        let finish = self.server.finish_timeout;
        if clamd.total_timeout >= finish {
            return Err(ConfigError::at(
                "clamd.total_timeout",
                format!("is not shorter than server.finish_timeout, which is {finish}"),
            )
            .help(
                "policy.on_error is applied only if the scan is given up before the message is",
            ));
        }
        Ok(servers::Settings {
            addresses: clamd.servers.clone(),
            order: match clamd.order {
                Order::Listed => servers::Order::Listed,
                Order::Rotate => servers::Order::Rotate,
            },
            deadlines: Deadlines {
                connect: clamd.connect_timeout.get(),
                write: clamd.write_timeout.get(),
                reply: clamd.reply_timeout.get(),
            },
            probe_interval: clamd.probe_interval.get(),
        })
    }

    fn limits(&self) -> Result<scan::Limits, ConfigError> {
        let scan = &self.scan;
        if scan.max_size.get() == 0 {
            return Err(ConfigError::at("scan.max_size", "no message is that small")
                .help("write the largest size that clamd scans, such as \"25MB\""));
        }
        if !scan.spool_directory.is_dir() {
            let shown = scan.spool_directory.display();
            return Err(ConfigError::at(
                "scan.spool_directory",
                format!("{shown} is no directory"),
            )
            .help("make it, writable for the user of this program, or name another"));
        }
        Ok(scan::Limits {
            size: scan.max_size.get(),
            // The rest is for the spool and a busy machine.
            stage: self.server.stage_timeout.get() * 3 / 4,
            total: self.clamd.total_timeout.get(),
            spool: spool::Limits {
                memory: scan.spool_memory.as_len(),
                directory: scan.spool_directory.clone(),
            },
        })
    }

    fn policy(&self) -> Result<Policy, ConfigError> {
        let policy = &self.policy;
        let mistake = |message: String| {
            ConfigError::at("policy.reject_text", message)
                .help("write a text such as \"malware found: {signature}\"")
        };
        let bare = policy.reject_text.replace(Template::SIGNATURE, "");
        if bare.contains(['{', '}']) {
            let known = Template::SIGNATURE;
            return Err(mistake(format!("{known} is the only name in braces")));
        }
        Ok(Policy {
            infected: policy.on_infected,
            encrypted: policy.on_encrypted,
            too_large: policy.on_too_large,
            error: policy.on_error,
            reject_text: Template::new(&policy.reject_text)
                .map_err(|error| mistake(error.to_string()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_means_the_defaults() {
        let result = milter_proto::daemon::config::round_trip_of_defaults::<crate::Clamav>();
        assert_eq!(result, Ok(()));
    }

    fn meaning(text: &str) -> Result<Meaning, ConfigError> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.meaning()
    }

    fn mistake(text: &str, path: &str, message: &str) {
        let error = meaning(text).unwrap_err();
        assert_eq!(error.path, path, "{text}");
        assert!(error.message.contains(message), "{text}: {}", error.message);
        assert!(!error.help.is_empty(), "{text}");
    }

    #[test]
    fn the_defaults_are_valid_and_exempt_nobody() {
        let meaning = meaning("").unwrap();
        assert_eq!(meaning.exempt, Exempt::default());
        assert_eq!(meaning.policy, Policy::default());
        let written = toml::to_string(&Settings::default()).unwrap();
        assert!(written.contains("on_error = \"tempfail\""), "{written}");
    }

    #[test]
    fn everything_can_be_written() {
        let meaning = meaning(
            r#"
            [clamd]
            servers = ["unix:/run/clamav/clamd.ctl", "inet:3310@127.0.0.1"]
            order = "rotate"
            reply_timeout = "30s"
            [scan]
            max_size = "10MB"
            exempt_networks = ["192.0.2.0/24", "2001:db8::/32"]
            exempt_authenticated = true
            [policy]
            on_infected = "quarantine"
            on_error = "accept"
            reject_text = "no {signature} here"
            [headers]
            add = false
            "#,
        )
        .unwrap();
        assert_eq!(meaning.servers.candidates().len(), 2);
        assert_eq!(meaning.servers.deadlines().reply.as_secs(), 30);
        assert_eq!(meaning.limits.size, 10 << 20);
        assert_eq!(meaning.policy.error, OnError::Accept);
        assert_eq!(meaning.exempt.networks.len(), 2);
    }

    #[test]
    fn mistakes_are_found_before_the_start() {
        mistake("[clamd]\nservers = []", "clamd.servers", "no clamd");
        mistake(
            "[clamd]\nreply_timeout = \"0s\"",
            "clamd.reply_timeout",
            "no time",
        );
        mistake(
            "[clamd]\ntotal_timeout = \"4m\"",
            "clamd.total_timeout",
            "shorter than server.finish_timeout, which is 4m",
        );
        mistake("[scan]\nmax_size = \"0B\"", "scan.max_size", "small");
        mistake(
            "[scan]\nspool_directory = \"/nonexistent\"",
            "scan.spool_directory",
            "/nonexistent is no directory",
        );
        mistake(
            "[policy]\nreject_text = \"{virus} found\"",
            "policy.reject_text",
            "{signature} is the only name",
        );
        let lines = "x\\n".repeat(40);
        mistake(
            &format!("[policy]\nreject_text = \"{lines}\""),
            "policy.reject_text",
            "lines",
        );
    }
}
