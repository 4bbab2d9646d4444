//! A time as it is written on the command line: a number and a unit, such as `90s`, `10m`, `1h`.
//!
//! A wrong one is an error that says how to write it.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};

/// The longest that can be asked for.
const MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A time between a second and a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 60 * 60,
                _ => return None,
            };
            Some(Duration::from_secs(number.checked_mul(seconds)?))
        };
        let time = read().with_context(|| {
            format!("{text:?} is no time: write a number and a unit, such as 90s, 10m or 1h")
        })?;
        ensure!(!time.is_zero(), "the time is 0: write at least 1s");
        ensure!(time <= MAX, "the time is over a week: write at most 168h");
        Ok(Self(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_limit() {
        let table = [
            ("90s", Ok(90)),
            ("10m", Ok(600)),
            ("1h", Ok(3600)),
            ("0s", Err("at least 1s")),
            ("200h", Err("at most 168h")),
            ("10", Err("such as 90s")),
            ("", Err("such as 90s")),
            ("m", Err("such as 90s")),
            ("-1s", Err("such as 90s")),
            ("1.5m", Err("such as 90s")),
            ("99999999999999999999h", Err("such as 90s")),
        ];
        for (text, expected) in table {
            match (text.parse::<Time>(), expected) {
                (Ok(Time(time)), Ok(seconds)) => assert_eq!(time.as_secs(), seconds, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (read, expected) => panic!("{text}: {read:?}, not {expected:?}"),
            }
        }
    }
}
