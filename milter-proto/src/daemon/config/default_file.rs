//! The commented default file, generated from the settings: every key with its doc and default.
//!
//! A line that begins with `# ` is prose; a line that begins with `#` directly followed by a key is
//! that key with its default, to be uncommented and changed. So the file as generated means the
//! defaults, and keeps meaning them when a new version has other ones.

use serde::Deserialize;
use toml::{Table, Value};

use super::outline::{Node, Outline, Shape};
use crate::daemon::exit::EX_SOFTWARE;
use crate::daemon::{Failure, Program};

/// Columns of a line of prose at most.
const WIDTH: usize = 96;

/// The commented default file of a program.
///
/// # Errors
/// When the defaults cannot be written as TOML, which is a fault in the settings' types.
pub fn default_file<P: Program>() -> Result<String, Failure> {
    write::<P>(Keys::Commented)
}

/// Checks that the default file of `P` means its defaults, as it is and with every key uncommented;
/// for a test in each program's crate.
///
/// # Errors
/// What differs.
pub fn round_trip_of_defaults<P: Program>() -> Result<(), Failure> {
    let expected = defaults::<P>()?;
    for keys in [Keys::Commented, Keys::Set] {
        let text = write::<P>(keys)?;
        let source = super::load::Source::of_text("default-config", &text);
        let settings = source.settings::<P>()?;
        let read = Table::try_from(settings).map_err(|error| fault(&error))?;
        if read != expected {
            let message = format!("{keys:?}: read\n{read}\nexpected\n{expected}\nfrom\n{text}");
            return Err(Failure::new(EX_SOFTWARE, message));
        }
    }
    Ok(())
}

/// Whether keys are written as comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Commented,
    Set,
}

fn write<P: Program>(keys: Keys) -> Result<String, Failure> {
    let outline = Outline::of::<P::Settings>();
    let mut writer = Writer {
        out: String::new(),
        keys,
        in_example: false,
    };
    writer.prose(&format!("{}: {}.", P::NAME, P::ABOUT.trim_end_matches('.')));
    writer.prose("Every key is shown with its default; remove the # before a key to change it.");
    writer.table("", outline.root(), &defaults::<P>()?, keys);
    Ok(writer.out)
}

fn defaults<P: Program>() -> Result<Table, Failure> {
    Table::try_from(P::Settings::default()).map_err(|error| fault(&error))
}

fn fault(error: &toml::ser::Error) -> Failure {
    Failure::new(EX_SOFTWARE, format!("the defaults are not TOML: {error}"))
}

struct Writer {
    out: String,
    keys: Keys,
    /// Inside a table that is not there by default: its headers are comments, too.
    in_example: bool,
}

impl Writer {
    /// The keys of a table, then the tables below it.
    fn table(&mut self, path: &str, node: Node<'_>, values: &Table, keys: Keys) {
        let Shape::Struct(properties) = node.shape() else {
            return;
        };
        let below = || {
            properties
                .keys()
                .filter_map(|key| Some((key, node.child(key)?)))
        };
        for (key, node) in below().filter(|(_, node)| !is_section(*node)) {
            self.key(key, node, values.get(key), keys);
        }
        for (key, node) in below().filter(|(_, node)| is_section(*node)) {
            self.section(&join(path, key), node, values.get(key), keys);
        }
    }

    /// One key with a single value.
    fn key(&mut self, key: &str, node: Node<'_>, value: Option<&Value>, keys: Keys) {
        self.out.push('\n');
        self.doc(node);
        let example = node
            .default()
            .or_else(|| node.example())
            .and_then(from_json);
        match (value, example) {
            (Some(value), _) => self.line(keys, &format!("{} = {}", quoted(key), shown(value))),
            (None, Some(example)) => self.unset(key, &shown(&example)),
            (None, None) => self.unset(key, placeholder(node)),
        }
    }

    /// A key without a default.
    fn unset(&mut self, key: &str, example: &str) {
        if self.keys == Keys::Commented {
            self.line(
                Keys::Commented,
                &format!("{} = {example}  # not set", quoted(key)),
            );
        }
    }

    /// A table, a table of chosen names, or a list of tables.
    fn section(&mut self, path: &str, node: Node<'_>, value: Option<&Value>, keys: Keys) {
        self.out.push('\n');
        self.doc(node);
        match (node.shape(), value) {
            (Shape::Struct(_), Some(Value::Table(values))) => {
                self.header(path);
                self.table(path, node, values, keys);
            }
            (Shape::Struct(_), _) => self.example(&format!("[{path}]"), path, node),
            (Shape::Map(item), value) => {
                let empty = Table::new();
                let values = value.and_then(Value::as_table).unwrap_or(&empty);
                self.chosen_names(path, item, values, keys);
            }
            (Shape::List(item), Some(Value::Array(items))) if !items.is_empty() => {
                for values in items.iter().filter_map(Value::as_table) {
                    self.line(keys, &format!("[[{path}]]"));
                    self.table(path, item, values, keys);
                }
            }
            (Shape::List(item), _) => self.example(&format!("[[{path}]]"), path, item),
            _ => {}
        }
    }

