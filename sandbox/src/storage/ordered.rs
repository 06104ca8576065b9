//! Values in a form whose byte order is the order of their type, so that clustering order is memcmp.
//!
//! Each encoding is prefix-free: none is the beginning of another. That makes a key prefix a byte range, and
//! lets DESC be the complement of every byte.

use num_bigint::{BigInt, Sign};

use crate::schema::{ColumnKind, TableSchema};
use crate::storage::mutation::ClusteringKey;
use crate::types::CqlType;

/// The clustering key (or a prefix of it) of these serialized values, in key order.
pub fn clustering_key(table: &TableSchema, values: &[&[u8]]) -> ClusteringKey {
    let mut ordered = Vec::with_capacity(values.iter().map(|value| value.len() + 3).sum());
    for (&column, value) in table.clustering_key.iter().zip(values) {
        let column = &table.columns[column];
        let start = ordered.len();
        encode(&column.ty, value, &mut ordered);
        if column.kind == (ColumnKind::Clustering { descending: true }) {
            ordered[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    ClusteringKey::new(&ordered, values.iter().copied())
}

/// Order of two serialized values of one type.
pub fn compare(ty: &CqlType, a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    match ty {
        CqlType::Text | CqlType::Ascii | CqlType::Blob | CqlType::Inet | CqlType::Date | CqlType::Boolean => {
            a.cmp(b)
        }
        _ => {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            encode(ty, a, &mut left);
            encode(ty, b, &mut right);
            left.cmp(&right)
        }
    }
}

/// Appends the ordered form of a serialized value. Never fails: a value that its type does not allow (which
/// binding refuses) is ordered by its bytes.
pub fn encode(ty: &CqlType, value: &[u8], out: &mut Vec<u8>) {
    match ty {
        CqlType::Text | CqlType::Ascii | CqlType::Blob | CqlType::Inet | CqlType::Duration => {
            escaped(value, out);
        }
        _ if value.is_empty() => out.push(EMPTY),
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Timestamp
        | CqlType::Time => {
            out.push(PRESENT);
            out.push(value[0] ^ 0x80);
            out.extend_from_slice(&value[1..]);
        }
        CqlType::Boolean | CqlType::Date => {
            out.push(PRESENT);
            out.extend_from_slice(value);
        }
        CqlType::Float | CqlType::Double => {
            out.push(PRESENT);
            // Sign and magnitude to two's complement order: negative numbers are complemented whole.
            let flip = if value[0] & 0x80 != 0 { 0xff } else { 0 };
            out.push(value[0] ^ (flip | 0x80));
            out.extend(value[1..].iter().map(|byte| byte ^ flip));
        }
        CqlType::Timeuuid => timeuuid(value, 0x80, out),
        CqlType::Uuid => uuid(value, out),
        CqlType::Varint => varint(value, out),
        CqlType::Decimal => decimal(value, out),
        CqlType::List { element, .. } | CqlType::Set { element, .. } => elements(&[element], value, out),
        CqlType::Map { key, value: of, .. } => elements(&[key, of], value, out),
        CqlType::Tuple(types) => components(types.iter(), value, out),
        CqlType::Udt { definition, .. } => {
            components(definition.fields.iter().map(|(_, ty)| ty), value, out);
        }
        CqlType::Vector { element, dimensions } => vector(element, usize::from(*dimensions), value, out),
    }
}

const EMPTY: u8 = 0;
const PRESENT: u8 = 1;
/// Ends a list of elements or components; below every element.
const END: u8 = 0;
const NULL: u8 = 1;
const ELEMENT: u8 = 2;

/// 0 becomes (0, 255), the end is (0, 0).
fn escaped(value: &[u8], out: &mut Vec<u8>) {
    for part in value.split_inclusive(|&byte| byte == 0) {
        out.extend_from_slice(part);
        if part.last() == Some(&0) {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Time first; then the last eight bytes, signed for timeuuid (`flip` 0x80), unsigned for a version 1 uuid.
fn timeuuid(value: &[u8], flip: u8, out: &mut Vec<u8>) {
    let Ok(bytes) = <[u8; 16]>::try_from(value) else {
        return escaped(value, out);
    };
    out.push(PRESENT);
    // time_hi without its version nibble, time_mid, time_low.
    out.extend_from_slice(&[bytes[6] & 0x0f, bytes[7], bytes[4], bytes[5]]);
    out.extend_from_slice(&bytes[..4]);
    out.extend(bytes[8..].iter().map(|byte| byte ^ flip));
}

/// Version first; version 1 by time, others by bytes.
fn uuid(value: &[u8], out: &mut Vec<u8>) {
    let Ok(bytes) = <[u8; 16]>::try_from(value) else {
        return escaped(value, out);
    };
    let version = bytes[6] >> 4;
    out.push(PRESENT);
    out.push(version);
    if version == 1 {
        timeuuid(value, 0, out);
    } else {
        out.extend_from_slice(&bytes);
    }
}

/// Sign, length (complemented for negatives), minimal two's complement bytes.
fn varint(value: &[u8], out: &mut Vec<u8>) {
    let number = BigInt::from_signed_bytes_be(value);
    let bytes = number.to_signed_bytes_be();
    let length = bytes.len() as u32;
    if number.sign() == Sign::Minus {
        out.push(PRESENT);
        out.extend_from_slice(&(!length).to_be_bytes());
    } else {
        out.push(PRESENT + 1);
        out.extend_from_slice(&length.to_be_bytes());
    }
    out.extend_from_slice(&bytes);
}

/// Sign, power of ten of the first digit, digits; all complemented for negatives. 1.0 and 1.00 are equal.
fn decimal(value: &[u8], out: &mut Vec<u8>) {
    let Some((scale, unscaled)) = value.split_first_chunk::<4>() else {
        return escaped(value, out);
    };
    let number = BigInt::from_signed_bytes_be(unscaled);
    if number.sign() == Sign::NoSign {
        out.push(PRESENT + 1);
        return;
    }
    let digits = number.magnitude().to_string();
    let exponent = digits.len() as i64 - i64::from(i32::from_be_bytes(*scale));
    let start = out.len();
    out.push(PRESENT + 2);
    out.extend_from_slice(&((exponent as u64) ^ (1 << 63)).to_be_bytes());
    out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    out.push(END);
    if number.sign() == Sign::Minus {
        out[start] = PRESENT;
        out[start + 1..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// A serialized collection: count, then values with i32 lengths; `types` repeats (one for lists and sets).
fn elements(types: &[&std::sync::Arc<CqlType>], value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value.get(4..).unwrap_or_default();
    for ty in types.iter().cycle() {
        match take_value(&mut rest) {
            None => break,
            Some(None) => out.push(NULL),
            Some(Some(element)) => {
                out.push(ELEMENT);
                encode(ty, element, out);
            }
        }
    }
    out.push(END);
}

fn components<'a>(types: impl Iterator<Item = &'a CqlType>, value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    for ty in types {
        match take_value(&mut rest) {
            None => break,
            Some(None) => out.push(NULL),
            Some(Some(component)) => {
                out.push(ELEMENT);
                encode(ty, component, out);
            }
        }
    }
    out.push(END);
}

/// Elements of fixed width stand side by side; others are compared as bytes.
fn vector(element: &CqlType, dimensions: usize, value: &[u8], out: &mut Vec<u8>) {
    let width = value.len() / dimensions.max(1);
    if width == 0 || width * dimensions != value.len() {
        return escaped(value, out);
    }
    for element_value in value.chunks(width) {
        encode(element, element_value, out);
    }
}

/// The next `[i32 length][bytes]`: None at the end (or where the bytes are damaged), Some(None) for null.
fn take_value<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *rest = tail;
        return Some(None);
    };
    let (value, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(Some(value))
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    fn check(ty: &CqlType, ascending: &[Vec<u8>]) {
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(ty, a, b), i.cmp(&j), "{ty:?} {a:?} {b:?}");
                let (mut left, mut right) = (Vec::new(), Vec::new());
                encode(ty, a, &mut left);
                encode(ty, b, &mut right);
                assert!(
                    i == j || !right.starts_with(&left),
                    "prefix-free: {ty:?} {a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn byte_order_is_type_order() {
        let ints = [i32::MIN, -1, 0, 1, 256, i32::MAX].map(|n| n.to_be_bytes().to_vec());
        check(&CqlType::Int, &ints);
        let doubles = [
            f64::NEG_INFINITY,
            -1.5,
            -0.0,
            0.0,
            1e-9,
            2.0,
            f64::INFINITY,
            f64::NAN,
        ];
        check(&CqlType::Double, &doubles.map(|n| n.to_be_bytes().to_vec()));
        check(
            &CqlType::Text,
            &["", "a", "a\0", "a\0b", "a\u{1}", "b"].map(|s| s.as_bytes().to_vec()),
        );
        let varints = [-70000i64, -256, -255, -1, 0, 1, 127, 128, 70000];
        check(
            &CqlType::Varint,
            &varints.map(|n| BigInt::from(n).to_signed_bytes_be()),
        );
        let decimals = [
            (0, -20),
            (1, -15),
            (3, -1),
            (0, 0),
            (5, 1),
            (1, 1),
            (0, 1),
            (1, 11),
            (-3, 1),
        ];
        check(
            &CqlType::Decimal,
            &decimals.map(|(scale, n): (i32, i64)| {
                [scale.to_be_bytes().to_vec(), BigInt::from(n).to_signed_bytes_be()].concat()
            }),
        );
    }

    #[test]
    fn equal_decimals_are_one_key() {
        let one = [vec![0, 0, 0, 0], vec![1]].concat();
        let one_point_zero = [vec![0, 0, 0, 1], vec![10]].concat();
        assert_eq!(compare(&CqlType::Decimal, &one, &one_point_zero), Ordering::Equal);
    }

    /// The order that scylla-cql's `CqlTimeuuid` has: time, then the low bytes signed.
    #[test]
    fn timeuuids_go_by_time_then_signed_bytes() {
        let ids = [
            "00000000-0000-1000-8080-808080808080",
            "00000000-0000-1000-0000-000000000000",
            "00000000-0000-1000-7f7f-7f7f7f7f7f7f",
            "ffffffff-0000-1000-8080-808080808080",
            "00000000-0001-1000-8080-808080808080",
            "00000000-0000-1001-8080-808080808080",
        ];
        check(
            &CqlType::Timeuuid,
            &ids.map(|id| id.parse::<uuid::Uuid>().unwrap().as_bytes().to_vec()),
        );
    }
}
