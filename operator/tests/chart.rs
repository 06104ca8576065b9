//! The Helm chart, through a real Helm: what it renders, what it refuses, and that the plain manifests are the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first thing that is not as it must be"
)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MONITORING: [&str; 4] = [
    "--api-versions",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions",
    "monitoring.coreos.com/v1/PrometheusRule",
];

/// Objects of every installation with default values.
const ALWAYS: [&str; 4] = [
    "CustomResourceDefinition/outboxrelays.outboxrelay.dev",
    "Deployment/outbox-relay-operator",
    "Service/outbox-relay-operator",
    "ServiceAccount/outbox-relay-operator",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn helm(arguments: &[&str]) -> Output {
    Command::new(repository().join("scripts/kubernetes.sh"))
        .arg("helm")
        .args(arguments)
        .current_dir(repository())
        .output()
        .expect("scripts/kubernetes.sh can be run")
}

fn template(arguments: &[&str]) -> Output {
    let mut all = vec![
        "template",
        "outbox-relay",
        "charts/outbox-relay",
        "--namespace",
        "outbox-relay-system",
        // The oldest that the chart is for.
        "--kube-version",
        "1.29.0",
    ];
    all.extend(arguments);
    helm(&all)
}

/// `--set` for each of these.
fn set<'a>(values: &[&'a str]) -> Vec<&'a str> {
    values.iter().flat_map(|value| ["--set", value]).collect()
}

fn rendered(arguments: &[&str]) -> Vec<Value> {
    let output = template(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    documents(&String::from_utf8(output.stdout).unwrap())
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .filter(|document: &Value| !document.is_null())
        .collect()
}

/// `Kind/name` of each object.
fn objects(documents: &[Value]) -> BTreeSet<String> {
    documents
        .iter()
        .map(|object| {
            let text = |pointer: &str| object.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            format!("{}/{}", text("/kind"), text("/metadata/name"))
        })
        .collect()
}

fn object<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|object| object["kind"] == kind).unwrap()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Compares a committed file with what it has to be; `UPDATE_GENERATED=1` rewrites it.
fn committed(file: &str, wanted: &str) {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(repository().join(file), wanted).unwrap();
    }
    assert!(
        read(file) == wanted,
        "{file} is not what the chart makes; rewrite it with `make generate`"
    );
}

