//! From a tree of values to a type, with everything that does not fit rather than the first thing.
//!
//! serde stops at the first error. So what it names is noted, taken out of the tree (every part has a default) and the
//! tree is read again, until it fits.

use crate::limits::Number;
use crate::problems::{Found, Problems};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

/// Fields of later versions. They get their meaning together with their behaviour.
const LATER_FIELDS: &[&str] = &[];

/// Values of later versions; compared without case, because they are also known by other spellings.
const LATER_VALUES: &[(&str, &str)] = &[("sink.sasl.mechanism", "Gssapi")];

/// Errors after which reading gives up; a document with more is none of ours.
const MAX_ROUNDS: usize = 500;

/// Reads `tree`, whose nulls count as absent, and notes what does not fit. What did not fit has its default.
pub(crate) fn read<T: DeserializeOwned + Default>(mut tree: Value, problems: &mut Problems) -> T {
    drop_nulls(&mut tree);
    for _ in 0..MAX_ROUNDS {
        let error = match serde_path_to_error::deserialize::<_, T>(&tree) {
            Ok(value) => return value,
            Err(error) => error,
        };
        let segments = segments(error.path());
        if segments.is_empty() || node(&mut tree, &segments).is_none() {
            problems.add(display(&segments), found(&[], &tree), "a section of fields");
            return T::default();
        }
        note(&mut tree, &segments, &error.inner().to_string(), problems);
    }
    T::default()
}

/// A step from a value to one within it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Element(usize),
}

fn segments(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(Step::Field(key.clone())),
            Segment::Seq { index } => Some(Step::Element(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

fn display(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Element(index) => path.push_str(&format!("[{index}]")),
            Step::Field(name)
                if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty() =>
            {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Step::Field(name) => path.push_str(&format!("[{}]", name.escape_debug())),
        }
    }
    path
}

/// Notes one error and takes its cause out of the tree.
fn note(tree: &mut Value, steps: &[Step], message: &str, problems: &mut Problems) {
    let path = display(steps);
    let Some(value) = node(tree, steps).map(|value| value.clone()) else {
        return;
    };
    let (reason, expected) = message.split_once("expected ").unwrap_or(("", message));
    if reason.starts_with("unknown field") {
        let found = if LATER_FIELDS.contains(&path.as_str()) {
            Found::NotSupported(None)
        } else {
            Found::UnknownField
        };
        problems.add(path, found, quoted(expected));
        remove(tree, steps);
    } else if reason.starts_with("unknown variant") {
        let later = LATER_VALUES.iter().any(|(field, later)| {
            *field == path
                && value
                    .as_str()
                    .is_some_and(|text| text.eq_ignore_ascii_case(later))
        });
        let found = if later {
            Found::NotSupported(Some(value.to_string()))
        } else {
            found(steps, &value)
        };
        problems.add(path, found, quoted(expected));
        remove(tree, steps);
    } else if expected.starts_with("string or map") && !value.is_object() {
        // One of a set of names. As a text it runs into the error that tells which.
        replace(tree, steps, Value::String(value.to_string()));
    } else {
        problems.add(path.clone(), found(steps, &value), accepted(&path, expected));
        repair(tree, steps, &value);
    }
}

/// Elements of lists keep their places, so that the paths of later errors are right: an empty text stands in, or an
/// empty section where a text does not fit either.
fn repair(tree: &mut Value, steps: &[Step], value: &Value) {
    match steps.split_last() {
        Some((Step::Element(_), _)) if !is_empty(value) => replace(tree, steps, Value::String(String::new())),
        Some((Step::Element(_), _)) if value.is_string() => {
            replace(tree, steps, Value::Object(serde_json::Map::new()))
        }
        Some((Step::Element(_), list)) => remove(tree, list),
        _ => remove(tree, steps),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// What is accepted where serde expected something of another type.
fn accepted(path: &str, expected: &str) -> String {
    if let Some(number) = Number::of(path) {
        return number.accepted();
    }
    match expected {
        "a string" if path.starts_with("sink.properties") => "text, in quotes as in \"20\"".to_owned(),
        "a string" => "text".to_owned(),
        "path string" => "a path".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a section of names and texts".to_owned(),
        other if other.starts_with("struct ") => "a section of fields".to_owned(),
        other => other.to_owned(),
    }
}

/// The names that stand in backquotes.
fn quoted(text: &str) -> String {
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    names.join(", ")
}

/// What to show of a value: nothing from within a section, and nothing that may be a secret.
fn found(steps: &[Step], value: &Value) -> Found {
    let secret = steps.iter().any(|step| match step {
        Step::Field(name) => may_hold_a_secret(name),
        Step::Element(_) => false,
    });
    match value {
        Value::Object(_) => Found::Value("a section of fields".to_owned()),
        Value::Array(_) => Found::Value("a list".to_owned()),
        _ if secret => Found::Hidden,
        _ => Found::shown(value),
    }
}

/// Whether the values of a field of this name are kept out of messages.
pub(crate) fn may_hold_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "password",
        "credential",
        "secret",
        "sasl",
        "token",
        "passphrase",
        ".pem",
        ".key",
    ]
    .iter()
    .any(|word| name.contains(word))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn node<'a>(tree: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Element(index) => value.get_mut(index),
    })
}

fn replace(tree: &mut Value, steps: &[Step], with: Value) {
    if let Some(value) = node(tree, steps) {
        *value = with;
    }
}

fn remove(tree: &mut Value, steps: &[Step]) {
    let Some((last, parent)) = steps.split_last() else {
        return;
    };
    match (node(tree, parent), last) {
        (Some(Value::Object(map)), Step::Field(name)) => {
            map.remove(name);
        }
        (Some(Value::Array(list)), Step::Element(index)) if *index < list.len() => {
            list.remove(*index);
        }
        _ => {}
    }
}
