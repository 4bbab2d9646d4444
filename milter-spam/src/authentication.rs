//! What a trusted host before us found out about the sender: Authentication-Results (RFC 8601)
//! under its authserv-id.
//!
//! Fields of any other id are ignored, since everybody can write them. A field that is malformed
//! says nothing. Which ids are trusted is configuration; that forged ones do not get in is the
//! business of the host that writes them.

/// One method's result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// `spf`, `dkim`, `dmarc`, `arc`, in lower case.
    pub method: String,
    /// `pass`, `fail`, …, in lower case.
    pub result: String,
    /// Properties such as `header.d` or `policy.p`, and what comments of the form `p=reject` say,
    /// names in lower case.
    pub properties: Vec<(String, String)>,
}

impl Finding {
    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| &value[..])
    }
}

/// All findings of trusted hosts, topmost field first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authentication {
    /// In order of writing.
    pub findings: Vec<Finding>,
}

/// Findings that are kept of one message.
const FINDINGS_MAX: usize = 100;

impl Authentication {
    /// Reads the values of Authentication-Results fields, of which those with an id in `trusted`
    /// count.
    #[must_use]
    pub fn read<'a>(fields: impl Iterator<Item = &'a [u8]>, trusted: &[String]) -> Self {
        let mut findings = Vec::new();
        for field in fields {
            let text = String::from_utf8_lossy(field);
            let mut clauses = clauses(&text).into_iter();
            let id = clauses.next().unwrap_or_default();
            let id = id.words.first().map(String::as_str).unwrap_or_default();
            if !trusted
                .iter()
                .any(|trusted| trusted.eq_ignore_ascii_case(id))
            {
                continue;
            }
            findings.extend(clauses.filter_map(Clause::finding));
        }
        findings.truncate(FINDINGS_MAX);
        Self { findings }
    }

    /// The findings of one method.
    pub fn of<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.method == method)
    }

    /// The first finding of `method` with this result.
    #[must_use]
    pub fn with(&self, method: &str, result: &str) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|finding| finding.method == method && finding.result == result)
    }
}

/// What stands between two semicolons: words, and words of comments.
#[derive(Default)]
struct Clause {
    words: Vec<String>,
    comments: Vec<String>,
}

impl Clause {
    /// `method[/version]=result` and what follows it.
    fn finding(self) -> Option<Finding> {
        let mut words = self.words.iter();
        let (method, result) = words.next()?.split_once('=')?;
        let method = method.split('/').next().unwrap_or(method);
        let properties = words
            .chain(&self.comments)
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .take(FINDINGS_MAX)
            .collect();
        Some(Finding {
            method: method.to_ascii_lowercase(),
            result: result.to_ascii_lowercase(),
            properties,
        })
    }
}

/// Takes a field apart in one pass; quotes are removed, white space around `=` too.
fn clauses(text: &str) -> Vec<Clause> {
    let mut all = vec![Clause::default()];
    let (mut word, mut comment) = (String::new(), String::new());
    let (mut quoted, mut depth) = (false, 0_usize);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // A quoted pair. Who removes forged fields reads it so; read otherwise, a comment
            // would end earlier here than there, and a forged field be taken for a trusted one.
            '\\' if depth > 0 => comment.extend(chars.next()),
            '\\' if quoted => word.extend(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                end_word(&mut comment, &mut all, |clause| &mut clause.comments);
            }
            ' ' | '\t' | '\r' | '\n' | ',' if depth > 0 => {
                end_word(&mut comment, &mut all, |clause| &mut clause.comments);
            }
            _ if depth > 0 => comment.push(c),
            ';' if !quoted => {
                end_word(&mut word, &mut all, |clause| &mut clause.words);
                if all.len() <= FINDINGS_MAX {
                    all.push(Clause::default());
                }
            }
            ' ' | '\t' | '\r' | '\n' if !quoted && !word.ends_with('=') => {
                end_word(&mut word, &mut all, |clause| &mut clause.words);
            }
            ' ' | '\t' | '\r' | '\n' if !quoted => {}
            _ => word.push(c),
        }
    }
    end_word(&mut word, &mut all, |clause| &mut clause.words);
    all
}

/// Puts a finished word into the last clause.
fn end_word(
    word: &mut String,
    clauses: &mut [Clause],
    list: impl Fn(&mut Clause) -> &mut Vec<String>,
) {
    if word.is_empty() {
        return;
    }
    if let Some(clause) = clauses.last_mut() {
        list(clause).push(std::mem::take(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str) -> Authentication {
        Authentication::read(
            std::iter::once(field.as_bytes()),
            &["mx.example.org".to_owned()],
        )
    }

    #[test]
    fn reads_trusted_fields() {
        let found = read(
            "MX.example.org 1;\r\n spf=pass smtp.mailfrom=a@b.example;\r\n dkim=fail \
             (bad signature)\r\n header.d=b.example \
             header.s=x; dmarc=fail (p=reject dis=none) header.from=\"b.example\"",
        );
        assert_eq!(found.findings.len(), 3);
        let dkim = found.with("dkim", "fail");
        assert_eq!(
            dkim.and_then(|dkim| dkim.property("header.d")),
            Some("b.example")
        );
        let dmarc = found.of("dmarc").next();
        assert_eq!(dmarc.and_then(|dmarc| dmarc.property("p")), Some("reject"));
        assert_eq!(
            dmarc.and_then(|dmarc| dmarc.property("header.from")),
            Some("b.example")
        );
    }

    #[test]
    fn ignores_the_rest() {
        for field in [
            "other.example; spf=pass",
            "mx.example.org; none",
            "mx.example.org",
            "",
            "(mx.example.org) x; spf=pass",
            "\"unclosed; spf=pass",
            "(\\) mx.example.org; spf=pass \\() other.example; none",
            "\"\\\"\" mx.example.org; spf=pass",
        ] {
            assert_eq!(read(field), Authentication::default(), "{field}");
        }
    }
}
