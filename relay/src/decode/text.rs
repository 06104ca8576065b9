//! CQL scalars as text, each in one canonical form: ids and keys must not depend on how a value was written.

use std::borrow::Cow;

use num_bigint::BigInt;
use scylla::value::{CqlDecimal, CqlValue};
use thiserror::Error;

/// Days between 0000-03-01 and the Unix epoch in the proleptic Gregorian calendar.
const DAYS_TO_EPOCH: i64 = 719_468;
/// `date` counts days with the epoch at the middle of the range of u32 (CQL specification).
const DATE_EPOCH: i64 = 1 << 31;

/// A value that has no canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a value of type {0} has no text form; use a scalar type such as text, uuid, timeuuid, int, bigint or blob"
)]
pub struct Unrenderable(pub &'static str);

/// The canonical text of a scalar: numbers in decimal, UUIDs in lower case with hyphens, blobs as `0x` and lower
/// case hexadecimal digits, times in UTC (RFC 3339).
pub fn text(value: &CqlValue) -> Result<Cow<'_, str>, Unrenderable> {
    let owned = match value {
        CqlValue::Text(text) | CqlValue::Ascii(text) => return Ok(Cow::Borrowed(text)),
        CqlValue::Uuid(id) => id.to_string(),
        CqlValue::Timeuuid(id) => id.to_string(),
        CqlValue::TinyInt(number) => number.to_string(),
        CqlValue::SmallInt(number) => number.to_string(),
        CqlValue::Int(number) => number.to_string(),
        CqlValue::BigInt(number) => number.to_string(),
        CqlValue::Varint(number) => {
            BigInt::from_signed_bytes_be(number.as_signed_bytes_be_slice()).to_string()
        }
        CqlValue::Decimal(number) => decimal(number),
        CqlValue::Boolean(value) => value.to_string(),
        CqlValue::Float(number) => number.to_string(),
        CqlValue::Double(number) => number.to_string(),
        CqlValue::Blob(bytes) => format!("0x{}", hex::encode(bytes)),
        CqlValue::Inet(address) => address.to_string(),
        CqlValue::Timestamp(at) => timestamp(at.0),
        CqlValue::Date(days) => date(i64::from(days.0) - DATE_EPOCH),
        CqlValue::Time(nanoseconds) => time(nanoseconds.0),
        CqlValue::Empty => return Ok(Cow::Borrowed("")),
        CqlValue::Counter(_) => return Err(Unrenderable("counter")),
        CqlValue::Duration(_) => return Err(Unrenderable("duration")),
        CqlValue::List(_) => return Err(Unrenderable("list")),
        CqlValue::Set(_) => return Err(Unrenderable("set")),
        CqlValue::Map(_) => return Err(Unrenderable("map")),
        CqlValue::Tuple(_) => return Err(Unrenderable("tuple")),
        CqlValue::UserDefinedType { .. } => return Err(Unrenderable("user-defined type")),
        CqlValue::Vector(_) => return Err(Unrenderable("vector")),
        _ => return Err(Unrenderable("unknown")),
    };
    Ok(Cow::Owned(owned))
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, years before 0 and after 9999 included.
pub(crate) fn timestamp(milliseconds: i64) -> String {
    let (days, rest) = (
        milliseconds.div_euclid(86_400_000),
        milliseconds.rem_euclid(86_400_000),
    );
    let clock = time(rest * 1_000_000);
    format!("{}T{}Z", date(days), &clock[..12])
}

/// Plain digits, without an exponent up to a length that people still read.
fn decimal(number: &CqlDecimal) -> String {
    const LONGEST_PLAIN: u32 = 40;
    let (bytes, scale) = number.as_signed_be_bytes_slice_and_exponent();
    let unscaled = BigInt::from_signed_bytes_be(bytes);
    if scale == 0 {
        return unscaled.to_string();
    }
    if scale < 0 || scale.unsigned_abs() > LONGEST_PLAIN {
        return format!("{unscaled}E{}", -i64::from(scale));
    }
    let sign = if unscaled.sign() == num_bigint::Sign::Minus {
        "-"
    } else {
        ""
    };
    let width = scale as usize + 1;
    let digits = format!("{:0>width$}", unscaled.magnitude());
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    format!("{sign}{whole}.{fraction}")
}

/// Days since the Unix epoch to a date (Howard Hinnant's `civil_from_days`).
fn date(days: i64) -> String {
    let shifted = days + DAYS_TO_EPOCH;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn time(nanoseconds: i64) -> String {
    let (seconds, fraction) = (
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000),
    );
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{fraction:09}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use scylla::value::{CqlDate, CqlTime, CqlTimestamp, CqlVarint};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn scalars_have_one_canonical_text() {
        let uuid = Uuid::from_u128(0xABCD_EF00_0000_1000_8000_0000_0000_0001);
        let decimal = |unscaled: &[u8], scale| {
            CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_slice_and_exponent(
                unscaled, scale,
            ))
        };
        let check = |value: CqlValue, expected: &str| {
            assert_eq!(text(&value).as_deref(), Ok(expected), "{value:?}");
        };
        check(CqlValue::Text("a b".into()), "a b");
        check(CqlValue::Ascii("x".into()), "x");
        check(CqlValue::Uuid(uuid), "abcdef00-0000-1000-8000-000000000001");
        check(
            CqlValue::Timeuuid(uuid.into()),
            "abcdef00-0000-1000-8000-000000000001",
        );
        check(CqlValue::TinyInt(-1), "-1");
        check(CqlValue::SmallInt(300), "300");
        check(CqlValue::Int(i32::MIN), "-2147483648");
        check(CqlValue::BigInt(i64::MAX), "9223372036854775807");
        check(
            CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(&[0xff, 0x00])),
            "-256",
        );
        check(decimal(&[0x04, 0xd2], 2), "12.34");
        check(decimal(&[0xff], 3), "-0.001");
        check(decimal(&[0x05], 0), "5");
        check(decimal(&[0x05], -3), "5E3");
        check(CqlValue::Boolean(true), "true");
        check(CqlValue::Double(1.5), "1.5");
        check(CqlValue::Blob(vec![0, 0xAB]), "0x00ab");
        check(CqlValue::Inet([127, 0, 0, 1].into()), "127.0.0.1");
        check(CqlValue::Timestamp(CqlTimestamp(0)), "1970-01-01T00:00:00.000Z");
        check(
            CqlValue::Timestamp(CqlTimestamp(1_709_210_096_789)),
            "2024-02-29T12:34:56.789Z",
        );
        check(CqlValue::Timestamp(CqlTimestamp(-1)), "1969-12-31T23:59:59.999Z");
        check(CqlValue::Date(CqlDate((1 << 31) + 11_016)), "2000-02-29");
        check(CqlValue::Time(CqlTime(3_661_000_000_007)), "01:01:01.000000007");
        check(CqlValue::Empty, "");
    }

    #[test]
    fn what_has_no_text_names_its_type() {
        let check = |value: CqlValue, name| assert_eq!(text(&value), Err(Unrenderable(name)));
        check(CqlValue::List(vec![]), "list");
        check(CqlValue::Set(vec![]), "set");
        check(CqlValue::Map(vec![]), "map");
        check(CqlValue::Tuple(vec![]), "tuple");
        check(CqlValue::Vector(vec![]), "vector");
    }
}
