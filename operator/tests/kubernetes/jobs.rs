//! Plays the pods of Jobs, which a control plane without nodes leaves pending.

use crate::cluster::{PATIENCE, Place};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// Says how the pods of a Job ended, as a kubelet would.
pub(crate) async fn end_pods_of_job(place: &Place, job: &str, exit_code: i64, said: &str) {
    let pods = place.api("v1", "Pod");
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    let status = json!({"status": {"phase": phase, "containerStatuses": [{
        "name": "relay", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "message": said}},
    }]}});
    for pod in pods.list(&of_job).await.unwrap().items {
        let ended = pod.data["status"]["phase"] == phase;
        if !ended {
            let name = pod.metadata.name.unwrap();
            let patch = Patch::Merge(&status);
            let _ = pods.patch_status(&name, &PatchParams::default(), &patch).await;
        }
    }
}

/// Ends the pods of a Job, whenever there are any, until the resource is as `wanted` says.
pub(crate) async fn ending_pods_until(
    place: &Place,
    job: &str,
    (exit_code, said): (i64, &str),
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        end_pods_of_job(place, job, exit_code, said).await;
        let relay = place.relays().get_opt("orders").await.unwrap();
        let relay = serde_json::to_value(relay).unwrap();
        if wanted(&relay) {
            return relay;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", relay["status"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
