//! `[limits]`, `[sendmail]`, `[supervisor]` and `[control]`: numbers with which something can work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milter_proto::daemon::ConfigError;

use super::{Mistakes, NAME_MAX};
use crate::config::{self, Settings};
use crate::proxy::{HeaderLimits, Limits, SpoolBudget, SpoolLimits};
use crate::supervisor::Pace;

/// The socket of `status`.
pub(super) fn control(control: &config::Control) -> Result<PathBuf, ConfigError> {
    let path = control.socket.path().ok_or_else(|| {
        ConfigError::at(
            "control.socket",
            "the control socket cannot be reached over a network",
        )
        .help("write unix:/path")
    })?;
    Ok(path.to_owned())
}

/// How milters are looked after.
pub(super) fn pace(supervisor: &config::Supervisor) -> Result<Pace, ConfigError> {
    for (key, value) in [
        ("probe_interval", supervisor.probe_interval),
        ("probe_timeout", supervisor.probe_timeout),
        ("hang_timeout", supervisor.hang_timeout),
    ] {
        if value.get().is_zero() {
            let path = format!("supervisor.{key}");
            return Err(ConfigError::at(path, "there must be some time").help("write \"2s\", say"));
        }
    }
    let probe_interval = supervisor.probe_interval.get();
    Ok(Pace {
        probe_interval,
        probe_timeout: supervisor.probe_timeout.get(),
        starting_interval: (probe_interval / 20).min(Duration::from_millis(100)),
        hang_timeout: supervisor.hang_timeout.get(),
    })
}

/// What a message may have. Everything that is wrong is noted.
pub(super) fn limits(settings: &Settings, mistakes: &mut Mistakes) -> Limits {
    let limits = &settings.limits;
    for (key, number, example) in [
        ("header_fields", u64::from(limits.header_fields), "4096"),
        ("header_size", limits.header_size.get(), "\"2MB\""),
        ("body_size", limits.body_size.get(), "\"1GB\""),
    ] {
        if number == 0 {
            let path = format!("limits.{key}");
            let mistake = ConfigError::at(path, "no message at all would pass");
            mistakes.note(mistake.help(format!("write {example}, say")));
        }
    }
    for (key, time, example) in [
        ("stall_timeout", limits.stall_timeout, "\"1m\""),
        ("finish_timeout", limits.finish_timeout, "\"4m\""),
    ] {
        if time.get().is_zero() {
            let path = format!("limits.{key}");
            let mistake = ConfigError::at(path, "in no time nothing can be done");
            mistakes.note(mistake.help(format!("write {example}, say")));
        }
    }
    if !limits.spool_directory.is_dir() {
        let message = format!("{} is no directory", limits.spool_directory.display());
        mistakes.note(
            ConfigError::at("limits.spool_directory", message)
                .help("name one that the user we run as can write into"),
        );
    }
    let headers = mistakes.keep(sendmail_headers(&settings.sendmail.headers));
    let defaults = Limits::default();
    Limits {
        sendmail_headers: headers.unwrap_or_else(|| Arc::clone(&defaults.sendmail_headers)),
        ..numbers(limits, defaults)
    }
}

/// The numbers as the proxy takes them.
fn numbers(limits: &config::Limits, defaults: Limits) -> Limits {
    Limits {
        stall: limits.stall_timeout.get(),
        end_of_message: limits.finish_timeout.get(),
        header: HeaderLimits {
            fields: usize::try_from(limits.header_fields).unwrap_or(usize::MAX),
            bytes: limits.header_size.as_len(),
        },
        spool: Arc::new(SpoolLimits {
            memory: limits.spool_memory.as_len(),
            budget: Arc::new(SpoolBudget::new(limits.spool_memory_shared.as_len())),
            total: limits.body_size.get(),
            directory: limits.spool_directory.clone(),
        }),
        ..defaults
    }
}

/// Nobody knows what Sendmail makes of fewer or more of its own fields.
fn sendmail_headers(names: &[String]) -> Result<Arc<[Bytes]>, ConfigError> {
    let path = "sendmail.headers";
    let received = names
        .iter()
        .filter(|name| name.eq_ignore_ascii_case("Received"));
    if received.count() != 1 {
        return Err(ConfigError::at(path, "Sendmail writes Received once").help(
            "write the names of the lines of sendmail.cf that begin with H, in their order",
        ));
    }
    let is_name = |name: &String| {
        let is_legal = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_legal)
    };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(
            ConfigError::at(path, format!("{name:?} is no name of a header field"))
                .help("write the name alone, without flags and colon"),
        );
    }
    Ok(names
        .iter()
        .map(|name| Bytes::copy_from_slice(name.as_bytes()))
        .collect())
}
