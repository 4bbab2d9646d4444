//! Tables with colours where they help, and the same text without.

use std::fmt::Write;

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text alone.
    Plain,
    /// With the sequences of a terminal.
    Colours,
}

impl Paint {
    /// What standard output wants: colours on a terminal that has them, unless the user does not
    /// (`NO_COLOR` with any value but an empty one; see no-color.org).
    #[must_use]
    pub fn wanted(terminal: bool, no_color: Option<&str>, term: Option<&str>) -> Self {
        let unwanted = no_color.is_some_and(|value| !value.is_empty()) || term == Some("dumb");
        match terminal && !unwanted {
            true => Self::Colours,
            false => Self::Plain,
        }
    }

    /// The text in its tone.
    pub(super) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            _ if self == Self::Plain => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Title => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// A heading.
    Title,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
}

/// One cell of a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = shown(&text.into());
        Self { text, tone }
    }

    /// A number that should be nought.
    pub(super) fn unwanted(count: u64) -> Self {
        let tone = match count {
            0 => Tone::Plain,
            _ => Tone::Warning,
        };
        Self::new(count.to_string(), tone)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// On one line, and nothing that a terminal would obey: what went wrong may quote anybody.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}

/// Rows under titles, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = [Cell; N]>,
    paint: Paint,
) -> String {
    let mut lines = vec![titles.map(|title| Cell::new(title, Tone::Title))];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let last = line.iter().rposition(|cell| !cell.text.is_empty());
        for (number, (cell, width)) in line.iter().zip(widths).enumerate() {
            if Some(number) > last {
                break;
            }
            let gap = match Some(number) == last {
                true => 0,
                false => width + 2 - cell.text.chars().count(),
            };
            // Writing into a string cannot fail.
            let _ = write!(text, "{}{:gap$}", paint.paint(&cell.text, cell.tone), "");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_somebody_sees_and_wants_them() {
        use Paint::{Colours, Plain};
        for (terminal, no_color, term, paint) in [
            (true, None, Some("xterm"), Colours),
            (true, None, None, Colours),
            (true, Some(""), Some("xterm"), Colours),
            (true, Some("1"), Some("xterm"), Plain),
            (true, None, Some("dumb"), Plain),
            (false, None, Some("xterm"), Plain),
        ] {
            let wanted = Paint::wanted(terminal, no_color, term);
            assert_eq!(wanted, paint, "{terminal} {no_color:?} {term:?}");
        }
    }

    /// Without its colours a table is the plain one.
    #[test]
    fn colours_take_no_room() {
        let rows = || {
            let row = [Cell::new("ü", Tone::Bad), Cell::unwanted(7), "".into()];
            assert_eq!(Cell::from("\x1b[2J\n").text, "\\u{1b}[2J\\n");
            [row, ["long name".into(), Cell::unwanted(0), "x".into()]].into_iter()
        };
        let plain = table(["A", "B", "C"], rows(), Paint::Plain);
        assert_eq!(plain, "A          B  C\nü          7\nlong name  0  x\n");
        let mut colours = table(["A", "B", "C"], rows(), Paint::Colours);
        assert!(colours.contains("\x1b[1;31mü\x1b[0m"), "{colours:?}");
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[33m", "\x1b[1;31m"] {
            colours = colours.replace(code, "");
        }
        assert_eq!(colours, plain);
    }
}
