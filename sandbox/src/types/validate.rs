//! Refuses serialized values that their type does not allow, in Cassandra's words.

use super::composite::{split_list, split_map, split_tuple};
use super::{CqlType, duration};
use crate::error::CqlError;

/// Nanoseconds of a day: `time` is below it.
pub(crate) const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// Longest `varint` or `decimal`: the time to print or compare one grows with the square of its length.
const MAX_NUMBER_BYTES: usize = 64 << 10;

/// Checks a serialized value, elements of collections too. Empty values are allowed where Cassandra allows
/// them for the sake of old clients.
///
/// # Errors
/// Invalid.
pub fn validate(ty: &CqlType, value: &[u8]) -> Result<(), CqlError> {
    let length = value.len();
    let refuse = |problem: String| Err(CqlError::invalid(problem));
    match ty {
        CqlType::Blob => Ok(()),
        CqlType::Varint | CqlType::Decimal if length > MAX_NUMBER_BYTES => refuse(format!(
            "a number of {length} bytes is longer than the {MAX_NUMBER_BYTES} that are accepted"
        )),
        CqlType::Varint => Ok(()),
        CqlType::Text if std::str::from_utf8(value).is_ok() => Ok(()),
        CqlType::Text => refuse("String didn't validate.".to_owned()),
        CqlType::Ascii => match value.iter().find(|byte| !byte.is_ascii()) {
            None => Ok(()),
            Some(byte) => refuse(format!("Invalid byte for ascii: {}", *byte as i8)),
        },
        CqlType::Int if matches!(length, 0 | 4) => Ok(()),
        CqlType::Int => refuse(format!("Expected 4 or 0 byte int ({length})")),
        CqlType::Bigint | CqlType::Counter | CqlType::Timestamp if matches!(length, 0 | 8) => Ok(()),
        CqlType::Bigint | CqlType::Counter => refuse(format!("Expected 8 or 0 byte long ({length})")),
        CqlType::Timestamp => refuse(format!("Expected 8 or 0 byte long for date ({length})")),
        CqlType::Smallint if length == 2 => Ok(()),
        CqlType::Smallint => refuse(format!("Expected 2 bytes for a smallint ({length})")),
        CqlType::Tinyint if length == 1 => Ok(()),
        CqlType::Tinyint => refuse(format!("Expected 1 byte for a tinyint ({length})")),
        CqlType::Boolean if length <= 1 => Ok(()),
        CqlType::Boolean => refuse(format!("Expected 1 or 0 byte value ({length})")),
        CqlType::Float if matches!(length, 0 | 4) => Ok(()),
        CqlType::Float => refuse(format!("Expected 4 or 0 byte value for a float ({length})")),
        CqlType::Double if matches!(length, 0 | 8) => Ok(()),
        CqlType::Double => refuse(format!("Expected 8 or 0 byte value for a double ({length})")),
        CqlType::Decimal if length == 0 || length >= 4 => Ok(()),
        CqlType::Decimal => refuse(format!("Expected 0 or at least 4 bytes ({length})")),
        CqlType::Date if length == 4 => Ok(()),
        CqlType::Date => refuse(format!("Expected 4 byte long for date ({length})")),
        CqlType::Time => time(value),
        CqlType::Uuid if matches!(length, 0 | 16) => Ok(()),
        CqlType::Uuid => refuse(format!("UUID should be 16 or 0 bytes ({length})")),
        CqlType::Timeuuid => timeuuid(value),
        CqlType::Inet if matches!(length, 0 | 4 | 16) => Ok(()),
        CqlType::Inet => refuse(format!(
            "Expected 4 or 16 byte inetaddress; got 0x{}",
            hex::encode(value)
        )),
        CqlType::Duration => duration::decode(value)
            .map(|_| ())
            .map_err(|error| CqlError::invalid(error.to_string())),
        composite => validate_composite(composite, value),
    }
}

fn validate_composite(ty: &CqlType, value: &[u8]) -> Result<(), CqlError> {
    let malformed = |error: super::composite::Malformed| CqlError::invalid(error.to_string());
    match ty {
        CqlType::List { element, .. } | CqlType::Set { element, .. } => split_list(value)
            .map_err(malformed)?
            .into_iter()
            .try_for_each(|value| validate(element, value)),
        CqlType::Map {
            key: key_type,
            value: value_type,
            ..
        } => split_map(value)
            .map_err(malformed)?
            .into_iter()
            .try_for_each(|(key, value)| {
                validate(key_type, key)?;
                validate(value_type, value)
            }),
        CqlType::Tuple(types) => {
            let components = split_tuple(value, types.len()).map_err(malformed)?;
            types
                .iter()
                .zip(components)
                .try_for_each(|(ty, component)| validate_nullable(ty, component))
        }
        CqlType::Udt { definition, .. } => {
            let components = split_tuple(value, definition.fields.len()).map_err(malformed)?;
            let types = definition.fields.iter().map(|(_, ty)| ty);
            types
                .zip(components)
                .try_for_each(|(ty, component)| validate_nullable(ty, component))
        }
        CqlType::Vector { element, dimensions } => vector(element, usize::from(*dimensions), value),
        // Native types have been dealt with.
        _ => Ok(()),
    }
}

