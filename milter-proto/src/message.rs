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

    /// A client without a reverse name, as both MTAs tell it: `[192.0.2.1]`, or `unknown` where
    /// there is no address either.
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

    /// A field of a message for the wire: `field` is its line or lines, `leading_space` whether
    /// `SMFIP_HDR_LEADSPC` was negotiated. Folds become LF and white space; without the option one
    /// space after the colon goes, and nothing else. `None` for what has no colon or no name.
    #[must_use]
    pub fn from_field(field: &[u8], leading_space: bool) -> Option<Self> {
        let colon = field.iter().position(|byte| *byte == b':')?;
        let (name, rest) = field.split_at(colon);
        let name = name.trim_ascii_end();
        if name.is_empty() {
            return None;
        }
        let value = rest.get(1..)?;
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        let one = if leading_space {
            None
        } else {
            value.strip_prefix(b" ")
        };
        let mut folded = Vec::with_capacity(value.len());
        for line in one.unwrap_or(value).split_inclusive(|byte| *byte == b'\n') {
            folded.extend_from_slice(line.strip_suffix(b"\r\n").unwrap_or(line));
            if line.ends_with(b"\r\n") {
                folded.push(b'\n');
            }
        }
        Some(Self::new(Bytes::copy_from_slice(name), folded))
    }

    /// Whether the field is called `name`, ASCII case and white space before the colon aside.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name
            .trim_ascii_end()
            .eq_ignore_ascii_case(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_097_clients_without_a_name() {
        let address = Address::Inet("192.0.2.1:25".parse().unwrap());
        let client = Connection::nameless(address);
        assert_eq!(client.hostname, "[192.0.2.1]");
        assert_eq!(Connection::nameless(Address::Unknown).hostname, "unknown");
    }

    fn check(field: &str, off: &str, on: &str) {
        for (leading_space, expected) in [(false, off), (true, on)] {
            let field = Header::from_field(field.as_bytes(), leading_space).unwrap();
            assert_eq!(
                field.value.escape_ascii().to_string(),
                expected.escape_default().to_string()
            );
        }
    }

    #[test]
    fn case_118_leading_space() {
        check("Subject: x\r\n", "x", " x");
        check("Subject:x", "x", "x");
        check("Subject:  two\r\n", " two", "  two");
        check("X:\ty\r\n", "\ty", "\ty");
        check("X:\r\n", "", "");
        check("X: \r\n", "", " ");
        let spaced = Header::from_field(b"To : x", false).unwrap();
        assert_eq!(spaced, Header::new("To", "x"));
        for no_field in [&b"no field"[..], b": x", b" : x", b""] {
            assert_eq!(Header::from_field(no_field, false), None);
        }
    }

    #[test]
    fn case_119_folds() {
        check("X: a\r\n\tb\r\n  c\r\n", "a\n\tb\n  c", " a\n\tb\n  c");
        check("X: a\n b\n", "a\n b", " a\n b");
        check("Message-ID:\r\n <v>\r\n", "\n <v>", "\n <v>");
    }
}
