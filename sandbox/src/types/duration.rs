//! `duration`: months, days and nanoseconds, each a zigzag vint (native protocol section 6).

use std::fmt;

/// All parts have the same sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Duration {
    pub months: i32,
    pub days: i32,
    pub nanos: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("Expected at least 3 bytes for a duration ({0})")]
    Short(usize),
    #[error("The duration months, days and nanoseconds must be all of the same sign ({0}, {1}, {2})")]
    Signs(i32, i32, i64),
    #[error("Invalid duration: a part is out of range")]
    Range,
    #[error("Unable to convert '{0}' to a duration")]
    Text(String),
}

/// Reads a serialized duration.
///
/// # Errors
/// Fewer or more than three vints, parts out of range or of different signs.
pub fn decode(value: &[u8]) -> Result<Duration, DurationError> {
    let mut rest = value;
    let mut part = || {
        let (number, tail) = read_vint(rest).ok_or(DurationError::Short(value.len()))?;
        rest = tail;
        Ok(number)
    };
    let (months, days, nanos) = (part()?, part()?, part()?);
    let (Ok(months), Ok(days)) = (i32::try_from(months), i32::try_from(days)) else {
        return Err(DurationError::Range);
    };
    let duration = Duration { months, days, nanos };
    if !rest.is_empty() {
        return Err(DurationError::Range);
    }
    duration.check_signs()
}

impl Duration {
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9);
        write_vint(self.months.into(), &mut out);
        write_vint(self.days.into(), &mut out);
        write_vint(self.nanos, &mut out);
        out
    }

    /// Reads `1y2mo3w4d5h6m7s8ms9us10ns` and the ISO 8601 forms, each with a sign or without.
    ///
    /// # Errors
    /// Anything else; parts out of range.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let wrong = || DurationError::Text(text.to_owned());
        let (negative, body) = match text.strip_prefix('-') {
            Some(body) => (true, body),
            None => (false, text),
        };
        let mut total = Total::default();
        match body.strip_prefix('P') {
            Some(iso) if iso.as_bytes().get(4) == Some(&b'-') => total.alternative(iso),
            Some(iso) => {
                let (date, time) = iso.split_once('T').unwrap_or((iso, ""));
                total
                    .units(date, &DATE_UNITS)
                    .and_then(|()| total.units(time, &TIME_UNITS))
            }
            None => total.units(body, &UNITS),
        }
        .ok_or_else(wrong)?;
        if body.is_empty() || body == "P" {
            return Err(wrong());
        }
        total.finish(negative)
    }

    fn check_signs(self) -> Result<Self, DurationError> {
        let signs = [i64::from(self.months), i64::from(self.days), self.nanos].map(i64::signum);
        if signs.contains(&1) && signs.contains(&-1) {
            return Err(DurationError::Signs(self.months, self.days, self.nanos));
        }
        Ok(self)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.months < 0 || self.days < 0 || self.nanos < 0 {
            out.write_str("-")?;
        }
        let months = self.months.unsigned_abs();
        let mut rest = self.nanos.unsigned_abs();
        write_part(out, u64::from(months / 12), "y")?;
        write_part(out, u64::from(months % 12), "mo")?;
        write_part(out, u64::from(self.days.unsigned_abs()), "d")?;
        for (nanos, unit) in [
            (HOUR, "h"),
            (MINUTE, "m"),
            (SECOND, "s"),
            (1_000_000, "ms"),
            (1000, "us"),
            (1, "ns"),
        ] {
            write_part(out, rest / nanos, unit)?;
            rest %= nanos;
        }
        Ok(())
    }
}

