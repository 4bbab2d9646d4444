//! The client and the SMTP envelope of a message, as the MTA told them.

use std::net::IpAddr;

use crate::mailbox::Mailbox;

/// What is known beside the message itself. Everything may be missing: a file that is scanned has
/// no client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's name in the DNS.
    pub reverse: Reverse,
    /// What the client called itself.
    pub helo: Option<String>,
    /// The sender; an empty address is the null sender of bounces.
    pub sender: Option<Mailbox>,
    /// The recipients.
    pub recipients: Vec<Mailbox>,
    /// The name that the client logged in with.
    pub login: Option<String>,
    /// Whether the client is in one of our networks.
    pub local: bool,
}

/// The name that belongs to the client's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reverse {
    /// The MTA told nothing.
    #[default]
    Untold,
    /// There is none.
    Missing,
    /// There is one that does not lead back to the address.
    Unverified(String),
    /// There is one, and it leads back to the address.
    Verified(String),
}

impl Reverse {
    /// The name, verified or not.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Untold | Self::Missing => None,
            Self::Unverified(name) | Self::Verified(name) => Some(name),
        }
    }
}

impl Envelope {
    /// Whether the client is one of us: logged in, or in a local network. What it looks like then
    /// says nothing about the message.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.local || self.login.is_some()
    }

    /// Whether the sender is the null sender (RFC 5321 section 4.5.5).
    #[must_use]
    pub fn is_bounce(&self) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| sender.local.is_empty() && sender.domain.is_empty())
    }
}
