//! The effective configuration: what counts, and where it comes from, for `check --print`.
//!
//! It is TOML again, each value with its origin as a comment: a line of the file, or the default.
//! Secrets are masked by their schema; where a secret lies inside something that the outline does
//! not understand, the whole of that is masked.

use toml::de::DeTable;
use toml::{Table, Value};

use super::Secret;
use super::default_file::{join, quoted};
use super::load::Source;
use super::mistake::Mistake;
use super::outline::{Node, Outline, Shape};
use super::place::{self, Place};
use crate::daemon::{Failure, Program};

/// The settings that `source` and the defaults make, as text.
pub(crate) fn effective<P: Program>(source: &Source) -> Result<String, Failure> {
    let outline = Outline::of::<P::Settings>();
    let settings = source.settings::<P>()?;
    let values = Table::try_from(settings)
        .map_err(|error| source.failure(&Mistake::new(error.to_string(), None)))?;
    let document = DeTable::parse(source.text())
        .map_err(|error| source.failure(&Mistake::of_syntax(&error)))?;
    let mut printer = Printer {
        out: String::new(),
        source,
        document: document.get_ref(),
    };
    printer.table("", "", Some(outline.root()), &values);
    Ok(printer.out)
}

struct Printer<'a> {
    out: String,
    source: &'a Source,
    document: &'a DeTable<'a>,
}

impl Printer<'_> {
    /// The keys of a table, then the tables below it. `header` is the path as TOML writes it,
    /// `path` as [`place::of_path`] wants it.
    fn table(&mut self, header: &str, path: &str, node: Option<Node<'_>>, values: &Table) {
        let below = |key: &str| node.and_then(|node| node.child(key));
        let (sections, single): (Vec<_>, Vec<_>) = in_order(node, values)
            .into_iter()
            .partition(|(key, value)| is_section(below(key), value));
        for (key, value) in single {
            self.key(key, &dotted(path, key), below(key), value);
        }
        for (key, value) in sections {
            self.section(&join(header, key), &dotted(path, key), below(key), value);
        }
    }

    fn key(&mut self, key: &str, path: &str, node: Option<Node<'_>>, value: &Value) {
        let shown = masked(node, value).to_string();
        let origin = self.origin(path);
        self.out
            .push_str(&format!("{} = {shown}  # {origin}\n", quoted(key)));
    }

    fn section(&mut self, header: &str, path: &str, node: Option<Node<'_>>, value: &Value) {
        match value {
            Value::Table(values) => {
                self.out.push_str(&format!("\n[{header}]\n"));
                self.table(header, path, node, values);
            }
            Value::Array(items) => {
                for (index, values) in items.iter().enumerate() {
                    let path = dotted(path, &index.to_string());
                    self.out.push_str(&format!("\n[[{header}]]\n"));
                    if let Some(values) = values.as_table() {
                        self.table(header, &path, node.and_then(|node| node.child("0")), values);
                    }
                }
            }
            _ => {}
        }
    }

    fn origin(&self, path: &str) -> String {
        match place::of_path(self.document, path) {
            Place::Found(span) => {
                let (line, _) = place::line_and_column(self.source.text(), span.start);
                format!("{}:{line}", self.source.path().display())
            }
            Place::Within(_) | Place::Absent => "default".to_owned(),
        }
    }
}

/// The entries of a table in the order of the settings, others behind.
fn in_order<'v>(node: Option<Node<'_>>, values: &'v Table) -> Vec<(&'v String, &'v Value)> {
    let mut entries: Vec<_> = values.iter().collect();
    if let Some(Shape::Struct(properties)) = node.map(Node::shape) {
        entries.sort_by_key(|(key, _)| {
            properties
                .keys()
                .position(|known| known == *key)
                .unwrap_or(usize::MAX)
        });
    }
    entries
}

/// Whether a value gets a header of its own. One that must be masked as a whole does not.
fn is_section(node: Option<Node<'_>>, value: &Value) -> bool {
    let opaque = |node: Node<'_>| matches!(node.shape(), Shape::Other) && node.holds_secret();
    match value {
        _ if node.is_some_and(opaque) => false,
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        _ => false,
    }
}

/// The value as it may be shown.
fn masked(node: Option<Node<'_>>, value: &Value) -> Value {
    let secret = node.is_some_and(Node::holds_secret);
    match value {
        Value::String(text) if secret && text.is_empty() => value.clone(),
        _ if secret => Value::String(Secret::MASK.to_owned()),
        _ => value.clone(),
    }
}

fn dotted(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}
