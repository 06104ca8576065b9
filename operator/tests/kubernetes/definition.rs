//! The definition on a real API server: it fits the cost budget of its rules, takes the samples, and refuses what is
//! wrong with a message that says how to mend it.

use crate::cluster::{Place, apply_any, documents, minimal, repository};
use serde_json::{Value, json};

pub(crate) async fn every_sample_is_accepted() {
    let place = Place::new("shop").await;
    let mut samples = 0;
    for entry in std::fs::read_dir(repository().join("deploy/samples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        for mut sample in documents(&format!("deploy/samples/{name}")) {
            sample["metadata"]["namespace"] = json!("shop");
            if sample["kind"] == "OutboxRelay" {
                sample["metadata"]["name"] = json!(name.trim_end_matches(".yaml"));
            }
            apply_any(&place.admin, &sample).await;
            samples += 1;
        }
    }
    assert!(samples >= 6, "only {samples} samples were found");
}

/// What the API server says to this change of the five-field resource.
async fn refusal(place: &Place, change: &Value) -> String {
    let mut relay = minimal("refused");
    merge(&mut relay, change);
    match place.apply(&relay).await {
        Err(kube::Error::Api(status)) => status.message,
        other => panic!("{change} was not refused: {other:?}"),
    }
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

pub(crate) async fn envelopes_that_do_not_fit_together_are_refused() {
    let place = Place::new("refused-envelopes").await;
    for (spec, expected) in [
        (
            json!({"sink": {"cloudEvents": {"source": "/orders"}}}),
            "sink.cloudEvents must be given with sink.envelope CloudEventsBinary or CloudEventsStructured only",
        ),
        (
            json!({"sink": {"envelope": "CloudEventsBinary", "debezium": {}}}),
            "sink.debezium must be given with sink.envelope Debezium only",
        ),
        (
            json!({"sink": {"envelope": "Debezium", "payloadFormat": "Json", "debezium": {"converter": "JsonWithSchemas"}}}),
            "JsonWithSchemas needs sink.payloadFormat Text or Raw",
        ),
        (
            json!({"sink": {"envelope": "Debezium", "debezium": {"eventType": "Envelope"}}}),
            "sink.debezium.eventType Envelope needs sink.debezium.converter Json",
        ),
        (
            json!({"sink": {"envelope": "Debezium", "headers": [{"name": "id", "value": "x"}]}}),
            "a name other than id and eventType",
        ),
        (
            json!({"sink": {"envelope": "CloudEventsBinary", "headers": [{"name": "ce_x", "value": "x"}]}}),
            "a name other than content-type and those that begin with ce_",
        ),
    ] {
        let message = refusal(&place, &json!({"spec": spec})).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}

pub(crate) async fn secrets_that_are_half_named_are_refused() {
    let place = Place::new("refused-secrets").await;
    for (spec, expected) in [
        (
            json!({"sink": {"sasl": {"mechanism": "OAuthBearer", "credentialsSecretRef": {"name": "x"}}}}),
            "sink.sasl.oauthBearer must be given with sink.sasl.mechanism OAuthBearer, and only then",
        ),
        (
            json!({"sink": {"sasl": {"mechanism": "OAuthBearer", "credentialsSecretRef": {"name": "x"},
                "oauthBearer": {"tokenEndpoint": "http://login/token"}}}}),
            "spec.sink.sasl.oauthBearer.tokenEndpoint",
        ),
        (
            json!({"http": {"tls": {"certificateSecretRef": {"name": "x"}}}}),
            "spec.http.tls.caSecretRef: Required value",
        ),
        (
            json!({"source": {"tls": {"certificateSecretRef": {}}}}),
            "spec.source.tls.certificateSecretRef.name: Required value",
        ),
    ] {
        let message = refusal(&place, &json!({"spec": spec})).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}

pub(crate) async fn replays_that_cannot_be_are_refused() {
    let place = Place::new("refused-replays").await;
    for (dead_letter, expected) in [
        (
            json!({"target": "Topic", "topic": "dead", "replay": {}}),
            "deadLetter.replay needs deadLetter.target Table or Both",
        ),
        (
            json!({"replay": {"initialBackoffSeconds": 120, "maxBackoffSeconds": 60}}),
            "deadLetter.replay.maxBackoffSeconds must be at least deadLetter.replay.initialBackoffSeconds",
        ),
        (
            json!({"replayRequest": {"class": "Message"}}),
            "spec.deadLetter.replayRequest.id: Required value",
        ),
        (
            json!({"replayRequest": {"id": "at noon", "class": "Message"}}),
            "spec.deadLetter.replayRequest.id",
        ),
        (
            json!({"replayRequest": {"id": "1"}}),
            "deadLetter.replayRequest needs a filter: eventId, eventType, aggregateId, class, or olderThanSeconds",
        ),
        (
            json!({"replayRequest": {"id": "1", "eventType": ""}}),
            "should be at least 1 chars long",
        ),
        (
            json!({"replayRequest": {"id": "1", "class": "message"}}),
            "supported values: \"Message\"",
        ),
    ] {
        let message = refusal(&place, &json!({"spec": {"deadLetter": dead_letter}})).await;
        assert!(message.contains(expected), "{dead_letter}: {message}");
    }
}

pub(crate) async fn what_is_wrong_is_refused_with_what_would_be_right() {
    let place = Place::new("refused").await;
    for (spec, expected) in [
        (json!({"shares": 0}), "should be greater than or equal to 1"),
        (json!({"shares": 65}), "should be less than or equal to 64"),
        (
            json!({"source": {"table": ""}}),
            "must be letters, digits and underscores",
        ),
        (
            json!({"source": {"table": "outbox-messages"}}),
            "source.table must be letters, digits and underscores",
        ),
        (
            json!({"source": {"table": "outbox_scylla_cdc_log"}}),
            "must be the outbox table itself, not its CDC log",
        ),
        (
            json!({"source": {"startFrom": "yesterday"}}),
            "must be Oldest, Now, Snapshot or a time as in 2026-01-31T12:00:00Z",
        ),
        (
            json!({"source": {"startFrom": "Snapshot", "mode": "Polling", "cleanup": "Delete"}}),
            "source.startFrom must not be Snapshot with source.mode Polling",
        ),
        (
            json!({"source": {"startFrom": "Snapshot"}, "sink": {"guarantee": "ExactlyOnce"}}),
            "source.startFrom must not be Snapshot with sink.guarantee ExactlyOnce",
        ),
        (
            json!({"source": {"contactPoints": []}}),
            "should have at least 1 items",
        ),
        (
            json!({"sink": {"topic": "order events"}}),
            "sink.topic must be letters, digits, dots, underscores and dashes",
        ),
        (
            json!({"sink": {"key": "Column"}}),
            "sink.keyColumn must be given with sink.key Column, and only then",
        ),
        (
            json!({"sink": {"guarantee": "ExactlyTwice"}}),
            "supported values: \"AtLeastOnce\"",
        ),
        (
            json!({"retry": {"initialBackoffMilliseconds": 600}}),
            "must be at least retry.initialBackoffMilliseconds",
        ),
        (
            json!({"deadLetter": {"target": "Topic"}}),
            "deadLetter.topic must be given with deadLetter.target Topic or Both",
        ),
        (
            json!({"deadLetter": {"target": "Topic", "topic": "order-events"}}),
            "deadLetter.topic must be a topic other than sink.topic",
        ),
        (
            json!({"template": {"resources": {"limits": {"memory": "much"}}}}),
            "spec.template.resources.limits.memory",
        ),
        (
            json!({"monitoring": {"intervalSeconds": 0}}),
            "should be greater than or equal to 1",
        ),
        (
            json!({"placement": "Sidecar", "shares": 2}),
            "shares must be 1 with placement Sidecar",
        ),
        (
            json!({"placement": "Sidecar", "paused": true}),
            "paused must be false with placement Sidecar",
        ),
        (json!({"sourc": {}}), "field not declared in schema"),
    ] {
        let message = refusal(&place, &json!({"spec": spec})).await;
        assert!(message.contains(expected), "{spec}: {message}");
    }
}

pub(crate) async fn names_that_fit_no_service_and_what_is_missing_are_refused() {
    let place = Place::new("misnamed").await;
    let long = "o".repeat(58);
    for name in ["orders.eu", "1orders", long.as_str()] {
        let message = refusal(&place, &json!({"metadata": {"name": name}})).await;
        assert!(
            message.contains("metadata.name must be at most 57 lower case letters"),
            "{name}: {message}"
        );
    }
    let mut relay = minimal("refused");
    relay["spec"]["source"].as_object_mut().unwrap().remove("table");
    let message = place.apply(&relay).await.unwrap_err().to_string();
    assert!(message.contains("spec.source.table: Required value"), "{message}");
}

pub(crate) async fn what_is_the_key_of_progress_cannot_change() {
    let place = Place::new("immutable").await;
    place.apply(&minimal("orders")).await.unwrap();
    for (change, expected) in [
        (json!({"identity": "other"}), "identity is immutable"),
        (
            json!({"source": {"keyspace": "other"}}),
            "source.keyspace is immutable",
        ),
        (json!({"source": {"table": "other"}}), "source.table is immutable"),
        (
            json!({"state": {"keyspace": "other"}}),
            "state.keyspace is immutable",
        ),
    ] {
        let error = place
            .change("orders", change.clone())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{change}: {error}");
    }
    place
        .change("orders", json!({"shares": 3, "sink": {"topic": "other-events"}}))
        .await
        .unwrap();
}
