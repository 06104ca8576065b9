//! What the operator keeps watching, and what of it belongs to a resource. Only objects with the operator's labels are
//! watched; of those whose content does not matter only the metadata.

mod cache;
mod pods;

pub use pods::{NOT_YET, RelayPod, last_words_of, waits_for};

use crate::apply::{Owner, SeenObject, controller_of};
use crate::child::Kind;
use crate::names::{self, CONFIG, MANAGER, RELAY, REVISION, SHARE};
use crate::plan::SeenShare;
use cache::{Cache, Index};
use crds::outbox_relay::OutboxRelay;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, predicates, utils::Predicate};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

/// Objects per answer while a watch lists what there is: a larger one is in memory whole, as text and as objects, and a
/// thousand resources have thousands of each kind.
const PAGE: u32 = 50;

/// Triggers that wait for the queue. A watch waits when it is full; nothing is lost.
const TRIGGERS: usize = 1024;

/// Everything that is watched beside the resources themselves.
pub struct World {
    /// The resources.
    pub relays: Store<OutboxRelay>,
    deployments: Cache<Deployment>,
    pods: Cache<Pod>,
    config_maps: Cache<PartialObjectMeta<ConfigMap>>,
    services: Cache<PartialObjectMeta<Service>>,
    service_accounts: Cache<PartialObjectMeta<ServiceAccount>>,
    disruption_budgets: Cache<PartialObjectMeta<PodDisruptionBudget>>,
}

/// References to resources that something happened to.
pub type Triggers = mpsc::Receiver<ObjectRef<OutboxRelay>>;

/// Starts all watches as tasks of `tasks`; they end with it.
pub fn start(client: &Client, namespace: Option<&str>, tasks: &mut JoinSet<()>) -> (World, Triggers) {
    let (sender, triggers) = mpsc::channel(TRIGGERS);
    let mut start = Start {
        client,
        namespace,
        tasks,
        sender,
    };
    let ours = format!("app.kubernetes.io/managed-by={MANAGER}");
    let world = World {
        relays: start.relays(),
        deployments: start.children(&ours, trim_deployment),
        // Those of applications with a sidecar carry the label of their relay too, and are not the operator's.
        pods: start.children(RELAY, pods::trim),
        config_maps: start.children(&ours, |_| {}),
        services: start.children(&ours, |_| {}),
        service_accounts: start.children(&ours, |_| {}),
        disruption_budgets: start.children(&ours, |_| {}),
    };
    (world, triggers)
}

struct Start<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    tasks: &'a mut JoinSet<()>,
    sender: mpsc::Sender<ObjectRef<OutboxRelay>>,
}

impl Start<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn relays(&mut self) -> Store<OutboxRelay> {
        let (reader, writer) = store();
        let touched = watcher(self.api::<OutboxRelay>(), config())
            .default_backoff()
            .modify(|relay| relay.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects()
            // Our own writes of the status are no news.
            .predicate_filter(
                predicates::generation.combine(predicates::annotations),
                kube::runtime::PredicateConfig::default(),
            );
        self.spawn(touched, |relay| Some(ObjectRef::from_obj(relay)));
        reader
    }

    fn children<K>(&mut self, labels: &str, trim: fn(&mut K)) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (reader, writer) = store();
        let index = Arc::<Index>::default();
        let follow = {
            let (index, reader) = (index.clone(), reader.clone());
            move |event: &watcher::Event<K>| index.follow(event, &reader)
        };
        let touched = watcher(self.api::<K>(), config().labels(labels))
            .default_backoff()
            .modify(move |object| {
                object.managed_fields_mut().clear();
                trim(object);
            })
            .reflect(writer)
            .inspect_ok(follow)
            .touched_objects();
        self.spawn(touched, |object| relay_of(object.meta()));
        Cache { store: reader, index }
    }

    fn spawn<K: Send + 'static>(
        &mut self,
        objects: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
        relay_of: fn(&K) -> Option<ObjectRef<OutboxRelay>>,
    ) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let mut objects = std::pin::pin!(objects);
            while let Some(object) = objects.next().await {
                match object {
                    Ok(object) => {
                        if let Some(relay) = relay_of(&object)
                            && sender.send(relay).await.is_err()
                        {
                            return;
                        }
                    }
                    Err(error) => warn!(%error, "a watch was interrupted and starts again"),
                }
            }
        });
    }
}

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// The resource that an object belongs to, by its label: pods are owned by ReplicaSets.
fn relay_of(metadata: &ObjectMeta) -> Option<ObjectRef<OutboxRelay>> {
    let name = metadata.labels.as_ref()?.get(RELAY)?;
    Some(ObjectRef::new(name).within(metadata.namespace.as_deref()?))
}

