//! One control plane for all tests of this binary; a namespace each.

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Long enough for a dozen cases side by side on a build machine that is busy with other things; what takes this long has
/// failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Before a watch that was interrupted goes on.
pub(crate) const AGAIN: Duration = Duration::from_millis(200);

static CLUSTER: OnceCell<PathBuf> = OnceCell::const_new();

/// Directory of a control plane that was started for this process and ends with it.
pub(crate) fn start(dir: &Path) {
    let started = Command::new(repository().join("scripts/kubernetes.sh"))
        .args([
            "start",
            dir.to_str().unwrap(),
            "--owner",
            &std::process::id().to_string(),
        ])
        .output()
        .expect("scripts/kubernetes.sh can be run");
    assert!(
        started.status.success(),
        "scripts/kubernetes.sh start: {}",
        String::from_utf8_lossy(&started.stderr)
    );
}

/// Runs `kubernetes.sh` for a control plane.
pub(crate) fn control(dir: &Path, command: &str, arguments: &[&str]) {
    let status = Command::new(repository().join("scripts/kubernetes.sh"))
        .arg(command)
        .arg(dir)
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success(), "kubernetes.sh {command} {arguments:?}");
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A directory that stays until the next start of the machine: tests end without a chance to remove it.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("outbox-relay-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A namespace of its own on the common control plane.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) admin: Client,
    pub(crate) namespace: String,
}

impl Place {
    pub(crate) async fn new(namespace: &str) -> Self {
        let dir = CLUSTER
            .get_or_init(|| async {
                let dir = scratch("kubernetes");
                start(&dir);
                prepare(&dir).await;
                dir
            })
            .await;
        Self::on(dir, namespace).await
    }

    pub(crate) async fn on(dir: &Path, namespace: &str) -> Self {
        let admin = administrator(dir).await;
        let body: Namespace = serde_json::from_value(json!({
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        }))
        .unwrap();
        Api::all(admin.clone())
            .create(&PostParams::default(), &body)
            .await
            .unwrap();
        Self {
            dir: dir.to_owned(),
            admin,
            namespace: namespace.to_owned(),
        }
    }

    /// All objects of one kind.
    pub(crate) fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.admin.clone(), &self.namespace, &resource(api_version, kind))
    }

    pub(crate) fn relays(&self) -> Api<DynamicObject> {
        self.api("outboxrelay.dev/v1alpha1", "OutboxRelay")
    }

    /// As `kubectl apply --server-side` does it.
    pub(crate) async fn apply(&self, relay: &Value) -> Result<DynamicObject, kube::Error> {
        let name = relay["metadata"]["name"].as_str().unwrap();
        let parameters = PatchParams::apply("kubectl").force();
        self.relays().patch(name, &parameters, &Patch::Apply(relay)).await
    }

    /// Merges into the specification.
    pub(crate) async fn change(&self, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.relays().patch(name, &PatchParams::default(), &patch).await
    }

    /// Waits until the resource is as `wanted` says.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&self.relays(), name, what, wanted).await
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "ready", |relay| {
            condition(relay, "Ready").0 == "True"
                && condition(relay, "Reconciling").0 == "False"
                && is_observed(relay)
        })
        .await
    }
}

/// Follows an object by a watch until it is as `wanted` says; one that is not there is null.
pub(crate) async fn until(
    api: &Api<DynamicObject>,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let waited = tokio::time::timeout(PATIENCE, async {
        let mut states = pin!(watch_object(api.clone(), name));
        loop {
            match states.next().await {
                Some(Ok(state)) => {
                    last = serde_json::to_value(state).unwrap();
                    if wanted(&last) {
                        return;
                    }
                }
                // The API server is away, or has no time.
                Some(Err(_)) | None => tokio::time::sleep(AGAIN).await,
            }
        }
    });
    if waited.await.is_err() {
        let shown = if last["status"].is_null() {
            &last
        } else {
            &last["status"]
        };
        panic!(
            "{name} did not become {what}:\n{}",
            serde_json::to_string_pretty(shown).unwrap()
        );
    }
    last
}

/// The status of the whole specification is reported.
pub(crate) fn is_observed(relay: &Value) -> bool {
    relay["status"]["observedGeneration"] == relay["metadata"]["generation"]
}

