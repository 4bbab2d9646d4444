//! Where a milter listens or is found: `inet:port@host` and `unix:/path`, as Postfix and Sendmail
//! write them.
//!
//! A text is turned into an [`Address`] and back; nothing is resolved, bound or connected here.
//! What cannot be understood is an [`InvalidAddress`] that says what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// A socket address as configuration files write it. `Display` writes a form that parses to the
/// same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "daemon",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema),
    serde(try_from = "String", into = "String"),
    schemars(with = "String")
)]
pub enum Address {
    /// TCP. Port 0 lets the system choose one when listening.
    Inet {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port number.
        port: u16,
    },
    /// A socket in the file system, by its absolute path.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidAddress {
    /// It begins with none of the known kinds.
    #[error("{0:?} names no kind of socket: write inet:port@host or unix:/path")]
    Kind(String),
    /// A TCP socket without a host.
    #[error("{0:?} names no host: write inet:{1}@127.0.0.1, or inet:{1}@[::] for every interface")]
    NoHost(String, u16),
    /// A TCP socket without a port.
    #[error("{0:?} names no port: write inet:port@host or inet:host:port")]
    NoPort(String),
    /// The port is no number from 0 to 65535.
    #[error("{0:?} is no port number: write one from 1 to 65535")]
    Port(String),
    /// The host holds what no name and no address holds.
    #[error("{0:?} is no host name or address")]
    Host(String),
    /// A Unix socket by a path that does not begin at the root.
    #[error("socket path {0:?} is not absolute: write unix:/path")]
    Relative(String),
    /// A Unix socket with a path that does not fit into the system's address structure.
    #[error("socket path {0:?} is longer than {max} bytes", max = Address::PATH_MAX)]
    TooLong(String),
}

impl Address {
    /// Bytes in the path of a Unix socket at most (`sun_path` without its final NUL).
    pub const PATH_MAX: usize = 107;

    /// The path of a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Inet { .. } => None,
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.starts_with('/') {
            return unix(text);
        }
        match text.split_once(':') {
            Some(("inet" | "inet6", rest)) => inet(text, rest),
            Some(("unix" | "local", path)) => unix(path),
            _ => Err(InvalidAddress::Kind(text.to_owned())),
        }
    }
}

/// Reads what follows `inet:`: `port@host` (libmilter) or `host:port` (Postfix).
fn inet(whole: &str, rest: &str) -> Result<Address, InvalidAddress> {
    let (host, port) = match (rest.rsplit_once('@'), rest.rsplit_once(':')) {
        (Some((port, host)), _) => (host, port),
        (None, Some(("", port))) => return Err(no_host(whole, port)),
        (None, Some((host, port))) => (host, port),
        (None, None) if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(no_host(whole, rest));
        }
        (None, None) => return Err(InvalidAddress::NoPort(whole.to_owned())),
    };
    let port_number = port
        .parse()
        .map_err(|_| InvalidAddress::Port(port.to_owned()))?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if bare.is_empty() {
        return Err(no_host(whole, port));
    }
    if !is_host(bare) {
        return Err(InvalidAddress::Host(host.to_owned()));
    }
    Ok(Address::Inet {
        host: bare.to_owned(),
        port: port_number,
    })
}

fn no_host(whole: &str, port: &str) -> InvalidAddress {
    match port.parse() {
        Ok(number) => InvalidAddress::NoHost(whole.to_owned(), number),
        Err(_) => InvalidAddress::Port(port.to_owned()),
    }
}

/// Whether `text` can be a host name, an IPv4 address, or an IPv6 address with an optional zone.
fn is_host(text: &str) -> bool {
    if text.contains(':') {
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn unix(path: &str) -> Result<Address, InvalidAddress> {
    if !path.starts_with('/') {
        return Err(InvalidAddress::Relative(path.to_owned()));
    }
    if path.len() > Address::PATH_MAX {
        return Err(InvalidAddress::TooLong(path.to_owned()));
    }
    if path.contains('\0') {
        return Err(InvalidAddress::Host(path.to_owned()));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } if host.contains(':') => write!(f, "inet:{port}@[{host}]"),
            Self::Inet { host, port } => write!(f, "inet:{port}@{host}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), expected, "{text}");
        assert_eq!(expected.parse::<Address>().unwrap(), address, "{text}");
    }

    #[test]
    fn forms_of_postfix_and_sendmail() {
        check("inet:10025@127.0.0.1", "inet:10025@127.0.0.1");
        check("inet:127.0.0.1:10025", "inet:10025@127.0.0.1");
        check("inet:mail.example.org:8891", "inet:8891@mail.example.org");
        check("inet6:8891@::1", "inet:8891@[::1]");
        check("inet:[::1]:8891", "inet:8891@[::1]");
        check("inet:8891@[fe80::1%eth0]", "inet:8891@[fe80::1%eth0]");
        check("unix:/run/milter.sock", "unix:/run/milter.sock");
        check("local:/run/milter.sock", "unix:/run/milter.sock");
        check("/run/milter.sock", "unix:/run/milter.sock");
        check("inet:0@localhost", "inet:0@localhost");
    }

    fn refused(text: &str, error: &InvalidAddress, says: &str) {
        assert_eq!(&text.parse::<Address>().unwrap_err(), error, "{text}");
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn mistakes_say_what_to_write() {
        use InvalidAddress as E;
        refused("10025", &E::Kind("10025".into()), "inet:port@host");
        refused("", &E::Kind(String::new()), "unix:/path");
        refused("tcp:1@h", &E::Kind("tcp:1@h".into()), "inet:port@host");
        refused(
            "inet:10025",
            &E::NoHost("inet:10025".into(), 10025),
            "inet:10025@127.0.0.1",
        );
        refused("inet::25", &E::NoHost("inet::25".into(), 25), "@127.0.0.1");
        refused("inet:25@", &E::NoHost("inet:25@".into(), 25), "@127.0.0.1");
        refused(
            "inet:host",
            &E::NoPort("inet:host".into()),
            "inet:host:port",
        );
        refused("inet:smtp@host", &E::Port("smtp".into()), "number");
        refused("inet:99999@host", &E::Port("99999".into()), "65535");
        refused("inet:1@a b", &E::Host("a b".into()), "host");
        refused("unix:run/x", &E::Relative("run/x".into()), "unix:/path");
        let long = format!("/{}", "x".repeat(107));
        refused(&format!("unix:{long}"), &E::TooLong(long), "107");
    }
}
