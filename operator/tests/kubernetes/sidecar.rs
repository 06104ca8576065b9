//! Relays in the application's own pods, and from one placement to the other.

use crate::cluster::{Place, apply_any, condition, documents, minimal, names_of};
use crate::played::{Happened, Relays};
use crate::running::operator;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// The application of the sample, in the namespace of the test.
async fn application(place: &Place) {
    for mut object in documents("deploy/samples/sidecar-application.yaml") {
        object["metadata"]["namespace"] = json!(place.namespace);
        apply_any(&place.admin, &object).await;
    }
}

fn sidecar() -> Value {
    let mut relay = minimal("orders");
    relay["spec"]["placement"] = json!("Sidecar");
    relay
}

fn stopped_sidecar() -> Happened {
    Happened::Stopped("auto".to_owned())
}

/// The first one that runs owns all slots, so that the resource is ready before the others are.
async fn until_all_run(place: &Place) -> Value {
    let all = |relay: &Value| {
        relay["status"]["readyShares"] == 3
            && condition(relay, "Ready").0 == "True"
            && condition(relay, "Reconciling").0 == "False"
    };
    place.until("orders", "ready with three sidecars", all).await
}

async fn until_names(place: &Place, api_version: &str, kind: &str, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let names = names_of(place, api_version, kind).await;
        if names == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{kind}: {names:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn the_applications_pods_are_found_configured_and_told_of() {
    let place = Place::new("sidecar").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&sidecar()).await.unwrap();
    let without = place
        .until("orders", "without a sidecar", |relay| {
            condition(relay, "Ready") == ("False", "NoSidecar")
        })
        .await;
    assert_eq!(condition(&without, "Reconciling").0, "False");
    for (api_version, kind, expected) in [
        ("v1", "ConfigMap", vec!["orders-relay"]),
        ("v1", "Service", vec!["orders-relay"]),
        ("apps/v1", "Deployment", vec![]),
        ("v1", "ServiceAccount", vec![]),
        ("policy/v1", "PodDisruptionBudget", vec![]),
    ] {
        assert_eq!(names_of(&place, api_version, kind).await, expected, "{kind}");
    }
    let file = place
        .api("v1", "ConfigMap")
        .get("orders-relay")
        .await
        .unwrap()
        .data["data"]["relay.yaml"]
        .clone();
    let loaded = crds::load(file.as_str().unwrap(), std::path::Path::new("")).unwrap();
    assert_eq!(loaded.identity, "sidecar.orders");

    application(&place).await;
    let ready = until_all_run(&place).await;
    let status = &ready["status"];
    assert_eq!(status["shares"], 3, "{status}");
    assert_eq!(status["selector"], "outboxrelay.dev/relay=orders");
    let slots: u64 = status["shareStatuses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["ownedSlots"].as_u64().unwrap())
        .sum();
    assert_eq!(slots, 64, "{status}");

    // The operator's hands are off the application: what runs with a former configuration is only told.
    relays.forget();
    relays.script(|script| script.configuration = Some("former".to_owned()));
    let outdated = place
        .until("orders", "outdated", |relay| {
            condition(relay, "Reconciling") == ("True", "SidecarsOutdated")
        })
        .await;
    assert_eq!(condition(&outdated, "Ready").0, "True");
    assert_eq!(relays.happened(), []);
}

/// Sidecars read a Secret again by themselves, so nobody has to restart them.
pub(crate) async fn a_rotated_secret_is_no_reason_to_restart_sidecars() {
    let place = Place::new("sidecar-secret").await;
    let relays = Relays::play(&place).await;
    let operator = operator(&place, relays.port, "one").await;
    let secret = |password: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "scylla", "namespace": "sidecar-secret"},
            "stringData": {"username": "relay", "password": password}})
    };
    apply_any(&place.admin, &secret("first")).await;
    let mut relay = sidecar();
    relay["spec"]["source"]["credentialsSecretRef"] = json!({"name": "scylla"});
    place.apply(&relay).await.unwrap();
    application(&place).await;
    until_all_run(&place).await;
    relays.forget();
    apply_any(&place.admin, &secret("second")).await;
    // The operator reads Secrets again every second, and relays are asked every ten.
    tokio::time::sleep(Duration::from_secs(13)).await;
    let relay = place.relays().get("orders").await.unwrap();
    let relay = serde_json::to_value(relay).unwrap();
    assert_eq!(
        condition(&relay, "Reconciling"),
        ("False", "Reconciled"),
        "{}",
        operator.log()
    );
    assert_eq!(relays.happened(), []);
}

pub(crate) async fn from_one_placement_to_the_other_the_former_drains_first() {
    let place = Place::new("placement").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;

    relays.script(|script| script.hold_drain = true);
    place.apply(&sidecar()).await.unwrap();
    let draining = place
        .until("orders", "draining", |relay| {
            condition(relay, "Reconciling") == ("True", "Draining")
        })
        .await;
    assert_eq!(condition(&draining, "Ready"), ("False", "Draining"));
    application(&place).await;
    relays.script(|script| script.hold_drain = false);
    place.until_ready("orders").await;
    until_names(&place, "apps/v1", "Deployment", &[]).await;
    until_names(&place, "v1", "ServiceAccount", &[]).await;
    until_names(&place, "policy/v1", "PodDisruptionBudget", &[]).await;
    until_names(&place, "v1", "ConfigMap", &["orders-relay"]).await;

    // Back: as long as the application has sidecars no share starts, and their configuration stays.
    relays.forget();
    place
        .change("orders", json!({"placement": "Deployments"}))
        .await
        .unwrap();
    place
        .until("orders", "waiting for the sidecars", |relay| {
            condition(relay, "Reconciling") == ("True", "Draining")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(names_of(&place, "apps/v1", "Deployment").await, [] as [&str; 0]);
    assert!(
        names_of(&place, "v1", "ConfigMap")
            .await
            .contains(&"orders-relay".to_owned())
    );
    let label = json!({"spec": {"template": {"metadata": {"labels": {"outboxrelay.dev/relay": null}}}}});
    let applications = place.api("apps/v1", "Deployment");
    applications
        .patch("orders", &PatchParams::default(), &Patch::Merge(label))
        .await
        .unwrap();
    // Nobody plays that the new pods become ready, so the old ones are stopped by hand.
    applications
        .delete("orders", &DeleteParams::background())
        .await
        .unwrap();
    place.until_ready("orders").await;
    let happened = relays.happened();
    let started = happened
        .iter()
        .position(|event| *event == Happened::Started("1-of-1".to_owned()));
    let stopped = happened.iter().rposition(|event| *event == stopped_sidecar());
    assert!(stopped.unwrap() < started.unwrap(), "{happened:?}");
    let made = names_of(&place, "v1", "ConfigMap").await;
    assert_eq!(made.len(), 1, "{made:?}");
}
