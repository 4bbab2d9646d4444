//! Routes and their conditions as written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Which filters a message goes through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Name, for the log and `explain`; `route-1` and so on without it.
    pub name: Option<String>,
    /// What must hold; without it the route takes everything.
    #[serde(rename = "match")]
    pub condition: Match,
    /// Names of filters in their order; those of an inner list run in parallel on the same bytes
    /// whatever they change. `[]` lets mail pass unfiltered.
    pub chain: Option<Vec<Names>>,
    /// Every event goes to one filter at a time, and to the next one only when it has let it pass,
    /// as in the MTA itself: a filter behind one that refuses never hears of it, and the MTA has
    /// the answer to each header field before it sends the next. Also as in the MTA itself: Postfix
    /// asks nobody behind a filter that quarantines, a filter's last reason for that counts,
    /// Sendmail asks nobody about a client that one filter discards at CONNECT, values of header
    /// fields are not cleaned of stray line ends, and macros that Postfix repeats are passed on.
    /// Slower; for filters that learn, count or deliver, and for those that cannot be told a header
    /// field before they have answered to the one before. Otherwise filters work at the same time
    /// where none of them can change what another one reads.
    pub strict: bool,
}

/// What must hold for a route: all that is given. Where several values are given for a key, one of
/// them is enough. A value that begins with `/` is the path of a file with one value a line (`#`
/// for remarks), which is read again when it changes; a bad one leaves the values that it had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The listener that the mail came in by: a name or a list of names.
    pub listen: Names,
    /// The client's address: a network such as `192.0.2.0/24`, an address, or a list of them.
    pub client: Names,
    /// The client's name as the MTA has found it: `mail.example.com`, `.example.com` for all names
    /// below it, `mx*.example.com`.
    pub host: Names,
    /// Whether the client logged in.
    pub authenticated: Option<bool>,
    /// The name that it logged in by, or a pattern such as `*@example.com`.
    pub login: Names,
    /// Whether the client's connection is encrypted.
    pub tls: Option<bool>,
    /// The name that the client gave itself, as with `host`.
    pub helo: Names,
    /// The sender: `user@example.com`, `example.com` for all addresses of a domain, `.example.com`
    /// for those of the domains below it, `list-*@example.com`, `<>` for the empty one.
    pub sender: Names,
    /// A recipient, as with `sender`. A message with several of them gets every filter that the
    /// route of one of them names.
    pub recipient: Names,
    /// Macros of the MTA by their names: a value, a pattern, or a number to compare with:
    /// `macro = { cipher_bits = ">=128" }`.
    #[serde(rename = "macro")]
    pub macros: BTreeMap<String, Names>,
    /// Bytes of the message: `">=10MB"`, `"<64KB"`. As the client says at MAIL (`SIZE=`), who may
    /// be wrong; where it says nothing they are counted, and the filters hear of the message at its
    /// end.
    pub size: Option<Number>,
    /// Clients in hand when this one came, over all listeners: `">=200"`.
    pub load: Option<Number>,
    /// When the client came, in local time: `"22:00-06:00"`, `"mon-fri 08:00-18:00"`, `"sat,sun"`.
    pub time: Names,
    /// For a `[milter.NAME]` alone: what another filter, which runs before it, said about the
    /// message: `verdict = { dkim = "accept" }`. The words are continue, accept, reject, tempfail,
    /// discard, failed, and absent when it was not asked.
    pub verdict: BTreeMap<String, Names>,
    /// All of these must hold: `all = [{ tls = true }, { … }]`.
    pub all: Vec<Inner>,
    /// One of these must hold.
    pub any: Vec<Inner>,
    /// This must not hold.
    pub not: Option<Inner>,
}

/// A condition inside another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inner(pub Box<Match>);

impl JsonSchema for Inner {
    fn schema_name() -> Cow<'static, str> {
        "Inner".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The keys of the outer one are not shown again.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "examples": [{ "tls": true }] })
    }
}

/// A number to compare with, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Number(pub String);

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "integer" }],
            "examples": [">=200"],
        })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// Reads [`Number`].
struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a comparison such as \">=200\"")
    }

    fn visit_str<E: de::Error>(self, written: &str) -> Result<Number, E> {
        Ok(Number(written.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
        Ok(Number(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
        Ok(Number(number.to_string()))
    }
}

/// One name, or a list of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ] })
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

/// Reads [`Names`].
struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name in quotes or a list of names")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Names, E> {
        Ok(Names(vec![name.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Names, A::Error> {
        let list = de::value::SeqAccessDeserializer::new(list);
        Vec::<String>::deserialize(list).map(Names)
    }
}
