//! The Job that carries out a replay that was asked for once.

use super::Make;
use super::share::config_file;
use crate::child::{Child, Kind};
use crate::names;
use crds::replay::ReplayRequest;
use serde_json::json;

/// At its default of 50 letters a second, four million of them. It bounds a pod that never begins to run, too.
const DEADLINE_SECONDS: u32 = 86_400;

/// How long the command waits for relays that do nothing, because they restart or their circuit is open.
const PATIENCE: &str = "10m";

/// Pods that may be lost to a crash. One that is evicted does not count.
const RETRIES: u32 = 3;

/// What the command says with these is its result: a second run would replay letters that have just failed again.
const RESULTS: [u8; 2] = [1, 2];

/// A container's termination message is read from there.
const RESULT_FILE: &str = "/dev/termination-log";

impl Make<'_> {
    pub(super) fn replay_job(&self, request: &ReplayRequest, name: String) -> Child {
        let args = arguments(request);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut pod = self.pod(&self.container(&args));
        pod["restartPolicy"] = json!("Never");
        let labels = names::job_labels(&self.name, "replay");
        let spec = json!({
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "relay", "operator": "In", "values": RESULTS}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        });
        let mut job = self.child(Kind::Job, name, json!({"spec": spec}));
        job.object["metadata"]["annotations"] = json!({names::REPLAY_ID: request.id});
        job
    }
}

/// As in `--flag=value`, so that a value may begin with a dash.
fn arguments(request: &ReplayRequest) -> Vec<String> {
    let mut args = vec!["dead-letters".to_owned(), "replay".to_owned()];
    let mut add = |flag: &str, value: &str| args.push(format!("--{flag}={}", verbatim(value)));
    add("file", &config_file());
    add("result-file", RESULT_FILE);
    add("patience", PATIENCE);
    add("rate", &format!("{}/s", request.letters_per_second));
    for (flag, value) in [
        ("event-id", &request.event_id),
        ("event-type", &request.event_type),
        ("aggregate", &request.aggregate_id),
    ] {
        if let Some(value) = value {
            add(flag, value);
        }
    }
    if let Some(class) = request.class {
        add("class", class.name());
    }
    if let Some(seconds) = request.older_than_seconds {
        add("older-than", &format!("{seconds}s"));
    }
    args
}

/// Kubernetes replaces `$(NAME)` in arguments, and makes one dollar of two.
fn verbatim(value: &str) -> String {
    value.replace('$', "$$")
}