fn validate_nullable(ty: &CqlType, value: Option<&[u8]>) -> Result<(), CqlError> {
    value.map_or(Ok(()), |value| validate(ty, value))
}

fn time(value: &[u8]) -> Result<(), CqlError> {
    let Ok(bytes) = value.try_into() else {
        return Err(CqlError::invalid(format!(
            "Expected 8 byte long for time ({})",
            value.len()
        )));
    };
    let nanos = i64::from_be_bytes(bytes);
    if (0..NANOS_PER_DAY).contains(&nanos) {
        return Ok(());
    }
    Err(CqlError::invalid(format!(
        "time value {nanos} is not in the range 0 to {} nanoseconds",
        NANOS_PER_DAY - 1
    )))
}

fn timeuuid(value: &[u8]) -> Result<(), CqlError> {
    match value.len() {
        0 => Ok(()),
        16 if value[6] & 0xf0 == 0x10 => Ok(()),
        16 => Err(CqlError::invalid("Invalid version for TimeUUID type.")),
        length => Err(CqlError::invalid(format!(
            "TimeUUID should be 16 or 0 bytes ({length})"
        ))),
    }
}

/// Elements of a fixed length stand one after another without lengths. Others are refused: neither the
/// product nor the drivers' metadata need them.
fn vector(element: &CqlType, dimensions: usize, value: &[u8]) -> Result<(), CqlError> {
    let Some(size) = fixed_size(element) else {
        return Err(CqlError::invalid(
            "vectors are supported for elements of fixed length only",
        ));
    };
    if value.len() != size * dimensions {
        return Err(CqlError::invalid(format!(
            "Expected {} bytes for a vector of {dimensions} dimensions ({})",
            size * dimensions,
            value.len()
        )));
    }
    value.chunks(size).try_for_each(|value| validate(element, value))
}

/// Bytes of a vector's element; None if its length varies. (Cassandra counts the short integers, dates and
/// times among the latter.)
pub fn fixed_size(ty: &CqlType) -> Option<usize> {
    match ty {
        CqlType::Boolean => Some(1),
        CqlType::Int | CqlType::Float => Some(4),
        CqlType::Bigint | CqlType::Double | CqlType::Timestamp => Some(8),
        CqlType::Uuid | CqlType::Timeuuid => Some(16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::composite::{join_list, join_map};
    use super::*;

    #[test]
    fn malformed_values_are_refused_by_name() {
        let list = CqlType::List {
            element: Arc::new(CqlType::Int),
            frozen: true,
        };
        let map = CqlType::Map {
            key: Arc::new(CqlType::Int),
            value: Arc::new(CqlType::Text),
            frozen: false,
        };
        for (ty, value, message) in [
            (CqlType::Int, vec![0; 8], "Expected 4 or 0 byte int (8)"),
            (CqlType::Bigint, vec![0; 4], "Expected 8 or 0 byte long (4)"),
            (
                CqlType::Varint,
                vec![1; MAX_NUMBER_BYTES + 1],
                "a number of 65537 bytes is longer than the 65536 that are accepted",
            ),
            (CqlType::Smallint, vec![], "Expected 2 bytes for a smallint (0)"),
            (CqlType::Text, vec![0xff], "String didn't validate."),
            (CqlType::Ascii, vec![0x80], "Invalid byte for ascii: -128"),
            (
                CqlType::Timeuuid,
                vec![0; 16],
                "Invalid version for TimeUUID type.",
            ),
            (
                CqlType::Inet,
                vec![1, 2],
                "Expected 4 or 16 byte inetaddress; got 0x0102",
            ),
            (
                CqlType::Time,
                vec![255; 8],
                "time value -1 is not in the range 0 to 86399999999999 nanoseconds",
            ),
            (
                list,
                join_list(&[[0u8; 3]]).to_vec(),
                "Expected 4 or 0 byte int (3)",
            ),
            (
                map,
                join_map(&[([0u8; 4], [0xffu8])]).to_vec(),
                "String didn't validate.",
            ),
        ] {
            let error = validate(&ty, &value).unwrap_err();
            assert_eq!((error.message.as_str(), error.code()), (message, 0x2200));
        }
    }

    #[test]
    fn good_values_pass() {
        let vector = CqlType::Vector {
            element: Arc::new(CqlType::Float),
            dimensions: 2,
        };
        for (ty, value) in [
            (CqlType::Int, vec![]),
            (CqlType::Int, vec![0; 4]),
            (CqlType::Text, "é".into()),
            (CqlType::Decimal, vec![0, 0, 0, 1, 5]),
            (CqlType::Duration, vec![0, 0, 0]),
            (vector, vec![0; 8]),
        ] {
            validate(&ty, &value).unwrap();
        }
    }
}
