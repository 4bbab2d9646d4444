//! What the commands print: results on standard output, a line at a time, with colour and progress
//! only where a person watches.
//!
//! Nothing here decides anything. A reader that has gone away (a closed pipe) is not an error: the
//! command goes on, its exit status is its answer.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Writes one line to standard output.
pub(crate) fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    // A closed pipe must not end a run that has processes to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// How a word is meant, shown by colour on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
}

/// `text`, coloured when standard output is a terminal and `NO_COLOR` is not set.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    if plain {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Odd => "33",
        Tone::Bad => "31",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Bytes from outside, safe to show: everything but printable ASCII is escaped, and what is longer
/// than `limit` characters is cut.
pub(crate) fn escaped(bytes: &[u8], limit: usize) -> String {
    let mut shown: String = bytes
        .iter()
        .take(limit)
        .flat_map(|byte| byte.escape_ascii())
        .map(char::from)
        .collect();
    if bytes.len() > limit {
        shown.push('…');
    }
    shown
}

/// A counter that is redrawn in place on a terminal and silent elsewhere.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    shown: bool,
}

impl Progress {
    /// Starts a counter up to `total`.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let shown = std::io::stderr().is_terminal();
        Self { what, total, shown }
    }

    /// Shows that `done` of the total are done.
    pub(crate) fn at(&self, done: usize) {
        if self.shown {
            let _ = write!(
                std::io::stderr(),
                "\r{} {done}/{}\x1b[K",
                self.what,
                self.total
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A table of text: every column as wide as its widest cell, the last one unpadded.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: String = cells
                .map(|(cell, &width)| format!("{cell:<width$}  "))
                .collect();
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = [vec!["a", "bbb", "c"], vec!["aaaa", "b", ""]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        assert_eq!(table(&rows), ["a     bbb  c", "aaaa  b"]);
    }

    #[test]
    fn foreign_bytes_are_escaped_and_cut() {
        assert_eq!(escaped(b"a\x1b[31m\xff", 80), "a\\x1b[31m\\xff");
        assert_eq!(escaped(b"abcdef", 3), "abc…");
    }
}
