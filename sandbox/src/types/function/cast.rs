//! CAST: numbers among each other, times among each other, anything to text.

use bytes::Bytes;
use num_bigint::BigInt;

use super::{date, millis_of};
use crate::error::CqlError;
use crate::types::{CqlType, constant, display};

const NUMBERS: [CqlType; 9] = [
    CqlType::Tinyint,
    CqlType::Smallint,
    CqlType::Int,
    CqlType::Bigint,
    CqlType::Counter,
    CqlType::Varint,
    CqlType::Float,
    CqlType::Double,
    CqlType::Decimal,
];

pub(super) fn exists(from: &CqlType, to: &CqlType) -> bool {
    let is_number = |ty| NUMBERS.contains(ty);
    from == to
        || (is_number(from) && is_number(to) && *to != CqlType::Counter)
        || matches!(
            (from, to),
            (CqlType::Timeuuid, CqlType::Timestamp | CqlType::Date)
                | (CqlType::Timestamp, CqlType::Date)
                | (CqlType::Date, CqlType::Timestamp)
                | (CqlType::Ascii, CqlType::Text)
        )
        || (matches!(to, CqlType::Text | CqlType::Ascii) && has_text(from))
}

fn has_text(ty: &CqlType) -> bool {
    NUMBERS.contains(ty)
        || matches!(
            ty,
            CqlType::Boolean
                | CqlType::Inet
                | CqlType::Uuid
                | CqlType::Timeuuid
                | CqlType::Timestamp
                | CqlType::Date
                | CqlType::Time
        )
}

/// Converts a serialized value.
///
/// # Errors
/// Invalid: the value is malformed or too large to convert.
pub fn cast(from: &CqlType, to: &CqlType, value: &Bytes) -> Result<Option<Bytes>, CqlError> {
    if from == to || (from, to) == (&CqlType::Ascii, &CqlType::Text) {
        return Ok(Some(value.clone()));
    }
    if value.is_empty() {
        return Ok(None);
    }
    match to {
        CqlType::Text | CqlType::Ascii => Ok(Some(display::plain(from, value)?.into())),
        CqlType::Timestamp => {
            Ok(millis_of(from, value).map(|millis| Bytes::copy_from_slice(&millis.to_be_bytes())))
        }
        CqlType::Date => Ok(millis_of(from, value).map(date)),
        number => to_number(from, number, value).map(Some),
    }
}

fn to_number(from: &CqlType, to: &CqlType, value: &[u8]) -> Result<Bytes, CqlError> {
    let text = display::plain(from, value)?;
    match to {
        CqlType::Float | CqlType::Double | CqlType::Decimal => constant::from_text(to, &text),
        _ => {
            let whole = whole_part(&text)?;
            Ok(match to {
                CqlType::Varint => whole.to_signed_bytes_be().into(),
                CqlType::Tinyint => low_bytes::<1>(&whole),
                CqlType::Smallint => low_bytes::<2>(&whole),
                CqlType::Int => low_bytes::<4>(&whole),
                _ => low_bytes::<8>(&whole),
            })
        }
    }
}

/// The integer that a number's text begins with, exponent applied; NaN is 0, as in Java.
fn whole_part(text: &str) -> Result<BigInt, CqlError> {
    let wrong = || CqlError::invalid(format!("Unable to make int from '{text}'"));
    if let Ok(whole) = text.parse() {
        return Ok(whole);
    }
    if text.ends_with("NaN") || text.ends_with("Infinity") {
        let most = BigInt::from(i64::MAX);
        return Ok(if text.ends_with("NaN") {
            BigInt::ZERO
        } else if text.starts_with('-') {
            -most - 1
        } else {
            most
        });
    }
    let decimal = constant::from_text(&CqlType::Decimal, text)?;
    let (scale, unscaled) = decimal.split_first_chunk::<4>().ok_or_else(wrong)?;
    let unscaled = BigInt::from_signed_bytes_be(unscaled);
    let scale = i32::from_be_bytes(*scale);
    let power = BigInt::from(10).pow(scale.unsigned_abs());
    Ok(if scale < 0 {
        unscaled * power
    } else {
        unscaled / power
    })
}

/// Two's complement, cut to N bytes as Java's narrowing does.
fn low_bytes<const N: usize>(number: &BigInt) -> Bytes {
    let bytes = number.to_signed_bytes_be();
    let fill = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
    let mut out = [fill; N];
    let kept = bytes.len().min(N);
    out[N - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
    Bytes::copy_from_slice(&out)
}
