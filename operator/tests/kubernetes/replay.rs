//! A replay that is asked for once becomes a Job, its end becomes status and Event, and no relay is touched for it.

use crate::cluster::{Place, minimal, names_of, until};
use crate::jobs::ending_pods_until;
use crate::played::Relays;
use crate::running::operator;
use crate::truth::events;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than an operator waits between two looks at a Job, three times.
const QUIET: Duration = Duration::from_secs(7);

async fn ask(place: &Place, request: Value) {
    let changed = place
        .change("orders", json!({"deadLetter": {"replayRequest": request}}))
        .await;
    changed.unwrap();
}

fn is(relay: &Value, id: &str, phase: &str) -> bool {
    let replay = &relay["status"]["replay"];
    replay["id"] == id && replay["phase"] == phase
}

async fn until_phase(place: &Place, id: &str, phase: &str) -> Value {
    let is_so = |relay: &Value| is(relay, id, phase);
    let mut relay = place.until("orders", &format!("{id} {phase}"), is_so).await;
    relay["status"]["replay"].take()
}

fn job_of(replay: &Value) -> String {
    replay["job"].as_str().unwrap().to_owned()
}

/// What restarts relays: their Deployments, and what these run with.
async fn relays_of(place: &Place) -> Value {
    let deployment = place
        .api("apps/v1", "Deployment")
        .get("orders-relay-1-of-1")
        .await;
    let deployment = deployment.unwrap();
    json!([
        deployment.metadata.uid,
        deployment.metadata.generation,
        names_of(place, "v1", "ConfigMap").await,
        names_of(place, "v1", "Pod").await,
    ])
}

pub(crate) async fn a_request_is_carried_out_once_and_told_whoever_leads() {
    let place = Place::new("replay").await;
    let relays = Relays::play(&place).await;
    let mut first = operator(&place, relays.port, "one").await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    let before = relays_of(&place).await;

    ask(
        &place,
        json!({"id": "one", "class": "Message", "olderThanSeconds": 60}),
    )
    .await;
    let running = until_phase(&place, "one", "Running").await;
    let job = job_of(&running);
    let jobs = place.api("batch/v1", "Job");
    let made = serde_json::to_value(jobs.get(&job).await.unwrap()).unwrap();
    let args = made["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    for expected in [
        "--class=message",
        "--older-than=60s",
        "--result-file=/dev/termination-log",
    ] {
        assert!(args.contains(expected), "{args}");
    }
    // Another one that is asked for meanwhile waits; an operator that comes in between runs nothing again.
    ask(&place, json!({"id": "two", "eventType": "OrderCreated"})).await;
    first.kill();
    let second = operator(&place, relays.port, "two").await;
    second.until_log("leads").await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(names_of(&place, "batch/v1", "Job").await, [job.as_str()]);
    let relay = place.relays().get("orders").await.unwrap();
    assert!(is(&serde_json::to_value(relay).unwrap(), "one", "Running"));

    let said = r#"{"letters":3,"replayed":3,"failed":0,"waiting":0,"refused":0}"#;
    let taken_up = |relay: &Value| is(relay, "two", "Running");
    let relay = ending_pods_until(&place, &job, (0, said), taken_up).await;
    let next = job_of(&relay["status"]["replay"]);
    let done = events(&place, "ReplaySucceeded").await;
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].data["note"], "replay one: 3 of 3 dead letters replayed");
    until(&jobs, &job, "let go", |job| {
        job["spec"]["ttlSecondsAfterFinished"] == 3600
    })
    .await;

    let said = r#"{"letters":3,"replayed":1,"failed":1,"waiting":1,"refused":2,"message":"failed again: x"}"#;
    let failed = |relay: &Value| is(relay, "two", "Failed");
    let relay = ending_pods_until(&place, &next, (1, said), failed).await;
    let told = &relay["status"]["replay"];
    let counts = ["letters", "replayed", "failed", "waiting", "refused"].map(|count| told[count].as_u64());
    assert_eq!(
        (counts, told["message"].as_str()),
        ([3, 1, 1, 1, 2].map(Some), Some("failed again: x"))
    );
    assert!(
        told["startedAt"].is_string() && told["completedAt"].is_string(),
        "{told}"
    );
    let failed = events(&place, "ReplayFailed").await;
    assert_eq!(
        failed[0].data["note"],
        "replay two: 1 of 3 dead letters replayed, 1 failed again, 1 still asked for, 2 refused: failed again: x"
    );
    drop(second);
    let third = operator(&place, relays.port, "three").await;
    third.until_log("leads").await;
    tokio::time::sleep(QUIET).await;
    let mut expected = [job, next];
    expected.sort();
    assert_eq!(names_of(&place, "batch/v1", "Job").await, expected);
    assert_eq!(
        (
            events(&place, "ReplayFailed").await.len(),
            events(&place, "ReplayStarted").await.len()
        ),
        (1, 2)
    );
    assert_eq!(relays_of(&place).await, before, "relays were touched");
}

