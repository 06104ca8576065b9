//! The children that a resource wants: a pure function of the resource, what it refers to, and the operator's settings.
//! All children are built before one is applied.

mod share;

use crate::child::{Child, Kind};
use crate::names;
use crds::RelayConfig;
use crds::outbox_relay::OutboxRelay;
use crds::pods::ServiceMonitor;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an operator is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of relays whose resource names none.
    pub image: String,
    /// Port that relays listen on.
    pub port: u16,
}

/// What was found of the things that a resource refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    /// Checksum of the keys in use, by Secret.
    pub secrets: BTreeMap<String, String>,
    /// Whether the cluster knows ServiceMonitors.
    pub service_monitors: bool,
}

/// Everything that is wanted of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Children {
    /// What all shares have in common; applied first.
    pub shared: Vec<Child>,
    /// The shares, first to last.
    pub shares: Vec<Share>,
}

/// One share that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// As in `2-of-4`.
    pub label: String,
    /// Checksum of its pod template: another one restarts its relay.
    pub revision: String,
    /// 0 while the resource is paused, else 1.
    pub replicas: u32,
    /// Its Deployment.
    pub child: Child,
}

/// The relay's file does not serialize; never so for what passed validation.
#[derive(Debug, thiserror::Error)]
#[error("the relay's configuration cannot be written: {0}")]
pub struct NotWritable(#[from] serde_yaml::Error);

/// The children of a resource whose configuration is valid and whose references were found.
///
/// # Errors
/// See [`NotWritable`].
pub fn children(
    relay: &OutboxRelay,
    config: &RelayConfig,
    references: &References,
    settings: &Settings,
) -> Result<Children, NotWritable> {
    let file = serde_yaml::to_string(config)?;
    let make = Make {
        relay,
        name: relay.name_any(),
        config: names::config(&relay.name_any(), &names::checksum(file.as_bytes())),
        config_checksum: names::checksum(file.as_bytes()),
        references,
        settings,
    };
    let mut shared = vec![
        make.config_map(&file),
        make.service_account(),
        make.service(),
        make.disruption_budget(),
    ];
    if wants_service_monitor(relay) && references.service_monitors {
        shared.push(make.service_monitor());
    }
    let count = relay.spec.shares;
    let shares = (1..=count).map(|index| make.share(index, count)).collect();
    Ok(Children { shared, shares })
}

/// Whether the resource asks for a ServiceMonitor.
pub fn wants_service_monitor(relay: &OutboxRelay) -> bool {
    relay.spec.monitoring.service_monitor == ServiceMonitor::Enabled
}

impl Children {
    /// All of them, in the order in which they are applied.
    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.shared
            .iter()
            .chain(self.shares.iter().map(|share| &share.child))
    }
}

/// What the makers of children have in common.
struct Make<'a> {
    relay: &'a OutboxRelay,
    name: String,
    config: String,
    config_checksum: String,
    references: &'a References,
    settings: &'a Settings,
}

impl Make<'_> {
    fn config_map(&self, file: &str) -> Child {
        let mut child = self.child(
            Kind::ConfigMap,
            self.config.clone(),
            json!({"data": {"relay.yaml": file}}),
        );
        // What runs with it keeps it as it is; another configuration is another ConfigMap.
        child.object["immutable"] = json!(true);
        child
    }

    fn service_account(&self) -> Child {
        let token = json!({"automountServiceAccountToken": false});
        self.child(Kind::ServiceAccount, names::shared(&self.name), token)
    }

    /// Headless, and also for relays that are not ready: their metrics and status matter most then.
    fn service(&self) -> Child {
        let spec = json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": names::selector(&self.name),
            "ports": [{"name": names::PORT, "port": self.settings.port, "targetPort": names::PORT, "protocol": "TCP"}],
        });
        self.child(Kind::Service, names::shared(&self.name), json!({"spec": spec}))
    }

    /// A relay that is not ready never blocks the draining of its node.
    fn disruption_budget(&self) -> Child {
        let spec = json!({
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names::selector(&self.name)},
        });
        self.child(
            Kind::PodDisruptionBudget,
            names::shared(&self.name),
            json!({"spec": spec}),
        )
    }

    fn service_monitor(&self) -> Child {
        let monitoring = &self.relay.spec.monitoring;
        let interval = format!("{}s", monitoring.interval_seconds);
        let spec = json!({
            "selector": {"matchLabels": names::selector(&self.name)},
            "endpoints": [{"port": names::PORT, "path": "/metrics", "interval": interval}],
        });
        let mut child = self.child(
            Kind::ServiceMonitor,
            names::shared(&self.name),
            json!({"spec": spec}),
        );
        for (name, value) in &monitoring.labels {
            let labels = &mut child.object["metadata"]["labels"];
            if labels.get(name).is_none() {
                labels[name] = json!(value);
            }
        }
        child
    }

    /// An object of these parts with name, labels and owner.
    fn child(&self, kind: Kind, name: String, parts: Value) -> Child {
        let mut object = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {
                "name": name,
                "namespace": self.relay.namespace(),
                "labels": names::labels(&self.name),
                "ownerReferences": [self.relay.controller_owner_ref(&())],
            },
        });
        if let (Value::Object(object), Value::Object(parts)) = (&mut object, parts) {
            object.extend(parts);
        }
        Child { kind, name, object }
    }
}
