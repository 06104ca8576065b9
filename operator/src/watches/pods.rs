//! What is looked at of a relay's pod, be it one of the operator's or one of an application with a sidecar.

use crate::names::{MANAGER, SHARE};
use crate::plan::SeenPod;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;
use std::net::IpAddr;

/// Of a pod that is not there yet, or does not say what it waits for: one text, so that a start is told once.
pub const NOT_YET: &str = "its pod does not run yet";

/// A pod of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPod {
    /// Whether it is a pod of the application, and the relay its sidecar.
    pub sidecar: bool,
    /// Its share, as in `2-of-4`.
    pub share: Option<String>,
    /// Its name.
    pub name: String,
    /// Its address, when it runs.
    pub address: Option<IpAddr>,
    /// Why it does not run.
    pub why: String,
    /// Whether it is stopping.
    pub deleting: bool,
}

impl RelayPod {
    /// For the plan.
    pub fn seen(&self) -> SeenPod {
        SeenPod {
            sidecar: self.sidecar,
            share: self.share.clone(),
            name: self.name.clone(),
        }
    }
}

/// Of pods the metadata and a part of the status are looked at.
pub(super) fn trim(pod: &mut Pod) {
    pod.spec = None;
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    if let Some(status) = pod.status.take() {
        let unscheduled = status.conditions.map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
            conditions
        });
        pod.status = Some(PodStatus {
            phase: status.phase,
            pod_ip: status.pod_ip,
            conditions: unscheduled,
            container_statuses: status.container_statuses,
            ..PodStatus::default()
        });
    }
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn relay_pod(pod: &Pod) -> RelayPod {
    let status = pod.status.clone().unwrap_or_default();
    let managed = pod.labels().get("app.kubernetes.io/managed-by");
    let sidecar = managed.is_none_or(|by| by != MANAGER);
    let runs = if sidecar {
        // A sidecar runs before its application does, and whatever that waits for.
        matches!(status.phase.as_deref(), Some("Running" | "Pending"))
    } else {
        status.phase.as_deref() == Some("Running") && stopped(&status).is_none()
    };
    let address = status.pod_ip.as_ref().filter(|_| runs);
    RelayPod {
        sidecar,
        share: pod.labels().get(SHARE).cloned().filter(|_| !sidecar),
        name: pod.name_any(),
        address: address.and_then(|address| address.parse().ok()),
        why: why_not_running(&status),
        deleting: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// A container that does not run now.
fn stopped(status: &PodStatus) -> Option<&ContainerStatus> {
    let containers = status.container_statuses.iter().flatten();
    containers
        .filter(|container| container.state.is_some())
        .find(|container| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_none())
        })
}

/// What keeps a pod from running, as `kubectl describe` has it: an image that cannot be pulled, a node that is missing;
/// of a relay that ended, what it said last.
fn why_not_running(status: &PodStatus) -> String {
    let waiting = || {
        let container = stopped(status)?;
        let state = container.state.as_ref()?;
        if let Some(said) = last_words(container) {
            return Some(("the relay ended".to_owned(), Some(said)));
        }
        let waiting = state.waiting.as_ref()?;
        Some((waiting.reason.clone()?, waiting.message.clone()))
    };
    let unscheduled = || {
        let conditions = status.conditions.iter().flatten();
        let scheduled = conditions
            .into_iter()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some((scheduled.reason.clone()?, scheduled.message.clone()))
    };
    match waiting().or_else(unscheduled) {
        Some((reason, Some(message))) => format!("its pod waits: {reason}: {message}"),
        Some((reason, None)) => format!("its pod waits: {reason}"),
        None => NOT_YET.to_owned(),
    }
}

/// What a pod waits for that has not ended, if it says so.
pub fn waits_for(pod: &Pod) -> Option<String> {
    let why = why_not_running(pod.status.as_ref().filter(|_| !has_ended(pod))?);
    (why != NOT_YET).then_some(why)
}

/// The last line that a pod wrote whose container has ended.
pub fn last_words_of(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find_map(last_words)
}

/// The last line that a container wrote before it ended, which is why.
fn last_words(container: &ContainerStatus) -> Option<String> {
    let states = [&container.state, &container.last_state];
    let ended = states
        .into_iter()
        .find_map(|state| state.as_ref()?.terminated.as_ref())?;
    let said = ended.message.as_deref()?;
    let line = said.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> RelayPod {
        let labels =
            r#"{"app.kubernetes.io/managed-by": "outbox-relay-operator", "outboxrelay.dev/share": "1-of-1"}"#;
        let text = format!(r#"{{"metadata": {{"name": "p", "labels": {labels}}}, "status": {status}}}"#);
        relay_pod(&serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_relay_that_ended_is_not_asked_and_its_last_words_are_told() {
        let ended = r#"{"terminated": {"exitCode": 1, "message": "a log line\nsource.credentials.passwordFile: cannot read it\n"}}"#;
        let waits = r#"{"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}"#;
        let container = |state: &str, last: &str| {
            format!(
                r#"{{"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{{"name": "relay", "image": "i", "imageID": "",
                    "ready": false, "restartCount": 1, "state": {state}, "lastState": {last}}}]}}"#
            )
        };
        let told = "its pod waits: the relay ended: source.credentials.passwordFile: cannot read it";
        for (state, last) in [(waits, ended), (ended, "{}")] {
            let pod = pod(&container(state, last));
            assert_eq!((pod.address, pod.why.as_str()), (None, told));
        }
        let pulling = r#"{"waiting": {"reason": "ErrImagePull", "message": "no such image"}}"#;
        assert_eq!(
            pod(&container(pulling, "{}")).why,
            "its pod waits: ErrImagePull: no such image"
        );
        let runs = r#"{"running": {}}"#;
        assert!(pod(&container(runs, ended)).address.is_some());
    }
}
