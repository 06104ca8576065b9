//! What the operator makes: children as they must be, kept so, and nothing of anybody else's.

use crate::cluster::{Place, condition, minimal, names_of, until};
use crate::played::Relays;
use crate::running::operator;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

async fn get(place: &Place, api_version: &str, kind: &str, name: &str) -> Value {
    serde_json::to_value(place.api(api_version, kind).get(name).await.unwrap()).unwrap()
}

async fn until_count(place: &Place, api_version: &str, kind: &str, count: usize) {
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let names = names_of(place, api_version, kind).await;
        if names.len() == count {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{kind}: {names:?}, not {count}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn until_nothing_is_left(place: &Place) {
    for (api_version, kind) in [
        ("v1", "Pod"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("policy/v1", "PodDisruptionBudget"),
        ("apps/v1", "Deployment"),
    ] {
        until_count(place, api_version, kind, 0).await;
    }
}

pub(crate) async fn five_fields_become_a_relay_that_is_ready_and_deletion_leaves_nothing() {
    let place = Place::new("five-fields").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    let ready = place.until_ready("orders").await;

    let status = &ready["status"];
    assert_eq!(
        (&status["shares"], &status["readyShares"]),
        (&json!(1), &json!(1)),
        "{status}"
    );
    assert_eq!(
        (&status["phase"], &status["breaker"]),
        (&json!("Streaming"), &json!("Closed"))
    );
    assert_eq!(
        status["selector"],
        "app.kubernetes.io/name=outbox-relay,outboxrelay.dev/relay=orders"
    );
    for (type_, expected) in [
        ("Reconciling", ("False", "Reconciled")),
        ("Stalled", ("False", "NotStalled")),
        ("SourceConnected", ("True", "Connected")),
        ("SinkConnected", ("True", "Connected")),
        ("CircuitClosed", ("True", "Closed")),
        ("DeadLettersEmpty", ("True", "Empty")),
        ("RetentionSafe", ("True", "NothingExpires")),
        ("OrderPreserved", ("True", "Preserved")),
        ("DeliveryAudited", ("Unknown", "NotAudited")),
    ] {
        assert_eq!(condition(&ready, type_), expected, "{type_}");
    }

    let deployment = get(&place, "apps/v1", "Deployment", "orders-relay-1-of-1").await;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["resources"]["requests"]["memory"], "192Mi",
        "defaults of maps are kept"
    );
    let owner = &deployment["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("OutboxRelay"), &ready["metadata"]["uid"])
    );
    let config = deployment["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].clone();
    let config = get(&place, "v1", "ConfigMap", config.as_str().unwrap()).await;
    let file = config["data"]["relay.yaml"].as_str().unwrap();
    let loaded = crds::load(file, std::path::Path::new("")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        (loaded.identity.as_str(), loaded.shares),
        ("five-fields.orders", 1)
    );
    for kind in ["Service", "ServiceAccount"] {
        assert_eq!(names_of(&place, "v1", kind).await, ["orders-relay"], "{kind}");
    }
    for (shares, budgets) in [(1, 0), (2, 1), (1, 0)] {
        place.change("orders", json!({"shares": shares})).await.unwrap();
        place.until_ready("orders").await;
        until_count(&place, "policy/v1", "PodDisruptionBudget", budgets).await;
    }

    place
        .relays()
        .delete("orders", &DeleteParams::default())
        .await
        .unwrap();
    until_nothing_is_left(&place).await;
}

pub(crate) async fn what_belongs_to_somebody_else_is_not_touched() {
    let place = Place::new("foreign").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    let foreign = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "orders-relay", "namespace": "foreign"}, "spec": {"ports": [{"port": 1}]}});
    crate::cluster::apply_any(&place.admin, &foreign).await;
    let before = get(&place, "v1", "Service", "orders-relay").await;
    place.apply(&minimal("orders")).await.unwrap();
    let stalled = place
        .until("orders", "stalled", |relay| {
            condition(relay, "Stalled") == ("True", "NameConflict")
        })
        .await;
    assert_eq!(condition(&stalled, "Ready"), ("False", "NameConflict"));
    assert_eq!(condition(&stalled, "Reconciling").0, "False");
    assert_eq!(stalled["status"]["observedGeneration"], 1);
    let message = stalled["status"]["conditions"].to_string();
    assert!(
        message.contains("Service \\\"orders-relay\\\" exists and does not belong to this OutboxRelay"),
        "{message}"
    );
    assert_eq!(
        get(&place, "v1", "Service", "orders-relay").await,
        before,
        "the foreign object changed"
    );
    let made = names_of(&place, "v1", "ConfigMap").await;
    assert!(
        made.is_empty(),
        "children were made before all were known to be free: {made:?}"
    );

    place
        .api("v1", "Service")
        .delete("orders-relay", &DeleteParams::default())
        .await
        .unwrap();
    place.until_ready("orders").await;
}

pub(crate) async fn children_that_others_change_or_remove_become_as_they_must_be() {
    let place = Place::new("drift").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;

    let deployments = place.api("apps/v1", "Deployment");
    let name = "orders-relay-1-of-1";
    let edit = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "relay", "image": "other:1"}]}}}});
    let by_hand = PatchParams::apply("by-hand");
    let conflict = deployments
        .patch(name, &by_hand, &Patch::Apply(&edit))
        .await
        .unwrap_err();
    assert!(
        conflict.to_string().contains("outbox-relay-operator"),
        "the fields are not the operator's: {conflict}"
    );
    deployments
        .patch(name, &by_hand.force(), &Patch::Apply(&edit))
        .await
        .unwrap();
    until(&deployments, name, "what the operator wants", |now| {
        now["spec"]["replicas"] == 1
            && now["spec"]["template"]["spec"]["containers"][0]["image"] == "relay:test"
    })
    .await;

    // Without its labels no watch shows it; it exists all the same, and is not somebody else's.
    let services = place.api("v1", "Service");
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
    services
        .patch("orders-relay", &PatchParams::default(), &unlabelled)
        .await
        .unwrap();
    until(&services, "orders-relay", "labelled again", |now| {
        now["metadata"]["labels"]["outboxrelay.dev/relay"] == "orders"
    })
    .await;
    services
        .delete("orders-relay", &DeleteParams::default())
        .await
        .unwrap();
    until(&services, "orders-relay", "there again", |now| {
        !now.is_null() && now["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    deployments
        .delete(name, &DeleteParams::background())
        .await
        .unwrap();
    until(&deployments, name, "there again", |now| {
        !now.is_null() && now["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    place.until_ready("orders").await;
}
