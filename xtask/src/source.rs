//! Rust files as the checks see them: the text, and the code alone with comments, literals and test
//! items blanked out, line for line.
//!
//! This is a reader of tokens, not a parser: enough to ask which words a file uses. It never fails;
//! text that is not Rust comes out as some other text.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One Rust file.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Relative to the root of the workspace.
    pub(crate) path: PathBuf,
    /// As written.
    pub(crate) text: String,
    /// Comments, literals and `#[cfg(test)]` items replaced by blanks.
    pub(crate) code: String,
}

impl Source {
    /// A file from its text.
    pub(crate) fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.to_owned(),
            code: without_tests(&without_words(text)),
        }
    }

    /// Every identifier of the code with its line number, from 1.
    pub(crate) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().flat_map(|(index, line)| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty())
                .map(move |word| (index + 1, word))
        })
    }

    /// The code without white space, for questions about paths that may be wrapped over lines.
    pub(crate) fn squeezed(&self) -> String {
        self.code.chars().filter(|c| !c.is_whitespace()).collect()
    }
}

/// All Rust files below `folder` of the workspace at `root`, in order of path. A folder that is not
/// there has none.
pub(crate) fn read_tree(root: &Path, folder: &str) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in files_below(&root.join(folder))? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read as text", path.display()))?;
            let relative = path.strip_prefix(root).unwrap_or(&path);
            found.push(Source::new(relative, &text));
        }
    }
    Ok(found)
}

/// All files below a folder, in order of path; build folders and dot folders other than `.ci` and
/// `.cargo` are left out.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(folder.display().to_string()),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if hidden || name == "target" {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Blanks comments and literals; every line keeps its place.
fn without_words(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = word_length(bytes, at);
        if length == 0 {
            code.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(bytes.len());
        let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        code.extend(bytes[at..end].iter().map(blank));
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The length of the comment or literal that begins at `at`; 0 when none does.
fn word_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let joined = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return rest.iter().take_while(|byte| **byte != b'\n').count();
    }
    if rest.starts_with(b"/*") {
        return block_comment(rest);
    }
    if !joined {
        for prefix in [&b"br"[..], b"cr", b"r"] {
            if let Some(raw) = rest.strip_prefix(prefix)
                && let Some(length) = raw_string(raw)
            {
                return prefix.len() + length;
            }
        }
    }
    match rest[0] {
        b'"' => quoted(rest, b'"'),
        b'\'' => character(rest),
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `#*"…"#*` after the `r`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let body = hashes + 1;
    let found = rest[body..]
        .windows(end.len())
        .position(|window| window == end);
    Some(found.map_or(rest.len(), |at| body + at + end.len()))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal; a lifetime is none.
fn character(rest: &[u8]) -> usize {
    let escaped = rest.get(1) == Some(&b'\\');
    if escaped {
        return quoted(rest, b'\'');
    }
    // One character of up to four bytes, then the closing quote.
    let close = rest.iter().skip(2).take(4).position(|byte| *byte == b'\'');
    match close {
        Some(0) => 3,
        Some(more) if !rest[1].is_ascii() => more + 3,
        _ => 0,
    }
}

/// Blanks every item behind `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut left = code;
    let mut kept = String::with_capacity(code.len());
    while let Some(start) = left.find(MARK) {
        kept.push_str(&left[..start]);
        let length = item_length(&left[start..]);
        let item = &left[start..start + length];
        kept.extend(item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        left = &left[start + length..];
    }
    kept.push_str(left);
    kept
}

/// The length of an item: up to the `;` or the closing brace at its own depth.
fn item_length(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in item.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let source = Source::new("a.rs", text);
        let words: Vec<String> = source
            .identifiers()
            .map(|(line, word)| format!("{line}:{word}"))
            .collect();
        assert_eq!(source.code.lines().count(), text.lines().count());
        words
    }

    #[test]
    fn comments_and_literals_hold_no_words() {
        assert_eq!(
            words("a // b\nc /* d /* e */ f\n */ g"),
            ["1:a", "2:c", "3:g"]
        );
        assert_eq!(
            words(r#"a("b \" c", 'd', '\'', b"e")f"#),
            ["1:a", "1:b", "1:f"]
        );
        assert_eq!(
            words("r#\"x \" y\"# z br\"q\" bar\"t\" u"),
            ["1:z", "1:bar", "1:u"]
        );
        assert_eq!(
            words("fn f<'a>(x: &'a str) { 'é' }"),
            ["1:fn", "1:f", "1:a", "1:x", "1:a", "1:str"]
        );
    }

    #[test]
    fn test_items_hold_no_words() {
        let text =
            "use a;\n#[cfg(test)]\nmod tests {\n  fn b() { c }\n}\nuse d;\n#[cfg(test)]\nuse e;\nf";
        assert_eq!(words(text), ["1:use", "1:a", "6:use", "6:d", "9:f"]);
    }

    #[test]
    fn text_that_stops_in_the_middle_is_read() {
        for text in ["\"abc", "/* x", "r#\"x", "'\\", "'", "#[cfg(test)]", "b'"] {
            let _ = words(text);
        }
    }
}
