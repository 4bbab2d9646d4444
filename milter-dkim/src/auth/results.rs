//! The Authentication-Results header field (RFC 8601): written so that nothing from a message can
//! break out of its place, and read as far as it takes to see in whose name a field speaks.
//!
//! What the results mean is not known here. Writing cannot fail: what does not fit the grammar is
//! quoted, what cannot even be quoted becomes a question mark. A field whose name cannot be read is
//! taken for a forgery by [`speaks_for`].

use std::fmt::Write as _;

use super::domain::Domain;
use super::tags::is_space;

/// The name of the field.
pub const FIELD: &str = "Authentication-Results";

/// One field: what one service found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationResults {
    /// The service that speaks, as a rule the name of the mail host.
    pub authserv_id: String,
    /// What it found, in order.
    pub results: Vec<MethodResult>,
}

/// The result of one method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodResult {
    /// The method (`dkim`).
    pub method: &'static str,
    /// The result word (`pass`).
    pub result: &'static str,
    /// For people; written in parentheses.
    pub comment: Option<String>,
    /// Why the result is not better (`reason="..."`).
    pub reason: Option<String>,
    /// What the result is about.
    pub properties: Vec<Property>,
}

/// `ptype.property=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Where it comes from (`header`).
    pub ptype: &'static str,
    /// Its name (`d`).
    pub name: &'static str,
    /// Its value.
    pub value: PropertyValue,
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyValue {
    /// A word or text; quoted where it must be.
    Text(String),
    /// `local@domain`, or `@domain` where the first part is empty.
    Address {
        /// Before the at sign, as bytes from the message.
        local: Vec<u8>,
        /// After it.
        domain: Domain,
    },
}

impl AuthenticationResults {
    /// The field's value with its leading space, each result on a line of its own; folds are CR LF
    /// and a tab.
    #[must_use]
    pub fn to_value(&self) -> String {
        let mut out = String::from(" ");
        push_value(&mut out, &self.authserv_id);
        if self.results.is_empty() {
            out.push_str("; none");
        }
        for result in &self.results {
            result.push(&mut out);
        }
        out
    }
}

impl MethodResult {
    /// `; method=result (comment) reason="..." property...`, folded.
    fn push(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(out, ";\r\n\t{}={}", self.method, self.result);
        if let Some(comment) = &self.comment {
            out.push_str(" (");
            push_escaped(out, comment, &['(', ')', '\\']);
            out.push(')');
        }
        if let Some(reason) = &self.reason {
            out.push_str(" reason=");
            push_value(out, reason);
        }
        let mut column = 80;
        for property in &self.properties {
            let mut text = format!("{}.{}=", property.ptype, property.name);
            property.value.push(&mut text);
            let fits = column + text.len() < 76;
            out.push_str(if fits { " " } else { "\r\n\t " });
            column = if fits { column } else { 9 } + text.len() + 1;
            out.push_str(&text);
        }
    }
}

impl PropertyValue {
    /// The value by the grammar of `pvalue`.
    fn push(&self, out: &mut String) {
        match self {
            Self::Text(text) => push_value(out, text),
            Self::Address { local, domain } => {
                let local = String::from_utf8_lossy(local);
                if is_dot_atom(&local) || local.is_empty() {
                    out.push_str(&local);
                } else {
                    push_quoted(out, &local);
                }
                let _ = write!(out, "@{domain}");
            }
        }
    }
}

/// A `value` of RFC 2045: a token as it is, anything else as quoted-string.
fn push_value(out: &mut String, text: &str) {
    let token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte);
    if !text.is_empty() && text.bytes().all(token) {
        out.push_str(text);
    } else {
        push_quoted(out, text);
    }
}

/// A quoted-string.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text, &['"', '\\']);
    out.push('"');
}

/// Text with a backslash before some characters, and a question mark for all that is not printable
/// ASCII.
fn push_escaped(out: &mut String, text: &str, special: &[char]) {
    for character in text.chars() {
        match character {
            _ if special.contains(&character) => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            _ => out.push('?'),
        }
    }
}

/// Whether a local part needs no quotes (RFC 5322 §3.2.3).
fn is_dot_atom(text: &str) -> bool {
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    text.split('.')
        .all(|part| !part.is_empty() && part.bytes().all(atom))
}

/// Whether a field with this value speaks in the name of `authserv_id`, or cannot be read well
/// enough to exclude it.
///
/// Case, comments, folds, quotes and a final dot do not count (RFC 8601 §5: such fields are forged
/// when they come from outside).
#[must_use]
pub fn speaks_for(value: &[u8], authserv_id: &str) -> bool {
    let words = leading_words(value);
    let ours = normal(authserv_id.as_bytes());
    match words.first() {
        None => true,
        // A reader that drops comments and white space too eagerly would see all words as one.
        Some(first) => normal(first) == ours || normal(&words.concat()) == ours,
    }
}

/// A name as it is compared: the domain name if it is one, in lower case without a final dot
/// otherwise.
fn normal(name: &[u8]) -> Vec<u8> {
    match Domain::parse(name) {
        Ok(domain) => domain.as_str().as_bytes().to_vec(),
        Err(_) => name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase(),
    }
}

/// The words before the first semicolon (identifier and version), comments removed, quotes
/// resolved.
fn leading_words(value: &[u8]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b';' => break,
            b'(' => {
                skip_comment(&mut bytes);
                words.extend(word.take());
            }
            b'"' => read_quoted(&mut bytes, word.get_or_insert_default()),
            _ if is_space(byte) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

/// Goes past a comment whose parenthesis is read already; comments nest.
fn skip_comment(bytes: &mut impl Iterator<Item = u8>) {
    let mut depth = 1usize;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'(' => depth += 1,
            b')' if depth == 1 => return,
            b')' => depth -= 1,
            _ => {}
        }
    }
}

