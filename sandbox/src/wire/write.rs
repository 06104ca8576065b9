//! The protocol's primitive notations, written to a body. Lengths that do not fit their field cannot come
//! from requests that fit a frame; they are cut rather than wrapped.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use crate::types::CqlType;

pub fn string(out: &mut BytesMut, text: &str) {
    let raw = cut(text.as_bytes());
    out.put_u16(raw.len() as u16);
    out.extend_from_slice(raw);
}

pub fn short_bytes(out: &mut BytesMut, raw: &[u8]) {
    let raw = cut(raw);
    out.put_u16(raw.len() as u16);
    out.extend_from_slice(raw);
}

pub fn bytes(out: &mut BytesMut, raw: Option<&[u8]>) {
    match raw {
        Some(raw) => {
            out.put_i32(i32::try_from(raw.len()).unwrap_or(i32::MAX));
            out.extend_from_slice(raw);
        }
        None => out.put_i32(-1),
    }
}

pub fn string_list<'a>(out: &mut BytesMut, items: impl ExactSizeIterator<Item = &'a str>) {
    out.put_u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
    for item in items.take(usize::from(u16::MAX)) {
        string(out, item);
    }
}

/// `[inet]`: length of the address, the address, the port.
pub fn inet(out: &mut BytesMut, address: IpAddr, port: u16) {
    match address {
        IpAddr::V4(v4) => {
            out.put_u8(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.put_u8(16);
            out.extend_from_slice(&v6.octets());
        }
    }
    out.put_i32(i32::from(port));
}

/// `[option]`: the id of a type and what its parts are.
pub fn cql_type(out: &mut BytesMut, ty: &CqlType) {
    let id = match ty {
        CqlType::Ascii => 0x0001,
        CqlType::Bigint => 0x0002,
        CqlType::Blob => 0x0003,
        CqlType::Boolean => 0x0004,
        CqlType::Counter => 0x0005,
        CqlType::Decimal => 0x0006,
        CqlType::Double => 0x0007,
        CqlType::Float => 0x0008,
        CqlType::Int => 0x0009,
        CqlType::Timestamp => 0x000B,
        CqlType::Uuid => 0x000C,
        CqlType::Text => 0x000D,
        CqlType::Varint => 0x000E,
        CqlType::Timeuuid => 0x000F,
        CqlType::Inet => 0x0010,
        CqlType::Date => 0x0011,
        CqlType::Time => 0x0012,
        CqlType::Smallint => 0x0013,
        CqlType::Tinyint => 0x0014,
        CqlType::Duration => 0x0015,
        CqlType::List { .. } => 0x0020,
        CqlType::Map { .. } => 0x0021,
        CqlType::Set { .. } => 0x0022,
        CqlType::Udt { .. } => 0x0030,
        CqlType::Tuple(_) => 0x0031,
        CqlType::Vector { .. } => 0x0000,
    };
    out.put_u16(id);
    match ty {
        CqlType::List { element, .. } | CqlType::Set { element, .. } => cql_type(out, element),
        CqlType::Map { key, value, .. } => {
            cql_type(out, key);
            cql_type(out, value);
        }
        CqlType::Udt { definition, .. } => {
            string(out, &definition.keyspace);
            string(out, &definition.name);
            out.put_u16(u16::try_from(definition.fields.len()).unwrap_or(u16::MAX));
            for (name, ty) in definition.fields.iter().take(usize::from(u16::MAX)) {
                string(out, name);
                cql_type(out, ty);
            }
        }
        CqlType::Tuple(fields) => {
            out.put_u16(u16::try_from(fields.len()).unwrap_or(u16::MAX));
            for ty in fields.iter().take(usize::from(u16::MAX)) {
                cql_type(out, ty);
            }
        }
        CqlType::Vector { .. } => string(out, &class_name(ty)),
        _ => {}
    }
}

/// The Java class that names a type to drivers where the protocol has no id for it.
fn class_name(ty: &CqlType) -> String {
    const PACKAGE: &str = "org.apache.cassandra.db.marshal.";
    let simple = match ty {
        CqlType::Ascii => "AsciiType",
        CqlType::Bigint => "LongType",
        CqlType::Blob => "BytesType",
        CqlType::Boolean => "BooleanType",
        CqlType::Counter => "CounterColumnType",
        CqlType::Date => "SimpleDateType",
        CqlType::Decimal => "DecimalType",
        CqlType::Double => "DoubleType",
        CqlType::Duration => "DurationType",
        CqlType::Float => "FloatType",
        CqlType::Inet => "InetAddressType",
        CqlType::Int => "Int32Type",
        CqlType::Smallint => "ShortType",
        CqlType::Text => "UTF8Type",
        CqlType::Time => "TimeType",
        CqlType::Timestamp => "TimestampType",
        CqlType::Timeuuid => "TimeUUIDType",
        CqlType::Tinyint => "ByteType",
        CqlType::Uuid => "UUIDType",
        CqlType::Varint => "IntegerType",
        CqlType::List { element, .. } => return format!("{PACKAGE}ListType({})", class_name(element)),
        CqlType::Set { element, .. } => return format!("{PACKAGE}SetType({})", class_name(element)),
        CqlType::Map { key, value, .. } => {
            return format!("{PACKAGE}MapType({},{})", class_name(key), class_name(value));
        }
        CqlType::Tuple(fields) => {
            let fields: Vec<String> = fields.iter().map(class_name).collect();
            return format!("{PACKAGE}TupleType({})", fields.join(","));
        }
        CqlType::Udt { definition, .. } => {
            let fields: Vec<String> = definition
                .fields
                .iter()
                .map(|(name, ty)| format!("{}:{}", hex::encode(name), class_name(ty)))
                .collect();
            return format!(
                "{PACKAGE}UserType({},{},{})",
                definition.keyspace,
                hex::encode(&definition.name),
                fields.join(",")
            );
        }
        CqlType::Vector { element, dimensions } => {
            return format!("{PACKAGE}VectorType({}, {dimensions})", class_name(element));
        }
    };
    format!("{PACKAGE}{simple}")
}

/// What fits a 16-bit length. A string is cut at a character so that it stays UTF-8.
fn cut(raw: &[u8]) -> &[u8] {
    let limit = usize::from(u16::MAX);
    if raw.len() <= limit {
        return raw;
    }
    let mut end = limit;
    while end > 0 && raw[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &raw[..end]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn types_have_the_ids_of_the_specification() {
        let check = |ty: CqlType, expected: &[u8]| {
            let mut out = BytesMut::new();
            cql_type(&mut out, &ty);
            assert_eq!(&out[..], expected, "{ty:?}");
        };
        let text = Arc::new(CqlType::Text);
        check(CqlType::Timeuuid, &[0, 0x0f]);
        check(
            CqlType::Map {
                key: Arc::new(CqlType::Int),
                value: Arc::new(CqlType::Set {
                    element: text,
                    frozen: true,
                }),
                frozen: false,
            },
            &[0, 0x21, 0, 9, 0, 0x22, 0, 0x0d],
        );
        check(
            CqlType::Tuple(Arc::from([CqlType::Blob, CqlType::Bigint])),
            &[0, 0x31, 0, 2, 0, 3, 0, 2],
        );
        let vector = CqlType::Vector {
            element: Arc::new(CqlType::Float),
            dimensions: 3,
        };
        let class =
            b"org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType, 3)";
        let mut expected = vec![0, 0, 0, class.len() as u8];
        expected.extend_from_slice(class);
        check(vector, &expected);
    }

    #[test]
    fn long_strings_are_cut_at_a_character() {
        let mut out = BytesMut::new();
        string(&mut out, &"é".repeat(40_000));
        assert_eq!(u16::from_be_bytes([out[0], out[1]]), 65_534);
        assert!(std::str::from_utf8(&out[2..]).is_ok());
    }
}
