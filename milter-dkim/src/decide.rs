//! Sign, verify, or leave alone: one pure function over what is known of client, login and author.
//!
//! The filter and `milter-dkim explain` both ask here, so what one says the other does. Mail is
//! ours when its client has logged in, or comes over a unix socket, or from a network that is
//! configured as internal. A client of whom nothing is known is not ours.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use milter_proto::daemon::escaped;
use milter_proto::message::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::address::Mailbox;
use crate::auth::domain::Domain;
use crate::auth::header::Header;
use crate::keys::{Entry, SigningTable};

/// What this milter does at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Signs our mail and verifies the rest.
    #[default]
    #[serde(rename = "sv")]
    Both,
    /// Signs our mail and leaves the rest alone.
    #[serde(rename = "s")]
    Sign,
    /// Verifies all mail.
    #[serde(rename = "v")]
    Verify,
}

/// What is known of a message before its body.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The client's address, if the MTA told one.
    pub client: Option<&'a Address>,
    /// The login name or the method (macros `{auth_authen}`, `{auth_type}`), empty without a login.
    pub login: &'a [u8],
    /// The domain of the author.
    pub author: Result<Domain, NoAuthor>,
}

/// Why the author's domain is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAuthor {
    /// There is no From field.
    Missing,
    /// There are several.
    Several,
    /// It holds no address.
    Unreadable,
    /// The header was too large to be kept.
    HeaderTooLarge,
}

/// What is done with a message, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It is ours: sign with these keys.
    Sign {
        /// Whose message it is.
        author: Domain,
        /// Keys, at least one.
        keys: Vec<&'a Entry>,
        /// Why it is ours.
        ours: Ours,
    },
    /// Verify it.
    Verify(NotSigned),
    /// Leave it alone.
    Nothing(NotSigned),
}

/// Why a message is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// The client has logged in.
    LoggedIn,
    /// The client came over a unix socket.
    UnixSocket,
    /// The client's address is in a network that is configured as internal.
    Internal(IpAddr, IpNet),
}

/// Why a message is not signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSigned {
    /// The mode forbids it.
    ModeVerify,
    /// The client is in none of the internal networks and has not logged in.
    External(IpAddr),
    /// Nothing is known of the client, so it is not taken for ours.
    UnknownClient,
    /// It is ours, but the author is not known.
    NoAuthor(NoAuthor),
    /// It is ours, but there is no key for the author.
    NoKey(Domain),
}

/// Decides.
#[must_use]
pub fn decide<'a>(
    subject: &Subject<'_>,
    mode: Mode,
    internal: &[IpNet],
    table: &'a SigningTable,
) -> Decision<'a> {
    let reason = match sign(subject, mode, internal, table) {
        Ok(decision) => return decision,
        Err(reason) => reason,
    };
    match mode {
        Mode::Both | Mode::Verify => Decision::Verify(reason),
        Mode::Sign => Decision::Nothing(reason),
    }
}

/// The decision to sign, or why not.
fn sign<'a>(
    subject: &Subject<'_>,
    mode: Mode,
    internal: &[IpNet],
    table: &'a SigningTable,
) -> Result<Decision<'a>, NotSigned> {
    if mode == Mode::Verify {
        return Err(NotSigned::ModeVerify);
    }
    let ours = whose(subject, internal)?;
    let author = subject.author.clone().map_err(NotSigned::NoAuthor)?;
    let keys = table.keys_for(&author);
    if keys.is_empty() {
        return Err(NotSigned::NoKey(author));
    }
    Ok(Decision::Sign { author, keys, ours })
}

/// Why a message is ours, or why not.
fn whose(subject: &Subject<'_>, internal: &[IpNet]) -> Result<Ours, NotSigned> {
    if !subject.login.is_empty() {
        return Ok(Ours::LoggedIn);
    }
    if let Some(Address::Unix(_)) = subject.client {
        return Ok(Ours::UnixSocket);
    }
    let address = match subject.client.and_then(Address::ip) {
        Some(ip) => ip.to_canonical(),
        None => {
            return Err(NotSigned::UnknownClient);
        }
    };
    let network = internal.iter().find(|network| network.contains(&address));
    match network {
        Some(network) => Ok(Ours::Internal(address, *network)),
        None => Err(NotSigned::External(address)),
    }
}

/// The domain of the author of a message: of the first address in its one From field.
///
/// # Errors
/// When there is not exactly one From field, or no address in it.
pub fn author(header: &Header) -> Result<Domain, NoAuthor> {
    let mut fields = header.named("From");
    match (fields.next(), fields.next()) {
        (None, _) => Err(NoAuthor::Missing),
        (Some(_), Some(_)) => Err(NoAuthor::Several),
        (Some(field), None) => {
            let mailbox = Mailbox::first(&field.value).ok_or(NoAuthor::Unreadable)?;
            Ok(mailbox.domain)
        }
    }
}

impl Decision<'_> {
    /// The word for the log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Sign { .. } => "sign",
            Self::Verify(_) => "verify",
            Self::Nothing(_) => "nothing",
        }
    }

    /// Why, in a sentence without a full stop.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Sign { ours, .. } => ours.to_string(),
            Self::Verify(reason) | Self::Nothing(reason) => reason.to_string(),
        }
    }
}

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedIn => write!(f, "the client has logged in"),
            Self::UnixSocket => write!(f, "the client came over a unix socket"),
            Self::Internal(client, network) => {
                write!(f, "client {client} is in the internal network {network}")
            }
        }
    }
}

