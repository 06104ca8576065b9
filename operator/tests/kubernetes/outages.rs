//! Operators and API servers come and go; the relays run on.

use crate::cluster::{Place, condition, control, minimal, prepare, scratch, start};
use crate::played::Relays;
use crate::running::{operator, operator_with};
use serde_json::json;

pub(crate) async fn when_the_leader_is_killed_another_one_takes_over() {
    let place = Place::new("failover").await;
    let relays = Relays::play(&place).await;
    let mut first = operator(&place, relays.port, "first").await;
    first.until_log("leads").await;
    let mut second = operator(&place, relays.port, "second").await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    assert!(!second.log().contains("leads"), "two lead at once");
    relays.forget();

    first.kill();
    second.until_log("leads").await;
    place.change("orders", json!({"shares": 2})).await.unwrap();
    let ready = place.until_ready("orders").await;
    assert_eq!(ready["status"]["shares"], 2);

    // One that is stopped gives the lead away: the next one need not wait for the Lease to expire.
    let third = operator(&place, relays.port, "third").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let stopped = std::time::Instant::now();
    assert!(second.stop().await, "{}", second.log());
    third.until_log("leads").await;
    assert!(
        stopped.elapsed() < operator::leader::DURATION,
        "the Lease was not released"
    );
}

pub(crate) async fn while_the_api_server_is_away_relays_run_on_and_afterwards_an_operator_works() {
    // A control plane of its own: other tests need theirs, and this operator looks after all namespaces.
    let dir = scratch("kubernetes-outage");
    start(&dir);
    prepare(&dir).await;
    let place = Place::on(&dir, "outage").await;
    let relays = Relays::play(&place).await;
    let operator = operator_with(&place, relays.port, "one", &[], true).await;
    let mut relay = minimal("orders");
    // The cluster knows no such kind: nothing fails.
    relay["spec"]["monitoring"] = json!({"serviceMonitor": "Enabled"});
    place.apply(&relay).await.unwrap();
    let ready = place.until_ready("orders").await;
    assert_eq!(condition(&ready, "Stalled").0, "False");
    assert!(
        !operator.log().contains("orbidden"),
        "its rights do not suffice: {}",
        operator.log()
    );
    relays.forget();

    control(&dir, "kill", &["apiserver"]);
    // Longer than the lead lasts without a renewal: the operator ends, and would be started again.
    operator.until_log("the lead was lost").await;
    control(&dir, "restart", &[]);
    let again = operator_with(&place, relays.port, "again", &[], true).await;
    again.until_log("leads").await;
    assert_eq!(relays.happened(), [], "a relay was touched");
    place.change("orders", json!({"shares": 2})).await.unwrap();
    let ready = place.until_ready("orders").await;
    assert_eq!(ready["status"]["shares"], 2);
    control(&dir, "stop", &[]);
}
