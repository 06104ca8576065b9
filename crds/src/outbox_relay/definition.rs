//! The definition of the custom resource, as Kubernetes wants it: what the types say, with the limits of
//! [`crate::limits`], the rules across fields, and the columns of `kubectl get`.

use super::OutboxRelay;
use crate::limits::{NUMBERS, SIZES};
use kube::CustomResourceExt;
use serde_json::{Value, json};

/// Fields of the relay's own file; the custom resource names Secrets instead.
pub const FILE_ONLY: &[&str] = &[
    "source.credentials",
    "source.tls.caFile",
    "sink.tls.caFile",
    "sink.sasl.credentials",
];

/// Fields without which there is nothing to do; they have no default.
const REQUIRED: &[(&str, &[&str])] = &[
    ("", &["source", "sink"]),
    ("source", &["contactPoints", "keyspace", "table"]),
    ("source.credentialsSecretRef", &["name"]),
    ("source.tls.caSecretRef", &["name", "key"]),
    ("sink", &["bootstrapServers", "topic"]),
    ("sink.tls.caSecretRef", &["name", "key"]),
    ("sink.sasl", &["mechanism", "credentialsSecretRef"]),
    ("sink.sasl.credentialsSecretRef", &["name"]),
    ("sink.headers[]", &["name"]),
];

/// Texts and lists that must not be empty.
const NOT_EMPTY: &[&str] = &[
    "source.contactPoints",
    "source.contactPoints[]",
    "source.localDatacenter",
    "source.credentialsSecretRef.name",
    "source.tls.caSecretRef.name",
    "source.tls.caSecretRef.key",
    "sink.bootstrapServers",
    "sink.bootstrapServers[]",
    "sink.topic",
    "sink.tls.caSecretRef.name",
    "sink.tls.caSecretRef.key",
    "sink.sasl.credentialsSecretRef.name",
    "sink.headers[].name",
];

/// A rule of the Common Expression Language. Messages are constant and the texts that rules compare are bounded, which
/// keeps the definition within the API server's cost budget.
struct Rule {
    at: &'static str,
    rule: &'static str,
    message: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        at: "",
        rule: "has(self.identity) == has(oldSelf.identity) && (!has(self.identity) || self.identity == oldSelf.identity)",
        message: "identity is immutable: it is the key of all state. Create another OutboxRelay instead",
    },
    Rule {
        at: "",
        rule: "!has(self.deadLetter.topic) || self.deadLetter.topic != self.sink.topic",
        message: "deadLetter.topic must be a topic other than sink.topic",
    },
    Rule {
        at: "source.keyspace",
        rule: "self == oldSelf",
        message: "source.keyspace is immutable. Create another OutboxRelay instead",
    },
    Rule {
        at: "source.table",
        rule: "self == oldSelf",
        message: "source.table is immutable. Create another OutboxRelay instead",
    },
    Rule {
        at: "source.keyspace",
        rule: CQL_NAME,
        message: "source.keyspace must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "source.table",
        rule: CQL_NAME,
        message: "source.table must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "source.table",
        rule: "!self.endsWith('_scylla_cdc_log')",
        message: "source.table must be the outbox table itself, not its CDC log",
    },
    Rule {
        at: "sink",
        rule: "(self.key == 'Column') == has(self.keyColumn)",
        message: "sink.keyColumn must be given with sink.key Column, and only then",
    },
    Rule {
        at: "sink.topic",
        rule: "self.matches('^([a-zA-Z0-9._-]|[$][{][a-zA-Z0-9_]+[}])+$') && self != '.' && self != '..'",
        message: "sink.topic must be letters, digits, dots, underscores and dashes, with columns as in ${aggregate_type}-events",
    },
    Rule {
        at: "sink.headers[]",
        rule: "has(self.column) != has(self.value)",
        message: "a header has either a column or a value",
    },
    Rule {
        at: "retry",
        rule: "self.maxBackoffMilliseconds >= self.initialBackoffMilliseconds",
        message: "retry.maxBackoffMilliseconds must be at least retry.initialBackoffMilliseconds",
    },
    Rule {
        at: "deadLetter",
        rule: "(self.target == 'Table') == !has(self.topic)",
        message: "deadLetter.topic must be given with deadLetter.target Topic or Both, and only then",
    },
    Rule {
        at: "deadLetter",
        rule: "self.target != 'Topic' || !has(self.table)",
        message: "deadLetter.table must not be given with deadLetter.target Topic",
    },
    Rule {
        at: "deadLetter.topic",
        rule: "self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'",
        message: "deadLetter.topic must be letters, digits, dots, underscores and dashes",
    },
    Rule {
        at: "state.keyspace",
        rule: CQL_NAME,
        message: "state.keyspace must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "state.keyspace",
        rule: "self == oldSelf",
        message: "state.keyspace is immutable: checkpoints are kept there. Create another OutboxRelay instead",
    },
];

const CQL_NAME: &str = "self.matches('^[a-zA-Z0-9_]+$')";

/// Columns of `kubectl get`: name, type, path, description, and whether only `-o wide` shows them.
const COLUMNS: &[(&str, &str, &str, &str, bool)] = &[
    (
        "Ready",
        "string",
        ".status.conditions[?(@.type==\"Ready\")].status",
        "Whether every slot is delivered",
        false,
    ),
    ("Phase", "string", ".status.phase", "What the relays do", false),
    ("Shares", "integer", ".status.shares", "Shares that exist", false),
    (
        "Lag",
        "integer",
        ".status.lagSeconds",
        "Seconds that delivery is behind",
        false,
    ),
    (
        "Breaker",
        "string",
        ".status.breaker",
        "State of the circuit breaker",
        false,
    ),
    (
        "DeadLetters",
        "integer",
        ".status.deadLettersPending",
        "Dead letters that wait for a decision",
        false,
    ),
    (
        "Age",
        "date",
        ".metadata.creationTimestamp",
        "Age of the resource",
        false,
    ),
    (
        "Keyspace",
        "string",
        ".spec.source.keyspace",
        "Keyspace of the outbox table",
        true,
    ),
    ("Table", "string", ".spec.source.table", "The outbox table", true),
    ("Topic", "string", ".spec.sink.topic", "The topic", true),
    (
        "Reason",
        "string",
        ".status.conditions[?(@.type==\"Ready\")].reason",
        "Why it is ready or not",
        true,
    ),
];

/// Bounds of what the operator writes.
const STATUS_SIZES: &[(&str, u64)] = &[
    ("conditions", 16),
    ("shareStatuses", 64),
    ("shareStatuses[].message", 1000),
];

/// The definition, as JSON in the order in which people read it.
pub fn definition() -> Value {
    let mut definition = serde_json::to_value(OutboxRelay::crd()).unwrap_or_default();
    let version = &mut definition["spec"]["versions"][0];
    version["additionalPrinterColumns"] = COLUMNS.iter().map(column).collect();
    let schema = &mut version["schema"]["openAPIV3Schema"];
    schema["required"] = json!(["spec"]);
    clean(schema);
    let spec = &mut schema["properties"]["spec"];
    FILE_ONLY.iter().for_each(|path| remove(spec, path));
    limit(spec);
    require(spec);
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
    if let Some(conditions) = at_path(status, "conditions") {
        conditions["x-kubernetes-list-type"] = json!("map");
        conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    }
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
/// formats of unsigned numbers, defaults that are null or whole sections.
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
    match map.get_mut("default") {
        Some(Value::Object(default)) => default.clear(),
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
                field.remove("nullable");
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
