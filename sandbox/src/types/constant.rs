//! Constants of a CQL text to serialized values, with Cassandra's rules of what goes where.

use std::net::IpAddr;
use std::str::FromStr;

use bytes::Bytes;
use num_bigint::BigInt;
use uuid::Uuid;

use super::duration::Duration;
use super::{CqlType, calendar};
use crate::cql::ast::term::{Literal, LiteralKind};
use crate::error::CqlError;

/// Largest scale of a `decimal` either way. It costs nothing to store; printing it and computing with it does,
/// so numbers beyond are refused.
const MAX_DECIMAL_SCALE: i64 = 10_000;

/// Most digits of a `varint` or `decimal` as text: the time to convert grows with the square of them.
const MAX_DIGITS: usize = 10_000;

/// True if a constant of this kind may stand for a value of this type.
pub fn is_assignable(kind: LiteralKind, ty: &CqlType) -> bool {
    match kind {
        LiteralKind::String => matches!(
            ty,
            CqlType::Ascii
                | CqlType::Text
                | CqlType::Inet
                | CqlType::Date
                | CqlType::Time
                | CqlType::Timestamp
        ),
        LiteralKind::Integer => matches!(
            ty,
            CqlType::Bigint
                | CqlType::Counter
                | CqlType::Date
                | CqlType::Decimal
                | CqlType::Double
                | CqlType::Float
                | CqlType::Int
                | CqlType::Smallint
                | CqlType::Time
                | CqlType::Timestamp
                | CqlType::Tinyint
                | CqlType::Varint
        ),
        LiteralKind::Float => matches!(ty, CqlType::Decimal | CqlType::Double | CqlType::Float),
        LiteralKind::Boolean => *ty == CqlType::Boolean,
        LiteralKind::Uuid => matches!(ty, CqlType::Uuid | CqlType::Timeuuid),
        LiteralKind::Hex => *ty == CqlType::Blob,
        LiteralKind::Duration => *ty == CqlType::Duration,
    }
}

/// The error for a constant that is not assignable to its receiver, in Cassandra's words.
pub fn mismatch(literal: &Literal, receiver: &str, ty: &CqlType) -> CqlError {
    let kind = match literal.kind {
        LiteralKind::String => "STRING",
        LiteralKind::Integer => "INTEGER",
        LiteralKind::Float => "FLOAT",
        LiteralKind::Boolean => "BOOLEAN",
        LiteralKind::Uuid => "UUID",
        LiteralKind::Hex => "HEX",
        LiteralKind::Duration => "DURATION",
    };
    let (text, ty) = (&literal.text, crate::schema::type_name::type_name(ty));
    CqlError::invalid(format!(
        "Invalid {kind} constant ({text}) for \"{receiver}\" of type {ty}"
    ))
}

/// The value of a constant whose kind is assignable to `ty`.
///
/// # Errors
/// Invalid: the text does not fit the type (a number out of range, no date, ...).
pub fn value_of(literal: &Literal, ty: &CqlType) -> Result<Bytes, CqlError> {
    from_text(ty, &literal.text)
}

/// A value of a native type from its text: that of a constant, or of a JSON string.
///
/// # Errors
/// Invalid, in Cassandra's words.
pub fn from_text(ty: &CqlType, text: &str) -> Result<Bytes, CqlError> {
    let refuse = |problem: String| Err(CqlError::invalid(problem));
    Ok(match ty {
        CqlType::Text => Bytes::copy_from_slice(text.as_bytes()),
        CqlType::Ascii if text.is_ascii() => Bytes::copy_from_slice(text.as_bytes()),
        CqlType::Ascii => return refuse("Invalid ASCII character in string literal".to_owned()),
        CqlType::Tinyint => serialized(number::<i8>(text, "byte")?.to_be_bytes()),
        CqlType::Smallint => serialized(number::<i16>(text, "short")?.to_be_bytes()),
        CqlType::Int => serialized(number::<i32>(text, "int")?.to_be_bytes()),
        CqlType::Bigint | CqlType::Counter => serialized(number::<i64>(text, "long")?.to_be_bytes()),
        CqlType::Float => serialized(number::<f32>(text, "float")?.to_be_bytes()),
        CqlType::Double => serialized(number::<f64>(text, "double")?.to_be_bytes()),
        CqlType::Varint => integer(text)?.to_signed_bytes_be().into(),
        CqlType::Decimal => decimal(text)?,
        CqlType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" => Bytes::from_static(&[1]),
            "false" => Bytes::from_static(&[0]),
            _ => return refuse(format!("Unable to make boolean from '{text}'")),
        },
        CqlType::Uuid => serialized(uuid(text)?.into_bytes()),
        CqlType::Timeuuid => match uuid(text)? {
            uuid if uuid.get_version_num() == 1 => serialized(uuid.into_bytes()),
            _ => return refuse(format!("Unable to make version 1 UUID from '{text}'")),
        },
        CqlType::Inet => match text.parse() {
            Ok(IpAddr::V4(address)) => serialized(address.octets()),
            Ok(IpAddr::V6(address)) => serialized(address.octets()),
            Err(_) => return refuse(format!("Unable to make inet address from '{text}'")),
        },
        CqlType::Timestamp => match calendar::parse_timestamp(text) {
            Some(millis) => serialized(millis.to_be_bytes()),
            None => return refuse(format!("Unable to parse a date/time from '{text}'")),
        },
        CqlType::Date => match calendar::parse_date(text) {
            Some(days) => serialized(days.to_be_bytes()),
            None => return refuse(format!("Unable to coerce '{text}' to a formatted date (long)")),
        },
        CqlType::Time => match calendar::parse_time(text) {
            Some(nanos) => serialized(nanos.to_be_bytes()),
            None => return refuse(format!("Unable to coerce '{text}' to a formatted time (long)")),
        },
        CqlType::Duration => match Duration::parse(text) {
            Ok(duration) => duration.encode().into(),
            Err(error) => return refuse(error.to_string()),
        },
        CqlType::Blob => match hex::decode(text) {
            Ok(bytes) => bytes.into(),
            Err(_) => return refuse(format!("Invalid HEX constant ({text})")),
        },
        _ => return refuse(format!("no value of a composite type can be made from '{text}'")),
    })
}

