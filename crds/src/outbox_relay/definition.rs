//! The definition of the custom resource, as Kubernetes wants it: what the types say, with the limits of
//! [`crate::limits`], the rules across fields, and the columns of `kubectl get`.

mod rules;

use super::OutboxRelay;
use crate::limits::{NUMBERS, SIZES};
use kube::CustomResourceExt;
use rules::{COLUMNS, NAME_RULE, NOT_EMPTY, PATTERNS, REQUIRED, RULES, Rule, STATUS_SIZES};
use serde_json::{Value, json};

/// Fields of the relay's own file; the custom resource names Secrets instead.
pub const FILE_ONLY: &[&str] = &[
    "source.credentials",
    "source.tls.caFile",
    "source.tls.certificateFile",
    "source.tls.keyFile",
    "sink.tls.caFile",
    "sink.tls.certificateFile",
    "sink.tls.keyFile",
    "sink.sasl.credentials",
    "sink.sasl.oauthBearer.caFile",
    "http.listen",
    "http.tls.certificateFile",
    "http.tls.keyFile",
    "http.tokenFile",
];

/// The definition, as JSON in the order in which people read it.
pub fn definition() -> Value {
    let mut definition = serde_json::to_value(OutboxRelay::crd()).unwrap_or_default();
    let version = &mut definition["spec"]["versions"][0];
    version["additionalPrinterColumns"] = COLUMNS.iter().map(column).collect();
    let schema = &mut version["schema"]["openAPIV3Schema"];
    schema["required"] = json!(["spec"]);
    clean(schema);
    let Rule { rule, message, .. } = NAME_RULE;
    push(
        schema,
        "x-kubernetes-validations",
        json!({"rule": rule, "message": message}),
    );
    let spec = &mut schema["properties"]["spec"];
    FILE_ONLY.iter().for_each(|path| remove(spec, path));
    limit(spec);
    require(spec);
    list_by(spec, "sink.headers", "name");
    for Rule { at, rule, message } in RULES {
        if let Some(target) = at_path(spec, at) {
            push(
                target,
                "x-kubernetes-validations",
                json!({"rule": rule, "message": message}),
            );
        }
    }
    let status = &mut schema["properties"]["status"];
    for (path, max) in STATUS_SIZES {
        set_max(status, path, *max);
    }
    without_defaults(status);
    // Of a generation that there never is: until an operator has looked, tools take the resource for in progress (kstatus).
    status["default"] = json!({"observedGeneration": -1});
    list_by(status, "conditions", "type");
    list_by(status, "shareStatuses", "share");
    definition
}

fn column((name, kind, path, description, wide): &(&str, &str, &str, &str, bool)) -> Value {
    let mut column = json!({"name": name, "type": kind, "jsonPath": path, "description": description});
    if *wide {
        column["priority"] = json!(1);
    }
    column
}

/// Takes out what Kubernetes does not accept in a structural schema, or what only repeats the types: closed sections,
/// formats of unsigned numbers, null as a value of its own, defaults that are null or whole sections, and the line
/// breaks of the source code.
fn clean(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.get("additionalProperties") == Some(&Value::Bool(false)) {
        map.remove("additionalProperties");
    }
    if matches!(
        map.get("format").and_then(Value::as_str),
        Some("uint32" | "uint64")
    ) {
        map.insert("format".to_owned(), json!("int64"));
    }
    if let Some(Value::String(description)) = map.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(minimum) = map.get("minimum").and_then(Value::as_f64) {
        // The types know one minimum, that of unsigned numbers: zero.
        map.insert("minimum".to_owned(), json!(minimum as u64));
    }
    map.remove("nullable");
    // The fields of a section have their own defaults; a map has none but its own.
    let is_section = map.contains_key("properties");
    match map.get_mut("default") {
        Some(Value::Object(default)) if is_section => default.clear(),
        Some(Value::Null) => {
            map.remove("default");
        }
        _ => {}
    }
    for key in ["properties", "items", "additionalProperties"] {
        match (key, map.get_mut(key)) {
            ("properties", Some(Value::Object(properties))) => properties.values_mut().for_each(clean),
            (_, Some(inner)) => clean(inner),
            _ => {}
        }
    }
}

fn limit(spec: &mut Value) {
    for number in NUMBERS {
        if let Some(field) = at_path(spec, number.path) {
            field["minimum"] = json!(number.min);
            field["maximum"] = json!(number.max);
        }
    }
    for size in SIZES {
        set_max(spec, size.path, size.max);
    }
    for path in NOT_EMPTY {
        if let Some(field) = at_path(spec, path) {
            let keyword = if field["type"] == "array" {
                "minItems"
            } else {
                "minLength"
            };
            field[keyword] = json!(1);
        }
    }
    for (path, pattern) in PATTERNS {
        if let Some(field) = at_path(spec, path) {
            field["pattern"] = json!(pattern);
        }
    }
}

/// Makes a list one of entries that are told apart by a field, so that several writers can each own some.
fn list_by(schema: &mut Value, path: &str, key: &str) {
    if let Some(list) = at_path(schema, path) {
        list["x-kubernetes-list-type"] = json!("map");
        list["x-kubernetes-list-map-keys"] = json!([key]);
        list["items"]["required"] = match list["items"]["required"].take() {
            Value::Array(required) if required.contains(&json!(key)) => Value::Array(required),
            _ => json!([key]),
        };
        if let Some(Value::Object(field)) = at_path(&mut list["items"], key) {
            field.remove("default");
        }
    }
}

/// Nothing is written into a status but by the operator.
fn without_defaults(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("default");
    for key in ["properties", "items"] {
        match (key, map.get_mut(key)) {
            ("properties", Some(Value::Object(properties))) => {
                properties.values_mut().for_each(without_defaults)
            }
            (_, Some(inner)) => without_defaults(inner),
            _ => {}
        }
    }
}

fn set_max(schema: &mut Value, path: &str, max: u64) {
    if let Some(field) = at_path(schema, path) {
        let keyword = match field["type"].as_str() {
            Some("array") => "maxItems",
            Some("object") => "maxProperties",
            _ => "maxLength",
        };
        field[keyword] = json!(max);
    }
}

fn require(spec: &mut Value) {
    for (part, fields) in REQUIRED {
        let Some(section) = at_path(spec, part) else {
            continue;
        };
        section["required"] = json!(fields);
        for field in *fields {
            if let Some(Value::Object(field)) = at_path(section, field) {
                field.remove("default");
            }
        }
    }
}

/// The schema of a field; `[]` steps into the elements of a list, `{}` into the values of a map.
fn at_path<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut schema = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]").trim_end_matches("{}");
        schema = schema.get_mut("properties")?.get_mut(name)?;
        if step.ends_with("[]") {
            schema = schema.get_mut("items")?;
        } else if step.ends_with("{}") {
            schema = schema.get_mut("additionalProperties")?;
        }
    }
    Some(schema)
}

fn remove(schema: &mut Value, path: &str) {
    let (part, field) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(Value::Object(fields)) =
        at_path(schema, part).and_then(|section| section.get_mut("properties"))
    {
        fields.remove(field);
    }
}

fn push(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = schema {
        match map.entry(key).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(value),
            other => *other = json!([value]),
        }
    }
}
