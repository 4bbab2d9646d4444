//! Changes values in a commented default configuration without touching its comments.
//!
//! The file as a daemon writes it shows every key as `#key = default` below an active `[section]`.
//! Setting a key replaces that line. A key that is not there is an error: the daemon has changed
//! and whoever asked must follow.

use anyhow::{Result, bail};
use toml::Value;

/// A configuration file in the making.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    lines: Vec<String>,
}

impl Settings {
    /// From the text that a daemon writes.
    pub(super) fn new(default: &str) -> Self {
        Self {
            lines: default.lines().map(str::to_owned).collect(),
        }
    }

    /// Gives a key of a section (`""` for keys above all sections) another value.
    pub(super) fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) -> Result<()> {
        let start = if section.is_empty() {
            0
        } else {
            let header = format!("[{section}]");
            match self.lines.iter().position(|line| *line == header) {
                Some(at) => at + 1,
                None => bail!("the default configuration has no section {header}"),
            }
        };
        let length = self.lines[start..]
            .iter()
            .position(|line| line.starts_with('['))
            .unwrap_or(self.lines.len() - start);
        let within = &mut self.lines[start..start + length];
        let Some(line) = within.iter_mut().find(|line| is_key(line, key)) else {
            bail!("the default configuration has no key {key} in [{section}]");
        };
        *line = format!("{key} = {}", value.into());
        Ok(())
    }

    /// Adds sections at the end.
    pub(super) fn add(&mut self, sections: &str) {
        self.lines.push(String::new());
        self.lines.extend(sections.lines().map(str::to_owned));
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

/// `key = …`, set or commented out. Prose has a blank after the `#`.
fn is_key(line: &str, key: &str) -> bool {
    let line = line.strip_prefix('#').unwrap_or(line);
    let rest = line.strip_prefix(key).map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "# Prose.\n\n# A name.\n#name = \"a\"\n\n[log]\n# name = prose\n\
                           #level = \"info\"\n\n#[[list]]\n#name = \"\"\n\n[server]\n#level = 1\n";

    #[test]
    fn a_key_is_changed_in_its_section_alone() {
        let mut settings = Settings::new(DEFAULT);
        settings.set("", "name", "b").unwrap();
        settings.set("log", "level", "warn").unwrap();
        settings.set("server", "level", 2).unwrap();
        settings.add("[[list]]\nname = \"c\"");
        let expected = DEFAULT
            .replace("#name = \"a\"", "name = \"b\"")
            .replace("#level = \"info\"", "level = \"warn\"")
            .replace("#level = 1", "level = 2")
            + "\n[[list]]\nname = \"c\"\n";
        assert_eq!(settings.text(), expected);
        assert!(settings.text().parse::<toml::Table>().is_ok());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let mut settings = Settings::new(DEFAULT);
        assert!(settings.set("nowhere", "level", 1).is_err());
        assert!(settings.set("server", "lev", 1).is_err());
        assert!(settings.set("", "level", 1).is_err());
    }
}
