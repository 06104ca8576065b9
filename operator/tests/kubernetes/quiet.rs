//! With nothing changing nothing is written, and under load not often: as the API server's audit log has it.

use crate::cluster::{Place, minimal, requests_from};
use crate::played::Relays;
use crate::running::operator_with;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

fn writes(requests: &BTreeMap<String, usize>) -> usize {
    let is_write = |what: &str| {
        !["get ", "list ", "watch "]
            .iter()
            .any(|verb| what.starts_with(verb))
    };
    requests
        .iter()
        .filter(|(what, _)| is_write(what))
        .map(|(_, count)| count)
        .sum()
}

/// An operator that looks ten times as often as it would: a minute is ten of its minutes.
pub(crate) async fn in_ten_minutes_without_a_change_nothing_is_written() {
    let place = Place::new("silence").await;
    let relays = Relays::play(&place).await;
    let arguments = [
        "--namespace",
        &place.namespace,
        "--look-milliseconds",
        "1000",
        "--secret-refresh-seconds",
        "6",
    ];
    let _operator = operator_with(&place, relays.port, "one", &arguments, false).await;
    let mut relay = minimal("orders");
    relay["spec"]["shares"] = json!(2);
    relay["spec"]["source"]["credentialsSecretRef"] = json!({"name": "scylla"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "scylla", "namespace": place.namespace},
        "stringData": {"username": "relay", "password": "secret"}});
    crate::cluster::apply_any(&place.admin, &secret).await;
    place.apply(&relay).await.unwrap();
    place.until_ready("orders").await;
    // What becomes ready may be told once more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let version = place
        .relays()
        .get("orders")
        .await
        .unwrap()
        .metadata
        .resource_version;
    let before = requests_from(&place, &place.namespace);
    assert!(writes(&before) > 5, "the audit log tells nothing: {before:?}");
    let looks = relays.questions();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(
        relays.questions() - looks > 80,
        "it did not look often enough to prove anything"
    );
    let after = requests_from(&place, &place.namespace);
    assert_eq!(
        writes(&after),
        writes(&before),
        "before {before:?}, after {after:?}"
    );
    assert_eq!(
        place
            .relays()
            .get("orders")
            .await
            .unwrap()
            .metadata
            .resource_version,
        version
    );
    // One Secret, read every six seconds.
    let reads = after["get secrets"] - before["get secrets"];
    assert!((5..=12).contains(&reads), "{reads} reads of one Secret");
}

pub(crate) async fn under_load_a_status_is_written_once_in_ten_seconds() {
    let place = Place::new("load").await;
    let relays = Relays::play(&place).await;
    let arguments = ["--namespace", &place.namespace, "--look-milliseconds", "500"];
    let _operator = operator_with(&place, relays.port, "one", &arguments, false).await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = |of: &BTreeMap<String, usize>| of.get("patch outboxrelays").copied().unwrap_or(0);
    let before = written(&requests_from(&place, &place.namespace));
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(35) {
        relays.script(|script| {
            script.processed += 1000;
            script.catching_up = script.processed % 3000 == 0;
            script.lag_seconds = script.processed % 7;
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let count = written(&requests_from(&place, &place.namespace)) - before;
    assert!((2..=4).contains(&count), "{count} writes in 35 s");
}
