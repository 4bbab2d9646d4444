//! The configuration file of milter-spam, and what it means.
//!
//! [`Settings`] is what was written; [`Meaning`] holds values that every other module can use as
//! they are. Nothing is opened here.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;
use milter_proto::daemon::ConfigError;
use milter_proto::daemon::config::{Log, Metrics, Seconds, Server, nearest};
use milter_proto::verdict::SmtpReply;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::facts::Reading;
use crate::limits::Limits;
use crate::report::Field;
use crate::rules::{self, Rule};
use crate::scan::Scanner;
use crate::score::{Action, Thresholds};

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
    /// What is done from which score on.
    pub actions: Actions,
    /// Which checks count, and how much.
    pub checks: Checks,
    /// Clients that are ours.
    pub clients: Clients,
    /// Whose word is taken on SPF, DKIM and DMARC.
    pub authentication: Authentication,
    /// What is written into a message.
    pub headers: Headers,
    /// How much work is done at the same time, and for how long.
    pub scan: Scan,
    /// How much of a message is looked at. What lies beyond a limit is not looked at, and the
    /// message gets the symbol `SCAN_LIMIT_REACHED`.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: Server::on_port(10027),
            metrics: Metrics::default(),
            log: Log::default(),
            actions: Actions::default(),
            checks: Checks::default(),
            clients: Clients::default(),
            authentication: Authentication::default(),
            headers: Headers::default(),
            scan: Scan::default(),
            limits: Limits::default(),
        }
    }
}

/// What is done from which score on: the action with the highest score that a message reaches.
/// There is no greylisting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Actions {
    /// The message is marked with `X-Spam: Yes`. A score that no message reaches, such as 1000,
    /// turns an action off.
    pub add_header: f64,
    /// The subject is rewritten too. Not done where no score is given.
    pub rewrite_subject: Option<f64>,
    /// The message is refused for now, with `451 4.7.1`. Not done where no score is given.
    pub soft_reject: Option<f64>,
    /// The message is refused for good, with `554 5.7.1`.
    pub reject: f64,
    /// What the subject becomes: `%s` is the subject that it had, `%d` the score.
    pub subject: String,
    /// The text of the answer to a message that is refused for good.
    pub reject_text: String,
    /// The text of the answer to a message that is refused for now.
    pub soft_reject_text: String,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            add_header: 6.0,
            rewrite_subject: None,
            soft_reject: None,
            reject: 15.0,
            subject: "***SPAM*** %s".to_owned(),
            reject_text: "Spam message rejected".to_owned(),
            soft_reject_text: "Try again later".to_owned(),
        }
    }
}

/// Which checks count, and how much. `milter-spam symbols` shows them all.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// Checks that are not made, by their symbols.
    pub disable: Vec<String>,
    /// Weights in place of the usual ones, by symbols: `MISSING_TO = 0.5`.
    pub weights: BTreeMap<String, f64>,
}

/// How mail of clients that are ours is scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// Like any other.
    Scan,
    /// Without the checks on the client: its name, HELO, SPF, DKIM, DMARC.
    #[default]
    Content,
    /// Not at all.
    Skip,
}

/// Clients that are ours.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Networks whose clients are ours.
    #[schemars(with = "Vec<String>")]
    pub local_networks: Vec<IpNet>,
    /// How mail from these networks is scanned.
    pub local: Treatment,
    /// How mail of clients that logged in is scanned.
    pub authenticated: Treatment,
}

impl Default for Clients {
    fn default() -> Self {
        let networks = [
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1/128",
            "fd00::/8",
            "fe80::/10",
        ];
        Self {
            local_networks: networks
                .iter()
                .filter_map(|network| network.parse().ok())
                .collect(),
            local: Treatment::Content,
            authenticated: Treatment::Content,
        }
    }
}

/// Whose word is taken on SPF, DKIM and DMARC.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// The authserv-ids whose Authentication-Results are believed: that of a milter-dkim before us,
    /// which removes forged ones. Nobody's where none is given.
    pub trusted_authserv_ids: Vec<String>,
}

