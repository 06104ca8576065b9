//! Whatever a file holds, the answer is a configuration or a list of problems, never a panic.

use crds::{API_VERSION, load, validate};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::{collection, string};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Field names of the contract and a foreign one, so that random trees reach its depths.
const FIELDS: &[&str] = &[
    "source",
    "sink",
    "contactPoints",
    "keyspace",
    "table",
    "columns",
    "id",
    "startFrom",
    "mode",
    "tls",
    "caFile",
    "credentials",
    "passwordFile",
    "load",
    "topic",
    "headers",
    "name",
    "value",
    "properties",
    "linger.ms",
    "sasl",
    "mechanism",
    "retry",
    "maxAttempts",
    "deadLetter",
    "target",
    "replayRequest",
    "tracing",
    "endpoint",
    "samplePercent",
    "class",
    "shares",
    "http",
    "listen",
    "log",
    "level",
    "foreign",
];

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        string::string_regex("[-a-z.:${}\\[\\]0-9TZ]{0,30}")
            .unwrap()
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let field = proptest::sample::select(FIELDS).prop_map(str::to_owned);
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(field, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Lays one tree over another, so that random values stand among valid ones.
fn overlay(onto: &mut Value, over: Value) {
    match (onto, over) {
        (Value::Object(onto), Value::Object(over)) => {
            for (key, value) in over {
                overlay(onto.entry(key).or_insert(Value::Null), value);
            }
        }
        (onto, over) => *onto = over,
    }
}

fn check(text: &str) {
    match load(text, Path::new("/secrets")) {
        Ok(config) => assert_eq!(validate(&config), Ok(())),
        Err(problems) => assert!(!problems.is_empty() && !problems.to_string().is_empty()),
    }
}

#[test]
fn small_files_that_unfold_into_large_ones_are_refused() {
    let nested = format!("source: {}", "[".repeat(2000));
    let doubling: String = (1..40)
        .map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
        .collect();
    for text in [nested, format!("a0: &a0 x\n{doubling}")] {
        let problems = load(&text, Path::new("/secrets")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems}");
    }
}

proptest! {
    #[test]
    fn any_text(text: String) {
        check(&text);
    }

    #[test]
    fn any_configuration(tree in values()) {
        let mut config = json!({
            "identity": "orders",
            "source": {"contactPoints": ["scylla"], "keyspace": "ks", "table": "t"},
            "sink": {"bootstrapServers": ["kafka:9092"], "topic": "t"},
        });
        check(&config.to_string());
        overlay(&mut config, tree);
        check(&config.to_string());
    }

    #[test]
    fn any_manifest(tree in values()) {
        let mut manifest = Map::new();
        manifest.insert("apiVersion".to_owned(), API_VERSION.into());
        manifest.insert("kind".to_owned(), "OutboxRelay".into());
        manifest.insert("metadata".to_owned(), tree.clone());
        manifest.insert("spec".to_owned(), tree);
        check(&Value::Object(manifest).to_string());
    }
}
