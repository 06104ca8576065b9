//! SELECT JSON and INSERT JSON: values to and from JSON text.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::Value;

use super::composite::{join_list, join_map, join_tuple, split_list, split_map, split_tuple};
use super::display::{malformed, plain};
use super::{CqlType, constant, validate};
use crate::error::CqlError;
use crate::storage::ordered;

/// A value as JSON text.
///
/// # Errors
/// Invalid: the value is malformed.
pub fn to_json(ty: &CqlType, value: Option<&[u8]>) -> Result<String, CqlError> {
    let mut out = String::new();
    put(ty, value, &mut out)?;
    Ok(out)
}

/// A row of `SELECT JSON`: its columns' names as they stand in the result, and their values.
///
/// # Errors
/// Invalid: a value is malformed.
pub fn row_to_json<'a>(
    columns: impl Iterator<Item = (&'a str, &'a CqlType, Option<&'a [u8]>)>,
) -> Result<String, CqlError> {
    let mut out = String::from("{");
    for (i, (name, ty, value)) in columns.enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        put_string(&json_name(name), &mut out);
        out.push_str(": ");
        put(ty, value, &mut out)?;
    }
    Ok(out + "}")
}

/// The document of `INSERT JSON`: column names, case-insensitive unless quoted, and their values.
///
/// # Errors
/// Invalid: no JSON object.
pub fn parse_row(text: &str) -> Result<Vec<(String, Value)>, CqlError> {
    match parse(text)? {
        Value::Object(fields) => Ok(fields
            .into_iter()
            .map(|(name, value)| (cql_name(&name), value))
            .collect()),
        _ => Err(CqlError::invalid(format!(
            "Could not decode JSON string as a map: {text}"
        ))),
    }
}

/// A value from JSON text.
///
/// # Errors
/// Invalid: no JSON, or none that the type takes.
pub fn from_json_text(ty: &CqlType, text: &str) -> Result<Option<Bytes>, CqlError> {
    from_json(ty, &parse(text)?)
}

/// A value from JSON; null gives None.
///
/// # Errors
/// Invalid: a JSON value that the type does not take.
pub fn from_json(ty: &CqlType, json: &Value) -> Result<Option<Bytes>, CqlError> {
    match json {
        Value::Null => Ok(None),
        value => required(ty, value).map(Some),
    }
}

fn parse(text: &str) -> Result<Value, CqlError> {
    serde_json::from_str(text)
        .map_err(|error| CqlError::invalid(format!("Could not decode JSON string '{text}': {error}")))
}

/// Names that need quotes in CQL carry them in JSON too.
fn json_name(name: &str) -> String {
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        format!("\"{name}\"")
    } else {
        name.to_owned()
    }
}

fn cql_name(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.to_owned(),
        None => name.to_ascii_lowercase(),
    }
}

fn put_string(text: &str, out: &mut String) {
    // Serializing a string cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn put(ty: &CqlType, value: Option<&[u8]>, out: &mut String) -> Result<(), CqlError> {
    let Some(value) = value else {
        out.push_str("null");
        return Ok(());
    };
    match ty {
        CqlType::List { element, .. } | CqlType::Set { element, .. } => put_all(
            split_list(value)
                .map_err(malformed)?
                .into_iter()
                .map(|value| (&**element, Some(value))),
            out,
        ),
        CqlType::Vector { element, .. } => {
            let size = validate::fixed_size(element).unwrap_or(1);
            put_all(value.chunks(size).map(|value| (&**element, Some(value))), out)
        }
        CqlType::Tuple(types) => put_all(
            types
                .iter()
                .zip(split_tuple(value, types.len()).map_err(malformed)?),
            out,
        ),
        CqlType::Map {
            key: key_type,
            value: value_type,
            ..
        } => {
            out.push('{');
            for (i, (key, value)) in split_map(value).map_err(malformed)?.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                put_map_key(key_type, key, out)?;
                out.push_str(": ");
                put(value_type, Some(value), out)?;
            }
            out.push('}');
            Ok(())
        }
        CqlType::Udt { definition, .. } => {
            let components = split_tuple(value, definition.fields.len()).map_err(malformed)?;
            let given = components.into_iter().chain(std::iter::repeat(None));
            out.push('{');
            for (i, ((name, ty), component)) in definition.fields.iter().zip(given).enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                put_string(&json_name(name), out);
                out.push_str(": ");
                put(ty, component, out)?;
            }
            out.push('}');
            Ok(())
        }
        native => put_native(native, value, out),
    }
}

fn put_all<'a>(
    values: impl Iterator<Item = (&'a CqlType, Option<&'a [u8]>)>,
    out: &mut String,
) -> Result<(), CqlError> {
    out.push('[');
    for (i, (ty, value)) in values.enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        put(ty, value, out)?;
    }
    out.push(']');
    Ok(())
}

/// Keys of JSON objects are strings, whatever the key's type.
fn put_map_key(ty: &CqlType, key: &[u8], out: &mut String) -> Result<(), CqlError> {
    let text = to_json(ty, Some(key))?;
    if text.starts_with('"') {
        out.push_str(&text);
    } else {
        put_string(&text, out);
    }
    Ok(())
}

fn put_native(ty: &CqlType, value: &[u8], out: &mut String) -> Result<(), CqlError> {
    let text = plain(ty, value)?;
    let unquoted = matches!(
        ty,
        CqlType::Tinyint
            | CqlType::Smallint
            | CqlType::Int
            | CqlType::Bigint
            | CqlType::Counter
            | CqlType::Varint
            | CqlType::Decimal
            | CqlType::Boolean
    );
    match ty {
        CqlType::Float | CqlType::Double if text.ends_with("NaN") || text.ends_with("Infinity") => {
            put_string(&text, out);
        }
        CqlType::Float | CqlType::Double => out.push_str(&text),
        CqlType::Timestamp => {
            // Writing to a String cannot fail.
            let _ = write!(out, "\"{}\"", text.replacen('T', " ", 1));
        }
        _ if unquoted && !text.is_empty() => out.push_str(&text),
        _ => put_string(&text, out),
    }
    Ok(())
}