fn write_part(out: &mut fmt::Formatter<'_>, count: u64, unit: &str) -> fmt::Result {
    if count == 0 {
        Ok(())
    } else {
        write!(out, "{count}{unit}")
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Months(i64),
    Days(i64),
    Nanos(u64),
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const UNITS: [(&str, Unit); 11] = [
    ("mo", Unit::Months(1)),
    ("ms", Unit::Nanos(1_000_000)),
    ("us", Unit::Nanos(1000)),
    ("µs", Unit::Nanos(1000)),
    ("ns", Unit::Nanos(1)),
    ("y", Unit::Months(12)),
    ("w", Unit::Days(7)),
    ("d", Unit::Days(1)),
    ("h", Unit::Nanos(HOUR)),
    ("m", Unit::Nanos(MINUTE)),
    ("s", Unit::Nanos(SECOND)),
];
const DATE_UNITS: [(&str, Unit); 4] = [
    ("y", Unit::Months(12)),
    ("m", Unit::Months(1)),
    ("w", Unit::Days(7)),
    ("d", Unit::Days(1)),
];
const TIME_UNITS: [(&str, Unit); 3] = [
    ("h", Unit::Nanos(HOUR)),
    ("m", Unit::Nanos(MINUTE)),
    ("s", Unit::Nanos(SECOND)),
];

#[derive(Default)]
struct Total {
    months: i64,
    days: i64,
    nanos: u64,
}

impl Total {
    fn add(&mut self, count: &str, unit: Unit) -> Option<()> {
        match unit {
            Unit::Months(months) => {
                self.months = count
                    .parse::<i64>()
                    .ok()?
                    .checked_mul(months)?
                    .checked_add(self.months)?;
            }
            Unit::Days(days) => {
                self.days = count
                    .parse::<i64>()
                    .ok()?
                    .checked_mul(days)?
                    .checked_add(self.days)?
            }
            Unit::Nanos(nanos) => {
                self.nanos = count
                    .parse::<u64>()
                    .ok()?
                    .checked_mul(nanos)?
                    .checked_add(self.nanos)?;
            }
        }
        Some(())
    }

    fn units(&mut self, mut text: &str, units: &[(&str, Unit)]) -> Option<()> {
        while !text.is_empty() {
            let digits = text.find(|c: char| !c.is_ascii_digit())?;
            let (count, rest) = text.split_at(digits);
            let (name, unit) = units.iter().find(|(name, _)| {
                rest.get(..name.len())
                    .is_some_and(|head| head.eq_ignore_ascii_case(name))
            })?;
            self.add(count, *unit)?;
            text = &rest[name.len()..];
        }
        Some(())
    }

    /// `YYYY-MM-DDThh:mm:ss`.
    fn alternative(&mut self, text: &str) -> Option<()> {
        let parts = [(0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19)];
        let units = DATE_UNITS[..2].iter().chain(&DATE_UNITS[3..]).chain(&TIME_UNITS);
        for ((start, end), (_, unit)) in parts.into_iter().zip(units) {
            self.add(text.get(start..end)?, *unit)?;
        }
        (text.len() == 19).then_some(())
    }

    fn finish(self, negative: bool) -> Result<Duration, DurationError> {
        let sign = if negative { -1 } else { 1 };
        let months = i32::try_from(sign * self.months);
        let days = i32::try_from(sign * self.days);
        let nanos = i64::try_from(i128::from(sign) * i128::from(self.nanos));
        match (months, days, nanos) {
            (Ok(months), Ok(days), Ok(nanos)) => Ok(Duration { months, days, nanos }),
            _ => Err(DurationError::Range),
        }
    }
}

/// A vint: as many leading ones as bytes follow the first, then the zigzag number, big-endian.
fn read_vint(value: &[u8]) -> Option<(i64, &[u8])> {
    let (&first, rest) = value.split_first()?;
    let extra = first.leading_ones() as usize;
    let (tail, rest) = rest.split_at_checked(extra)?;
    let head = if extra >= 7 {
        0
    } else {
        u64::from(first) & (0x7f >> extra)
    };
    let zigzag = tail
        .iter()
        .fold(head, |number, &byte| (number << 8) | u64::from(byte));
    Some(((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64), rest))
}

fn write_vint(number: i64, out: &mut Vec<u8>) {
    let zigzag = ((number << 1) ^ (number >> 63)) as u64;
    // Each extra byte gives seven more bits; nine bytes hold all 64.
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    let extra = ((bits - 1) / 7).min(8);
    let bytes = zigzag.to_be_bytes();
    if extra == 8 {
        out.push(0xff);
        out.extend_from_slice(&bytes);
        return;
    }
    let start = out.len();
    out.extend_from_slice(&bytes[7 - extra..]);
    out[start] |= !(0xffu8 >> extra);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, months, days, nanos, printed) in [
            ("1y2mo", 14, 0, 0, "1y2mo"),
            ("-3w4d", 0, -25, 0, "-25d"),
            ("1h30m5s7ms8us9ns", 0, 0, 5_405_007_008_009, "1h30m5s7ms8us9ns"),
            ("P1Y2M3DT4H5M6S", 14, 3, 14_706_000_000_000, "1y2mo3d4h5m6s"),
            ("PT5M", 0, 0, 300_000_000_000, "5m"),
            ("-P2W", 0, -14, 0, "-14d"),
            ("P0001-02-03T04:05:06", 14, 3, 14_706_000_000_000, "1y2mo3d4h5m6s"),
            ("5µs", 0, 0, 5000, "5us"),
        ] {
            let duration = Duration::parse(text).unwrap();
            assert_eq!(duration, Duration { months, days, nanos }, "{text}");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(decode(&duration.encode()), Ok(duration));
        }
        for text in [
            "",
            "P",
            "1",
            "1x",
            "-",
            "9999999999999999999y",
            "200000000y",
            "P1Y2",
        ] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    /// Encodings as the native protocol's description of vints gives them.
    #[test]
    fn vints() {
        for (number, bytes) in [
            (0i64, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x80]),
            (-8193, &[0xc0, 0x40, 0x01]),
            (i64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let mut out = Vec::new();
            write_vint(number, &mut out);
            assert_eq!(out, bytes, "{number}");
            assert_eq!(read_vint(bytes), Some((number, &[][..])));
        }
    }

    #[test]
    fn malformed() {
        assert_eq!(decode(&[0, 0]), Err(DurationError::Short(2)));
        assert_eq!(decode(&[2, 1, 0]), Err(DurationError::Signs(1, -1, 0)));
        assert_eq!(decode(&[0, 0, 0, 0]), Err(DurationError::Range));
    }
}