/// What is written into a message.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// Fields that every scanned message gets.
    pub add: Vec<Field>,
    /// Messages from local networks do not get them.
    pub skip_local: bool,
    /// Messages of clients that logged in do not get them: they go out to others.
    pub skip_authenticated: bool,
    /// Fields of these names that a message brings along are removed.
    pub remove_forged: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            add: vec![Field::XSpamdResult, Field::XSpamdBar, Field::XSpamStatus],
            skip_local: false,
            skip_authenticated: true,
            remove_forged: true,
        }
    }
}

/// What becomes of a message that could not be scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused for now.
    #[default]
    Tempfail,
    /// It is taken as it is, unmarked.
    Accept,
}

/// How much work is done at the same time, and for how long.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scan {
    /// Messages that are scanned at the same time; further ones wait. As many as there are
    /// processors where no number is given.
    pub concurrency: Option<NonZeroUsize>,
    /// How long the scan of one message may take.
    pub time_budget: Seconds,
    /// What becomes of a message whose scan took longer or failed: `tempfail` or `accept`.
    pub on_failure: OnFailure,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            concurrency: None,
            time_budget: Seconds::from_secs(10),
            on_failure: OnFailure::Tempfail,
        }
    }
}

/// The settings, checked and ready to be used.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// Checks, thresholds, limits.
    pub scanner: Scanner,
    /// Clients that are ours.
    pub clients: Clients,
    /// What is written into a message.
    pub headers: Headers,
    /// What the subject becomes.
    pub subject: String,
    /// The answer to a message that is refused for good.
    pub reject: SmtpReply,
    /// The answer to a message that is refused for now.
    pub soft_reject: SmtpReply,
    /// Messages that are scanned at the same time.
    pub concurrency: NonZeroUsize,
    /// How long the scan of one message may take.
    pub time_budget: Duration,
    /// What becomes of a message that could not be scanned.
    pub on_failure: OnFailure,
}

impl Settings {
    /// What the settings mean.
    ///
    /// # Errors
    /// The first mistake that the types cannot see.
    pub fn mean(self) -> Result<Meaning, ConfigError> {
        let reply = |key: &str, code, enhanced, text: &str| {
            SmtpReply::new(code, enhanced, text)
                .map_err(|error| ConfigError::at(format!("actions.{key}"), error.to_string()))
        };
        let actions = &self.actions;
        if !actions
            .subject
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~'))
        {
            let mistake = ConfigError::at("actions.subject", "the subject is not plain ASCII");
            return Err(mistake.help("write other characters as encoded words (RFC 2047)"));
        }
        let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Meaning {
            reject: reply("reject_text", 554, "5.7.1", &actions.reject_text)?,
            soft_reject: reply("soft_reject_text", 451, "4.7.1", &actions.soft_reject_text)?,
            subject: actions.subject.clone(),
            scanner: Scanner {
                rules: self.checks.rules()?,
                thresholds: actions.thresholds()?,
                local_networks: self.clients.local_networks.clone(),
                reading: Reading {
                    limits: self.limits.checked()?,
                    trusted_authserv_ids: self.authentication.trusted_authserv_ids,
                },
            },
            clients: self.clients,
            headers: self.headers,
            concurrency: self.scan.concurrency.unwrap_or_else(processors),
            time_budget: self.scan.time_budget.get(),
            on_failure: self.scan.on_failure,
        })
    }
}

impl Actions {
    fn thresholds(&self) -> Result<Thresholds, ConfigError> {
        let all = [
            ("add_header", Action::AddHeader, Some(self.add_header)),
            (
                "rewrite_subject",
                Action::RewriteSubject,
                self.rewrite_subject,
            ),
            ("soft_reject", Action::SoftReject, self.soft_reject),
            ("reject", Action::Reject, Some(self.reject)),
        ];
        let mut of = Vec::new();
        for (key, action, score) in all {
            let Some(score) = score else {
                continue;
            };
            if !score.is_finite() || score <= 0.0 {
                let path = format!("actions.{key}");
                let mistake = ConfigError::at(path, "a score is needed that is more than 0");
                return Err(mistake
                    .help("a score that no message reaches, such as 1000, turns the action off"));
            }
            of.push((action, score));
        }
        Ok(Thresholds { of })
    }
}