/// A template as a plain manifest: without what only Helm needs.
fn plain(name: &str, values: &[&str]) -> String {
    let file = format!("templates/{name}.yaml");
    let output = template(&[&["--show-only", &file], &set(values)[..]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let helms = ["# Source:", "helm.sh/chart:", "app.kubernetes.io/managed-by:"];
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines
        .lines()
        .filter(|line| !helms.iter().any(|own| line.trim_start().starts_with(own)));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.trim_start_matches("---\n").trim_start().to_owned() + "\n"
}

#[test]
fn plain_manifests_are_what_the_chart_makes() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: outbox-relay-system\n  labels:\n    \
                     pod-security.kubernetes.io/enforce: restricted\n---\n";
    let operator = "# The operator itself. Rendered from charts/outbox-relay; `make generate` rewrites it. Apply the \
                    definition\n# (crds/outboxrelays.yaml) before, and rbac.yaml after it.\n";
    let rights = "# What the operator may do, and nothing more. Rendered from charts/outbox-relay; `make generate` \
                  rewrites it.\n#\n# This is for all namespaces. The chart with watchNamespace=NAME renders the \
                  rights for one.\n";
    let metrics = "# Optional: the relays' lag as an external metric, for HorizontalPodAutoscalers. Rendered from \
                   charts/outbox-relay; `make\n# generate` rewrites it. A cluster has one server of external metrics: \
                   where KEDA or prometheus-adapter is that server,\n# leave this out and let them scale by the \
                   relays' metric outbox_relay_source_lag_seconds. After this file:\n#\n#   kubectl -n \
                   outbox-relay-system set env deployment/outbox-relay-operator \
                   EXTERNAL_METRICS_LISTEN=0.0.0.0:6443\n#\n# Delete what this file makes before the operator: an \
                   APIService without its server keeps namespaces from being deleted.\n#\n";
    committed(
        "deploy/operator/operator.yaml",
        &format!("{operator}{namespace}{}", plain("operator", &[])),
    );
    committed(
        "deploy/operator/rbac.yaml",
        &format!("{rights}{}", plain("rbac", &[])),
    );
    let enabled = plain("external-metrics", &["externalMetrics.enabled=true"]);
    committed(
        "deploy/operator/external-metrics.yaml",
        &format!("{metrics}{enabled}"),
    );
}

#[test]
fn the_definition_is_the_generated_one_and_outlives_the_release() {
    let definition = read("crds/outboxrelays.yaml");
    committed("charts/outbox-relay/files/outboxrelays.yaml", &definition);
    let mut wanted: Value = serde_yaml::from_str(&definition).unwrap();
    let mut kept = object(&rendered(&[]), "CustomResourceDefinition").clone();
    assert_eq!(kept["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let unkept = rendered(&set(&["crds.keep=false"]));
    assert!(object(&unkept, "CustomResourceDefinition")["metadata"]["annotations"].is_null());
    kept["metadata"].take();
    wanted["metadata"].take();
    assert_eq!(kept, wanted);
}

#[test]
fn the_chart_passes_helms_own_checks() {
    let output = helm(&["lint", "--strict", "charts/outbox-relay"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Values; objects that are there with them; objects that are not.
const GATES: &str = "
    | PodDisruptionBudget/ ClusterRoleBinding/ ClusterRole/outbox-relay-operator-edit | APIService/ NetworkPolicy/ ServiceMonitor/ PrometheusRule/ ConfigMap/
    crds.enabled=false | | CustomResourceDefinition/
    serviceAccount.create=false serviceAccount.name=mine | | ServiceAccount/
    rbac.create=false | | ClusterRole/ ClusterRoleBinding/ Role/ RoleBinding/
    rbac.aggregate=false | ClusterRole/outbox-relay-operator | ClusterRole/outbox-relay-operator-view
    watchNamespace=shop | Role/outbox-relay-operator RoleBinding/outbox-relay-operator Role/outbox-relay-operator-lease | ClusterRole/ ClusterRoleBinding/
    podDisruptionBudget.enabled=false | | PodDisruptionBudget/
    networkPolicy.enabled=true | NetworkPolicy/outbox-relay-operator |
    externalMetrics.enabled=true | APIService/v1beta1.external.metrics.k8s.io Service/outbox-relay-external-metrics Role/outbox-relay-external-metrics ClusterRole/outbox-relay-external-metrics |
    externalMetrics.enabled=true rbac.create=false | APIService/ | Role/ ClusterRole/ RoleBinding/ ClusterRoleBinding/
    serviceMonitor.enabled=true | ServiceMonitor/outbox-relay-operator | PrometheusRule/
    prometheusRule.enabled=true | PrometheusRule/outbox-relay-operator | ServiceMonitor/
    dashboard.enabled=true | ConfigMap/outbox-relay-operator-dashboard |";

#[test]
fn each_gate_opens_and_closes() {
    for line in GATES.trim().lines() {
        let columns: Vec<Vec<&str>> = line
            .split('|')
            .map(|column| column.split_whitespace().collect())
            .collect();
        let (values, there, absent) = (&columns[0], &columns[1], &columns[2]);
        let found = objects(&rendered(&[&set(values), &MONITORING[..]].concat()));
        let starts = |prefix: &str| found.iter().any(|one| one.starts_with(prefix));
        for prefix in there {
            assert!(starts(prefix), "{values:?}: no {prefix} in {found:?}");
        }
        for prefix in absent {
            assert!(!starts(prefix), "{values:?}: {prefix} in {found:?}");
        }
        for one in ALWAYS {
            let closed = absent.iter().any(|prefix| one.starts_with(prefix));
            assert!(closed || found.contains(one), "{values:?}: no {one} in {found:?}");
        }
    }
}

#[test]
fn a_cluster_without_prometheus_operator_is_no_reason_to_fail() {
    let found = objects(&rendered(&set(&[
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
    ])));
    assert!(
        !found
            .iter()
            .any(|one| one.starts_with("ServiceMonitor/") || one.starts_with("PrometheusRule/"))
    );
}

/// Value, kind, where it is found, what is found there. C is the container.
const ARRIVALS: &str = "
    image.tag=1.2.3 Deployment C/image outbox-relay-operator:1.2.3
    image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef Deployment C/image outbox-relay-operator@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    image.pullPolicy=Never Deployment C/imagePullPolicy Never
    relayImage.repository=registry:5000/relay Deployment C/env/0/value registry:5000/relay:0.1.0
    imagePullSecrets={pull} Deployment /spec/template/spec/imagePullSecrets/0/name pull
    fullnameOverride=other Deployment C/args/0 --lease=other
    nameOverride=other ServiceAccount /metadata/name other-operator
    operator.relayPort=9999 Deployment C/args/1 --relay-port=9999
    operator.concurrency=3 Deployment C/args/2 --concurrency=3
    operator.secretRefreshSeconds=5 Deployment C/args/3 --secret-refresh-seconds=5
    operator.logFormat=Text Deployment C/args/4 --log-format=text
    operator.logLevel=debug Deployment C/env/1/value debug
    externalMetrics.enabled=true Deployment C/args/6 --external-metrics-service=outbox-relay-external-metrics
    watchNamespace=shop Deployment C/env/2/value shop
    replicas=3 Deployment /spec/replicas 3
    nodeSelector.disk=ssd Deployment /spec/template/spec/nodeSelector/disk ssd
    priorityClassName=high Deployment /spec/template/spec/priorityClassName high
    podDisruptionBudget.maxUnavailable=50% PodDisruptionBudget /spec/maxUnavailable 50%";

#[test]
fn values_arrive_where_they_belong() {
    for line in ARRIVALS.trim().lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (value, kind, wanted) = (columns[0], columns[1], columns[3]);
        let pointer = columns[2].replacen("C/", "/spec/template/spec/containers/0/", 1);
        let documents = rendered(&set(&[value]));
        let found = object(&documents, kind).pointer(&pointer);
        let found = found.map(|found| found.as_str().map_or_else(|| found.to_string(), str::to_owned));
        assert_eq!(found.as_deref(), Some(wanted), "{value}");
    }
}

#[test]
fn the_operator_runs_under_the_restricted_profile() {
    let documents = rendered(&[]);
    let pod = &object(&documents, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let cases = [
        ("replica=3", "replica"),
        ("replicas=-1", "replicas"),
        ("image.tag=a b", "tag"),
        ("image.digest=sha256:12", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("watchNamespace=Shop", "watchNamespace"),
        ("operator.relayPort=0", "relayPort"),
        ("operator.concurrency=1000", "concurrency"),
        ("operator.logFormat=xml", "logFormat"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        ("networkPolicy.apiServerCidrs={here}", "apiServerCidrs"),
        ("serviceMonitor.interval=30s", "interval"),
        ("serviceAccount.create=false", "serviceAccount.name"),
    ];
    for (value, named) in cases {
        let output = template(&set(&[value]));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} was taken");
        assert!(message.contains(named), "{value}: {message}");
    }
}

#[test]
fn every_value_is_documented_and_has_a_schema() {
    let text = read("charts/outbox-relay/values.yaml");
    let values: Value = serde_yaml::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(&read("charts/outbox-relay/values.schema.json")).unwrap();
    check_documented(&text, &values, &schema, "");
}

/// Below objects that the schema leaves open (labels, resources) the user's own names begin.
fn check_documented(text: &str, values: &Value, schema: &Value, prefix: &str) {
    for (name, value) in values.as_object().unwrap() {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        assert!(
            text.contains(&format!("# {path}: ")),
            "{path} has no comment in values.yaml"
        );
        let below = &schema["properties"][name];
        assert!(!below.is_null(), "{path} has no schema");
        let closed = below["additionalProperties"] == false && path != "resources";
        if closed && value.is_object() {
            check_documented(text, value, below, &path);
        }
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let sources =
        ["delivery", "reading", "process"].map(|part| read(&format!("relay/src/metrics/{part}.rs")));
    let sources = sources.concat() + &read("operator/src/metrics.rs");
    let texts =
        ["alerts.yaml", "dashboard.json"].map(|file| read(&format!("charts/outbox-relay/files/{file}")));
    let mut seen = 0;
    for word in texts
        .concat()
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
    {
        let starts = [
            "outbox_relay_",
            "cdc_",
            "retry_",
            "dlq_",
            "circuit_breaker_",
            "actor_health_",
        ];
        if !starts.iter().any(|start| word.starts_with(start)) {
            continue;
        }
        let name = word.trim_end_matches("_bucket");
        let short = name
            .trim_start_matches("outbox_relay_operator_")
            .trim_start_matches("outbox_relay_");
        let known = [name, short]
            .iter()
            .any(|name| sources.contains(&format!("\"{name}\"")));
        assert!(known, "no metric {word}");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} metrics are named");
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let (alerts, tests) = (
        read("charts/outbox-relay/files/alerts.yaml"),
        read("charts/alerts-test.yaml"),
    );
    let guide = read("docs/operations.md");
    let named: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for alert in named {
        assert!(
            guide.contains(&format!("`{alert}`")),
            "docs/operations.md: {alert}"
        );
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "charts/alerts-test.yaml: {alert}"
        );
    }
}
