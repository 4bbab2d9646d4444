//! What a check found: a place and what is wrong there. Printed all at once, then one error.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use crate::terminal::say;

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    what: String,
}

impl Finding {
    /// Something wrong with `place`: a crate, a file.
    pub(crate) fn new(place: impl fmt::Display, what: impl Into<String>) -> Self {
        let (place, what) = (place.to_string(), what.into());
        Self { place, what }
    }

    /// Something wrong in a line of a file.
    pub(crate) fn line(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self::new(format_args!("{}:{line}", path.display()), what)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Prints the findings of a command; an error when there are any.
pub(crate) fn report(command: &str, findings: &[Finding]) -> Result<()> {
    for finding in findings {
        say(finding);
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("{command}: one finding"),
        count => bail!("{command}: {count} findings"),
    }
}
