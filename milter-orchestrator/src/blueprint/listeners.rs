//! What must hold of `[listen.NAME]`. Nothing is bound here.

use std::collections::BTreeMap;

use milter_proto::daemon::ConfigError;
use milter_proto::net::Address;

use super::{Mistakes, check_name};
use crate::config::Settings;

/// Names, limits, and no two listeners on one socket.
pub(super) fn check(settings: &Settings, mistakes: &mut Mistakes) {
    if settings.listen.is_empty() {
        mistakes.note(
            ConfigError::at("", "there is no [listen.NAME] section")
                .help("write [listen.inbound] with socket = \"inet:10025@127.0.0.1\""),
        );
    }
    let mut sockets: BTreeMap<String, &str> = BTreeMap::new();
    for (name, listen) in &settings.listen {
        let section = format!("listen.{name}");
        mistakes.keep(check_name(&section, name));
        let address = &listen.socket;
        if listen.max_connections == 0 {
            mistakes.note(
                ConfigError::at(
                    format!("{section}.max_connections"),
                    "no connection at all is allowed",
                )
                .help("write 512, say"),
            );
        }
        let free = matches!(address, Address::Inet { port: 0, .. });
        if let Some(other) = sockets.insert(address.to_string(), name).filter(|_| !free) {
            mistakes.note(
                ConfigError::at(
                    format!("{section}.socket"),
                    format!("{address} is the socket of [listen.{other}] already"),
                )
                .help("give each listener a socket of its own"),
            );
        }
    }
}