fn required(ty: &CqlType, json: &Value) -> Result<Bytes, CqlError> {
    let wrong = |expected: &str| {
        Err(CqlError::invalid(format!(
            "Expected {expected}, but got a {}: {json}",
            kind_of(json)
        )))
    };
    match (ty, json) {
        (_, Value::Null) => Err(CqlError::invalid("Invalid null element in a collection")),
        (CqlType::List { element, .. }, Value::Array(items)) => {
            let values: Result<Vec<_>, _> = items.iter().map(|item| required(element, item)).collect();
            Ok(join_list(&values?))
        }
        (CqlType::Set { element, .. }, Value::Array(items)) => {
            let mut values = items
                .iter()
                .map(|item| required(element, item))
                .collect::<Result<Vec<_>, _>>()?;
            values.sort_by(|a, b| ordered::compare(element, a, b));
            values.dedup();
            Ok(join_list(&values))
        }
        (CqlType::List { .. } | CqlType::Set { .. }, _) => wrong("a list"),
        (CqlType::Vector { element, dimensions }, Value::Array(items)) => {
            if items.len() != usize::from(*dimensions) {
                return wrong(&format!("a list of {dimensions} elements"));
            }
            let values: Result<Vec<_>, _> = items.iter().map(|item| required(element, item)).collect();
            Ok(values?.concat().into())
        }
        (CqlType::Tuple(types), Value::Array(items)) if items.len() <= types.len() => {
            let values: Result<Vec<_>, _> = types
                .iter()
                .zip(items)
                .map(|(ty, item)| from_json(ty, item))
                .collect();
            Ok(join_tuple(&values?))
        }
        (CqlType::Tuple(_) | CqlType::Vector { .. }, _) => wrong("a list representation of a tuple"),
        (CqlType::Map { key, value, .. }, Value::Object(fields)) => map_from_json(key, value, fields),
        (CqlType::Udt { definition, .. }, Value::Object(fields)) => {
            let unknown = fields.keys().find(|name| {
                !definition
                    .fields
                    .iter()
                    .any(|(field, _)| *field == cql_name(name))
            });
            if let Some(unknown) = unknown {
                return Err(CqlError::invalid(format!(
                    "Unknown field '{unknown}' in value of user defined type {}",
                    definition.name
                )));
            }
            let given = |name: &str| {
                fields
                    .iter()
                    .find(|(field, _)| cql_name(field) == name)
                    .map(|(_, json)| json)
            };
            let values = definition
                .fields
                .iter()
                .map(|(name, ty)| from_json(ty, given(name).unwrap_or(&Value::Null)));
            Ok(join_tuple(&values.collect::<Result<Vec<_>, _>>()?))
        }
        (CqlType::Map { .. } | CqlType::Udt { .. }, _) => wrong("a map"),
        (native, _) => native_from_json(native, json),
    }
}

fn map_from_json(
    key_type: &CqlType,
    value_type: &CqlType,
    fields: &serde_json::Map<String, Value>,
) -> Result<Bytes, CqlError> {
    let mut entries = Vec::with_capacity(fields.len());
    for (key, json) in fields {
        let key = match native_from_json(key_type, &Value::String(key.clone())) {
            Ok(key) if !is_composite(key_type) => key,
            _ => required(key_type, &parse(key)?)?,
        };
        entries.push((key, required(value_type, json)?));
    }
    entries.sort_by(|(a, _), (b, _)| ordered::compare(key_type, a, b));
    Ok(join_map(&entries))
}

fn is_composite(ty: &CqlType) -> bool {
    matches!(
        ty,
        CqlType::List { .. }
            | CqlType::Set { .. }
            | CqlType::Map { .. }
            | CqlType::Tuple(_)
            | CqlType::Udt { .. }
            | CqlType::Vector { .. }
    )
}

fn native_from_json(ty: &CqlType, json: &Value) -> Result<Bytes, CqlError> {
    let wrong = |expected: &str| {
        Err(CqlError::invalid(format!(
            "Expected {expected}, but got a {}: {json}",
            kind_of(json)
        )))
    };
    match (ty, json) {
        (CqlType::Blob, Value::String(text)) => match text.strip_prefix("0x") {
            Some(digits) => constant::from_text(ty, digits),
            None => wrong("a blob string that begins with 0x"),
        },
        (_, Value::String(text)) => constant::from_text(ty, text),
        (CqlType::Boolean, Value::Bool(boolean)) => Ok(Bytes::copy_from_slice(&[u8::from(*boolean)])),
        (
            CqlType::Tinyint
            | CqlType::Smallint
            | CqlType::Int
            | CqlType::Bigint
            | CqlType::Counter
            | CqlType::Varint
            | CqlType::Float
            | CqlType::Double
            | CqlType::Decimal
            | CqlType::Timestamp
            | CqlType::Date
            | CqlType::Time,
            Value::Number(number),
        ) => constant::from_text(ty, &number.to_string()),
        _ => wrong(&format!(
            "a value of type {}",
            crate::schema::type_name::type_name(ty)
        )),
    }
}

fn kind_of(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "Boolean",
        Value::Number(_) => "Number",
        Value::String(_) => "String",
        Value::Array(_) => "List",
        Value::Object(_) => "Map",
    }
}

#[cfg(test)]
mod tests;
