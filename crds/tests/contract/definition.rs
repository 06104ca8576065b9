//! The definition of the custom resource is generated, committed and what the types say.

use crds::outbox_relay::definition::definition;

#[test]
fn the_committed_definition_is_the_types() {
    let text = format!(
        "# Generated from the types in src/; `make generate` rewrites it.\n{}",
        serde_yaml::to_string(&definition()).unwrap()
    );
    crate::matches_file(&crate::repository().join("crds/outboxrelays.yaml"), &text);
}
