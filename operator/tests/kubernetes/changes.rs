//! Changes: the old drains before the new starts, shares roll one after another, pausing works from every state.

use crate::cluster::{Place, condition, is_observed, minimal, names_of};
use crate::played::{Happened, Relays};
use crate::running::operator;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

fn started(share: &str) -> Happened {
    Happened::Started(share.to_owned())
}

fn stopped(share: &str) -> Happened {
    Happened::Stopped(share.to_owned())
}

async fn ready_with(place: &Place, relays: &Relays, shares: u32) {
    let mut relay = minimal("orders");
    relay["spec"]["shares"] = json!(shares);
    place.apply(&relay).await.unwrap();
    place.until_ready("orders").await;
    relays.forget();
}

pub(crate) async fn scaling_starts_the_new_shares_when_the_last_old_one_has_stopped() {
    let place = Place::new("scale").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    ready_with(&place, &relays, 2).await;

    relays.script(|script| script.hold_drain = true);
    // As `kubectl scale obr/orders --replicas=3` does it.
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    place
        .relays()
        .patch_subresource("scale", "orders", &PatchParams::default(), &scale)
        .await
        .unwrap();
    let draining = place
        .until("orders", "draining", |relay| {
            condition(relay, "Reconciling") == ("True", "Draining")
        })
        .await;
    assert_eq!(condition(&draining, "Ready"), ("False", "Draining"));
    assert!(is_observed(&draining), "{draining}");
    // Time for a new share to start if it would.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let deployments = names_of(&place, "apps/v1", "Deployment").await;
    assert!(
        deployments.iter().all(|name| !name.ends_with("of-3")),
        "{deployments:?}"
    );

    relays.script(|script| script.hold_drain = false);
    let ready = place.until_ready("orders").await;
    assert_eq!(ready["status"]["shares"], 3);
    let scale = place.relays().get_subresource("scale", "orders").await.unwrap();
    assert_eq!(scale.data["status"]["replicas"], 3);
    let happened = relays.happened();
    let last_stop = happened
        .iter()
        .rposition(|event| matches!(event, Happened::Stopped(_)))
        .unwrap();
    let first_start = happened
        .iter()
        .position(|event| matches!(event, Happened::Started(_)))
        .unwrap();
    assert!(last_stop < first_start && happened.len() == 5, "{happened:?}");
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while names_of(&place, "v1", "ConfigMap").await.len() > 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the former configuration stays"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Waits until the Deployments of two shares count so many ready pods each.
async fn until_ready_replicas(place: &Place, wanted: [u64; 2]) {
    let deployments = place.api("apps/v1", "Deployment");
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let mut ready = [0, 0];
        for (index, count) in ready.iter_mut().enumerate() {
            let name = format!("orders-relay-{}-of-2", index + 1);
            let deployment = deployments.get(&name).await.unwrap();
            *count = deployment.data["status"]["readyReplicas"].as_u64().unwrap_or(0);
        }
        if ready == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{ready:?} are ready");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

pub(crate) async fn a_restart_goes_from_share_to_share_each_ready_before_the_next() {
    let place = Place::new("roll").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    ready_with(&place, &relays, 2).await;

    relays.script(|script| {
        script.unready.insert("1-of-2".to_owned(), "slow".to_owned());
    });
    until_ready_replicas(&place, [0, 1]).await;
    // What delivers nothing is restarted first.
    let annotate = Patch::Merge(json!({"metadata": {"annotations": {"outboxrelay.dev/restartedAt": "now"}}}));
    place
        .relays()
        .patch("orders", &PatchParams::default(), &annotate)
        .await
        .unwrap();
    let rolling = place
        .until("orders", "rolling", |relay| {
            condition(relay, "Reconciling") == ("True", "RollingOut")
        })
        .await;
    assert!(
        rolling["status"]
            .to_string()
            .contains("waiting until 1/2 is ready"),
        "{}",
        rolling["status"]
    );
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while !relays.happened().contains(&started("1-of-2")) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", relays.happened());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(relays.happened(), [stopped("1-of-2"), started("1-of-2")]);

    relays.script(|script| script.unready.clear());
    place
        .until("orders", "rolled", |relay| {
            condition(relay, "Reconciling").0 == "False" && condition(relay, "Ready").0 == "True"
        })
        .await;
    let expected = [
        stopped("1-of-2"),
        started("1-of-2"),
        stopped("2-of-2"),
        started("2-of-2"),
    ];
    assert_eq!(relays.happened(), expected);
}

pub(crate) async fn a_broken_reference_leaves_what_runs_and_a_rotated_secret_rolls_it() {
    let place = Place::new("secrets").await;
    let relays = Relays::play(&place).await;
    let operator = operator(&place, relays.port, "one").await;
    let mut relay = minimal("orders");
    relay["spec"]["source"]["credentialsSecretRef"] = json!({"name": "scylla"});
    place.apply(&relay).await.unwrap();
    let stalled = |reason: &'static str| {
        move |relay: &Value| condition(relay, "Stalled") == ("True", reason) && is_observed(relay)
    };
    let broken = place
        .until("orders", "without its Secret", stalled("SecretNotFound"))
        .await;
    let text = broken["status"].to_string();
    assert!(
        text.contains(
            "spec.source.credentialsSecretRef: there is no Secret \\\"scylla\\\" in this namespace"
        ),
        "{text}"
    );
    let secret = |password: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "scylla", "namespace": "secrets"},
            "stringData": {"username": "relay", "password": password}})
    };
    crate::cluster::apply_any(&place.admin, &secret("first")).await;
    place.until_ready("orders").await;

    relays.forget();
    crate::cluster::apply_any(&place.admin, &secret("second")).await;
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while relays.happened().len() < 2 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the Secret's rotation does not reach the relay"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(relays.happened(), [stopped("1-of-1"), started("1-of-1")]);
    place.until_ready("orders").await;

    // The specification changes and a reference breaks: the relay runs on as it was.
    relays.forget();
    let change =
        json!({"source": {"credentialsSecretRef": {"passwordKey": "gone"}}, "sink": {"topic": "other"}});
    place.change("orders", change).await.unwrap();
    let broken = place
        .until("orders", "without its key", stalled("SecretKeyNotFound"))
        .await;
    assert_eq!(condition(&broken, "Ready"), ("False", "SecretKeyNotFound"));
    assert_eq!(broken["status"]["readyShares"], 1, "{}", broken["status"]);
    assert_eq!(
        condition(&broken, "SinkConnected").0,
        "True",
        "what the relay says is still told"
    );
    assert_eq!(relays.happened(), []);
    // It can be paused all the same.
    place.change("orders", json!({"paused": true})).await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while relays.happened() != [stopped("1-of-1")] {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", relays.happened());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for secret in ["first", "second"] {
        assert!(!operator.log().contains(secret), "a secret in the log");
    }
}

