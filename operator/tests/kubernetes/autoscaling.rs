//! A HorizontalPodAutoscaler of Kubernetes itself, by way of its aggregator.

use crate::cluster::{Place, apply_any, condition, documents, minimal, resource, token_of};
use crate::played::Relays;
use crate::running::operator_with;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const METRIC: &str = "outbox_relay_source_lag_seconds";

/// The manifests, for an operator in this namespace that listens on this port.
async fn register(place: &Place, port: u16) {
    let text = serde_json::to_string(&documents("deploy/operator/external-metrics.yaml")).unwrap();
    let text = text.replace("outbox-relay-system", &place.namespace);
    for mut object in serde_json::from_str::<Vec<Value>>(&text).unwrap() {
        if object["kind"] == "Service" {
            // There are no pods: the API server finds the operator by a name.
            object["spec"] =
                json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]});
        }
        if object["kind"] == "APIService" {
            object["spec"]["service"]["port"] = json!(port);
        }
        apply_any(&place.admin, &object).await;
    }
    let services = api_services(place);
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let service = services.get("v1beta1.external.metrics.k8s.io").await.unwrap();
        let available = &service.data["status"]["conditions"][0];
        if available["status"] == "True" {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{available}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn api_services(place: &Place) -> Api<DynamicObject> {
    let resource = resource("apiregistration.k8s.io/v1", "APIService");
    Api::all_with(place.admin.clone(), &resource)
}

/// The HTTP status of a question that does not come through the aggregator.
fn ask(url: &str, headers: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", url]);
    for header in headers {
        command.args(["-H", header]);
    }
    let asked = command.output().expect("curl can be run");
    String::from_utf8(asked.stdout).unwrap()
}

async fn lag(place: &Place) -> Value {
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{METRIC}?labelSelector=relay%3Dorders",
        place.namespace
    );
    let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
    place.admin.request(request).await.unwrap()
}

pub(crate) async fn shares_follow_the_lag_and_nobody_reads_it_without_permission() {
    let place = Place::new("autoscaling").await;
    let relays = Relays::play(&place).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listen = format!("127.0.0.1:{port}");
    let arguments = [
        "--namespace",
        &place.namespace,
        "--external-metrics-listen",
        &listen,
    ];
    let _operator = operator_with(&place, relays.port, "one", &arguments, false).await;
    place.apply(&minimal("orders")).await.unwrap();
    place.until_ready("orders").await;
    register(&place, port).await;
    let list = lag(&place).await;
    assert_eq!(
        (
            &list["items"][0]["metricName"],
            &list["items"][0]["value"],
            &list["items"][0]["metricLabels"]
        ),
        (&json!(METRIC), &json!("0"), &json!({"relay": "orders"})),
        "{list}"
    );

    only_who_may_reads_it(&place, &listen).await;
    shares_follow(&place, &relays).await;
}

async fn only_who_may_reads_it(place: &Place, listen: &str) {
    let url = format!(
        "https://{listen}/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{METRIC}",
        place.namespace
    );
    let token = format!("Authorization: Bearer {}", token_of(place, "default").await);
    assert_eq!(ask(&url, &[]), "401");
    assert_eq!(
        ask(&url, &["X-Remote-User: admin", "X-Remote-Group: system:masters"]),
        "401"
    );
    assert_eq!(ask(&url, &["Authorization: Bearer nonsense"]), "401");
    assert_eq!(ask(&url, &[&token]), "403");
    for object in [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "reader", "namespace": place.namespace},
            "rules": [{"apiGroups": ["external.metrics.k8s.io"], "resources": [METRIC], "verbs": ["list"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "reader", "namespace": place.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": place.namespace}]}),
    ] {
        apply_any(&place.admin, &object).await;
    }
    let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
    while ask(&url, &[&token]) != "200" {
        assert!(tokio::time::Instant::now() < deadline, "permission is not seen");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(
        ask(&format!("{url}?labelSelector=app%3Dorders"), &[&token]),
        "400"
    );
    assert_eq!(ask(&url.replace(METRIC, "another"), &[&token]), "403");
}

async fn shares_follow(place: &Place, relays: &Relays) {
    let mut autoscaler = documents("deploy/samples/autoscaling.yaml").remove(0);
    autoscaler["metadata"]["namespace"] = json!(place.namespace);
    autoscaler["spec"]["behavior"] = json!({
        "scaleUp": {"stabilizationWindowSeconds": 0},
        "scaleDown": {"stabilizationWindowSeconds": 0},
    });
    autoscaler["spec"]["maxReplicas"] = json!(3);
    apply_any(&place.admin, &autoscaler).await;
    relays.script(|script| script.lag_seconds = 90);
    let scaled = place
        .until("orders", "scaled up by its lag", |relay| {
            relay["spec"]["shares"] == 3
                && relay["status"]["readyShares"] == 3
                && condition(relay, "Ready").0 == "True"
        })
        .await;
    assert_eq!(scaled["status"]["lagSeconds"], 90);
    relays.script(|script| script.lag_seconds = 0);
    place
        .until("orders", "scaled down again", |relay| {
            relay["spec"]["shares"] == 1 && relay["status"]["readyShares"] == 1
        })
        .await;
    // As long as one is registered and does not answer, no namespace can be deleted.
    api_services(place)
        .delete("v1beta1.external.metrics.k8s.io", &DeleteParams::default())
        .await
        .unwrap();
}
