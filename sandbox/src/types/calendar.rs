//! `timestamp`, `date` and `time` as text, in UTC (proleptic Gregorian calendar).

use super::validate::NANOS_PER_DAY;

const MILLIS_PER_DAY: i64 = 86_400_000;
/// `date` is unsigned with the epoch in the middle of its range.
const DATE_EPOCH: i64 = 1 << 31;

/// Milliseconds since the epoch from `2020-01-02`, `2020-01-02 03:04[:05[.678]]` with `T` or a blank between,
/// and with `Z`, `+0100`, `+01:00` or nothing (UTC) behind; or from a number of milliseconds.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    if let Ok(millis) = text.parse() {
        return Some(millis);
    }
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let (date, date_offset) = match date.get(10..) {
        Some(offset) if rest.is_empty() => (&date[..10], offset),
        _ => (date, ""),
    };
    let days = parse_days(date)?;
    let (time, offset) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => (rest[..at].trim_end(), &rest[at..]),
        None => (rest.trim_end(), date_offset),
    };
    let nanos = if time.is_empty() { 0 } else { parse_clock(time)? };
    let local = days.checked_mul(MILLIS_PER_DAY)?.checked_add(nanos / 1_000_000)?;
    local.checked_sub(parse_offset(offset)?)
}

/// `2020-01-02T03:04:05.678Z`, as cqlsh and JSON results of ScyllaDB have it.
pub fn format_timestamp(millis: i64) -> String {
    let (days, rest) = (
        millis.div_euclid(MILLIS_PER_DAY),
        millis.rem_euclid(MILLIS_PER_DAY),
    );
    let seconds = rest / 1000;
    format!(
        "{}T{:02}:{:02}:{:02}.{:03}Z",
        format_days(days),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        rest % 1000
    )
}

/// The serialized number of a `date` from `2020-01-02`, or from that number itself.
pub fn parse_date(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    u32::try_from(parse_days(text)? + DATE_EPOCH).ok()
}

pub fn format_date(number: u32) -> String {
    format_days(i64::from(number) - DATE_EPOCH)
}

/// Milliseconds since the epoch at which a `date` begins.
pub fn date_to_millis(number: u32) -> i64 {
    (i64::from(number) - DATE_EPOCH) * MILLIS_PER_DAY
}

/// The `date` of a timestamp; the ends of the range for what lies beyond them.
pub fn millis_to_date(millis: i64) -> u32 {
    let number = millis.div_euclid(MILLIS_PER_DAY) + DATE_EPOCH;
    number.clamp(0, u32::MAX.into()) as u32
}

/// Nanoseconds of the day from `03:04:05[.123456789]`, or from their number.
pub fn parse_time(text: &str) -> Option<i64> {
    let nanos = match text.parse() {
        Ok(nanos) => nanos,
        Err(_) if text.matches(':').count() == 2 => parse_clock(text)?,
        Err(_) => return None,
    };
    (0..NANOS_PER_DAY).contains(&nanos).then_some(nanos)
}

pub fn format_time(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    format!(
        "{:02}:{:02}:{:02}.{:09}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        nanos % 1_000_000_000
    )
}

/// `HH:MM[:SS[.fraction]]` as nanoseconds.
fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hours = bounded(parts.next()?, 23)?;
    let minutes = bounded(parts.next()?, 59)?;
    let (seconds, fraction) = match parts.next() {
        Some(text) => text.split_once('.').unwrap_or((text, "0")),
        None => ("0", "0"),
    };
    if parts.next().is_some() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10i64.pow(9 - fraction.len() as u32);
    let nanos = bounded(fraction, 999_999_999)? * scale;
    Some(((hours * 60 + minutes) * 60 + bounded(seconds, 59)?) * 1_000_000_000 + nanos)
}

fn bounded(text: &str, most: i64) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= most)
}

/// Milliseconds to take away from local time.
fn parse_offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes() {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => (1, &text[1..]),
        [b'-', ..] => (-1, &text[1..]),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4) {
        return None;
    }
    let hours = bounded(&digits[..2], 18)?;
    let minutes = if digits.len() == 4 {
        bounded(&digits[2..], 59)?
    } else {
        0
    };
    Some(sign * (hours * 60 + minutes) * 60_000)
}

/// Days since the epoch of `[-]YYYY-MM-DD`.
fn parse_days(text: &str) -> Option<i64> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut parts = body.split('-');
    // ±5,881,580: the years that `date` reaches.
    let year = bounded(parts.next()?, 5_881_580)?;
    let month = bounded(parts.next()?, 12)?;
    let day = bounded(parts.next()?, 31)?;
    let year = if negative { -year } else { year };
    if parts.next().is_some() || month == 0 || day == 0 || day > days_of_month(year, month) {
        return None;
    }
    Some(days_since_epoch(year, month, day))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years begin in March here, so that a leap day is the last day of its year; 719,468 days lie between
/// 0000-03-01 and the epoch; 146,097 days are 400 years.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

fn format_days(days: i64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + of_era + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    format!("{sign}{:04}-{month:02}-{day:02}", year.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (text, millis) in [
            ("1970-01-01", 0),
            ("2011-02-03", 1_296_691_200_000),
            ("2011-02-03 04:05+0000", 1_296_705_900_000),
            ("2011-02-03T04:05:00.000+0000", 1_296_705_900_000),
            ("2011-02-03 04:05:00.123Z", 1_296_705_900_123),
            ("2011-02-03T05:05:00+01:00", 1_296_705_900_000),
            ("2011-02-03 04:05:00 +0000", 1_296_705_900_000),
            ("2011-02-03+0100", 1_296_687_600_000),
            ("1969-12-31 23:59:59.999", -1),
            ("12345", 12345),
            ("-5", -5),
        ] {
            assert_eq!(parse_timestamp(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "abc",
            "2011-13-01",
            "2011-02-29",
            "2011-02-03 25:00",
            "é",
            "2011-02-03x",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(format_timestamp(1_296_705_900_123), "2011-02-03T04:05:00.123Z");
        assert_eq!(format_timestamp(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(parse_date("1970-01-01"), Some(1 << 31));
        assert_eq!(parse_date("2147483649"), Some((1 << 31) + 1));
        assert_eq!(parse_date("1970-02-30"), None);
        assert_eq!(parse_date("-5877641-06-23"), Some(0));
        assert_eq!(format_date(0), "-5877641-06-23");
        assert_eq!(format_date(u32::MAX), "5881580-07-11");
        assert_eq!(parse_time("08:12:54.123"), Some(29_574_123_000_000));
        assert_eq!(format_time(29_574_123_000_000), "08:12:54.123000000");
        for text in [
            "24:00:00",
            "1:2",
            "x",
            "-1",
            "86400000000000",
            "01:02:03.",
            "01:02:03.1234567890",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
        assert_eq!(millis_to_date(-1), (1 << 31) - 1);
        assert_eq!(date_to_millis((1 << 31) + 1), MILLIS_PER_DAY);
    }

    #[test]
    fn every_day_prints_as_it_parses() {
        for days in (-800_000..800_000).step_by(13) {
            assert_eq!(parse_days(&format_days(days)), Some(days));
        }
    }
}