impl fmt::Display for NotSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ModeVerify => write!(f, "mode is v, which signs nothing"),
            Self::External(client) => {
                write!(
                    f,
                    "client {client} is in no internal network and has not logged in"
                )
            }
            Self::UnknownClient => write!(f, "the client is unknown, so it is not ours"),
            Self::NoAuthor(NoAuthor::Missing) => write!(f, "there is no From field"),
            Self::NoAuthor(NoAuthor::Several) => write!(f, "there are several From fields"),
            Self::NoAuthor(NoAuthor::Unreadable) => write!(f, "From holds no address"),
            Self::NoAuthor(NoAuthor::HeaderTooLarge) => write!(f, "the header is too large"),
            Self::NoKey(author) => {
                let author = escaped(author.as_str().as_bytes());
                write!(f, "there is no key for {author}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::auth::dkim::private_key::PrivateKey;
    use crate::auth::dkim::sign::Signer;
    use crate::auth::header::Field;

    fn table() -> SigningTable {
        let key = Arc::new(PrivateKey::generate_ed25519().unwrap());
        let domain = |text: &str| Domain::parse(text).unwrap();
        let signer = Signer {
            domain: domain("example.org"),
            selector: domain("s"),
            key,
        };
        SigningTable::new(vec![Entry {
            signer,
            subdomains: false,
        }])
    }

    fn internal() -> Vec<IpNet> {
        ["127.0.0.0/8", "192.0.2.77/24", "2001:db8::/32"]
            .map(|net| net.parse().unwrap())
            .to_vec()
    }

    fn check(client: &Address, login: &str, author: &str, mode: Mode, expected: &str) {
        let author = Domain::parse(author).map_err(|_| NoAuthor::Missing);
        let subject = Subject {
            client: Some(client),
            login: login.as_bytes(),
            author,
        };
        let table = table();
        let decision = decide(&subject, mode, &internal(), &table);
        let got = format!("{}: {}", decision.word(), decision.reason());
        assert_eq!(got, expected, "{subject:?} {mode:?}");
    }

    fn inet(address: &str) -> Address {
        Address::Inet(std::net::SocketAddr::new(address.parse().unwrap(), 1))
    }

    #[test]
    fn networks_logins_and_sockets_decide() {
        let both = Mode::Both;
        let outside = "verify: client 203.0.113.5 is in no internal network and has not logged in";
        let unknown = "verify: the client is unknown, so it is not ours";
        let host_bits = "sign: client 192.0.2.1 is in the internal network 192.0.2.77/24";
        let six = "sign: client 2001:db8::1 is in the internal network 2001:db8::/32";
        let unix = Address::Unix(Bytes::from_static(b"/run/x"));
        let text = Bytes::from_static(b"127.0.0.1x");
        let unparsable = Address::Unparsable {
            family: b'4',
            port: 1,
            text,
        };
        let cases: &[(Address, &str, &str)] = &[
            (inet("203.0.113.5"), "", outside),
            (inet("192.0.2.1"), "", host_bits),
            (inet("::ffff:192.0.2.1"), "", host_bits),
            (inet("2001:db8::1"), "", six),
            (inet("203.0.113.5"), "joe", "sign: the client has logged in"),
            (unix, "", "sign: the client came over a unix socket"),
            (Address::Unknown, "", unknown),
            (Address::Unknown, "joe", "sign: the client has logged in"),
            (unparsable, "", unknown),
        ];
        for (client, login, expected) in cases {
            check(client, login, "example.org", both, expected);
        }
    }

    #[test]
    fn mode_and_author_decide() {
        let ours = "sign: client 127.0.0.1 is in the internal network 127.0.0.0/8";
        let cases = [
            (Mode::Both, "example.org", ours),
            (Mode::Sign, "example.org", ours),
            (
                Mode::Verify,
                "example.org",
                "verify: mode is v, which signs nothing",
            ),
            (
                Mode::Both,
                "example.com",
                "verify: there is no key for example.com",
            ),
            (
                Mode::Sign,
                "example.com",
                "nothing: there is no key for example.com",
            ),
            (Mode::Both, "", "verify: there is no From field"),
        ];
        for (mode, author, expected) in cases {
            check(&inet("127.0.0.1"), "", author, mode, expected);
        }
    }

    #[test]
    fn the_author_is_in_exactly_one_from_field() {
        let cases: &[(&[&str], Result<&str, NoAuthor>)] = &[
            (&[], Err(NoAuthor::Missing)),
            (&[" Joe <joe@Example.org>"], Ok("example.org")),
            (
                &[" a@example.org", " b@example.com"],
                Err(NoAuthor::Several),
            ),
            (&[" undisclosed:;"], Err(NoAuthor::Unreadable)),
        ];
        for (values, expected) in cases {
            let mut header = Header::default();
            for value in *values {
                header.push(Field::new("FROM", value)).unwrap();
            }
            let got = author(&header);
            assert_eq!(
                got.as_ref().map(Domain::as_str).map_err(|no| *no),
                *expected
            );
        }
    }
}
