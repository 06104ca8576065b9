//! Values and log rows as the text in which cases are written.

use scylla::value::CqlValue;

/// One value. Keys of lists are unpredictable timeuuids, so a map by timeuuid shows its values alone and a set of
/// timeuuids its size.
pub(crate) fn value(value: Option<&CqlValue>) -> String {
    let Some(value) = value else {
        return "null".into();
    };
    match value {
        CqlValue::Ascii(text) | CqlValue::Text(text) => text.clone(),
        CqlValue::Boolean(value) => value.to_string(),
        CqlValue::Blob(bytes) => format!("0x{}", hex::encode(bytes)),
        CqlValue::Date(days) => days.0.to_string(),
        CqlValue::Double(value) => value.to_string(),
        CqlValue::Float(value) => value.to_string(),
        CqlValue::Int(value) => value.to_string(),
        CqlValue::BigInt(value) => value.to_string(),
        CqlValue::SmallInt(value) => value.to_string(),
        CqlValue::TinyInt(value) => value.to_string(),
        CqlValue::Timestamp(value) => value.0.to_string(),
        CqlValue::Time(value) => value.0.to_string(),
        CqlValue::Inet(address) => address.to_string(),
        CqlValue::Uuid(uuid) => uuid.to_string(),
        CqlValue::Timeuuid(uuid) => uuid.to_string(),
        CqlValue::Varint(number) => {
            num_bigint::BigInt::from_signed_bytes_be(number.as_signed_bytes_be_slice()).to_string()
        }
        CqlValue::List(items) => format!("[{}]", joined(items)),
        CqlValue::Set(items) if matches!(items.first(), Some(CqlValue::Timeuuid(_))) => {
            format!("#{}", items.len())
        }
        CqlValue::Set(items) => format!("{{{}}}", joined(items)),
        CqlValue::Map(pairs) if matches!(pairs.first(), Some((CqlValue::Timeuuid(_), _))) => {
            format!("[{}]", joined(pairs.iter().map(|(_, item)| item)))
        }
        CqlValue::Map(pairs) => braces(
            pairs
                .iter()
                .map(|(key, item)| (self::value(Some(key)), Some(item))),
        ),
        CqlValue::UserDefinedType { fields, .. } => {
            braces(fields.iter().map(|(name, field)| (name.clone(), field.as_ref())))
        }
        other => panic!("no case uses values like {other:?}"),
    }
}

fn joined<'a>(items: impl IntoIterator<Item = &'a CqlValue>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| value(Some(item))).collect();
    items.join(",")
}

fn braces<'a>(pairs: impl Iterator<Item = (String, Option<&'a CqlValue>)>) -> String {
    let pairs: Vec<_> = pairs
        .map(|(key, item)| format!("{key}:{}", value(item)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// `cdc$operation` by name.
pub(crate) fn operation(code: i8) -> &'static str {
    match code {
        0 => "pre_image",
        1 => "update",
        2 => "insert",
        3 => "row_delete",
        4 => "partition_delete",
        5 => "range_start_inclusive",
        6 => "range_start_exclusive",
        7 => "range_end_inclusive",
        8 => "range_end_exclusive",
        9 => "post_image",
        _ => panic!("unknown cdc$operation {code}"),
    }
}
