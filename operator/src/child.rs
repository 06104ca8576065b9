//! What the operator makes for a resource: the kinds, and one object of a kind.

use crate::names::checksum;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// Kinds of children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The relay's configuration.
    ConfigMap,
    /// An identity for the pods, without a token.
    ServiceAccount,
    /// Names and finds the relays.
    Service,
    /// One relay at a time is evicted.
    PodDisruptionBudget,
    /// Scraping by the prometheus-operator.
    ServiceMonitor,
    /// One share.
    Deployment,
    /// Deletes the state of a resource that is deleted, or carries out a replay.
    Job,
}

impl Kind {
    /// The name in manifests, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::Deployment => "Deployment",
            Self::Job => "Job",
        }
    }

    /// As in manifests.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::ServiceAccount | Self::Service => "v1",
            Self::PodDisruptionBudget => "policy/v1",
            Self::ServiceMonitor => "monitoring.coreos.com/v1",
            Self::Deployment => "apps/v1",
            Self::Job => "batch/v1",
        }
    }

    /// For requests to the API.
    pub fn resource(self) -> ApiResource {
        let (group, version) = self.api_version().split_once('/').unwrap_or(("", "v1"));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.name()))
    }
}

/// One object that is wanted, whole, as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

impl Child {
    /// Checksum of the object.
    pub fn checksum(&self) -> String {
        checksum(self.object.to_string().as_bytes())
    }
}
