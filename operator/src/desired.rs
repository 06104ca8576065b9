//! The children that a resource wants: a pure function of the resource, what it refers to, and the operator's settings.
//! All children are built before one is applied.

mod deletion;
mod replay;
mod share;

use crate::child::{Child, Kind};
use crate::names;
use crds::RelayConfig;
use crds::outbox_relay::OutboxRelay;
use crds::pods::{Placement, ServiceMonitor};
use crds::replay::ReplayRequest;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What an operator is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of relays whose resource names none.
    pub image: String,
    /// Port that relays listen on.
    pub port: u16,
    /// Time between two looks at the relays of a resource that is ready.
    pub look_every: Duration,
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
    /// The shares, first to last; none with placement Sidecar.
    pub shares: Vec<Share>,
    /// Checksum of the configuration that relays are to run with, as they report it.
    pub configuration: String,
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
    let make = Make::new(relay, &file, references, settings);
    let (mut shared, shares) = match relay.spec.placement {
        Placement::Deployments => {
            let mut shared = vec![
                make.config_map(&file),
                make.service_account(),
                make.service(names::selector(&make.name)),
            ];
            let count = relay.spec.shares;
            // Of a single relay it would hold back nothing: one at a time may always be evicted.
            if count > 1 {
                shared.push(make.disruption_budget());
            }
            (
                shared,
                (1..=count).map(|index| make.share(index, count)).collect(),
            )
        }
        Placement::Sidecar => {
            let shared = vec![
                make.config_map_of_sidecars(&file),
                make.service(names::selector_of_sidecars(&make.name)),
            ];
            (shared, Vec::new())
        }
    };
    if wants_service_monitor(relay) && references.service_monitors {
        shared.push(make.service_monitor());
    }
    Ok(Children {
        shared,
        shares,
        configuration: make.config_checksum,
    })
}

/// What deletes the state of a resource that is deleted: the last one is the Job, the others are what it needs.
///
/// # Errors
/// See [`NotWritable`].
pub fn deletion(
    relay: &OutboxRelay,
    config: &RelayConfig,
    references: &References,
    settings: &Settings,
) -> Result<Vec<Child>, NotWritable> {
    let file = serde_yaml::to_string(config)?;
    let make = Make::new(relay, &file, references, settings);
    Ok(vec![make.config_map(&file), make.service_account(), make.job()])
}

/// What carries out a replay: the last one is the Job, of this name, the others are what it needs.
///
/// # Errors
/// See [`NotWritable`].
pub fn replay(
    relay: &OutboxRelay,
    config: &RelayConfig,
    references: &References,
    settings: &Settings,
    (request, job): (&ReplayRequest, String),
) -> Result<Vec<Child>, NotWritable> {
    let file = serde_yaml::to_string(config)?;
    let make = Make::new(relay, &file, references, settings);
    Ok(vec![
        make.config_map(&file),
        make.service_account(),
        make.replay_job(request, job),
    ])
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

impl<'a> Make<'a> {
    fn new(relay: &'a OutboxRelay, file: &str, references: &'a References, settings: &'a Settings) -> Self {
        let config_checksum = names::checksum(file.as_bytes());
        Self {
            relay,
            name: relay.name_any(),
            config: names::config(&relay.name_any(), &config_checksum),
            config_checksum,
            references,
            settings,
        }
    }

    fn config_map(&self, file: &str) -> Child {
        let mut child = self.child(
            Kind::ConfigMap,
            self.config.clone(),
            json!({"data": {names::CONFIG_FILE: file}}),
        );
        // What runs with it keeps it as it is; another configuration is another ConfigMap.
        child.object["immutable"] = json!(true);
        child
    }

    /// Pods of the application mount it by its name, which is documented. A sidecar reads it when it starts, so it changes
    /// in its place.
    fn config_map_of_sidecars(&self, file: &str) -> Child {
        let name = names::shared(&self.name);
        self.child(Kind::ConfigMap, name, json!({"data": {names::CONFIG_FILE: file}}))
    }

    fn service_account(&self) -> Child {
        let token = json!({"automountServiceAccountToken": false});
        self.child(Kind::ServiceAccount, names::shared(&self.name), token)
    }

    /// Headless, and also for relays that are not ready: their metrics and status matter most then.
    fn service(&self, selector: Value) -> Child {
        let spec = json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector,
            // By number: a port of the application may have the name.
            "ports": [{"name": names::PORT, "port": self.settings.port, "targetPort": self.settings.port, "protocol": "TCP"}],
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
        let mut endpoint = json!({"port": names::PORT, "path": "/metrics", "interval": interval});
        let http = &self.relay.spec.http;
        if let Some(authorities) = http.tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref()) {
            endpoint["scheme"] = json!("https");
            endpoint["tlsConfig"] = json!({
                "ca": {"secret": {"name": authorities.name, "key": authorities.key}},
                "serverName": names::server_name(self.relay),
            });
        }
        if let Some(token) = &http.token_secret_ref {
            let credentials = json!({"name": token.name, "key": token.key});
            endpoint["authorization"] = json!({"type": "Bearer", "credentials": credentials});
        }
        let spec = json!({
            // Of Services, not of pods: that of the relays is labelled so in either placement.
            "selector": {"matchLabels": names::selector(&self.name)},
            "endpoints": [endpoint],
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
