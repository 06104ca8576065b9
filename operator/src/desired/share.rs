//! The Deployment of one share.

use super::{Make, Share};
use crate::child::Kind;
use crate::names;
use crate::validate::SECRETS_DIR;
use crds::outbox_relay::OutboxRelay;
use serde_json::{Map, Value, json};

/// Numeric, so that Kubernetes can tell that it is not root; the user of the distroless images.
const USER: u32 = 65_532;

/// How long a pod stays on a node that cannot be reached. Kubernetes' default is 300 s; the lease on the slots ends
/// after 10 s, so waiting longer only delays delivery.
const UNREACHABLE_SECONDS: u32 = 20;

/// A relay stops within about a second; a checkpoint that waits for ScyllaDB may take longer.
const GRACE_SECONDS: u32 = 30;

const CONFIG_DIR: &str = "/etc/outbox-relay/config";

impl Make<'_> {
    pub(super) fn share(&self, index: u32, count: u32) -> Share {
        let label = names::share_label(index, count);
        let template = self.template(&label, &format!("{index}/{count}"));
        let revision = names::checksum(template.to_string().as_bytes());
        let replicas = u32::from(!self.relay.spec.paused);
        let spec = json!({
            "replicas": replicas,
            // Two relays of one share would only wait for each other's slots.
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {names::RELAY: self.name, names::SHARE: label}},
            "template": template,
        });
        let name = names::deployment(&self.name, &label);
        let mut child = self.child(Kind::Deployment, name, json!({"spec": spec}));
        let metadata = &mut child.object["metadata"];
        metadata["labels"][names::SHARE] = json!(label);
        metadata["annotations"] = json!({names::REVISION: revision, names::CONFIG: self.config});
        Share {
            label,
            revision,
            replicas,
            child,
        }
    }

    fn template(&self, label: &str, share: &str) -> Value {
        let template = &self.relay.spec.template;
        let mut labels = texts(&template.labels);
        labels.extend(names::pod_labels(&self.name));
        labels.insert(names::SHARE.to_owned(), json!(label));
        let mut annotations = texts(&template.annotations);
        annotations.extend(self.checksums());
        if let Some(restarted) = self
            .relay
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(names::RESTARTED_AT))
        {
            annotations.insert(names::RESTARTED_AT.to_owned(), json!(restarted));
        }
        let mut spec = self.pod(&self.relay_container(share));
        spec["terminationGracePeriodSeconds"] = json!(GRACE_SECONDS);
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names::selector(&self.name)},
        }]);
        json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec})
    }

    /// A pod with one container of the relay's image.
    pub(super) fn pod(&self, container: &Value) -> Value {
        let template = &self.relay.spec.template;
        let mut spec = json!({
            "serviceAccountName": names::shared(&self.name),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": tolerations(self.relay),
            "containers": [container],
            "volumes": self.volumes(),
        });
        if !template.image_pull_secrets.is_empty() {
            spec["imagePullSecrets"] = template
                .image_pull_secrets
                .iter()
                .map(|name| json!({"name": name}))
                .collect();
        }
        if !template.node_selector.is_empty() {
            spec["nodeSelector"] = json!(template.node_selector);
        }
        if let Some(class) = &template.priority_class_name {
            spec["priorityClassName"] = json!(class);
        }
        spec
    }

    fn checksums(&self) -> Map<String, Value> {
        let mut checksums = Map::new();
        checksums.insert(names::CONFIG_CHECKSUM.to_owned(), json!(self.config_checksum));
        if !self.references.secrets.is_empty() {
            let of_all = names::checksum(format!("{:?}", self.references.secrets).as_bytes());
            checksums.insert(names::SECRETS_CHECKSUM.to_owned(), json!(of_all));
        }
        checksums
    }

    fn relay_container(&self, share: &str) -> Value {
        let probe = |path: &str| {
            let mut get = json!({"path": path, "port": names::PORT});
            if self.relay.spec.http.tls.is_some() {
                // A kubelet does not check certificates.
                get["scheme"] = json!("HTTPS");
            }
            json!({"httpGet": get, "timeoutSeconds": 5})
        };
        let mut liveness = probe("/livez");
        liveness["periodSeconds"] = json!(10);
        liveness["failureThreshold"] = json!(6);
        let mut readiness = probe("/readyz");
        readiness["periodSeconds"] = json!(2);
        let file = config_file();
        let mut container = self.container(&["run", "--file", &file, "--share", share]);
        container["ports"] =
            json!([{"name": names::PORT, "containerPort": self.settings.port, "protocol": "TCP"}]);
        container["livenessProbe"] = liveness;
        container["readinessProbe"] = readiness;
        container
    }

    pub(super) fn container(&self, args: &[&str]) -> Value {
        let template = &self.relay.spec.template;
        let mut mounts = vec![json!({"name": "config", "mountPath": CONFIG_DIR, "readOnly": true})];
        for (index, secret) in self.relay.spec.secrets().keys().enumerate() {
            mounts.push(json!({
                "name": volume_of_secret(index),
                "mountPath": format!("{SECRETS_DIR}/{secret}"),
                "readOnly": true,
            }));
        }
        json!({
            "name": "relay",
            "image": template.image.as_ref().unwrap_or(&self.settings.image),
            "args": args,
            "resources": resources(self.relay),
            // Why a relay ended is told in the resource.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        })
    }

    fn volumes(&self) -> Vec<Value> {
        let mut volumes = vec![json!({"name": "config", "configMap": {"name": self.config}})];
        for (index, (secret, keys)) in self.relay.spec.secrets().into_iter().enumerate() {
            let items: Vec<_> = keys
                .into_iter()
                .map(|key| json!({"key": key, "path": key}))
                .collect();
            volumes.push(json!({
                "name": volume_of_secret(index),
                // Readable by the group, which is that of the process.
                "secret": {"secretName": secret, "items": items, "defaultMode": 0o440},
            }));
        }
        volumes
    }
}

/// Where a container finds the relay's configuration.
pub(super) fn config_file() -> String {
    format!("{CONFIG_DIR}/{}", names::CONFIG_FILE)
}

/// A Secret's name may be longer than that of a volume.
fn volume_of_secret(index: usize) -> String {
    format!("secret-{index}")
}

fn tolerations(relay: &OutboxRelay) -> Vec<Value> {
    let mut tolerations: Vec<_> = ["not-ready", "unreachable"]
        .map(|condition| {
            json!({
                "key": format!("node.kubernetes.io/{condition}"),
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": UNREACHABLE_SECONDS,
            })
        })
        .into();
    for wanted in &relay.spec.template.tolerations {
        let operator = if wanted.value.is_some() { "Equal" } else { "Exists" };
        let mut toleration = json!({"operator": operator});
        for (field, value) in [
            ("key", wanted.key.as_deref()),
            ("value", wanted.value.as_deref()),
            ("effect", wanted.effect.map(crds::pods::TaintEffect::name)),
        ] {
            if let Some(value) = value {
                toleration[field] = json!(value);
            }
        }
        tolerations.push(toleration);
    }
    tolerations
}

fn resources(relay: &OutboxRelay) -> Value {
    let resources = &relay.spec.template.resources;
    let mut value = json!({"requests": resources.requests});
    if !resources.limits.is_empty() {
        value["limits"] = json!(resources.limits);
    }
    value
}

fn texts(map: &std::collections::BTreeMap<String, String>) -> Map<String, Value> {
    map.iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}
