//! What can be written in a configuration file, read from the JSON schema of the settings: keys,
//! their docs, and their kinds.
//!
//! The schema is made from the same derive as the reading itself, so this cannot say anything else
//! than what is accepted. A schema of a shape that is not understood here is an [`Shape::Other`]:
//! it is then neither merged nor explained, never an error.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The outline of a settings struct.
#[derive(Debug)]
pub(crate) struct Outline {
    root: Value,
}

/// One place in an [`Outline`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'a> {
    root: &'a Value,
    /// As it stands at the key; its doc goes before that of the type.
    at_key: &'a Value,
    /// With references and the option to be absent taken away.
    here: &'a Value,
}

/// What may be written at a place.
#[derive(Debug, Clone)]
pub(crate) enum Shape<'a> {
    /// A table with known keys.
    Struct(&'a Map<String, Value>),
    /// A table with keys of the operator's choice.
    Map(Node<'a>),
    /// A list.
    List(Node<'a>),
    /// One of these words.
    Choice(Vec<Choice<'a>>),
    /// A single value; how to call it.
    Scalar(&'static str),
    /// Something else.
    Other,
}

/// A word that may be written, and what it means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) word: &'a str,
    pub(crate) doc: Option<&'a str>,
}

impl Outline {
    /// Of the settings `S`.
    pub(crate) fn of<S: JsonSchema>() -> Self {
        let generator = SchemaSettings::default()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator();
        Self {
            root: generator.into_root_schema_for::<S>().to_value(),
        }
    }

    /// The whole file.
    pub(crate) fn root(&self) -> Node<'_> {
        Node::new(&self.root, &self.root)
    }

    /// The place that `path` names; list items count by any number, chosen keys by any name.
    pub(crate) fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Option<Node<'_>> {
        path.into_iter()
            .try_fold(self.root(), |node, step| node.child(step))
    }
}

impl<'a> Node<'a> {
    fn new(root: &'a Value, at_key: &'a Value) -> Self {
        Self {
            root,
            at_key,
            here: resolve(root, at_key),
        }
    }

    /// What may be written here.
    pub(crate) fn shape(self) -> Shape<'a> {
        if let Some(Value::Object(properties)) = self.here.get("properties") {
            return Shape::Struct(properties);
        }
        if let Some(choices) = self.choices() {
            return Shape::Choice(choices);
        }
        match self.kind() {
            Some("object") => match self.here.get("additionalProperties") {
                Some(items @ Value::Object(_)) => Shape::Map(Self::new(self.root, items)),
                _ => Shape::Other,
            },
            Some("array") => match self.here.get("items") {
                Some(items @ Value::Object(_)) => Shape::List(Self::new(self.root, items)),
                _ => Shape::Other,
            },
            Some("string") => Shape::Scalar("a string in quotes"),
            Some("integer") => Shape::Scalar("a whole number"),
            Some("number") => Shape::Scalar("a number"),
            Some("boolean") => Shape::Scalar("true or false"),
            _ => Shape::Other,
        }
    }

    /// The place one key or one item further down.
    pub(crate) fn child(self, step: &str) -> Option<Self> {
        match self.shape() {
            Shape::Struct(properties) => properties
                .get(step)
                .map(|property| Self::new(self.root, property)),
            Shape::Map(items) | Shape::List(items) => Some(items),
            Shape::Choice(_) | Shape::Scalar(_) | Shape::Other => None,
        }
    }

    /// The doc comment of the key, or of its type.
    pub(crate) fn doc(self) -> Option<&'a str> {
        text(self.at_key, "description").or_else(|| text(self.here, "description"))
    }

    /// The value without an entry in the file, where the schema tells it.
    pub(crate) fn default(self) -> Option<&'a Value> {
        self.at_key.get("default").filter(|value| !value.is_null())
    }

    /// The first of the schema's examples.
    pub(crate) fn example(self) -> Option<&'a Value> {
        [self.at_key, self.here]
            .into_iter()
            .find_map(|schema| schema.get("examples")?.get(0))
    }

    /// Whether a [`super::Secret`] is here or anywhere below.
    pub(crate) fn holds_secret(self) -> bool {
        holds_secret(self.root, self.here, 0)
    }

    /// How to call what is expected here, for a message; `None` where it is better not said.
    pub(crate) fn expectation(self) -> Option<String> {
        match self.shape() {
            Shape::Struct(_) | Shape::Map(_) => Some("a table".to_owned()),
            Shape::List(_) => Some("a list".to_owned()),
            Shape::Choice(choices) => {
                let words: Vec<String> = choices
                    .iter()
                    .map(|choice| format!("\"{}\"", choice.word))
                    .collect();
                Some(format!("one of {}", words.join(", ")))
            }
            Shape::Scalar(kind) => Some(kind.to_owned()),
            Shape::Other => None,
        }
    }

    /// The words of an enum without fields.
    fn choices(self) -> Option<Vec<Choice<'a>>> {
        if let Some(Value::Array(words)) = self.here.get("enum") {
            return words.iter().map(|word| choice(word, None)).collect();
        }
        let Some(Value::Array(variants)) = self.here.get("oneOf") else {
            return None;
        };
        let mut choices = Vec::new();
        for variant in variants {
            let doc = text(variant, "description");
            match (variant.get("const"), variant.get("enum")) {
                (Some(word), _) => choices.push(choice(word, doc)?),
                (None, Some(Value::Array(words))) => {
                    for word in words {
                        choices.push(choice(word, doc)?);
                    }
                }
                _ => return None,
            }
        }
        Some(choices)
    }

    /// The JSON type, leaving out null.
    fn kind(self) -> Option<&'a str> {
        match self.here.get("type")? {
            Value::String(kind) => Some(kind),
            Value::Array(kinds) => kinds
                .iter()
                .filter_map(Value::as_str)
                .find(|kind| *kind != "null"),
            _ => None,
        }
    }
}

fn choice<'a>(word: &'a Value, doc: Option<&'a str>) -> Option<Choice<'a>> {
    word.as_str().map(|word| Choice { word, doc })
}

fn text<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key).and_then(Value::as_str)
}

fn holds_secret(root: &Value, schema: &Value, depth: u32) -> bool {
    const DEPTH_MAX: u32 = 16;
    if depth > DEPTH_MAX {
        return true;
    }
    let below = |schema| holds_secret(root, schema, depth + 1);
    match schema {
        Value::Object(entries) => {
            entries.get("writeOnly") == Some(&Value::Bool(true))
                || referred(root, schema).is_some_and(below)
                || entries.values().any(below)
        }
        Value::Array(items) => items.iter().any(below),
        _ => false,
    }
}

/// Follows references and `anyOf: [something, null]`, to a depth that no sane schema reaches.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut here = schema;
    for _ in 0..8 {
        let next = referred(root, here).or_else(|| optional(here));
        match next {
            Some(next) => here = next,
            None => break,
        }
    }
    here
}

fn referred<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    let pointer = text(schema, "$ref")?.strip_prefix('#')?;
    root.pointer(pointer)
}

fn optional(schema: &Value) -> Option<&Value> {
    let Value::Array(variants) = schema.get("anyOf")? else {
        return None;
    };
    let mut others = variants
        .iter()
        .filter(|variant| text(variant, "type") != Some("null"));
    let only = others.next()?;
    others.next().is_none().then_some(only)
}
