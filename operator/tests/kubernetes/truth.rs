//! The status tells what the relays say, no more and no less, and not more often than needed.

use crate::cluster::{Place, condition, minimal};
use crate::played::Relays;
use crate::running::operator;
use crds::relay_status::DataEventKind;
use kube::ResourceExt;
use kube::api::{DynamicObject, ListParams};
use serde_json::json;
use std::time::Duration;

pub(crate) async fn events(place: &Place, reason: &str) -> Vec<DynamicObject> {
    let all = place
        .api("events.k8s.io/v1", "Event")
        .list(&ListParams::default())
        .await
        .unwrap();
    all.items
        .into_iter()
        .filter(|event| event.data["reason"] == reason)
        .collect()
}

pub(crate) async fn what_relays_say_and_do_not_say_is_told() {
    let place = Place::new("truth").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    relays.script(|script| script.pending.push("2-of-2".to_owned()));
    let mut relay = minimal("orders");
    relay["spec"]["shares"] = json!(2);
    place.apply(&relay).await.unwrap();
    let starting = place
        .until("orders", "half started", |relay| {
            relay["status"]["readyShares"] == 1 && condition(relay, "Reconciling").1 == "Starting"
        })
        .await;
    assert_eq!(condition(&starting, "Ready"), ("False", "Starting"));
    assert_eq!(condition(&starting, "Reconciling"), ("True", "Starting"));
    assert_eq!(
        condition(&starting, "SourceConnected"),
        ("Unknown", "ShareNotRunning")
    );

    relays.script(|script| script.pending.clear());
    place.until_ready("orders").await;
    relays.script(|script| {
        script.circuit_open = true;
        script.dead_letters = 3;
    });
    let open = place
        .until("orders", "open", |relay| {
            condition(relay, "CircuitClosed") == ("False", "Open")
        })
        .await;
    assert_eq!(condition(&open, "Ready"), ("False", "ShareNotReady"));
    assert_eq!(condition(&open, "DeadLettersEmpty"), ("False", "Pending"));
    assert_eq!(
        condition(&open, "Reconciling").0,
        "False",
        "the operator has nothing to do"
    );
    assert_eq!(
        (&open["status"]["breaker"], &open["status"]["phase"]),
        (&json!("Open"), &json!("CircuitOpen"))
    );
    assert_eq!(open["status"]["deadLettersPending"], 6);

    relays.script(|script| {
        script.circuit_open = false;
        script.silent.push("1-of-2".to_owned());
    });
    let silent = place
        .until("orders", "unknown", |relay| {
            condition(relay, "Ready") == ("Unknown", "ShareUnreachable")
        })
        .await;
    assert_eq!(
        condition(&silent, "SourceConnected"),
        ("Unknown", "ShareUnreachable")
    );
    assert_eq!(
        condition(&silent, "DeadLettersEmpty").0,
        "False",
        "what is known to be wrong stays wrong"
    );
}

pub(crate) async fn nothing_new_is_not_written_and_numbers_are_written_rarely() {
    let place = Place::new("quiet").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    // Two looks at the relays, at least.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = place.relays().get("orders").await.unwrap().resource_version();
    tokio::time::sleep(Duration::from_secs(23)).await;
    assert_eq!(
        place.relays().get("orders").await.unwrap().resource_version(),
        before,
        "a status was written"
    );

    let mut versions = std::collections::BTreeSet::new();
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(25) {
        relays.script(|script| script.processed += 1000);
        versions.insert(place.relays().get("orders").await.unwrap().resource_version());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The one before, and one in ten seconds.
    assert!((2..=4).contains(&versions.len()), "{versions:?}");
}

pub(crate) async fn a_data_event_becomes_one_kubernetes_event_also_across_a_restart() {
    let place = Place::new("events").await;
    let relays = Relays::play(&place).await;
    let mut first = operator(&place, relays.port, "one").await;
    relays.script(|script| {
        script.events = vec![
            (1, DataEventKind::CircuitOpened),
            (2, DataEventKind::CircuitClosed),
        ]
    });
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    let known = |sequence: u64| {
        move |relay: &serde_json::Value| relay["status"]["shareStatuses"][0]["eventSequence"] == sequence
    };
    place.until("orders", "told", known(2)).await;
    assert!(first.stop().await, "{}", first.log());
    relays.script(|script| script.events.push((3, DataEventKind::DeadLettered)));
    let second = operator(&place, relays.port, "two").await;
    place.until("orders", "told again", known(3)).await;
    for reason in ["CircuitOpened", "CircuitClosed", "DeadLettered"] {
        let found = events(&place, reason).await;
        assert_eq!(found.len(), 1, "{reason}: {found:?}\n{}", second.log());
        assert_eq!(found[0].data["regarding"]["name"], "orders");
    }
    let note = events(&place, "CircuitOpened").await[0].data["note"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(note, "share 1/1, 2026-01-31T12:00:00.000Z: number 1");
}
