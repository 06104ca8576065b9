//! A thousand resources on a real API server, one responder playing their relays. `make bench-operator` runs it.

use crate::cluster::{Place, control, minimal, prepare, requests_from, scratch, start};
use crate::running::{Running, operator_with};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const RESOURCES: usize = 1000;

/// Namespace of the operator.
const OPERATOR: &str = "outbox-relay-system";

/// Requests of the bench itself at once.
const PARALLEL: usize = 32;

/// How long requests are counted.
const STEADY: Duration = Duration::from_secs(120);

pub(crate) async fn a_thousand_resources() {
    let dir = scratch("kubernetes-bench");
    start(&dir);
    prepare(&dir).await;
    let place = Place::on(&dir, "bench").await;
    let mut tasks = JoinSet::new();
    let port = respond(&mut tasks).await;
    tasks.spawn(play_kubelet(Api::namespaced(
        place.admin.clone(),
        &place.namespace,
    )));
    create(&place).await;

    let begin = Instant::now();
    let mut operator = operator_with(&place, port, "cold", &[], true).await;
    let mut parts = vec![("operator", operator.pid(), 0.0)];
    for part in ["apiserver", "etcd", "controller-manager", "scheduler"] {
        let pid = pid(&place, part);
        parts.push((part, pid, processor_seconds(pid)));
    }
    parts.push((
        "the bench itself",
        std::process::id(),
        processor_seconds(std::process::id()),
    ));
    until_all_ready(&place).await;
    let cold = begin.elapsed();
    println!("{RESOURCES} OutboxRelays, one share each");
    println!(
        "  from no children to all Ready     {:8.1} s  (at most 60)",
        cold.as_secs_f64()
    );
    println!("  requests of the operator for it   {:8}", requests(&place));
    for (what, count) in requests_from(&place, OPERATOR) {
        println!("    {what:<32}{count:6}");
    }
    println!(
        "  processor seconds for it, of {} cores:",
        std::thread::available_parallelism().unwrap()
    );
    for (part, pid, before) in parts {
        println!("    {part:<32}{:8.1}", processor_seconds(pid) - before);
    }
    // What comes after the last one became ready is part of it.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (before, used) = (requests(&place), processor_seconds(operator.pid()));
    tokio::time::sleep(STEADY).await;
    let used = processor_seconds(operator.pid()) - used;
    let per_minute = (requests(&place) - before) as f64 * 60.0 / STEADY.as_secs_f64();
    let (rss, peak) = (memory(&operator, "VmRSS"), memory(&operator, "VmHWM"));
    assert!(operator.stop().await);

    let begin = Instant::now();
    let operator = operator_with(&place, port, "restarted", &[], true).await;
    until_passes(&operator, RESOURCES).await;
    let restarted = begin.elapsed();
    println!(
        "  a restart until all were looked at{:8.1} s",
        restarted.as_secs_f64()
    );
    println!(
        "  resident memory of the operator   {:8.1} MiB (at most 64), at its peak {:.1} MiB",
        rss, peak
    );
    println!(
        "  memory after a restart            {:8.1} MiB",
        memory(&operator, "VmRSS")
    );
    println!("  API requests in steady state      {per_minute:8.1} per minute");
    println!(
        "  processor in steady state         {:8.1} % of a core",
        100.0 * used / STEADY.as_secs_f64()
    );
    drop(operator);
    control(&dir, "stop", &[]);
    assert!(
        cold.as_secs() <= 60 && rss <= 64.0,
        "slower or larger than promised"
    );
}

async fn create(place: &Place) {
    let api = place.relays();
    stream::iter(0..RESOURCES)
        .map(|number| {
            let (api, name) = (api.clone(), format!("relay-{number}"));
            async move {
                let patch = Patch::Apply(minimal(&name));
                api.patch(&name, &PatchParams::apply("bench"), &patch)
                    .await
                    .unwrap()
            }
        })
        .buffer_unordered(PARALLEL)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Says that every pod runs, at the address of the responder.
async fn play_kubelet(pods: Api<Pod>) {
    let touched = watcher(pods.clone(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .try_filter(|pod| {
            let waits = pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none());
            let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            std::future::ready(waits && scheduled)
        });
    touched
        .for_each_concurrent(PARALLEL, |pod| {
            let pods = pods.clone();
            async move {
                let Ok(pod) = pod else { return };
                let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
                    "conditions": [{"type": "Ready", "status": "True"}]}});
                let patch = Patch::Strategic(status);
                let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
            }
        })
        .await;
}

/// Answers every question with the same document.
async fn respond(tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = serde_json::to_string(&crate::played::well("1-of-1")).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tasks.spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                continue;
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

async fn until_all_ready(place: &Place) {
    let config = watcher::Config::default();
    let mut relays = std::pin::pin!(
        watcher(place.relays(), config)
            .default_backoff()
            .touched_objects()
    );
    let mut ready = std::collections::HashSet::new();
    let deadline = Instant::now() + Duration::from_secs(600);
    while ready.len() < RESOURCES {
        assert!(Instant::now() < deadline, "only {} became ready", ready.len());
        if let Some(Ok(relay)) = relays.next().await {
            let value = serde_json::to_value(&relay).unwrap();
            if crate::cluster::condition(&value, "Ready").0 == "True" {
                ready.insert(relay.name_any());
            }
        }
    }
}

/// Requests of the operator, as the API server counted them.
fn requests(place: &Place) -> usize {
    let log = std::fs::read_to_string(place.dir.join("apiserver/audit.log")).unwrap();
    let user = format!("system:serviceaccount:{OPERATOR}:outbox-relay-operator");
    log.lines()
        .filter(|line| line.contains(&user) && line.contains("\"stage\":\"ResponseComplete\""))
        .count()
}

async fn until_passes(operator: &Running, wanted: usize) {
    operator.until_log("starts").await;
    let log = operator.log();
    let listen = log
        .split("listen=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .to_owned();
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let metrics = reqwest::get(format!("http://{listen}/metrics"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("outbox_relay_operator_reconcile_duration_seconds_count "))
            .and_then(|count| count.trim().parse::<usize>().ok())
            .unwrap_or(0);
        if count >= wanted {
            return;
        }
        assert!(Instant::now() < deadline, "only {count} passes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn pid(place: &Place, part: &str) -> u32 {
    let pid = std::fs::read_to_string(place.dir.join(part).join("pid")).unwrap();
    pid.trim().parse().unwrap()
}

/// What the process has used of the machine so far; the kernel counts in hundredths.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name of the program, which may hold anything: user and system time are fields 14 and 15.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: &str| field.parse::<f64>().unwrap();
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}

/// A field of the process's status, in MiB.
fn memory(operator: &Running, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