/// A `decimal` of `unscaled` / 10^`scale`: i32 scale, then the unscaled varint.
pub fn encode_decimal(unscaled: &BigInt, scale: i32) -> Bytes {
    let mut out = scale.to_be_bytes().to_vec();
    out.extend(unscaled.to_signed_bytes_be());
    out.into()
}

fn serialized<const N: usize>(bytes: [u8; N]) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

fn number<T: FromStr>(text: &str, java_name: &str) -> Result<T, CqlError> {
    text.parse()
        .map_err(|_| CqlError::invalid(format!("Unable to make {java_name} from '{text}'")))
}

fn integer(text: &str) -> Result<BigInt, CqlError> {
    if text.len() > MAX_DIGITS {
        return Err(CqlError::invalid(format!(
            "a number of {} digits is longer than the {MAX_DIGITS} that are accepted",
            text.len()
        )));
    }
    number(text, "int")
}

fn uuid(text: &str) -> Result<Uuid, CqlError> {
    // Only the hyphenated form: the parser of the library takes others too.
    let parsed = if text.len() == 36 {
        Uuid::try_parse(text).ok()
    } else {
        None
    };
    parsed.ok_or_else(|| CqlError::invalid(format!("Unable to make UUID from '{text}'")))
}

/// `1.50` is 150 with scale 2; an exponent lowers the scale.
fn decimal(text: &str) -> Result<Bytes, CqlError> {
    let wrong = || CqlError::invalid(format!("unable to make BigDecimal from '{text}'"));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let unscaled = integer(&format!("{whole}{fraction}")).map_err(|_| wrong())?;
    let scale = fraction.len() as i64 - i64::from(exponent);
    match i32::try_from(scale) {
        Ok(scale) if i64::from(scale).abs() <= MAX_DECIMAL_SCALE => Ok(encode_decimal(&unscaled, scale)),
        _ => Err(CqlError::invalid(format!(
            "unable to make BigDecimal from '{text}': its scale {scale} is beyond {MAX_DECIMAL_SCALE}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (ty, text, hex) in [
            (CqlType::Int, "-2", "fffffffe"),
            (CqlType::Tinyint, "127", "7f"),
            (CqlType::Varint, "-128", "80"),
            (CqlType::Varint, "128", "0080"),
            (CqlType::Decimal, "-1.50", "00000002ff6a"),
            (CqlType::Decimal, "1e3", "fffffffd01"),
            (CqlType::Float, "NaN", "7fc00000"),
            (CqlType::Double, "-Infinity", "fff0000000000000"),
            (CqlType::Inet, "127.0.0.1", "7f000001"),
            (CqlType::Inet, "::1", "00000000000000000000000000000001"),
            (CqlType::Date, "1970-01-02", "80000001"),
            (CqlType::Duration, "1mo", "020000"),
            (CqlType::Blob, "CAfe", "cafe"),
            (CqlType::Blob, "", ""),
            (
                CqlType::Timeuuid,
                "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
                "f81d4fae7dec11d0a76500a0c91e6bf6",
            ),
        ] {
            assert_eq!(hex::encode(from_text(&ty, text).unwrap()), hex, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (ty, text, message) in [
            (
                CqlType::Int,
                "99999999999",
                "Unable to make int from '99999999999'",
            ),
            (
                CqlType::Timeuuid,
                "5f4e2a8c-35cf-4e39-9f5e-1f2e0f1ac9a1",
                "Unable to make version 1 UUID from '5f4e2a8c-35cf-4e39-9f5e-1f2e0f1ac9a1'",
            ),
            (CqlType::Inet, "1.2.3", "Unable to make inet address from '1.2.3'"),
            (CqlType::Timestamp, "x", "Unable to parse a date/time from 'x'"),
            (CqlType::Blob, "abc", "Invalid HEX constant (abc)"),
            (
                CqlType::Decimal,
                "1e20000",
                "unable to make BigDecimal from '1e20000': its scale -20000 is beyond 10000",
            ),
        ] {
            assert_eq!(from_text(&ty, text).unwrap_err().message, message);
        }
    }
}