/// Of Deployments the metadata, the replicas and the status are looked at.
fn trim_deployment(deployment: &mut Deployment) {
    if let Some(spec) = &mut deployment.spec {
        spec.template = k8s_openapi::api::core::v1::PodTemplateSpec::default();
    }
    if let Some(DeploymentStatus { conditions, .. }) = &mut deployment.status {
        *conditions = None;
    }
}

impl World {
    /// Waits until every watch has listed what there is.
    pub async fn ready(&self) {
        // An error means that the watch has ended, with the process.
        let _ = tokio::join!(
            self.relays.wait_until_ready(),
            self.deployments.store.wait_until_ready(),
            self.pods.store.wait_until_ready(),
            self.config_maps.store.wait_until_ready(),
            self.services.store.wait_until_ready(),
            self.service_accounts.store.wait_until_ready(),
            self.disruption_budgets.store.wait_until_ready(),
        );
    }

    /// The share Deployments that belong to the resource.
    pub fn shares(&self, owner: Owner<'_>) -> Vec<SeenShare> {
        let ours = self.deployments_of(owner);
        let mut shares: Vec<_> = ours.iter().map(|deployment| seen_share(deployment)).collect();
        shares.sort_by_key(|share| order(&share.label));
        shares
    }

    /// Names of ConfigMaps that share Deployments of the resource were made with.
    pub fn configs_in_use(&self, owner: Owner<'_>) -> Vec<String> {
        self.deployments_of(owner)
            .iter()
            .filter_map(|deployment| annotation(&deployment.metadata, CONFIG))
            .collect()
    }

    /// ConfigMaps of the resource.
    pub fn config_maps(&self, owner: Owner<'_>) -> Vec<(String, SeenObject)> {
        self.config_maps
            .of(owner.namespace, owner.name)
            .iter()
            .filter(|object| is_owned(&object.metadata, owner))
            .map(|object| (object.name_any(), SeenObject::of(&object.metadata)))
            .collect()
    }

    /// Pods of the resource that have not gone, by name: the operator's, and those of the application with a sidecar.
    pub fn pods(&self, owner: Owner<'_>) -> Vec<RelayPod> {
        let ours = self.pods.of(owner.namespace, owner.name);
        ours.iter()
            .filter(|pod| !pods::has_ended(pod))
            .map(|pod| pods::relay_pod(pod))
            .collect()
    }

    fn deployments_of(&self, owner: Owner<'_>) -> Vec<Arc<Deployment>> {
        let mut ours = self.deployments.of(owner.namespace, owner.name);
        ours.retain(|deployment| is_owned(&deployment.metadata, owner));
        ours
    }

    /// What is seen of a child, if it is watched and there.
    pub fn seen(&self, kind: Kind, namespace: &str, name: &str) -> Option<SeenObject> {
        match kind {
            Kind::ConfigMap => seen_in(&self.config_maps, namespace, name),
            Kind::ServiceAccount => seen_in(&self.service_accounts, namespace, name),
            Kind::Service => seen_in(&self.services, namespace, name),
            Kind::PodDisruptionBudget => seen_in(&self.disruption_budgets, namespace, name),
            Kind::Deployment => seen_in(&self.deployments, namespace, name),
            Kind::ServiceMonitor | Kind::Job => None,
        }
    }
}

fn seen_in<K>(cache: &Cache<K>, namespace: &str, name: &str) -> Option<SeenObject>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    Some(SeenObject::of(cache.get(namespace, name)?.meta()))
}

fn is_owned(metadata: &ObjectMeta, by: Owner<'_>) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.uid == by.uid)
}

fn annotation(metadata: &ObjectMeta, name: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(name).cloned()
}

fn seen_share(deployment: &Deployment) -> SeenShare {
    let metadata = &deployment.metadata;
    let replicas = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let acted_on = status.observed_generation >= metadata.generation;
    let settled = acted_on && status.updated_replicas.unwrap_or(0) >= replicas;
    let current =
        status.updated_replicas.unwrap_or(0) >= replicas && status.ready_replicas.unwrap_or(0) >= replicas;
    SeenShare {
        label: deployment.labels().get(SHARE).cloned().unwrap_or_default(),
        name: deployment.name_any(),
        revision: annotation(metadata, REVISION),
        replicas,
        ready: acted_on && current,
        settled,
        unchanged: metadata.generation == Some(1),
        deleting: metadata.deletion_timestamp.is_some(),
    }
}

/// Shares of one count after the other, each in order.
pub fn order(label: &str) -> (u32, u32) {
    let (index, count) = label.split_once("-of-").unwrap_or((label, ""));
    (count.parse().unwrap_or(0), index.parse().unwrap_or(0))
}

/// The share as the relay names it.
pub fn share_name(label: &str) -> String {
    names::share_of_label(label)
}
