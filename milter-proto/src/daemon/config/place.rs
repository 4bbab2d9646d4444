//! Where something stands in a configuration file: from a dotted path to bytes of the text, and
//! back.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the text.
pub(crate) type Span = Range<usize>;

/// What is known of a dotted path in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The value itself.
    Found(Span),
    /// It is not there; the deepest table above it that is.
    Within(Span),
    /// Nothing of it is there.
    Absent,
}

/// Finds `path` (`signing.keys.0.file`) in `document`. Keys that hold dots themselves (domains) are
/// found too.
pub(crate) fn of_path(document: &DeTable<'_>, path: &str) -> Place {
    if path.is_empty() {
        return Place::Absent;
    }
    in_table(document, path)
}

fn in_table(table: &DeTable<'_>, path: &str) -> Place {
    let entry = table
        .iter()
        .filter_map(|(key, value)| Some((key, value, below(path, key.get_ref())?)))
        .max_by_key(|(key, _, _)| key.get_ref().len());
    match entry {
        Some((key, value, rest)) => at_value(value, &key.span(), rest),
        None => Place::Absent,
    }
}

/// The place of `rest` below `value`, which stands at `key`.
fn at_value(value: &Spanned<DeValue<'_>>, key: &Span, rest: &str) -> Place {
    let deeper = match value.get_ref() {
        _ if rest.is_empty() => return Place::Found(shown(value, key)),
        DeValue::Table(table) => in_table(table, rest),
        DeValue::Array(items) => {
            let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
            match index.parse().ok().and_then(|index: usize| items.get(index)) {
                Some(item) => at_value(item, &item.span(), rest),
                None => Place::Absent,
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => Place::Absent,
    };
    match deeper {
        Place::Absent => Place::Within(shown(value, key)),
        found => found,
    }
}

/// What is left of `path` behind `key`, when it begins with it.
fn below<'p>(path: &'p str, key: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(key)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('.')
}

/// The bytes to point at: a value, or for a table of several lines the key alone.
fn shown(value: &Spanned<DeValue<'_>>, key: &Span) -> Span {
    match value.get_ref() {
        DeValue::Table(_) => key.clone(),
        _ => value.span(),
    }
}

/// The keys that lead to the innermost key or value which covers `span`; the last step is the key
/// that `span` is or belongs to.
pub(crate) fn path_at(document: &DeTable<'_>, span: &Span) -> Vec<String> {
    let mut path = Vec::new();
    steps_in_table(document, span, &mut path);
    path
}

fn steps_in_table(table: &DeTable<'_>, span: &Span, path: &mut Vec<String>) -> bool {
    table.iter().any(|(key, value)| {
        path.push(key.get_ref().to_string());
        let found = covers(&key.span(), span) || steps_in_value(value, span, path);
        if !found {
            path.pop();
        }
        found
    })
}

fn steps_in_value(value: &Spanned<DeValue<'_>>, span: &Span, path: &mut Vec<String>) -> bool {
    let deeper = match value.get_ref() {
        DeValue::Table(table) => steps_in_table(table, span, path),
        DeValue::Array(items) => items.iter().enumerate().any(|(index, item)| {
            path.push(index.to_string());
            let found = steps_in_value(item, span, path);
            if !found {
                path.pop();
            }
            found
        }),
        _ => false,
    };
    deeper || covers(&value.span(), span)
}

fn covers(outer: &Span, inner: &Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && !outer.is_empty()
}

/// Line and column of a byte, both from 1; the column counts characters.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
top = 1
[server]
socket = \"x\"
[domains.\"example.com\"]
selector = 's'
[[keys]]
file = \"a\"
[[keys]]
file = \"b\"
list = [1, 2]
inline = { a = 1 }
";

    fn shown_at(path: &str) -> (&'static str, String) {
        let document = DeTable::parse(TEXT).unwrap();
        match of_path(document.get_ref(), path) {
            Place::Found(span) => ("found", TEXT[span].to_owned()),
            Place::Within(span) => ("within", TEXT[span].to_owned()),
            Place::Absent => ("absent", String::new()),
        }
    }

    #[test]
    fn a_path_is_found_in_the_text() {
        for (path, how, text) in [
            ("top", "found", "1"),
            ("server.socket", "found", "\"x\""),
            ("server", "found", "server"),
            ("server.mode", "within", "server"),
            ("domains.example.com.selector", "found", "'s'"),
            ("domains.example.com.key", "within", "\"example.com\""),
            ("keys.1.file", "found", "\"b\""),
            ("keys.1.list.1", "found", "2"),
            ("keys.1.inline.a", "found", "1"),
            ("top.deeper", "within", "1"),
            ("serve", "absent", ""),
            ("log.level", "absent", ""),
            ("", "absent", ""),
        ] {
            assert_eq!(shown_at(path), (how, text.to_owned()), "{path:?}");
        }
    }

    #[test]
    fn bytes_are_led_back_to_a_path() {
        let document = DeTable::parse(TEXT).unwrap();
        for (needle, path) in [
            ("\"x\"", "server/socket"),
            ("selector", "domains/example.com/selector"),
            ("\"b\"", "keys/1/file"),
            ("2]", "keys/1/list"),
        ] {
            let start = TEXT.find(needle).unwrap();
            let span = start..start + needle.len();
            assert_eq!(path_at(document.get_ref(), &span).join("/"), path);
        }
    }

    #[test]
    fn lines_and_columns() {
        for (text, offset, expected) in [
            ("", 0, (1, 1)),
            ("a\nbc", 3, (2, 2)),
            ("ä=\n", 2, (1, 2)),
            ("ä", 1, (1, 1)),
            ("a\n", 99, (2, 1)),
        ] {
            assert_eq!(line_and_column(text, offset), expected, "{text:?} {offset}");
        }
    }
}
