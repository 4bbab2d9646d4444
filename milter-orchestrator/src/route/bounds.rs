//! A number that must be large or small enough, as it is written: `>=10MB`, `<5`, `200`.

use std::fmt;
use std::str::FromStr;

use milter_proto::daemon::config::Size;
use thiserror::Error;

/// From a number on, or up to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The least.
    pub low: u64,
    /// The greatest.
    pub high: u64,
}

/// Why something is no bound.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no number to compare with")]
pub struct NoBounds(String);

impl Bounds {
    /// Whether a number is within.
    #[must_use]
    pub fn hold(self, number: u64) -> bool {
        (self.low..=self.high).contains(&number)
    }

    /// From this number on.
    #[must_use]
    pub fn from(low: u64) -> Self {
        let high = u64::MAX;
        Self { low, high }
    }
}

impl FromStr for Bounds {
    type Err = NoBounds;

    fn from_str(written: &str) -> Result<Self, NoBounds> {
        let text = written.trim();
        let signs = text.len() - text.trim_start_matches(['<', '>', '=']).len();
        let (sign, rest) = text.split_at(signs);
        let wrong = || NoBounds(written.to_owned());
        let rest = rest.trim();
        let plain = || rest.parse::<Size>().ok().map(Size::get);
        let number = rest.parse().ok().or_else(plain).ok_or_else(wrong)?;
        let (low, high) = match sign {
            "" | ">=" => (number, u64::MAX),
            ">" => (number.checked_add(1).ok_or_else(wrong)?, u64::MAX),
            "<=" => (0, number),
            "<" => (0, number.checked_sub(1).ok_or_else(wrong)?),
            "=" | "==" => (number, number),
            _ => return Err(wrong()),
        };
        Ok(Self { low, high })
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.low, self.high) {
            (low, u64::MAX) => write!(f, "{low} or more"),
            (0, high) => write!(f, "{high} or less"),
            (low, high) => write!(f, "{low} to {high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read() {
        for (written, low, high) in [
            ("200", 200, u64::MAX),
            (">=10MB", 10 << 20, u64::MAX),
            (">= 1KB", 1024, u64::MAX),
            ("> 5", 6, u64::MAX),
            ("<5", 0, 4),
            ("<=5", 0, 5),
            ("=7", 7, 7),
        ] {
            assert_eq!(written.parse(), Ok(Bounds { low, high }), "{written}");
        }
        for written in [
            "",
            "<0",
            ">18446744073709551615",
            "=>3",
            "many",
            "10 apples",
            "-1",
        ] {
            assert!(written.parse::<Bounds>().is_err(), "{written}");
        }
    }
}
