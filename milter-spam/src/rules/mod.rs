//! The checks: [`Rule`] is one of them, [`TABLE`] is all of them.
//!
//! To add one, write a function from [`Facts`] to an optional [`Hit`] in the file of its family,
//! and a row in the table of that file; name, description and weight are then in the configuration,
//! in `milter-spam symbols` and in every report. A test fails until there is a message that it hits
//! and one that it does not.
//!
//! Names and weights follow rspamd's where the check is the same. A check is pure, looks at nothing
//! but the facts, and is linear in them.

mod addresses;
mod auth;
mod body;
mod client;
mod envelope;
mod extensions;
mod headers;
mod html;
mod links;
mod message_id;
mod mime;
mod received;
mod reply_to;
mod subject;

use crate::facts::Facts;
use crate::score::Action;

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The symbol that a message gets.
    pub name: &'static str,
    /// What it means, for people.
    pub about: &'static str,
    /// The family whose weights are capped together.
    pub group: Group,
    /// What a full hit adds to the score, unless configured otherwise.
    pub weight: f64,
    /// What it looks at.
    pub stage: Stage,
    /// Whether it hits.
    pub check: fn(&Facts) -> Option<Hit>,
}

/// A check on facts: see [`Rule::check`].
type Check = fn(&Facts) -> Option<Hit>;

impl Rule {
    /// A check on the client.
    const fn client(
        name: &'static str,
        about: &'static str,
        group: Group,
        weight: f64,
        check: Check,
    ) -> Self {
        let stage = Stage::Client;
        Self {
            name,
            about,
            group,
            weight,
            stage,
            check,
        }
    }

    /// A check on sender and recipients.
    const fn envelope(
        name: &'static str,
        about: &'static str,
        group: Group,
        weight: f64,
        check: Check,
    ) -> Self {
        let stage = Stage::Envelope;
        Self {
            name,
            about,
            group,
            weight,
            stage,
            check,
        }
    }

    /// A check on header fields.
    const fn header(
        name: &'static str,
        about: &'static str,
        group: Group,
        weight: f64,
        check: Check,
    ) -> Self {
        let stage = Stage::Header;
        Self {
            name,
            about,
            group,
            weight,
            stage,
            check,
        }
    }

    /// A check on the body.
    const fn body(
        name: &'static str,
        about: &'static str,
        group: Group,
        weight: f64,
        check: Check,
    ) -> Self {
        let stage = Stage::Body;
        Self {
            name,
            about,
            group,
            weight,
            stage,
            check,
        }
    }
}

/// What a check looks at, by the stage of SMTP at which that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The client, its name and authentication: left out where the client is one of us.
    Client,
    /// Sender and recipients.
    Envelope,
    /// Header fields.
    Header,
    /// The body.
    Body,
}

impl Stage {
    /// For display.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Envelope => "envelope",
            Self::Header => "header",
            Self::Body => "body",
        }
    }
}

/// A family of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Header fields.
    Headers,
    /// The subject.
    Subject,
    /// Needless base64 in header fields.
    ExcessBase64,
    /// Needless quoted-printable in header fields.
    ExcessQp,
    /// The Message-ID.
    MessageId,
    /// Mail programs that are not what they say.
    Mua,
    /// The client and what it calls itself.
    Hfilter,
    /// SPF, DKIM, DMARC, ARC.
    Policies,
    /// MIME structure.
    Mime,
    /// Attachments.
    MimeTypes,
    /// HTML.
    Html,
    /// Text.
    Body,
    /// Links.
    Url,
    /// Links that are not what they show.
    Phishing,
    /// Known frauds.
    Scams,
    /// Everything else.
    Other,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 16] = [
        Self::Headers,
        Self::Subject,
        Self::ExcessBase64,
        Self::ExcessQp,
        Self::MessageId,
        Self::Mua,
        Self::Hfilter,
        Self::Policies,
        Self::Mime,
        Self::MimeTypes,
        Self::Html,
        Self::Body,
        Self::Url,
        Self::Phishing,
        Self::Scams,
        Self::Other,
    ];

    /// What the hits of the group add together at most, as rspamd has it.
    #[must_use]
    pub const fn cap(self) -> Option<f64> {
        match self {
            Self::Headers => Some(8.0),
            Self::Subject => Some(6.0),
            Self::ExcessBase64 => Some(3.0),
            Self::ExcessQp => Some(2.4),
            Self::MimeTypes | Self::Phishing => Some(10.0),
            Self::Url => Some(9.0),
            Self::MessageId
            | Self::Mua
            | Self::Hfilter
            | Self::Policies
            | Self::Mime
            | Self::Html
            | Self::Body
            | Self::Scams
            | Self::Other => None,
        }
    }

    /// As rspamd calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Subject => "subject",
            Self::ExcessBase64 => "excessb64",
            Self::ExcessQp => "excessqp",
            Self::MessageId => "mid",
            Self::Mua => "mua",
            Self::Hfilter => "hfilter",
            Self::Policies => "policies",
            Self::Mime => "mime",
            Self::MimeTypes => "mime_types",
            Self::Html => "html",
            Self::Body => "body",
            Self::Url => "url",
            Self::Phishing => "phishing",
            Self::Scams => "scams",
            Self::Other => "other",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// How sure it is: the part of the rule's weight that counts.
    pub factor: f64,
    /// What it found, for the report; bounded and cleaned there.
    pub options: Vec<String>,
    /// An action that is taken at least, whatever the score is.
    pub action: Option<Action>,
}

impl Hit {
    /// A full hit.
    #[must_use]
    pub fn new() -> Self {
        Self {
            factor: 1.0,
            options: Vec::new(),
            action: None,
        }
    }

    /// A full hit where `condition` holds.
    #[must_use]
    pub fn when(condition: bool) -> Option<Self> {
        condition.then(Self::new)
    }

    /// Tells what was found. Of many things just the first are kept.
    #[must_use]
    pub fn with(mut self, option: impl Into<String>) -> Self {
        if self.options.len() < OPTIONS_MAX {
            self.options.push(option.into());
        }
        self
    }

    /// Counts as this part of the weight.
    #[must_use]
    pub fn times(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Asks for an action.
    #[must_use]
    pub fn at_least(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }
}

impl Default for Hit {
    fn default() -> Self {
        Self::new()
    }
}

/// Things that one hit tells at most.
const OPTIONS_MAX: usize = 8;

/// All checks, family by family.
pub const TABLE: &[&[Rule]] = &[
    body::TABLE,
    headers::TABLE,
    received::TABLE,
    message_id::TABLE,
    addresses::TABLE,
    reply_to::TABLE,
    envelope::TABLE,
    subject::TABLE,
    client::TABLE,
    auth::TABLE,
    mime::TABLE,
    html::TABLE,
    links::TABLE,
];

/// Every rule, in the order of [`TABLE`].
pub fn all() -> impl Iterator<Item = &'static Rule> {
    TABLE.iter().copied().flatten()
}

/// The rule of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.name == name)
}
