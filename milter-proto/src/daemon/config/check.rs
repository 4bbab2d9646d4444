//! What must hold of the sections that all programs share, beyond their types: limits with which
//! something can be served, users and groups that this machine knows. A mistake is a
//! [`ConfigError`] at its key; nothing is changed or opened here.

use super::{Common, ConfigError, Server};
use crate::daemon::{Failure, privileges};

/// Every mistake.
pub(super) fn sections(common: &Common) -> Vec<ConfigError> {
    let mut mistakes = common.server.as_ref().map_or_else(Vec::new, limits);
    let section = match common.server {
        Some(_) => "server",
        None => "process",
    };
    let refused = |section: &str, key: &str| {
        let path = format!("{section}.{key}");
        move |failure: Failure| ConfigError::at(path, failure.message)
    };
    if let Some(user) = &common.user {
        let known = privileges::user(user).map_err(refused(section, "user"));
        mistakes.extend(known.err());
    }
    if let Some(group) = &common.group {
        let known = privileges::group(group).map_err(refused(section, "group"));
        mistakes.extend(known.err());
    }
    for listener in &common.listeners {
        if let Some(group) = &listener.group {
            let known = privileges::group(group).map_err(refused(&listener.section, "group"));
            mistakes.extend(known.err());
        }
    }
    mistakes
}

fn limits(server: &Server) -> Vec<ConfigError> {
    let mut mistakes = Vec::new();
    if server.max_connections == 0 {
        let path = "server.max_connections";
        mistakes.push(ConfigError::at(path, "0 lets nobody in"));
    }
    for (key, time) in [
        ("idle_timeout", server.idle_timeout),
        ("stall_timeout", server.stall_timeout),
        ("stage_timeout", server.stage_timeout),
        ("finish_timeout", server.finish_timeout),
    ] {
        if time.get().is_zero() {
            let path = format!("server.{key}");
            mistakes.push(ConfigError::at(path, "in no time nothing can be done"));
        }
    }
    mistakes
}
