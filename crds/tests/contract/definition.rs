//! The definition of the custom resource is generated, committed and what the types say.

use crds::outbox_relay::definition::definition;
use serde_json::Value;

#[test]
fn the_committed_definition_is_the_types() {
    let heading = "# Generated from the types in crds/src; `make generate` rewrites it.\n";
    let text = format!("{heading}{}", serde_yaml::to_string(&definition()).unwrap());
    crate::matches_file(&crate::repository().join("crds/outboxrelays.yaml"), &text);
}

/// What the API server refuses, or counts against the cost budget of rules without a bound.
#[test]
fn everything_in_the_specification_is_documented_and_bounded() {
    let definition = definition();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut fields = 0;
    each(spec, "spec", &mut |path, schema| {
        fields += 1;
        let has = |key: &str| !schema[key].is_null();
        match schema["type"]
            .as_str()
            .unwrap_or_else(|| panic!("{path} has no type"))
        {
            "string" => assert!(has("maxLength") || has("enum"), "{path} has no maxLength"),
            "array" => assert!(has("maxItems"), "{path} has no maxItems"),
            "integer" => assert!(has("maximum") && has("minimum"), "{path} has no range"),
            "object" => assert!(
                has("properties") != has("maxProperties"),
                "{path} is not closed or bounded"
            ),
            "boolean" => {}
            other => panic!("{path} is a {other}"),
        }
        let described = has("description") || path.ends_with(['}', ']']);
        assert!(
            described && schema["additionalProperties"] != false && !has("$ref"),
            "{path}: {schema}"
        );
    });
    assert!(fields > 80, "only {fields} fields were seen");
}

#[test]
fn every_rule_limit_and_required_field_names_something_that_exists() {
    let text = serde_yaml::to_string(&definition()).unwrap();
    // A path that names nothing would be passed over, so the entries of the tables are counted. Beside the nineteen
    // required parts of the specification these are the resource, its conditions and its shares.
    let counts = ["rule: ", "pattern: ", "required:"].map(|key| text.matches(key).count());
    assert_eq!(counts, [44 + 1, 19 + 2, 19 + 3]);
    for number in crds::limits::NUMBERS {
        let field = number.path.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{field}:\n")), "{field}");
    }
    for absent in [
        "caFile",
        "certificateFile",
        "keyFile",
        "tokenFile",
        "listen:",
        "passwordFile",
        "passwordEnv",
        "nullable",
        "default: null",
    ] {
        assert!(!text.contains(absent), "{absent}");
    }
}

fn each(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        each(property, &format!("{path}.{name}"), visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            each(&schema[key], &format!("{path}{mark}"), visit);
        }
    }
}
