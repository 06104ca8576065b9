//! `docs/configuration.md` is generated from the documentation of the types.

use crds::RelayConfig;
use crds::limits::{Number, SIZES};
use crds::outbox_relay::OutboxRelaySpec;
use crds::outbox_relay::definition::FILE_ONLY;
use crds::outbox_relay::status::OutboxRelayStatus;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::fmt::Write;

const HEADING: &str = "\
<!-- Generated from the types in crds/src; `make generate` rewrites it. -->
# Configuration

Every field of an OutboxRelay's `spec` and of a relay's own configuration file. The two have the same form, but for how
they name secrets: the resource names Secrets (fields marked *resource only*), the file names files and environment
variables (fields marked *file only*). `outbox-relay run -f` takes either. A file has at least `identity`,
`source.contactPoints`, `source.keyspace`, `source.table`, `sink.bootstrapServers` and `sink.topic`; a resource the same
without `identity`. What is unknown or out of range is refused, with everything that is wrong in one answer.
";

/// Parts of the resource that only the operator looks at.
const RESOURCE_ONLY: [&str; 5] = ["placement", "paused", "template", "monitoring", "deletionPolicy"];

/// Lists that must not be empty; texts without a default are required anyway.
const REQUIRED: &[&str] = &["source.contactPoints", "sink.bootstrapServers"];

#[test]
fn the_committed_reference_is_the_types() {
    let mut schema = schema_of::<RelayConfig>();
    let resource = schema_of::<OutboxRelaySpec>();
    for part in RESOURCE_ONLY {
        schema["properties"][part] = resource["properties"][part].clone();
    }
    let mut text = HEADING.to_owned();
    let fields = schema["properties"].as_object().unwrap();
    let single: Vec<_> = fields
        .iter()
        .filter(|(_, field)| section(field).is_none())
        .collect();
    table(&mut text, "", single.into_iter());
    for (name, field) in fields {
        part(&mut text, name, field);
    }
    crate::matches_file(&crate::repository().join("docs/configuration.md"), &text);
}

const STATUS_HEADING: &str = "\
<!-- Generated from the types in crds/src; `make generate` rewrites it. -->
# Status of an OutboxRelay

Every field of a resource's `status`, which the operator writes and nobody else. What a condition means and what to do
about it stands in [operator.md](operator.md#conditions). A field that is absent is not known.
";

#[test]
fn the_committed_reference_of_the_status_is_the_types() {
    let schema = schema_of::<OutboxRelayStatus>();
    let mut text = STATUS_HEADING.to_owned();
    status_part(&mut text, "status", &schema);
    crate::matches_file(&crate::repository().join("docs/status.md"), &text);
}

/// A section's fields, then the sections within it. Those of conditions are Kubernetes' own.
fn status_part(text: &mut String, path: &str, part: &Value) {
    let fields = part["properties"].as_object().unwrap();
    writeln!(text, "\n## `{path}`\n\n{}\n", described(part)).unwrap();
    text.push_str("| field | holds | meaning |\n|---|---|---|\n");
    for (name, field) in fields {
        writeln!(text, "| `{name}` | {} | {} |", holds(field), described(field)).unwrap();
    }
    for (name, field) in fields.iter().filter(|(name, _)| *name != "conditions") {
        if section(field).is_some() {
            status_part(text, &format!("{path}.{name}"), field);
        }
        if section(&field["items"]).is_some() {
            status_part(text, &format!("{path}.{name}[]"), &field["items"]);
        }
    }
}

/// What a field of the status holds.
fn holds(field: &Value) -> String {
    let choices = field["anyOf"].as_array().into_iter().flatten();
    let names: Vec<_> = choices
        .chain([field])
        .flat_map(|schema| schema["oneOf"].as_array().into_iter().flatten())
        .filter_map(|one| one["const"].as_str())
        .collect();
    if !names.is_empty() {
        return names.join(", ");
    }
    let kind = field["type"].as_str().or_else(|| field["type"][0].as_str());
    match kind {
        Some("integer") => "whole number",
        Some("boolean") => "true, false",
        Some("array") => "list",
        Some("object") => "fields",
        _ => "text",
    }
    .to_owned()
}

fn schema_of<T: schemars::JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// One section of the file, and those within it.
fn part(text: &mut String, path: &str, field: &Value) {
    let Some(properties) = section(field) else { return };
    let mark = if path.contains("[]") {
        " (each element)"
    } else {
        only(path)
    };
    writeln!(text, "\n## `{path}`{mark}\n\n{}", described(field)).unwrap();
    table(
        text,
        path,
        properties.iter().filter(|(_, field)| section(field).is_none()),
    );
    for (name, field) in properties {
        part(text, &format!("{path}.{name}"), field);
        if section(&field["items"]).is_some() {
            part(text, &format!("{path}.{name}[]"), &field["items"]);
        }
    }
}

fn table<'a>(text: &mut String, part: &str, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    let mut rows = fields.peekable();
    if rows.peek().is_some() {
        text.push_str("\n| field | accepted | default | meaning |\n|---|---|---|---|\n");
    }
    for (name, field) in rows {
        let path = if part.is_empty() {
            name.clone()
        } else {
            format!("{part}.{name}")
        };
        let (accepted, default) = (accepted(&path, field), default(&path, field));
        writeln!(
            text,
            "| `{name}`{} | {accepted} | {default} | {} |",
            only(&path),
            described(field)
        )
        .unwrap();
    }
}

fn only(path: &str) -> &'static str {
    if FILE_ONLY.contains(&path) || matches!(path, "apiVersion" | "log") {
        " *file only*"
    } else if path.ends_with("SecretRef")
        || RESOURCE_ONLY.contains(&path)
        || path == "deadLetter.replayRequest"
    {
        " *resource only*"
    } else {
        ""
    }
}

/// The fields of a section; a section that may be absent is one as well.
fn section(field: &Value) -> Option<&serde_json::Map<String, Value>> {
    let choices = field["anyOf"].as_array().into_iter().flatten();
    choices
        .chain([field])
        .find_map(|schema| schema["properties"].as_object())
}

fn described(field: &Value) -> String {
    field["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|")
}

fn accepted(path: &str, field: &Value) -> String {
    if let Some(number) = Number::of(path) {
        return format!("{} to {}", number.min, number.max);
    }
    let names: Vec<_> = field["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["const"].as_str())
        .collect();
    if !names.is_empty() {
        return names.join(", ");
    }
    let size = SIZES.iter().find(|size| size.path == path).map(|size| size.max);
    let kind = field["type"]
        .as_str()
        .or_else(|| field["type"][0].as_str())
        .unwrap_or_default();
    match (kind, size) {
        ("array", Some(max)) => format!("a list of at most {max}"),
        ("object", Some(max)) => format!("at most {max} names with texts"),
        ("boolean", _) => "true, false".to_owned(),
        (_, Some(max)) => format!("text of at most {max} characters"),
        _ => "text".to_owned(),
    }
}

fn default(path: &str, field: &Value) -> String {
    match &field["default"] {
        _ if REQUIRED.contains(&path) => "required".to_owned(),
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => "required".to_owned(),
        Value::Array(list) if list.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
