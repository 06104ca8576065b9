//! A point in time as people write it (RFC 3339), kept in milliseconds.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Milliseconds since 1970-01-01T00:00:00Z; written as `2026-01-31T12:00:00.000Z`. Years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

/// The last millisecond that four digits of a year can name.
const LAST_MILLISECOND: u64 = 253_402_300_799_999;

/// The text is not a time of RFC 3339 between 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time as in 2026-01-31T12:00:00Z")]
pub struct NotATime;

impl Timestamp {
    /// A time by its milliseconds since the epoch; later than the year 9999 becomes the end of that year.
    pub fn from_milliseconds(milliseconds: u64) -> Self {
        Self(milliseconds.min(LAST_MILLISECOND))
    }

    /// Milliseconds since the epoch.
    pub fn milliseconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    /// `YYYY-MM-DDTHH:MM:SS[.fraction](Z|+HH:MM|-HH:MM)`; digits beyond milliseconds are dropped.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        let (date, rest) = text.split_at_checked(10).ok_or(NotATime)?;
        let (clock, rest) = rest.split_at_checked(9).ok_or(NotATime)?;
        let days = days_from_civil(field(date, 0..4)?, field(date, 5..7)?, field(date, 8..10)?)?;
        let seconds = seconds_of_day(clock)?;
        let zone_at = rest.find(['Z', 'z', '+', '-']).ok_or(NotATime)?;
        let (fraction, zone) = rest.split_at(zone_at);
        if date.as_bytes()[4] != b'-' || date.as_bytes()[7] != b'-' {
            return Err(NotATime);
        }
        let total = (days * 86_400 + seconds - offset_seconds(zone)?) * 1000 + milliseconds(fraction)?;
        u64::try_from(total)
            .ok()
            .filter(|&ms| ms <= LAST_MILLISECOND)
            .map(Self)
            .ok_or(NotATime)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / 86_400_000);
        let ms = self.0 % 86_400_000;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            ms % 1000
        )
    }
}

impl TryFrom<String> for Timestamp {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

fn field(text: &str, range: std::ops::Range<usize>) -> Result<i64, NotATime> {
    let digits = text
        .get(range)
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
        .ok_or(NotATime)?;
    digits.parse().map_err(|_| NotATime)
}

/// Seconds of `THH:MM:SS`. A leap second counts as the last second before it.
fn seconds_of_day(clock: &str) -> Result<i64, NotATime> {
    let bytes = clock.as_bytes();
    let (hour, minute, second) = (field(clock, 1..3)?, field(clock, 4..6)?, field(clock, 7..9)?);
    let marks = matches!(bytes[0], b'T' | b't' | b' ') && bytes[3] == b':' && bytes[6] == b':';
    if !marks || hour > 23 || minute > 59 || second > 60 {
        return Err(NotATime);
    }
    Ok(hour * 3600 + minute * 60 + second.min(59))
}

fn milliseconds(fraction: &str) -> Result<i64, NotATime> {
    if fraction.is_empty() {
        return Ok(0);
    }
    let digits = fraction
        .strip_prefix('.')
        .filter(|d| !d.is_empty() && d.len() <= 9)
        .ok_or(NotATime)?;
    let value = field(digits, 0..digits.len())?;
    // At most nine digits, so the scale is within 10^0 ..= 10^9.
    let scale = 10_i64.pow(digits.len() as u32);
    Ok(value * 1000 / scale)
}

fn offset_seconds(zone: &str) -> Result<i64, NotATime> {
    if matches!(zone, "Z" | "z") {
        return Ok(0);
    }
    if zone.len() != 6 || zone.as_bytes()[3] != b':' {
        return Err(NotATime);
    }
    let (hour, minute) = (field(zone, 1..3)?, field(zone, 4..6)?);
    if hour > 23 || minute > 59 {
        return Err(NotATime);
    }
    let seconds = hour * 3600 + minute * 60;
    Ok(if zone.starts_with('-') { -seconds } else { seconds })
}

/// Days since the epoch. Years begin in March here, so that a leap day is the last day of its year; 146 097 days are
/// one cycle of 400 years of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> Result<i64, NotATime> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(NotATime),
    };
    if !(1..=longest).contains(&day) {
        return Err(NotATime);
    }
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let (cycle, year_of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    Ok(
        cycle * 146_097 + year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year
            - 719_468,
    )
}

/// The inverse of [`days_from_civil`] from the epoch on.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc_3339() {
        for (text, milliseconds, written) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00.000Z"),
            (
                "2000-02-29T23:59:59.5Z",
                951_868_799_500,
                "2000-02-29T23:59:59.500Z",
            ),
            (
                "2026-01-31T12:00:00+02:00",
                1_769_853_600_000,
                "2026-01-31T10:00:00.000Z",
            ),
            (
                "2026-01-31 12:00:00.123456-00:30",
                1_769_862_600_123,
                "2026-01-31T12:30:00.123Z",
            ),
            (
                "9999-12-31T23:59:59.999Z",
                LAST_MILLISECOND,
                "9999-12-31T23:59:59.999Z",
            ),
        ] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(
                (time.milliseconds(), time.to_string().as_str()),
                (milliseconds, written),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00+2:00",
            "2026/01/31T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "+026-01-31T12:00:00Z",
            "2026-01-31T12:00:00Zoo",
            "20é6-01-31T12:00:00Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_returns() {
        for day in (0..146_097).step_by(1) {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(
                days_from_civil(year as i64, month as i64, date as i64),
                Ok(day as i64)
            );
        }
    }
}