impl Checks {
    /// The checks that are made, with their weights.
    fn rules(&self) -> Result<Vec<(&'static Rule, f64)>, ConfigError> {
        for (index, name) in self.disable.iter().enumerate() {
            known(name, &format!("checks.disable.{index}"))?;
        }
        for (name, weight) in &self.weights {
            let path = format!("checks.weights.{name}");
            known(name, &path)?;
            if !weight.is_finite() {
                return Err(ConfigError::at(path, "a weight is a number"));
            }
        }
        Ok(rules::all()
            .filter(|rule| !self.disable.iter().any(|name| name == rule.name))
            .map(|rule| {
                let weight = self.weights.get(rule.name).copied();
                (rule, weight.unwrap_or(rule.weight))
            })
            .collect())
    }
}

/// Refuses a symbol that no check has.
fn known(name: &str, path: &str) -> Result<(), ConfigError> {
    if rules::named(name).is_some() {
        return Ok(());
    }
    let mistake = ConfigError::at(path, format!("there is no check {name:?}"));
    let names: Vec<String> = rules::all()
        .map(|rule| rule.name.to_ascii_lowercase())
        .collect();
    Err(match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => mistake.help(format!("did you mean {:?}?", near.to_ascii_uppercase())),
        None => mistake.help("`milter-spam symbols` lists all checks"),
    })
}

impl Limits {
    /// Refuses limits with which nothing would be scanned.
    fn checked(self) -> Result<Self, ConfigError> {
        let all = [
            ("body", self.body.as_len()),
            ("header", self.header.as_len()),
            ("header_fields", self.header_fields),
            ("addresses", self.addresses),
            ("parts", self.parts),
            ("depth", self.depth),
            ("text", self.text.as_len()),
            ("html_depth", self.html_depth),
        ];
        if let Some((key, _)) = all.iter().find(|(_, limit)| *limit == 0) {
            let path = format!("limits.{key}");
            return Err(ConfigError::at(path, "nothing would be scanned").help("write at least 1"));
        }
        /// The walk of nested messages uses the stack.
        const DEPTH_MAX: usize = 256;
        if self.depth > DEPTH_MAX {
            let help = format!("write at most {DEPTH_MAX}");
            return Err(ConfigError::at("limits.depth", "this is too deep").help(help));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path of the mistake in a configuration, and the help for it; empty where there is none.
    fn mistake(text: &str) -> (String, String) {
        let settings: Settings = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
        match settings.mean() {
            Ok(_) => Default::default(),
            Err(error) => (error.path, error.help),
        }
    }

    #[test]
    fn mistakes_are_found() {
        for (text, path, help) in [
            ("", "", ""),
            ("checks.weights.MISSING_TO = 0.1", "", ""),
            (
                "checks.disable = [\"GTUBE\", \"MISING_TO\"]",
                "checks.disable.1",
                "MISSING_TO",
            ),
            (
                "checks.weights.missing_to = 1",
                "checks.weights.missing_to",
                "MISSING_TO",
            ),
            ("checks.disable = [\"QQQ\"]", "checks.disable.0", "symbols"),
            ("checks.weights.GTUBE = nan", "checks.weights.GTUBE", ""),
            ("actions.reject = 0", "actions.reject", "1000"),
            ("actions.soft_reject = inf", "actions.soft_reject", "1000"),
            ("actions.subject = \"Werbung ü\"", "actions.subject", "2047"),
            ("limits.parts = 0", "limits.parts", "1"),
            ("limits.depth = 100000", "limits.depth", "256"),
        ] {
            let (found, helped) = mistake(text);
            assert_eq!(found, path, "{text}");
            assert!(helped.contains(help), "{text}: {helped}");
        }
    }

    #[test]
    fn checks_can_be_weighed_and_disabled() {
        let settings: Settings =
            toml::from_str("checks = { disable = [\"GTUBE\"], weights = { MISSING_TO = 0.5 } }")
                .unwrap();
        let meaning = settings.mean().unwrap();
        let rules = &meaning.scanner.rules;
        assert!(!rules.iter().any(|(rule, _)| rule.name == "GTUBE"));
        assert!(
            rules
                .iter()
                .any(|(rule, weight)| rule.name == "MISSING_TO" && *weight == 0.5)
        );
        assert_eq!(rules.len(), rules::all().count() - 1);
    }

    #[test]
    fn the_usual_networks_are_local() {
        let meaning = Settings::default().mean().unwrap();
        for (address, local) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(
                meaning.scanner.is_local(address.parse().unwrap()),
                local,
                "{address}"
            );
        }
    }
}
