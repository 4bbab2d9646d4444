//! Quantities as an operator writes them: `"5s"`, `"10MB"`, `"0660"`.
//!
//! Each is a type of its own with a unit in its text, so that a bare number is refused: nobody has
//! to guess whether `5` meant seconds or milliseconds. Values are bounded here, which keeps
//! arithmetic on clocks and buffers elsewhere from overflowing. A mistake is a [`NotA`] that says
//! what was expected, with an example.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use thiserror::Error;

/// A duration: `"500ms"`, `"5s"`, `"2m"`, `"1h"`, `"7d"`. At most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seconds(Duration);

/// A number of bytes: `"512B"`, `"64KB"`, `"10MB"`, `"1GB"`, in steps of 1024. At most one
/// pebibyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(u64);

/// Permission bits of a file in octal: `"0660"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMode(u32);

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct NotA {
    /// What was written.
    pub text: String,
    /// What should have been, with an example.
    pub expected: &'static str,
}

/// A value that is written as a string.
trait Written: FromStr<Err = NotA> + fmt::Display {
    /// What to write, with an example.
    const EXPECTED: &'static str;
    /// Examples for the schema.
    const EXAMPLES: &'static [&'static str];
}

impl Seconds {
    /// The longest that can be written: a deadline this far away still fits every clock.
    pub const MAX: Self = Self::from_secs(10 * 365 * 86_400);

    const UNITS: [(&'static str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

impl FromStr for Seconds {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        number_with_unit(text, &Self::UNITS)
            .map(Self::from_millis)
            .filter(|value| *value <= Self::MAX)
            .ok_or_else(|| not_a::<Self>(text))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_with_unit(f, milliseconds, &Self::UNITS, "s")
    }
}

impl Written for Seconds {
    const EXPECTED: &'static str =
        "a duration such as \"5s\" (units: ms, s, m, h, d; at most ten years)";
    const EXAMPLES: &'static [&'static str] = &["500ms", "5s", "2m"];
}

impl Size {
    /// The largest that can be written.
    pub const MAX: Self = Self(1 << 50);

    const UNITS: [(&'static str, u64); 4] =
        [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes, as a length of something in memory; the largest such length where it would not
    /// fit.
    #[must_use]
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        number_with_unit(text, &Self::UNITS)
            .map(Self)
            .filter(|value| *value <= Self::MAX)
            .ok_or_else(|| not_a::<Self>(text))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_unit(f, self.0, &Self::UNITS, "B")
    }
}

impl Written for Size {
    const EXPECTED: &'static str = "a size such as \"10MB\" (units: B, KB, MB, GB)";
    const EXAMPLES: &'static [&'static str] = &["512B", "64KB", "10MB"];
}

impl FileMode {
    /// The permission bits, of nine.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0o777)
    }

    /// The permission bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        octal
            .then(|| u32::from_str_radix(text, 8).ok())
            .flatten()
            .filter(|bits| *bits <= 0o777)
            .map(Self)
            .ok_or_else(|| not_a::<Self>(text))
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Written for FileMode {
    const EXPECTED: &'static str = "a file mode in octal such as \"0660\"";
    const EXAMPLES: &'static [&'static str] = &["0660", "0600"];
}

fn not_a<T: Written>(text: &str) -> NotA {
    NotA {
        text: text.chars().take(64).collect(),
        expected: T::EXPECTED,
    }
}

/// `text` as a whole number directly followed by one of `units`, in the smallest unit.
fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
        .1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes `value` in the largest unit that leaves no remainder; nothing at all is `0` of
/// `zero_unit`.
fn write_with_unit(
    f: &mut fmt::Formatter<'_>,
    value: u64,
    units: &[(&str, u64)],
    zero_unit: &str,
) -> fmt::Result {
    let exact = units
        .iter()
        .find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    match exact {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "0{zero_unit}"),
    }
}

/// Reads a [`Written`] value from a string; anything else is answered with what was expected.
struct Text<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// The schema of a [`Written`] value.
fn written_schema<T: Written>() -> Schema {
    json_schema!({ "type": "string", "description": T::EXPECTED, "examples": T::EXAMPLES })
}

macro_rules! written_in_settings {
    ($($type:ident),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text::<Self>(PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                written_schema::<Self>()
            }
        }
    )*};
}

written_in_settings!(Seconds, Size, FileMode);

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written reads as `value`, and is written back as `canonical`.
    fn check<T: Written + PartialEq + fmt::Debug>(text: &str, value: Option<T>, canonical: &str) {
        let read = text.parse::<T>();
        assert_eq!(read.as_ref().ok(), value.as_ref(), "{text:?}");
        match read {
            Ok(read) => assert_eq!(read.to_string(), canonical, "{text:?}"),
            Err(error) => assert!(error.to_string().contains(T::EXPECTED), "{error}"),
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds, canonical) in [
            ("500ms", 500, "500ms"),
            ("5s", 5_000, "5s"),
            ("120s", 120_000, "2m"),
            ("90m", 5_400_000, "90m"),
            ("24h", 86_400_000, "1d"),
            ("0s", 0, "0s"),
            ("0ms", 0, "0s"),
            ("3650d", 315_360_000_000, "3650d"),
        ] {
            check(text, Some(Seconds::from_millis(milliseconds)), canonical);
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5sec",
            "3651d",
            "99999999999999999999s",
            "213503982334601d",
            "５s",
            "5µs",
        ] {
            check::<Seconds>(text, None, "");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, canonical) in [
            ("0B", 0, "0B"),
            ("512B", 512, "512B"),
            ("64KB", 65_536, "64KB"),
            ("64kb", 65_536, "64KB"),
            ("1024KB", 1 << 20, "1MB"),
            ("10MB", 10 << 20, "10MB"),
            ("1048576GB", 1 << 50, "1048576GB"),
        ] {
            check(text, Some(Size::from_bytes(bytes)), canonical);
        }
        for text in [
            "",
            "10",
            "MB",
            "10 MB",
            "-1B",
            "1.5MB",
            "1048577GB",
            "17179869184GB",
        ] {
            check::<Size>(text, None, "");
        }
    }

    #[test]
    fn file_modes() {
        for (text, bits, canonical) in [("0660", 0o660, "0660"), ("600", 0o600, "0600")] {
            check(text, Some(FileMode::from_bits(bits)), canonical);
        }
        for text in [
            "",
            "0",
            "0o660",
            "0680",
            "7777",
            "+660",
            "rw-rw----",
            "00660",
        ] {
            check::<FileMode>(text, None, "");
        }
    }
}
