//! How the operator runs a relay's pods. The relay itself knows nothing of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the relays run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Placement {
    /// In pods of their own: the operator makes a Deployment per share.
    #[default]
    Deployments,
    /// In the application's own pods, as native sidecars that run with `--share auto`. The operator finds these pods by
    /// their label `outboxrelay.dev/relay`, which is the name of the OutboxRelay.
    Sidecar,
}

/// What becomes of the progress when the resource is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// It stays: a resource of the same identity that is made later goes on from there.
    #[default]
    Retain,
    /// When the relays have stopped, a Job of the relay's image deletes it; the resource goes when that is done. Dead
    /// letters stay.
    Delete,
}

/// Settings of the relays' pods, beside those that the operator sets itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Template {
    /// Image of the relay; the operator's own choice unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Names of Secrets with which the image is pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Labels of the pods, beside the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, beside the operator's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the nodes that the pods may run on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods bear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Name of the pods' PriorityClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// CPU and memory of a relay.
    pub resources: Resources,
}

/// A taint that the pods bear.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Toleration {
    /// Key of the taint; every key unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Value of the taint; every value unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Effect of the taint; every effect unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum TaintEffect {
    /// Pods are not scheduled there.
    NoSchedule,
    /// Pods are rather scheduled elsewhere.
    PreferNoSchedule,
    /// Pods that run there are removed.
    NoExecute,
}

impl TaintEffect {
    /// The name that Kubernetes uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// CPU and memory of a container, as Kubernetes writes quantities: `500m`, `256Mi`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What is reserved.
    pub requests: BTreeMap<String, String>,
    /// What is not exceeded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        // A relay with the default memory section stays below this in a drain.
        let requests = [("cpu", "100m"), ("memory", "192Mi")];
        Self {
            requests: requests
                .map(|(name, quantity)| (name.to_owned(), quantity.to_owned()))
                .into(),
            limits: BTreeMap::new(),
        }
    }
}

/// How the relays are found by Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Monitoring {
    /// Enabled: a ServiceMonitor of the prometheus-operator is made, if the cluster knows that kind.
    pub service_monitor: ServiceMonitor,
    /// Labels of the ServiceMonitor, by which a Prometheus selects it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Time between two scrapes.
    pub interval_seconds: u32,
}

/// Whether a ServiceMonitor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum ServiceMonitor {
    /// None is made.
    #[default]
    Disabled,
    /// One is made, if the cluster knows that kind.
    Enabled,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            service_monitor: ServiceMonitor::default(),
            labels: BTreeMap::new(),
            interval_seconds: 15,
        }
    }
}