/// Reads a quoted-string whose first quote is read already; folds in it vanish.
fn read_quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => word.extend(bytes.next()),
            b'\r' | b'\n' => {}
            _ => word.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> PropertyValue {
        PropertyValue::Text(value.to_owned())
    }

    fn result(
        reason: Option<&str>,
        properties: Vec<(&'static str, PropertyValue)>,
    ) -> MethodResult {
        let property = |(name, value)| Property {
            ptype: "header",
            name,
            value,
        };
        MethodResult {
            method: "dkim",
            result: "fail",
            comment: None,
            reason: reason.map(str::to_owned),
            properties: properties.into_iter().map(property).collect(),
        }
    }

    fn written(results: Vec<MethodResult>) -> String {
        let authserv_id = "mx.example.org".to_owned();
        AuthenticationResults {
            authserv_id,
            results,
        }
        .to_value()
    }

    #[test]
    fn fields_are_written_as_the_standard_has_them() {
        assert_eq!(written(vec![]), " mx.example.org; none");
        let properties = vec![("d", text("example.org")), ("b", text("ab+/cd="))];
        assert_eq!(
            written(vec![result(Some("body hash did not verify"), properties)]),
            " mx.example.org;\r\n\tdkim=fail reason=\"body hash did not verify\"\
             \r\n\t header.d=example.org header.b=\"ab+/cd=\""
        );
        let mut with_comment = result(None, vec![]);
        with_comment.comment = Some("1024-bit (weak) key\r\n".to_owned());
        assert_eq!(
            written(vec![with_comment]),
            " mx.example.org;\r\n\tdkim=fail (1024-bit \\(weak\\) key??)"
        );
    }

    #[test]
    fn addresses_are_quoted_where_they_must_be() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "@example.org"),
            (b"joe.x", "joe.x@example.org"),
            (b"joe x", "\"joe x\"@example.org"),
            (b"a;dkim=pass", "\"a;dkim=pass\"@example.org"),
            (b"a\"b\\", "\"a\\\"b\\\\\"@example.org"),
            (b"a\r\nb\0", "\"a??b?\"@example.org"),
            (b"\xff", "\"?\"@example.org"),
            (b"a..b", "\"a..b\"@example.org"),
        ];
        for (local, expected) in cases {
            let domain = Domain::parse("example.org").unwrap();
            let mut out = String::new();
            PropertyValue::Address {
                local: local.to_vec(),
                domain,
            }
            .push(&mut out);
            assert_eq!(out, *expected, "{}", local.escape_ascii());
        }
    }

    #[test]
    fn fields_in_our_name_are_recognised() {
        let cases: &[(&str, bool)] = &[
            (" mx.example.org; dkim=pass", true),
            ("mx.example.org;none", true),
            ("mx.example.org", true),
            (" MX.Example.ORG 1; dkim=pass", true),
            ("\r\n\tmx.example.org\r\n\t; dkim=pass", true),
            (" (hi) mx.example.org (there); none", true),
            ("(a (nested \\) one) b)mx.example.org; none", true),
            (" \"mx.example.org\"; none", true),
            (" \"mx.ex\\ample.org\"; none", true),
            (" \"mx.\"example.org; none", true),
            (" mx.example.org.; none", true),
            (" mx.(x)example.org; none", true),
            (" mx.example.org/1; none", false),
            (" other.example.org; dkim=pass (mx.example.org)", false),
            (" xmx.example.org; none", false),
            (" example.org; x=\"mx.example.org\"", false),
            // No name at all: nobody who wrote it honestly.
            ("", true),
            (" ; dkim=pass", true),
            (" (mx.example.org", true),
        ];
        for (value, expected) in cases {
            let got = speaks_for(value.as_bytes(), "mx.example.org");
            assert_eq!(got, *expected, "{value:?}");
        }
        assert!(speaks_for(
            "bücher.example; none".as_bytes(),
            "xn--bcher-kva.example"
        ));
    }

    #[test]
    fn what_is_written_is_recognised_whatever_the_parts() {
        type Parts = (String, Vec<u8>, String, String);
        bolero::check!()
            .with_type::<Parts>()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|(id, local, reason, value)| {
                let domain = Domain::parse("example.org").unwrap();
                let local = local.clone();
                let address = PropertyValue::Address { local, domain };
                let properties = vec![("i", address), ("x", text(value))];
                let results = vec![result(Some(reason), properties)];
                let authserv_id = id.clone();
                let field = AuthenticationResults {
                    authserv_id,
                    results,
                }
                .to_value();
                assert!(
                    field
                        .bytes()
                        .all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t'))
                );
                assert_eq!(field.matches('\n').count(), field.matches("\r\n\t").count());
                if id.is_ascii() && id.bytes().all(|byte| byte.is_ascii_graphic()) {
                    assert!(speaks_for(field.as_bytes(), id), "{field:?}");
                }
            });
    }

    #[test]
    fn nothing_makes_the_reader_panic() {
        bolero::check!()
            .with_test_time(std::time::Duration::from_secs(1))
            .for_each(|input: &[u8]| {
                let _ = speaks_for(input, "mx.example.org");
                let forged = [input, b" ;"].concat();
                let _ = leading_words(&forged);
            });
    }
}