    /// A table whose keys the operator chooses.
    fn chosen_names(&mut self, path: &str, item: Node<'_>, values: &Table, keys: Keys) {
        let nested = matches!(item.shape(), Shape::Struct(_));
        match (nested, values.is_empty()) {
            (true, true) => self.example(&format!("[{path}.NAME]"), &join(path, "NAME"), item),
            (true, false) => {
                for (name, value) in values {
                    self.section(&join(path, name), item, Some(value), keys);
                }
            }
            (false, true) => {
                self.header(path);
                self.unset("NAME", placeholder(item));
            }
            (false, false) => {
                self.header(path);
                for (name, value) in values {
                    self.line(keys, &format!("{} = {}", quoted(name), shown(value)));
                }
            }
        }
    }

    /// A table that is not there by default, wholly as a comment.
    fn example(&mut self, header: &str, path: &str, node: Node<'_>) {
        if self.keys == Keys::Commented {
            let outer = std::mem::replace(&mut self.in_example, true);
            self.line(Keys::Commented, header);
            self.table(path, node, &defaults_of(node), Keys::Commented);
            self.in_example = outer;
        }
    }

    /// The header of a table that is there by default: it changes nothing by itself.
    fn header(&mut self, path: &str) {
        let keys = match self.in_example {
            true => Keys::Commented,
            false => Keys::Set,
        };
        self.line(keys, &format!("[{path}]"));
    }

    fn doc(&mut self, node: Node<'_>) {
        if let Some(doc) = node.doc() {
            doc.split("\n\n")
                .for_each(|paragraph| self.prose(paragraph));
        }
        if let Shape::Choice(choices) = node.shape() {
            for choice in choices {
                let doc = choice.doc.unwrap_or_default();
                self.prose(&format!("- \"{}\": {doc}", choice.word));
            }
        }
    }

    /// A paragraph, filled.
    fn prose(&mut self, paragraph: &str) {
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            if column > 0 && column + 1 + word.len() > WIDTH {
                self.out.push('\n');
                column = 0;
            }
            if column == 0 {
                self.out.push('#');
                column = 1;
            }
            self.out.push(' ');
            self.out.push_str(word);
            column += 1 + word.len();
        }
        self.out.push('\n');
    }

    fn line(&mut self, keys: Keys, text: &str) {
        for line in text.lines() {
            if keys == Keys::Commented {
                self.out.push('#');
            }
            self.out.push_str(line);
            self.out.push('\n');
        }
    }
}

/// Whether a place gets a header of its own.
fn is_section(node: Node<'_>) -> bool {
    match node.shape() {
        Shape::Struct(_) | Shape::Map(_) => true,
        Shape::List(item) => matches!(item.shape(), Shape::Struct(_)),
        Shape::Choice(_) | Shape::Scalar(_) | Shape::Other => false,
    }
}

/// The defaults of the keys of a table that is not there by default, as its schema tells them.
fn defaults_of(node: Node<'_>) -> Table {
    let Shape::Struct(properties) = node.shape() else {
        return Table::new();
    };
    properties
        .keys()
        .filter_map(|key| Some((key.clone(), from_json(node.child(key)?.default()?)?)))
        .collect()
}

fn from_json(value: &serde_json::Value) -> Option<Value> {
    Value::deserialize(value).ok()
}

/// What stands for a value that nobody can guess.
fn placeholder(node: Node<'_>) -> &'static str {
    match node.shape() {
        Shape::List(_) => "[]",
        Shape::Scalar("a whole number" | "a number") => "0",
        Shape::Scalar("true or false") => "false",
        _ => "\"...\"",
    }
}

/// A value on one line, or a long list on several.
fn shown(value: &Value) -> String {
    let line = value.to_string();
    match value {
        Value::Array(items) if line.len() > WIDTH => {
            let items: Vec<String> = items.iter().map(|item| format!("    {item},\n")).collect();
            format!("[\n{}]", items.concat())
        }
        _ => line,
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => quoted(key),
        _ => format!("{path}.{}", quoted(key)),
    }
}

/// A key as TOML takes it.
pub(super) fn quoted(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match !key.is_empty() && key.bytes().all(bare) {
        true => key.to_owned(),
        false => Value::String(key.to_owned()).to_string(),
    }
}
