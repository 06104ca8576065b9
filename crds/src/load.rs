//! From the text of a file to a configuration that is known to be good.

use crate::outbox_relay::{KIND, OutboxRelaySpec};
use crate::problems::{Found, Problems};
use crate::read::read;
use crate::validation::{Form, check};
use crate::{API_VERSION, RelayConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Reads a relay's configuration, or an OutboxRelay manifest, whose Secrets are files
/// `<secrets_dir>/<name of the Secret>/<key>`.
///
/// # Errors
/// All that is wrong with it.
pub fn load(text: &str, secrets_dir: &Path) -> Result<RelayConfig, Problems> {
    let tree = parse(text)?;
    match tree.get("kind") {
        None => load_config(tree),
        Some(Value::String(kind)) if kind == KIND => load_manifest(tree, secrets_dir),
        Some(other) => {
            let mut problems = Problems::default();
            problems.refuse(
                "kind",
                other,
                format!("{KIND}, or no kind in a relay's own configuration"),
            );
            Err(problems)
        }
    }
}

/// What a manifest holds beside the specification. Labels, annotations and status are for others.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: Value,
    status: Value,
}

fn load_config(tree: Value) -> Result<RelayConfig, Problems> {
    let mut problems = Problems::default();
    let config: RelayConfig = read(tree, &mut problems);
    check(&config, Form::File, &mut problems);
    problems.into_result().map(|()| config)
}

fn load_manifest(tree: Value, secrets_dir: &Path) -> Result<RelayConfig, Problems> {
    let mut problems = Problems::default();
    let manifest: Manifest = read(tree, &mut problems);
    if manifest.api_version != API_VERSION {
        problems.refuse_text("apiVersion", &manifest.api_version, API_VERSION);
    }
    let metadata = |field: &str| manifest.metadata.get(field).and_then(Value::as_str);
    let name = metadata("name").unwrap_or_default();
    if !crate::names::is_object_name(name) {
        problems.refuse_text(
            "metadata.name",
            name,
            "lower case letters, digits, dashes and dots",
        );
    }
    let mut in_spec = Problems::default();
    let spec: OutboxRelaySpec = read(spec_or_empty(manifest.spec), &mut in_spec);
    let config = spec.to_config(name, metadata("namespace").unwrap_or("default"));
    check(&config, Form::Resource, &mut in_spec);
    spec.check_pods(&mut in_spec);
    problems.extend(in_spec.below("spec"));
    problems
        .into_result()
        .map(|()| crate::outbox_relay::as_file(config, secrets_dir))
}

/// A manifest without a specification lacks everything that is required, and says so.
fn spec_or_empty(spec: Value) -> Value {
    if spec.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        spec
    }
}

/// YAML to a tree. A file of several documents, with a key twice or keys that are no text, is refused.
fn parse(text: &str) -> Result<Value, Problems> {
    let unreadable = |reason: String| {
        let mut problems = Problems::default();
        problems.add("", Found::Unreadable(reason), "one YAML document of fields");
        problems
    };
    // By way of YAML's own values, which refuse a key that stands twice.
    let tree: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let tree: Value = serde_yaml::from_value(tree).map_err(|error| unreadable(error.to_string()))?;
    match tree {
        Value::Object(_) => Ok(tree),
        Value::Null => Err(unreadable("the file is empty".to_owned())),
        _ => Err(unreadable("the file holds no fields".to_owned())),
    }
}
