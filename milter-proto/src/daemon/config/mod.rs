//! Configuration: TOML in, settings out, mistakes with file, line, a caret and the nearest known
//! name.

mod check;
mod default_file;
mod effective;
pub(crate) mod load;
mod mistake;
mod outline;
mod overlay;
mod place;
mod quantity;
mod secret;
mod sections;
mod survey;

#[cfg(test)]
mod tests;

pub use default_file::{default_file, round_trip_of_defaults};
pub(crate) use effective::effective;
pub use mistake::nearest;
pub use quantity::{FileMode, NotA, Seconds, Size};
pub use secret::Secret;
pub use sections::{Common, Format, Level, Listener, Log, Metrics, Process, Server};

/// A mistake that the types cannot see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Dotted path of the key (`signing.keys.0.file`), from which the line is found; empty for the
    /// whole file.
    pub path: String,
    /// What is wrong: lower-case, no full stop.
    pub message: String,
    /// What to write or do instead; may be empty.
    pub help: String,
}

impl ConfigError {
    /// A mistake at `path`.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            help: String::new(),
        }
    }

    /// Adds what to write or do instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}