pub(crate) async fn what_only_a_relay_sees_to_be_wrong_stops_at_the_first_share() {
    let place = Place::new("unfit").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    ready_with(&place, &relays, 3).await;
    let said = "source.columns.id: the table has no column \"nonesuch\"; add it, or name another one";
    relays.script(|script| {
        let refused = ("TableUnfit".to_owned(), said.to_owned());
        script.refused.insert("1-of-3".to_owned(), refused);
    });
    place
        .change("orders", json!({"source": {"columns": {"id": "nonesuch"}}}))
        .await
        .unwrap();
    let told = place
        .until("orders", "told", |relay| {
            condition(relay, "SourceConnected") == ("False", "TableUnfit")
                && condition(relay, "Reconciling") == ("True", "RollingOut")
        })
        .await;
    assert_eq!(condition(&told, "Ready"), ("False", "ShareNotReady"));
    assert!(is_observed(&told), "{told}");
    let text = told["status"].to_string();
    assert!(
        text.contains("share 1/3: source.columns.id: the table has no column"),
        "{text}"
    );
    assert_eq!(told["status"]["readyShares"], 2, "{text}");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(
        relays.happened(),
        [stopped("1-of-3"), started("1-of-3")],
        "the others run on"
    );

    // Mended: the broken share first.
    relays.script(|script| script.refused.clear());
    place
        .change("orders", json!({"source": {"columns": {"id": "id"}}}))
        .await
        .unwrap();
    place.until_ready("orders").await;
}

pub(crate) async fn what_only_the_operator_sees_to_be_wrong_becomes_a_condition() {
    let place = Place::new("invalid").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    ready_with(&place, &relays, 1).await;
    place
        .change("orders", json!({"sink": {"properties": {"acks": "1"}}}))
        .await
        .unwrap();
    let invalid = place
        .until("orders", "invalid", |relay| {
            condition(relay, "Stalled") == ("True", "InvalidSpec") && is_observed(relay)
        })
        .await;
    assert_eq!(condition(&invalid, "Ready"), ("False", "InvalidSpec"));
    let text = invalid["status"].to_string();
    assert!(text.contains("spec.sink.properties[acks]: found"), "{text}");
    assert!(
        text.contains("The relays run on with the last configuration that was valid"),
        "{text}"
    );
    assert_eq!(relays.happened(), []);
    place
        .change("orders", json!({"sink": {"properties": {"acks": null}}}))
        .await
        .unwrap();
    place.until_ready("orders").await;
    assert_eq!(relays.happened(), [], "back to what runs: nothing restarts");
}

pub(crate) async fn pausing_stops_all_shares_and_resuming_starts_them() {
    let place = Place::new("pause").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    ready_with(&place, &relays, 2).await;
    place.change("orders", json!({"paused": true})).await.unwrap();
    let paused = place
        .until("orders", "paused", |relay| {
            condition(relay, "Ready") == ("False", "Paused")
                && relay["status"]["shareStatuses"]
                    .as_array()
                    .is_none_or(Vec::is_empty)
        })
        .await;
    assert_eq!(
        (
            condition(&paused, "Reconciling").0,
            condition(&paused, "Stalled").0
        ),
        ("False", "False")
    );
    assert_eq!(paused["status"]["shares"], 0);
    assert!(is_observed(&paused));
    // Another count while paused: nothing starts.
    place.change("orders", json!({"shares": 3})).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    place.until("orders", "observed", is_observed).await;
    assert!(
        relays
            .happened()
            .iter()
            .all(|event| matches!(event, Happened::Stopped(_)))
    );
    place.change("orders", json!({"paused": false})).await.unwrap();
    let ready = place.until_ready("orders").await;
    assert_eq!(ready["status"]["shares"], 3);
}
