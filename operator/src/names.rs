//! Names, labels and annotations of everything that the operator makes.

use crds::outbox_relay::OutboxRelay;
use crds::pods::Placement;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Field manager of every server-side apply, and the value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "outbox-relay-operator";

/// Label of children and pods: the name of their OutboxRelay.
pub const RELAY: &str = "outboxrelay.dev/relay";

/// Label of share Deployments and their pods: the share, as in `2-of-4`.
pub const SHARE: &str = "outboxrelay.dev/share";

/// Annotation of a share Deployment: checksum of the pod template that is wanted of it.
pub const REVISION: &str = "outboxrelay.dev/revision";

/// Annotation of a share Deployment: name of its ConfigMap.
pub const CONFIG: &str = "outboxrelay.dev/config";

/// Annotation of pod templates: checksum of the configuration.
pub const CONFIG_CHECKSUM: &str = "outboxrelay.dev/config-checksum";

/// Annotation of pod templates: checksum of the keys of Secrets that are used.
pub const SECRETS_CHECKSUM: &str = "outboxrelay.dev/secrets-checksum";

/// Annotation that a user sets on an OutboxRelay to restart its relays, one share after another.
pub const RESTARTED_AT: &str = "outboxrelay.dev/restartedAt";

/// Annotation of the Job of a replay: the id of its request.
pub const REPLAY_ID: &str = "outboxrelay.dev/replay-id";

/// Finalizer of resources whose state is deleted with them.
pub const FINALIZER: &str = "outboxrelay.dev/state";

/// Key of the ConfigMap under which the relay's configuration stands.
pub const CONFIG_FILE: &str = "relay.yaml";

/// Name of the port of a relay's container and Service.
pub const PORT: &str = "http";

/// Longest name of an OutboxRelay: that of a Service, 63, without the suffix of [`shared`].
pub const MAX_NAME: usize = 63 - SUFFIX.len();

const SUFFIX: &str = "-relay";

/// Name of the children that all shares have in common, and of the ConfigMap of sidecars.
pub fn shared(relay: &str) -> String {
    format!("{relay}{SUFFIX}")
}

/// Name of the Job of a replay. Of a long name the beginning: the name of a Job has 63 characters at most. It differs between
/// resources of one name, one after another, so that the former one's Job is not in the way.
pub fn replay(relay: &str, uid: &str, id: &str) -> String {
    const MIDDLE: &str = "-replay-";
    const HASH: usize = 10;
    let sum = checksum(format!("{uid}/{relay}/{id}").as_bytes());
    let begin: String = relay.chars().take(63 - MIDDLE.len() - HASH).collect();
    let begin = begin.trim_end_matches('-');
    format!("{begin}{MIDDLE}{}", sum.get(..HASH).unwrap_or(&sum))
}

/// The name of the relays' Service, which their certificate has: whoever asks a pod knows its address only.
pub fn server_name(relay: &OutboxRelay) -> String {
    let namespace = relay.namespace().unwrap_or_default();
    format!("{}.{namespace}.svc", shared(&relay.name_any()))
}

/// Name of a ConfigMap. It carries the checksum of its content: shares that were not rolled yet keep the one that they
/// were started with.
pub fn config(relay: &str, checksum: &str) -> String {
    let short = checksum.get(..10).unwrap_or(checksum);
    format!("{relay}{SUFFIX}-{short}")
}

/// Label value of share `index` (from 1) of `count`.
pub fn share_label(index: u32, count: u32) -> String {
    format!("{index}-of-{count}")
}

/// The share as the relay names it: `2/4` for the label `2-of-4`.
pub fn share_of_label(label: &str) -> String {
    label.replacen("-of-", "/", 1)
}

/// Name of the Deployment of a share.
pub fn deployment(relay: &str, share_label: &str) -> String {
    format!("{relay}{SUFFIX}-{share_label}")
}

/// What selects all relay pods of a resource.
pub fn selector(relay: &str) -> Value {
    json!({"app.kubernetes.io/name": "outbox-relay", RELAY: relay})
}

/// What selects the application's pods that carry a sidecar of a resource.
pub fn selector_of_sidecars(relay: &str) -> Value {
    json!({RELAY: relay})
}

/// The selector of the pods as text, for autoscalers.
pub fn selector_text(relay: &str, placement: Placement) -> String {
    match placement {
        Placement::Deployments => format!("app.kubernetes.io/name=outbox-relay,{RELAY}={relay}"),
        Placement::Sidecar => format!("{RELAY}={relay}"),
    }
}

/// Recommended labels of all children. That of the version is not among those of pods: a new operator alone is no
/// reason to restart a relay.
pub fn labels(relay: &str) -> serde_json::Map<String, Value> {
    let mut labels = pod_labels(relay);
    labels.insert(
        "app.kubernetes.io/version".to_owned(),
        json!(env!("CARGO_PKG_VERSION")),
    );
    labels
}

/// Labels of the relays' pods, beside that of the share.
pub fn pod_labels(relay: &str) -> serde_json::Map<String, Value> {
    [
        ("app.kubernetes.io/name", "outbox-relay"),
        ("app.kubernetes.io/instance", relay),
        ("app.kubernetes.io/component", "relay"),
        ("app.kubernetes.io/part-of", "outbox-relay"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (RELAY, relay),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), json!(value)))
    .collect()
}

/// Labels of the pods of Jobs. Without the label of relays: they are none, and answer no questions.
pub fn job_labels(relay: &str, component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "outbox-relay-job",
        "app.kubernetes.io/instance": relay,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "outbox-relay",
        "app.kubernetes.io/managed-by": MANAGER,
    })
}

/// SHA-256 in hexadecimal.
pub fn checksum(text: &[u8]) -> String {
    hex::encode(openssl::sha::sha256(text))
}