pub(crate) async fn a_request_waits_while_paused_and_a_job_that_is_deleted_is_not_made_again() {
    let place = Place::new("replay-deleted").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    let mut relay = minimal("orders");
    relay["spec"]["paused"] = json!(true);
    relay["spec"]["deadLetter"] = json!({"replayRequest": {"id": "one", "olderThanSeconds": 0}});
    place.apply(&relay).await.unwrap();
    let waits = |relay: &Value| relay["status"]["replay"]["message"] == "it begins when spec.paused is false";
    place.until("orders", "waiting", waits).await;
    assert_eq!(names_of(&place, "batch/v1", "Job").await, [] as [&str; 0]);
    place.change("orders", json!({"paused": false})).await.unwrap();
    let job = job_of(&until_phase(&place, "one", "Running").await);
    let jobs = place.api("batch/v1", "Job");
    jobs.delete(&job, &DeleteParams::background()).await.unwrap();
    let failed = until_phase(&place, "one", "Failed").await;
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("its Job was deleted before it had ended"),
        "{message}"
    );
    tokio::time::sleep(QUIET).await;
    assert_eq!(names_of(&place, "batch/v1", "Job").await, [] as [&str; 0]);
    // The same id with other letters would never be carried out.
    let same = json!({"deadLetter": {"replayRequest": {"id": "one", "class": "Message"}}});
    let error = place.change("orders", same).await.unwrap_err().to_string();
    assert!(error.contains("an id is carried out once"), "{error}");
}

pub(crate) async fn a_resource_that_goes_with_its_state_takes_its_replay_along() {
    let place = Place::new("replay-goes").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    let mut relay = minimal("orders");
    relay["spec"]["deletionPolicy"] = json!("Delete");
    relay["spec"]["deadLetter"] = json!({"replayRequest": {"id": "one", "class": "Transient"}});
    place.apply(&relay).await.unwrap();
    let job = job_of(&until_phase(&place, "one", "Running").await);
    let relays = place.relays();
    relays.delete("orders", &DeleteParams::default()).await.unwrap();
    let failed = until_phase(&place, "one", "Failed").await;
    assert_eq!(failed["message"], "the resource was deleted");
    until(&place.api("batch/v1", "Job"), &job, "gone", Value::is_null).await;
    ending_pods_until(&place, "orders-relay", (0, "deleted"), Value::is_null).await;
}

/// Where no relay is a pod of the operator, the Job's pod has no account and no configuration to run with until it is made.
pub(crate) async fn beside_sidecars_a_job_has_what_it_needs_and_leaves_nothing() {
    let place = Place::new("replay-sidecar").await;
    let relays = Relays::play(&place).await;
    let _operator = operator(&place, relays.port, "one").await;
    let mut relay = minimal("orders");
    relay["spec"]["placement"] = json!("Sidecar");
    place.apply(&relay).await.unwrap();
    let configs = place.api("v1", "ConfigMap");
    until(&configs, "orders-relay", "made", |config| !config.is_null()).await;
    ask(&place, json!({"id": "one", "aggregateId": "a-1"})).await;
    let job = job_of(&until_phase(&place, "one", "Running").await);
    let made = serde_json::to_value(place.api("batch/v1", "Job").get(&job).await.unwrap()).unwrap();
    let pod = &made["spec"]["template"]["spec"];
    let config = pod["volumes"][0]["configMap"]["name"].as_str().unwrap();
    tokio::time::sleep(QUIET).await;
    assert!(
        names_of(&place, "v1", "ConfigMap")
            .await
            .contains(&config.to_owned())
    );
    assert_eq!(
        names_of(&place, "v1", "ServiceAccount").await,
        [pod["serviceAccountName"].as_str().unwrap()]
    );
    let said = r#"{"letters":0,"replayed":0,"failed":0,"waiting":0,"refused":0}"#;
    let succeeded = |relay: &Value| is(relay, "one", "Succeeded");
    ending_pods_until(&place, &job, (0, said), succeeded).await;
    let accounts = place.api("v1", "ServiceAccount");
    until(&accounts, "orders-relay", "gone", Value::is_null).await;
    until(&configs, config, "gone", Value::is_null).await;
}
