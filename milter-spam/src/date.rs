//! The Date field (RFC 5322 section 3.3) as a point in time.
//!
//! Obsolete zones, missing seconds and a wrong day of the week are accepted; anything else that is
//! no date is [`Date::Invalid`].

use jiff::fmt::rfc2822::DateTimeParser;

/// What the Date field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Date {
    /// There is none, or it is empty.
    #[default]
    Missing,
    /// It is no date.
    Invalid,
    /// Seconds since 1970, UTC.
    At(i64),
}

/// Reads the value of a Date field.
#[must_use]
pub fn parse(value: Option<&[u8]>) -> Date {
    /// No date is longer, comments included.
    const LENGTH_MAX: usize = 200;
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    match value.map(<[u8]>::trim_ascii) {
        None | Some([]) => Date::Missing,
        Some(value) if value.len() > LENGTH_MAX => Date::Invalid,
        Some(value) => PARSER
            .parse_timestamp(value)
            .map_or(Date::Invalid, |time| Date::At(time.as_second())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dates() {
        for (value, expected) in [
            ("Thu, 01 Jan 1970 00:01:00 +0000", Date::At(60)),
            ("1 Jan 1970 01:01 +0100", Date::At(60)),
            ("Mon, 1 Jan 1970 00:01:00 GMT", Date::At(60)),
            ("Thu,  1 Jan 1970 00:01:00 -0000 (UTC)", Date::At(60)),
            ("1970-01-01", Date::Invalid),
            ("32 Jan 1970 00:00:00 +0000", Date::Invalid),
            ("", Date::Missing),
        ] {
            assert_eq!(parse(Some(value.as_bytes())), expected, "{value}");
        }
        assert_eq!(parse(None), Date::Missing);
        assert_eq!(parse(Some(&[b'1'; 500])), Date::Invalid);
    }
}
