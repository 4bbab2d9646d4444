//! What a filter is told: the client's connection, addresses, header fields.
//!
//! Everything here is bytes, exactly as the MTA sent them: nothing is trimmed, decoded or
//! normalised. None of the strings holds a NUL, since the wire ends strings with one. Nothing here
//! decides anything.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use bytes::Bytes;

/// The SMTP client, as told by CONNECT (`SMFIC_CONNECT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Reverse name of the client, or `[address]` where it has none.
    pub hostname: Bytes,
    /// Where the client connects from.
    pub address: Address,
}

impl Connection {
    /// A client whose reverse name is known.
    pub fn new(hostname: impl Into<Bytes>, address: Address) -> Self {
        Self {
            hostname: hostname.into(),
            address,
        }
    }

    /// A client without a reverse name, as both MTAs tell it: `[192.0.2.1]`, or `unknown` where there
    /// is no address either.
    #[must_use]
    pub fn nameless(address: Address) -> Self {
        let hostname = match address.ip() {
            Some(ip) => format!("[{ip}]"),
            None => "unknown".to_owned(),
        };
        Self::new(hostname, address)
    }
}

/// Address family and address of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Nothing is known (family `U`).
    Unknown,
    /// A socket in the file system (family `L`).
    Unix(Bytes),
    /// IPv4 (family `4`) or IPv6 (family `6`). A port of 0 is mail that never came over SMTP.
    Inet(SocketAddr),
    /// IPv6 as Sendmail writes it, with `IPv6:` ahead of the address.
    TaggedInet6(SocketAddrV6),
    /// Family `4` or `6` with text that is no address: kept as it was sent.
    Unparsable {
        /// The family letter on the wire.
        family: u8,
        /// The port number.
        port: u16,
        /// The text where the address should be.
        text: Bytes,
    },
}

impl Address {
    /// The IP address and port, however they were written.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(socket) => Some(*socket),
            Self::TaggedInet6(socket) => Some(SocketAddr::V6(*socket)),
            Self::Unknown | Self::Unix(_) | Self::Unparsable { .. } => None,
        }
    }

    /// The IP address, however it was written. An IPv4 address inside an IPv6 one stays there.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|socket| socket.ip())
    }
}

/// An envelope address with its ESMTP parameters, as told by MAIL and RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// As the MTA wrote it: with angle brackets when it came over SMTP, without them from
    /// `non_smtpd_milters`.
    pub address: Bytes,
    /// ESMTP parameters (`BODY=8BITMIME`), one string each, spelled as the client did.
    pub args: Vec<Bytes>,
}

impl Path {
    /// The address without its angle brackets; empty for the null sender.
    #[must_use]
    pub fn bare(&self) -> &[u8] {
        let address = &self.address[..];
        address
            .strip_prefix(b"<")
            .and_then(|rest| rest.strip_suffix(b">"))
            .unwrap_or(address)
    }
}

/// One header field, as told by HEADER (`SMFIC_HEADER`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The field name as spelled, white space before the colon included.
    pub name: Bytes,
    /// Everything after the colon; folds are LF and white space. With `HDR_LEADSPC` negotiated the
    /// leading space is part of it.
    pub value: Bytes,
}

impl Header {
    /// A field from its name and value.
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }

    /// Whether the field is called `name`, ASCII case and white space before the colon aside.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name
            .trim_ascii_end()
            .eq_ignore_ascii_case(name.as_bytes())
    }
}
