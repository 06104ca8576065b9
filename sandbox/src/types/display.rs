//! Serialized values as text: plain (casts, JSON strings) and as CQL literals (DESCRIBE, error texts).

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use num_bigint::BigInt;
use uuid::Uuid;

use super::composite::{Malformed, split_list, split_map, split_tuple};
use super::{CqlType, calendar, duration, validate};
use crate::error::CqlError;

/// A native value without quotes.
///
/// # Errors
/// Invalid: the value is malformed.
pub fn plain(ty: &CqlType, value: &[u8]) -> Result<String, CqlError> {
    validate::validate(ty, value)?;
    if value.is_empty() && !matches!(ty, CqlType::Text | CqlType::Ascii | CqlType::Blob) {
        return Ok(String::new());
    }
    Ok(match ty {
        CqlType::Text | CqlType::Ascii => String::from_utf8_lossy(value).into_owned(),
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Varint => BigInt::from_signed_bytes_be(value).to_string(),
        CqlType::Float => java_float(
            f64::from(f32::from_be_bytes(fixed(value)?)),
            Some(f32::from_be_bytes(fixed(value)?)),
        ),
        CqlType::Double => java_float(f64::from_be_bytes(fixed(value)?), None),
        CqlType::Decimal => decimal(value)?,
        CqlType::Boolean => (value[0] != 0).to_string(),
        CqlType::Uuid | CqlType::Timeuuid => Uuid::from_bytes(fixed(value)?).hyphenated().to_string(),
        CqlType::Inet if value.len() == 4 => Ipv4Addr::from(fixed::<4>(value)?).to_string(),
        CqlType::Inet => Ipv6Addr::from(fixed::<16>(value)?).to_string(),
        CqlType::Timestamp => calendar::format_timestamp(i64::from_be_bytes(fixed(value)?)),
        CqlType::Date => calendar::format_date(u32::from_be_bytes(fixed(value)?)),
        CqlType::Time => calendar::format_time(i64::from_be_bytes(fixed(value)?)),
        CqlType::Duration => duration::decode(value)
            .map_err(|error| CqlError::invalid(error.to_string()))?
            .to_string(),
        _ => format!("0x{}", hex::encode(value)),
    })
}

/// A value as a CQL literal of its type.
///
/// # Errors
/// Invalid: the value is malformed.
pub fn literal(ty: &CqlType, value: &[u8]) -> Result<String, CqlError> {
    let quoted = |text: String| format!("'{}'", text.replace('\'', "''"));
    match ty {
        CqlType::Text
        | CqlType::Ascii
        | CqlType::Inet
        | CqlType::Timestamp
        | CqlType::Date
        | CqlType::Time => Ok(quoted(plain(ty, value)?)),
        CqlType::List { element, .. } => Ok(format!("[{}]", elements(element, value)?)),
        CqlType::Set { element, .. } => Ok(format!("{{{}}}", elements(element, value)?)),
        CqlType::Map {
            key: key_type,
            value: value_type,
            ..
        } => {
            let entries: Result<Vec<_>, CqlError> = split_map(value)
                .map_err(malformed)?
                .into_iter()
                .map(|(key, value)| {
                    Ok(format!(
                        "{}: {}",
                        literal(key_type, key)?,
                        literal(value_type, value)?
                    ))
                })
                .collect();
            Ok(format!("{{{}}}", entries?.join(", ")))
        }
        CqlType::Tuple(types) => {
            let components = split_tuple(value, types.len()).map_err(malformed)?;
            let texts: Result<Vec<_>, _> = types
                .iter()
                .zip(components)
                .map(|(ty, component)| nullable(ty, component))
                .collect();
            Ok(format!("({})", texts?.join(", ")))
        }
        CqlType::Udt { definition, .. } => {
            let components = split_tuple(value, definition.fields.len()).map_err(malformed)?;
            let mut out = String::from("{");
            for (i, ((name, ty), component)) in definition.fields.iter().zip(components).enumerate() {
                let separator = if i == 0 { "" } else { ", " };
                let name = crate::schema::type_name::quoted(name);
                // Writing to a String cannot fail.
                let _ = write!(out, "{separator}{name}: {}", nullable(ty, component)?);
            }
            Ok(out + "}")
        }
        CqlType::Vector { element, .. } => {
            let size = validate::fixed_size(element).unwrap_or(1);
            let texts: Result<Vec<_>, _> = value.chunks(size).map(|value| literal(element, value)).collect();
            Ok(format!("[{}]", texts?.join(", ")))
        }
        native => plain(native, value),
    }
}

pub(crate) fn malformed(error: Malformed) -> CqlError {
    CqlError::invalid(error.to_string())
}

