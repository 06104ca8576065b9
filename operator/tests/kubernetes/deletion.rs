//! The end of resources: state stays unless it is to go, and what keeps it from going is told.

use crate::cluster::{Place, condition, minimal, names_of, until};
use crate::jobs::ending_pods_until;
use crate::played::Relays;
use crate::running::{operator, operator_with};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use std::time::Duration;

fn to_delete() -> Value {
    let mut relay = minimal("orders");
    relay["spec"]["deletionPolicy"] = json!("Delete");
    relay
}

async fn until_job(place: &Place) -> Value {
    let jobs = place.api("batch/v1", "Job");
    until(&jobs, "orders-relay", "a Job", |job| {
        !job.is_null() && job["metadata"]["deletionTimestamp"].is_null()
    })
    .await
}

async fn until_gone(place: &Place) {
    place.until("orders", "nothing", Value::is_null).await;
}

async fn delete(place: &Place) {
    place
        .relays()
        .delete("orders", &DeleteParams::default())
        .await
        .unwrap();
}

pub(crate) async fn only_a_resource_whose_state_is_to_go_has_a_finalizer() {
    let place = Place::new("finalizer").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    let ready = place.until_ready("orders").await;
    assert!(ready["metadata"]["finalizers"].is_null(), "{}", ready["metadata"]);
    place
        .change("orders", json!({"deletionPolicy": "Delete"}))
        .await
        .unwrap();
    place
        .until("orders", "finalized", |relay| {
            relay["metadata"]["finalizers"] == json!(["outboxrelay.dev/state"])
        })
        .await;
    place
        .change("orders", json!({"deletionPolicy": "Retain"}))
        .await
        .unwrap();
    place
        .until("orders", "without a finalizer", |relay| {
            relay["metadata"]["finalizers"].is_null()
        })
        .await;
    delete(&place).await;
    until_gone(&place).await;
    assert_eq!(names_of(&place, "batch/v1", "Job").await, [] as [&str; 0]);
}

pub(crate) async fn state_goes_by_a_job_after_the_relays_have_stopped() {
    let place = Place::new("state-goes").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&to_delete()).await.unwrap();
    place.until_ready("orders").await;
    relays.script(|script| script.hold_drain = true);
    delete(&place).await;
    let ending = place
        .until("orders", "ending", |relay| {
            condition(relay, "Ready") == ("False", "Deleting")
        })
        .await;
    assert_eq!(condition(&ending, "Reconciling"), ("True", "Deleting"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        names_of(&place, "batch/v1", "Job").await,
        [] as [&str; 0],
        "a Job beside a relay that runs"
    );
    relays.script(|script| script.hold_drain = false);
    let job = until_job(&place).await;
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["args"],
        json!([
            "state",
            "delete",
            "--yes",
            "--file",
            "/etc/outbox-relay/config/relay.yaml"
        ])
    );
    let config = pod["volumes"][0]["configMap"]["name"].as_str().unwrap();
    assert_eq!(
        names_of(&place, "v1", "ConfigMap").await,
        [config],
        "what the Job needs is there"
    );
    assert!(
        job["spec"]["template"]["metadata"]["labels"]["outboxrelay.dev/relay"].is_null(),
        "its pods are no relays"
    );
    ending_pods_until(&place, "orders-relay", (0, "deleted"), Value::is_null).await;
}

pub(crate) async fn a_job_that_fails_is_told_of_and_there_is_a_way_out() {
    let place = Place::new("state-stays").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&to_delete()).await.unwrap();
    place.until_ready("orders").await;
    delete(&place).await;
    until_job(&place).await;
    let said = "a log line\nsource.contactPoints: no session to scylla:9042\n";
    let not_deleted = |relay: &Value| condition(relay, "Stalled") == ("True", "StateNotDeleted");
    let stalled = ending_pods_until(&place, "orders-relay", (1, said), not_deleted).await;
    let text = stalled["status"].to_string();
    for part in ["no session to scylla:9042", "Set spec.deletionPolicy to Retain"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    place
        .change("orders", json!({"deletionPolicy": "Retain"}))
        .await
        .unwrap();
    until_gone(&place).await;
}

pub(crate) async fn a_namespace_that_is_deleted_is_not_held_up() {
    let place = Place::new("namespace-goes").await;
    let relays = Relays::play(&place).await;
    // With rights in all namespaces: those in one go with it, and whoever loses them can remove no finalizer.
    let arguments = [
        "--namespace",
        &place.namespace,
        "--lease-namespace",
        "outbox-relay-system",
    ];
    let operator = operator_with(&place, relays.port, "one", &arguments, true).await;
    place.apply(&to_delete()).await.unwrap();
    place.until_ready("orders").await;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(place.admin.clone());
    namespaces
        .delete(&place.namespace, &DeleteParams::default())
        .await
        .unwrap();
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while let Some(namespace) = namespaces.get_opt(&place.namespace).await.unwrap() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}\n{}",
            namespace.status,
            operator.log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
