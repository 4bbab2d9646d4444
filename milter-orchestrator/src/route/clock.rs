//! The time of day and the day of the week, where we are.
//!
//! [`Clock`] is the seam: tests and `explain` put a moment in its place. Windows are pure.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Minutes of a week.
pub const WEEK: u16 = 7 * DAY;

/// Days as they are written, from Monday on.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A minute of the week, from Monday 00:00 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u16);

/// Times of the week, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    written: String,
    minutes: Vec<Range<u16>>,
}

/// Why something is no time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no time of day")]
pub struct NoWindow(String);

/// Says what time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// The time of this machine, in its time zone.
    #[must_use]
    pub fn local() -> Self {
        Self(Arc::new(|| {
            let now = jiff::Zoned::now();
            let day = now.weekday().to_monday_zero_offset().unsigned_abs();
            let hour = u16::from(now.hour().unsigned_abs());
            let minute = u16::from(now.minute().unsigned_abs());
            Moment(u16::from(day) * DAY + hour * 60 + minute)
        }))
    }

    /// Always the same moment.
    #[must_use]
    pub fn standing(moment: Moment) -> Self {
        Self(Arc::new(move || moment))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl Moment {
    /// Its number, from Monday 00:00 on.
    #[must_use]
    pub fn minute(self) -> u16 {
        self.0
    }
}

impl FromStr for Moment {
    type Err = NoWindow;

    /// `22:30` (a Monday), or `sat 22:30`.
    fn from_str(written: &str) -> Result<Self, NoWindow> {
        let wrong = || NoWindow(written.to_owned());
        let mut words = written.split_whitespace();
        let (day, time) = match (words.next(), words.next(), words.next()) {
            (Some(time), None, _) => (0, time),
            (Some(word), Some(time), None) => (day(word).ok_or_else(wrong)?, time),
            _ => return Err(wrong()),
        };
        let minute = minute(time).filter(|minute| *minute < DAY);
        Ok(Self(day * DAY + minute.ok_or_else(wrong)?))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = DAYS.get(usize::from(self.0 / DAY)).unwrap_or(&"-");
        let minute = self.0 % DAY;
        write!(f, "{day} {:02}:{:02}", minute / 60, minute % 60)
    }
}

impl Window {
    /// Whether a moment is within.
    #[must_use]
    pub fn holds(&self, moment: Moment) -> bool {
        self.covers(moment.0)
    }

    /// Whether a minute of the week is within.
    #[must_use]
    pub fn covers(&self, minute: u16) -> bool {
        self.minutes.iter().any(|range| range.contains(&minute))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl FromStr for Window {
    type Err = NoWindow;

    /// `22:00-06:00`, `mon-fri 08:00-18:00`, `sat,sun`.
    fn from_str(written: &str) -> Result<Self, NoWindow> {
        let wrong = || NoWindow(written.to_owned());
        let mut words = written.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(days), Some(time), None) => (
                days_of(days).ok_or_else(wrong)?,
                hours(time).ok_or_else(wrong)?,
            ),
            (Some(word), None, _) => match hours(word) {
                Some(hours) => ((0..7).collect(), hours),
                None => (days_of(word).ok_or_else(wrong)?, (0, DAY)),
            },
            _ => return Err(wrong()),
        };
        let mut minutes = Vec::new();
        for day in days {
            let (from, to) = (day * DAY + hours.0, day * DAY + hours.1);
            minutes.push(from..to.min(WEEK));
            if to > WEEK {
                minutes.push(0..to - WEEK);
            }
        }
        Ok(Self {
            written: written.trim().to_owned(),
            minutes,
        })
    }
}

/// From a minute of the day to a later one, which may be of the next day.
fn hours(written: &str) -> Option<(u16, u16)> {
    let (from, to) = written.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    match from.cmp(&to) {
        std::cmp::Ordering::Less => Some((from, to)),
        std::cmp::Ordering::Greater if from < DAY => Some((from, to + DAY)),
        _ => None,
    }
}

/// The minute of the day, up to 24:00.
fn minute(written: &str) -> Option<u16> {
    let (hour, minute) = written.split_once(':')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || minute.len() != 2 || !digits(minute) || hour.len() > 2 {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= DAY).then_some(total)
}

/// Days with commas between, or from one to another.
fn days_of(written: &str) -> Option<Vec<u16>> {
    let mut days = Vec::new();
    for part in written.split(',') {
        match part.split_once('-') {
            None => days.push(day(part)?),
            Some((from, to)) => {
                let (from, to) = (day(from)?, day(to)?);
                days.extend(
                    (0..7)
                        .map(|step| (from + step) % 7)
                        .take(usize::from((to + 7 - from) % 7) + 1),
                );
            }
        }
    }
    Some(days)
}

fn day(written: &str) -> Option<u16> {
    let lower = written.to_ascii_lowercase();
    let short = lower.get(..3)?;
    let full = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    let number = DAYS.iter().position(|day| *day == short)?;
    (lower.len() == 3 || full.get(number) == Some(&&*lower))
        .then(|| u16::try_from(number).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_they_say() {
        for (window, inside, outside) in [
            ("22:00-06:00", "22:00 23:59 0:00 5:59", "6:00 12:00 21:59"),
            ("0:00-24:00", "0:00 23:59", ""),
            ("08:30-9:00", "8:30 8:59", "8:29 9:00"),
        ] {
            let window: Window = window.parse().unwrap();
            for (times, expected) in [(inside, true), (outside, false)] {
                for time in times.split_whitespace() {
                    let moment = time.parse().unwrap();
                    assert_eq!(window.holds(moment), expected, "{time} in {window}");
                }
            }
        }
        for (window, moment, expected) in [
            ("mon-fri 08:00-18:00", "fri 17:59", true),
            ("mon-fri 08:00-18:00", "sat 12:00", false),
            ("sat,Sunday", "sunday 00:00", true),
            ("sat,sun", "mon 00:00", false),
            ("sun 22:00-06:00", "mon 05:59", true),
            ("sun 22:00-06:00", "sun 05:59", false),
            ("fri-mon", "sat 1:00", true),
            ("fri-mon", "tue 1:00", false),
        ] {
            let parsed: Window = window.parse().unwrap();
            assert_eq!(
                parsed.holds(moment.parse().unwrap()),
                expected,
                "{moment} in {window}"
            );
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for written in [
            "",
            "22:00",
            "22:00-22:00",
            "25:00-26:00",
            "9:60-10:00",
            "mo 8:00-9:00",
            "mon 8:00",
            "1:0-2:00",
            "8:00-9:00 mon",
            "24:00-06:00",
            "a b c",
            "ä",
            "mon-",
            "-1:00-2:00",
        ] {
            assert!(written.parse::<Window>().is_err(), "{written:?}");
        }
        for written in ["", "24:00", "noon", "xyz 8:00", "mon 8:00 9:00"] {
            assert!(written.parse::<Moment>().is_err(), "{written:?}");
        }
        assert_eq!(
            "sat 7:05".parse::<Moment>().unwrap().to_string(),
            "sat 07:05"
        );
    }

    #[test]
    fn the_clock_of_this_machine_is_within_the_week() {
        assert!(Clock::local().now().minute() < WEEK);
        let moment = "wed 12:00".parse().unwrap();
        assert_eq!(Clock::standing(moment).now(), moment);
    }
}