fn nullable(ty: &CqlType, value: Option<&[u8]>) -> Result<String, CqlError> {
    value.map_or_else(|| Ok("null".to_owned()), |value| literal(ty, value))
}

fn elements(element: &CqlType, value: &[u8]) -> Result<String, CqlError> {
    let values = split_list(value).map_err(malformed)?;
    let texts: Result<Vec<_>, _> = values.into_iter().map(|value| literal(element, value)).collect();
    Ok(texts?.join(", "))
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], CqlError> {
    value
        .try_into()
        .map_err(|_| CqlError::invalid(format!("Expected {N} bytes ({})", value.len())))
}

/// As Java prints it: at least one fraction digit, an exponent below 1e-3 and from 1e7 on.
fn java_float(number: f64, single: Option<f32>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity".to_owned()
        } else {
            "-Infinity".to_owned()
        };
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-3..1e7).contains(&magnitude) {
        let text = single.map_or_else(|| format!("{number:E}"), |single| format!("{single:E}"));
        let (mantissa, exponent) = text.split_once('E').unwrap_or((&text, "0"));
        let point = if mantissa.contains('.') { "" } else { ".0" };
        return format!("{mantissa}{point}E{exponent}");
    }
    single.map_or_else(|| format!("{number:?}"), |single| format!("{single:?}"))
}

/// As Java's BigDecimal prints it: an exponent for negative scales and for more than six leading zeros.
fn decimal(value: &[u8]) -> Result<String, CqlError> {
    let Some((scale, unscaled)) = value.split_first_chunk::<4>() else {
        return Err(CqlError::invalid(format!(
            "Expected 0 or at least 4 bytes ({})",
            value.len()
        )));
    };
    let scale = i64::from(i32::from_be_bytes(*scale));
    let unscaled = BigInt::from_signed_bytes_be(unscaled);
    let digits = unscaled.magnitude().to_string();
    let sign = if unscaled < BigInt::ZERO { "-" } else { "" };
    let count = digits.len() as i64;
    let exponent = count - 1 - scale;
    if scale >= 0 && exponent >= -6 {
        if scale == 0 {
            return Ok(format!("{sign}{digits}"));
        }
        // Below six leading zeros and a scale that is no longer than the digits, so small.
        let padded = format!("{}{digits}", "0".repeat((scale + 1 - count).max(0) as usize));
        let point = padded.len() - scale as usize;
        return Ok(format!("{sign}{}.{}", &padded[..point], &padded[point..]));
    }
    let (head, tail) = digits.split_at(1);
    let fraction = if tail.is_empty() {
        String::new()
    } else {
        format!(".{tail}")
    };
    Ok(format!("{sign}{head}{fraction}E{exponent:+}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::composite::{join_list, join_map, join_tuple};
    use super::super::constant::from_text;
    use super::*;

    #[test]
    fn native_values_print_as_they_parse() {
        for (ty, text) in [
            (CqlType::Decimal, "1.50"),
            (CqlType::Decimal, "-0.0015"),
            (CqlType::Decimal, "1E+3"),
            (CqlType::Decimal, "1.5E-10"),
            (CqlType::Decimal, "100"),
            (CqlType::Varint, "-123456789012345678901234567890"),
            (CqlType::Double, "1.0"),
            (CqlType::Double, "1.5E10"),
            (CqlType::Double, "1.0E-5"),
            (CqlType::Float, "0.1"),
            (CqlType::Float, "-Infinity"),
            (CqlType::Inet, "::1"),
            (CqlType::Date, "2020-02-29"),
            (CqlType::Time, "01:02:03.000000004"),
            (CqlType::Timestamp, "2020-02-29T01:02:03.004Z"),
            (CqlType::Duration, "-1mo2d3h"),
            (CqlType::Boolean, "true"),
        ] {
            assert_eq!(plain(&ty, &from_text(&ty, text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn literals() {
        let list = CqlType::List {
            element: Arc::new(CqlType::Text),
            frozen: true,
        };
        assert_eq!(
            literal(&list, &join_list(&["a", "it's"])).unwrap(),
            "['a', 'it''s']"
        );
        let map = CqlType::Map {
            key: Arc::new(CqlType::Int),
            value: Arc::new(CqlType::Blob),
            frozen: true,
        };
        assert_eq!(
            literal(&map, &join_map(&[([0u8, 0, 0, 1], [0xab])])).unwrap(),
            "{1: 0xab}"
        );
        let tuple = CqlType::Tuple(vec![CqlType::Text, CqlType::Int].into());
        assert_eq!(
            literal(&tuple, &join_tuple(&[Some("x"), None])).unwrap(),
            "('x', null)"
        );
    }
}