/// Status and reason of a condition.
pub(crate) fn condition<'a>(relay: &'a Value, type_: &str) -> (&'a str, &'a str) {
    let conditions = relay["status"]["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == type_)
        .map_or(("", ""), |known| {
            (
                known["status"].as_str().unwrap(),
                known["reason"].as_str().unwrap(),
            )
        })
}

pub(crate) fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// With the rights of the administrator.
pub(crate) async fn administrator(dir: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(dir.join("admin.kubeconfig")).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// The five-field resource.
pub(crate) fn minimal(name: &str) -> Value {
    json!({
        "apiVersion": "outboxrelay.dev/v1alpha1",
        "kind": "OutboxRelay",
        "metadata": {"name": name},
        "spec": {
            "source": {"contactPoints": ["scylla:9042"], "keyspace": "orders_ks", "table": "outbox_messages"},
            "sink": {"bootstrapServers": ["kafka:9092"], "topic": "order-events"},
        },
    })
}

/// The documents of a YAML file of the repository.
pub(crate) fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    text.split("\n---\n")
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect()
}

/// The definition, the operator's rights, and a node that pods are scheduled to.
pub(crate) async fn prepare(dir: &Path) {
    prepare_with(dir, "crds/outboxrelays.yaml").await;
}

pub(crate) async fn prepare_with(dir: &Path, definition: &str) {
    let admin = administrator(dir).await;
    let parameters = PatchParams::apply("test").force();
    let mut objects = documents(definition);
    objects.extend(documents("deploy/operator/operator.yaml").into_iter().take(1));
    objects.extend(documents("deploy/operator/rbac.yaml"));
    for object in objects {
        apply_any(&admin, &object).await;
    }
    let crds: Api<DynamicObject> = Api::all_with(
        admin.clone(),
        &resource("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    );
    until(&crds, "outboxrelays.outboxrelay.dev", "established", |crd| {
        condition(crd, "Established").0 == "True"
    })
    .await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "played"}})).unwrap();
    let nodes: Api<Node> = Api::all(admin.clone());
    nodes
        .patch(
            "played",
            &parameters,
            &Patch::Apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": node.metadata})),
        )
        .await
        .unwrap();
    let room = json!({"cpu": "1000", "memory": "1000Gi", "pods": "5000"});
    let status = json!({"status": {
        "capacity": room,
        "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": k8s_openapi::jiff::Timestamp::now()}],
    }});
    nodes
        .patch_status("played", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

/// Server-side apply of any object.
pub(crate) async fn apply_any(client: &Client, object: &Value) {
    let resource = resource(
        object["apiVersion"].as_str().unwrap(),
        object["kind"].as_str().unwrap(),
    );
    let name = object["metadata"]["name"].as_str().unwrap();
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply("test").force();
    let applied = api.patch(name, &parameters, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A kubeconfig with the rights of the operator's service account; those rights are given in one namespace only, or in
/// all.
pub(crate) async fn kubeconfig_of_operator(place: &Place, everywhere: bool) -> PathBuf {
    const SYSTEM: &str = "outbox-relay-system";
    let mut rights = documents("deploy/operator/rbac.yaml");
    if !everywhere {
        // As the file says: a RoleBinding in the namespace takes the place of the ClusterRoleBinding.
        rights.retain(|object| object["kind"] == "Role" || object["kind"] == "RoleBinding");
        for object in &mut rights {
            object["metadata"]["namespace"] = json!(place.namespace);
            for subject in object
                .get_mut("subjects")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                subject["namespace"] = json!(place.namespace);
            }
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "outbox-relay-operator", "namespace": place.namespace}});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "outbox-relay-operator-here", "namespace": place.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "outbox-relay-operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "outbox-relay-operator", "namespace": place.namespace}],
        });
        rights.extend([account, binding]);
        for object in &rights {
            apply_any(&place.admin, object).await;
        }
    }
    let namespace = if everywhere { SYSTEM } else { &place.namespace };
    let token = token(&place.admin, namespace, "outbox-relay-operator").await;
    let admin = std::fs::read_to_string(place.dir.join("admin.kubeconfig")).unwrap();
    let mut config: Value = serde_yaml::from_str(&admin).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    config["contexts"][0]["context"]["namespace"] = json!(namespace);
    let path = place.dir.join(format!("operator-{}.kubeconfig", place.namespace));
    std::fs::write(&path, serde_yaml::to_string(&config).unwrap()).unwrap();
    path
}

/// A token of a service account of the namespace.
pub(crate) async fn token_of(place: &Place, account: &str) -> String {
    token(&place.admin, &place.namespace, account).await
}

async fn token(admin: &Client, namespace: &str, account: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec!["https://kubernetes.default.svc".to_owned()],
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .unwrap();
    made.status.unwrap().token
}

/// Names of the objects of a kind in the namespace that belong to a relay.
pub(crate) async fn names_of(place: &Place, api_version: &str, kind: &str) -> Vec<String> {
    let parameters = kube::api::ListParams::default().labels("outboxrelay.dev/relay");
    let list = place.api(api_version, kind).list(&parameters).await.unwrap();
    let mut names: Vec<_> = list.items.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

/// What an operator did whose service account is of this namespace, by verb and resource; what it does all the time for
/// its Lease does not count.
pub(crate) fn requests_from(place: &Place, namespace: &str) -> BTreeMap<String, usize> {
    let user = format!("system:serviceaccount:{namespace}:outbox-relay-operator");
    let log = std::fs::read_to_string(place.dir.join("apiserver/audit.log")).unwrap();
    let mut requests = BTreeMap::new();
    // The last line may not be whole yet.
    for event in log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        if event["user"]["username"] == user.as_str()
            && resource != "leases"
            && event["stage"] == "ResponseComplete"
        {
            let verb = event["verb"].as_str().unwrap_or_default();
            *requests.entry(format!("{verb} {resource}")).or_default() += 1;
        }
    }
    requests
}
