//! A mistake in a configuration file, worded for the operator: what, where (file, line, column, the
//! line itself with the place marked), and what to write instead.
//!
//! Three sources end here: the TOML parser, serde with the settings' types, and [`ConfigError`] of
//! the programs. Nothing is guessed silently; a suggestion is always put as one.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use toml::de::DeTable;

use super::ConfigError;
use super::outline::{Node, Outline, Shape};
use super::place::{self, Place, Span};

/// A mistake and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) message: String,
    /// Bytes of the text; `None` where no line can be named.
    pub(crate) span: Option<Span>,
    pub(crate) help: Option<String>,
}

impl Mistake {
    pub(crate) fn new(message: impl Into<String>, span: Option<Span>) -> Self {
        Self {
            message: message.into(),
            span,
            help: None,
        }
    }

    fn help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Of text that is no TOML.
    pub(crate) fn of_syntax(error: &toml::de::Error) -> Self {
        let message = error.message().trim_end_matches(", expected nothing");
        let help = match message {
            "duplicate key" => Some("a key may stand only once in a table; remove one of the two"),
            "unexpected leading zero" => Some("write it in quotes, as in mode = \"0660\""),
            _ => None,
        };
        Self::new(message, error.span()).help(help.map(str::to_owned))
    }

    /// Of TOML that does not fit the settings.
    pub(crate) fn of_types(
        error: &toml::de::Error,
        document: &DeTable<'_>,
        outline: &Outline,
    ) -> Self {
        let message = error.message();
        let Some(span) = error.span() else {
            return Self::new(message, None);
        };
        let path = place::path_at(document, &span);
        if message.starts_with("unknown field") {
            let expected = message
                .split_once("expected one of ")
                .map(|(_, known)| known);
            return unknown_key(&path, span, outline, expected);
        }
        let node = outline.at(path.iter().map(String::as_str));
        let Some(node) = node else {
            return Self::new(message, Some(span));
        };
        let key = path.last().map_or("", String::as_str);
        wrong_value(message, key, span, node)
    }

    /// Of settings that the program refuses.
    pub(crate) fn of_meaning(error: &ConfigError, document: &DeTable<'_>) -> Self {
        let (message, span) = match place::of_path(document, &error.path) {
            Place::Found(span) => (error.message.clone(), Some(span)),
            Place::Within(span) => (format!("{}: {}", error.path, error.message), Some(span)),
            Place::Absent if error.path.is_empty() => (error.message.clone(), None),
            Place::Absent => (format!("{}: {}", error.path, error.message), None),
        };
        let help = (!error.help.is_empty()).then(|| error.help.clone());
        Self::new(message, span).help(help)
    }

    /// The whole of it in several lines, as a compiler would put it. `path` is the file, `text`
    /// what it holds.
    pub(crate) fn render(&self, path: &str, text: &str) -> String {
        self.render_at(Level::ERROR.no_name(), path, text)
    }

    /// The same of what is odd and no mistake.
    pub(crate) fn render_as_warning(&self, path: &str, text: &str) -> String {
        self.render_at(Level::WARNING.no_name(), path, text)
    }

    fn render_at(&self, level: Level<'_>, path: &str, text: &str) -> String {
        let title = level.primary_title(&self.message);
        let report = match &self.span {
            Some(span) => title.element(
                Snippet::source(text)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(within(span, text))),
            ),
            None => title.element(annotate_snippets::Origin::path(path)),
        };
        let report = match &self.help {
            Some(help) => report.element(Level::HELP.message(help)),
            None => report,
        };
        Renderer::plain().render(&[report])
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `span` cut to characters of `text`, and to its first line: a value of many lines is not shown
/// whole.
fn within(span: &Span, text: &str) -> Span {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let line = text[start..end].find('\n').map_or(end, |at| start + at);
    start..line
}

/// A key that nobody knows: the nearest known one, the section where it belongs, or all that there
/// are.
fn unknown_key(path: &[String], span: Span, outline: &Outline, expected: Option<&str>) -> Mistake {
    let (key, above) = path
        .split_last()
        .map_or(("", &[][..]), |(key, above)| (key, above));
    let message = match above {
        [] => format!("unknown key `{key}`"),
        _ => format!("unknown key `{key}` in [{}]", above.join(".")),
    };
    let known = outline
        .at(above.iter().map(String::as_str))
        .map(Node::shape);
    let Some(Shape::Struct(known)) = known else {
        let known = expected.map(|known| format!("known are: {}", known.replace('`', "")));
        return Mistake::new(message, Some(span)).help(known);
    };
    let names = || known.keys().map(String::as_str);
    let help = nearest(key, names())
        .map(|name| format!("did you mean `{name}`?"))
        .or_else(|| sections_with(key, outline))
        .unwrap_or_else(|| format!("known are: {}", names().collect::<Vec<_>>().join(", ")));
    Mistake::new(message, Some(span)).help(Some(help))
}

/// The sections of the file in which `key` is known.
fn sections_with(key: &str, outline: &Outline) -> Option<String> {
    let Shape::Struct(sections) = outline.root().shape() else {
        return None;
    };
    if sections.contains_key(key) {
        return Some(format!(
            "`{key}` belongs at the top of the file, before the first [section]"
        ));
    }
    let places: Vec<String> = sections
        .keys()
        .filter(|section| outline.at([section.as_str(), key]).is_some())
        .filter(|section| {
            matches!(
                outline.at([section.as_str()]).map(Node::shape),
                Some(Shape::Struct(_))
            )
        })
        .map(|section| format!("[{section}]"))
        .collect();
    (!places.is_empty()).then(|| format!("`{key}` belongs in {}", places.join(" or ")))
}

/// A value of the wrong kind, or one that its type refuses.
fn wrong_value(message: &str, key: &str, span: Span, node: Node<'_>) -> Mistake {
    if let Shape::Choice(choices) = node.shape()
        && let Some(written) = between_backticks(message)
    {
        let words = choices.iter().map(|choice| choice.word);
        let meant = nearest(written, words).map(|word| format!("did you mean \"{word}\"?"));
        let message = format!("unknown value \"{written}\" for `{key}`");
        let help = meant.or_else(|| {
            node.expectation()
                .map(|expected| format!("expected {expected}"))
        });
        return Mistake::new(message, Some(span)).help(help);
    }
    let example = node
        .default()
        .or_else(|| node.example())
        .filter(|value| !value.is_object() && !value.is_array())
        .map(|value| format!("for example: {key} = {value}"));
    Mistake::new(worded(message, key, node), Some(span)).help(example)
}

/// serde's message in the operator's words: what was found, and what is expected here rather than
/// the name of a Rust type.
fn worded(message: &str, key: &str, node: Node<'_>) -> String {
    let Some(rest) = message.strip_prefix("invalid type: ") else {
        return format!("`{key}`: {message}");
    };
    let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, ""));
    // A type that has words of its own for what it wants says it better than the schema.
    let expected = match node.expectation() {
        Some(kind) if !expected.contains("such as") => kind,
        _ => expected.to_owned(),
    };
    format!("`{key}`: expected {expected}, found {found}")
}

fn between_backticks(message: &str) -> Option<&str> {
    message.strip_prefix("unknown variant `")?.split('`').next()
}

/// The name most like `written`, when it is like it at all.
#[must_use]
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| {
        let plain = written.to_ascii_lowercase().replace('-', "_");
        strsim::jaro_winkler(&plain, name).max(strsim::normalized_damerau_levenshtein(&plain, name))
    };
    names
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
