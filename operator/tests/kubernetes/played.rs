//! Plays what a control plane without nodes lacks: pods of relays begin to run, answer `/status`, and stop when they
//! are deleted. Each pod gets an address of its own of the loopback network.

use crate::cluster::{AGAIN, Place};
use crds::relay_status::{BreakerState, DataEvent, DataEventKind, Phase};
use crds::{RelayStatus, Timestamp};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::reflector::store;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How relays behave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// Pods of these shares never begin to run.
    pub(crate) pending: Vec<String>,
    /// Relays of these shares run and do not answer.
    pub(crate) silent: Vec<String>,
    /// Relays of these shares say that they are not ready, and why.
    pub(crate) unready: HashMap<String, String>,
    /// Relays of these shares cannot read: the category, and what they say.
    pub(crate) refused: HashMap<String, (String, String)>,
    /// The circuit of every relay is open.
    pub(crate) circuit_open: bool,
    /// Dead letters that wait, of every relay.
    pub(crate) dead_letters: u64,
    /// Data events of every relay.
    pub(crate) events: Vec<(u64, DataEventKind)>,
    /// Events delivered, of every relay.
    pub(crate) processed: u64,
    /// Every relay says that it reads what was written while it was away.
    pub(crate) catching_up: bool,
    /// How far every relay is behind.
    pub(crate) lag_seconds: u64,
    /// Pods that are deleted stay until this is false.
    pub(crate) hold_drain: bool,
    /// What every relay says that its configuration is.
    pub(crate) configuration: Option<String>,
    /// Processes that run as sidecars, first to last: they divide the slots.
    sidecars: Vec<String>,
}

impl Script {
    fn is_ready(&self, share: &str) -> bool {
        !self.unready.contains_key(share) && !self.refused.contains_key(share)
    }
}

/// What happened to a pod, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happened {
    Started(String),
    Stopped(String),
}

#[derive(Clone)]
pub(crate) struct Relays {
    pub(crate) port: u16,
    stage: Arc<Stage>,
    _tasks: Arc<JoinSet<()>>,
}

/// What the test says, and what it sees.
#[derive(Default)]
struct Stage {
    script: Mutex<Script>,
    /// Told when the script has changed.
    changed: Notify,
    happened: Mutex<Vec<Happened>>,
    questions: AtomicU32,
}

impl Stage {
    fn now(&self) -> Script {
        self.script.lock().unwrap().clone()
    }

    fn happens(&self, what: Happened) {
        self.happened.lock().unwrap().push(what);
    }
}

/// Share of a pod whose relay is a sidecar.
const AUTO: &str = "auto";

/// Distinguishes the addresses of all pods of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// What the API server did not take is told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(1);

impl Relays {
    pub(crate) async fn play(place: &Place) -> Self {
        let stage = Arc::<Stage>::default();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let kubelet = Kubelet {
            pods: Api::namespaced(place.admin.clone(), &place.namespace),
            port,
            stage: stage.clone(),
            running: HashMap::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(kubelet.play());
        Self {
            port,
            stage,
            _tasks: Arc::new(tasks),
        }
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.stage.script.lock().unwrap());
        self.stage.changed.notify_one();
    }

    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.stage.happened.lock().unwrap().clone()
    }

    /// How often relays were asked.
    pub(crate) fn questions(&self) -> u32 {
        self.stage.questions.load(Ordering::Relaxed)
    }

    pub(crate) fn forget(&self) {
        self.stage.happened.lock().unwrap().clear();
    }
}

/// A pod that runs.
struct Running {
    share: String,
    process: String,
    address: Ipv4Addr,
    /// Ends the answers.
    _answers: JoinSet<()>,
}

struct Kubelet {
    pods: Api<Pod>,
    port: u16,
    stage: Arc<Stage>,
    /// By UID.
    running: HashMap<String, Running>,
}

impl Kubelet {
    /// Looks after all pods of relays when one of them or the script has changed.
    async fn play(mut self) {
        let (seen, writer) = store();
        let config = watcher::Config::default().labels("outboxrelay.dev/relay");
        let mut events = pin!(watcher(self.pods.clone(), config).reflect(writer));
        let stage = self.stage.clone();
        loop {
            tokio::select! {
                event = events.next() => if !matches!(event, Some(Ok(_))) {
                    tokio::time::sleep(AGAIN).await;
                },
                () = stage.changed.notified() => {}
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
            let mut pods = seen.state();
            pods.sort_by_key(|pod| pod.name_any());
            for pod in pods {
                self.look_after(&pod).await;
            }
        }
    }

    async fn look_after(&mut self, pod: &Pod) {
        let script = self.stage.now();
        let share = pod.labels().get("outboxrelay.dev/share").cloned();
        let share = share.unwrap_or_else(|| AUTO.to_owned());
        let uid = pod.uid().unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            if !script.hold_drain {
                self.stop(pod, &uid, share).await;
            }
            return;
        }
        let is_scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if !self.running.contains_key(&uid) {
            if !is_scheduled || script.pending.contains(&share) {
                return;
            }
            let running = self.start(&share).await;
            self.running.insert(uid.clone(), running);
            self.stage.happens(Happened::Started(share.clone()));
        }
        let running = &self.running[&uid];
        set_status(&self.pods, pod, running.address, script.is_ready(&running.share)).await;
    }

    async fn start(&self, share: &str) -> Running {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(127, 90, (number / 250) as u8, (number % 250 + 1) as u8);
        let listener = TcpListener::bind((address, self.port)).await.unwrap();
        let process = format!("{number:08}");
        let started = k8s_openapi::jiff::Timestamp::now().to_string().parse().unwrap();
        let (of, named, stage) = (share.to_owned(), process.clone(), self.stage.clone());
        let mut answers = JoinSet::new();
        answers.spawn(answer(listener, of, named, started, stage));
        if share == AUTO {
            self.stage.script.lock().unwrap().sidecars.push(process.clone());
        }
        Running {
            share: share.to_owned(),
            process,
            address,
            _answers: answers,
        }
    }

    async fn stop(&mut self, pod: &Pod, uid: &str, share: String) {
        if let Some(ended) = self.running.remove(uid) {
            let sidecars = &mut self.stage.script.lock().unwrap().sidecars;
            sidecars.retain(|process| *process != ended.process);
        }
        let now = DeleteParams::default().grace_period(0);
        if self.pods.delete(&pod.name_any(), &now).await.is_ok() {
            self.stage.happens(Happened::Stopped(share));
        }
    }
}

/// What a kubelet would say; only when it is something new.
async fn set_status(pods: &Api<Pod>, pod: &Pod, address: Ipv4Addr, ready: bool) {
    let wanted = if ready { "True" } else { "False" };
    let known = pod.status.clone().unwrap_or_default();
    let mut conditions = known.conditions.iter().flatten();
    let is_known = conditions.any(|condition| condition.type_ == "Ready" && condition.status == wanted);
    if is_known && known.pod_ip == Some(address.to_string()) {
        return;
    }
    let patch = Patch::Strategic(json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": wanted, "lastTransitionTime": k8s_openapi::jiff::Timestamp::now()}],
    }}));
    // A pod may be gone by now.
    let _ = pods
        .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
        .await;
}

async fn answer(
    listener: TcpListener,
    share: String,
    process: String,
    started: Timestamp,
    stage: Arc<Stage>,
) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stage.questions.fetch_add(1, Ordering::Relaxed);
        let now = stage.now();
        let (share, process) = (share.clone(), process.clone());
        tokio::spawn(async move {
            if now.silent.contains(&share) {
                tokio::time::sleep(Duration::from_secs(30)).await;
                return;
            }
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let body = serde_json::to_string(&RelayStatus {
                started,
                ..status(&share, &process, &now)
            })
            .unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        });
    }
}

/// Slots that a relay owns: those of its share, or a fair part.
fn slots(label: &str, process: &str, script: &Script) -> u16 {
    if label == AUTO {
        let count = script.sidecars.len().max(1);
        let place = script.sidecars.iter().position(|one| one == process);
        return place.map_or(0, |place| (64 / count + usize::from(place < 64 % count)) as u16);
    }
    64 / label.rsplit('-').next().unwrap().parse::<u16>().unwrap()
}

/// What a relay of this share says when all is well.
pub(crate) fn well(label: &str) -> RelayStatus {
    status(label, "played", &Script::default())
}

fn status(label: &str, process: &str, script: &Script) -> RelayStatus {
    let slots = slots(label, process, script);
    let time = "2026-01-31T12:00:00.000Z";
    let mut status: RelayStatus = serde_json::from_value(json!({
        "schemaVersion": 1,
        "identity": "played",
        "share": label.replacen("-of-", "/", 1),
        "version": "0.0.0-played",
        "process": process,
        "started": time,
        "time": time,
        "phase": "Streaming",
        "ready": true,
        "slots": {"wanted": slots, "owned": slots, "ranges": [], "slowest": []},
        "components": [
            {"name": "source", "health": "Healthy", "since": time},
            {"name": "sink", "health": "Healthy", "since": time},
        ],
        "breaker": {"state": "Closed", "consecutiveFailures": 0},
        "totals": {"processed": script.processed},
        "lag": {"milliseconds": script.lag_seconds * 1000, "inFlight": 0},
        "retention": {"ttlSeconds": 86400},
        "deadLettersPending": script.dead_letters,
        "order": {"preserved": true},
    }))
    .unwrap();
    status.configuration = script.configuration.clone();
    if let Some((reason, message)) = script.refused.get(label) {
        let source = &mut status.components[0];
        source.health = crds::relay_status::Health::Failed;
        (source.reason, source.message) = (Some(reason.clone()), Some(message.clone()));
        (status.ready, status.phase) = (false, Phase::Starting);
        status.not_ready_because = Some(format!("source: {message}"));
    }
    if let Some(why) = script.unready.get(label) {
        (status.ready, status.not_ready_because) = (false, Some(why.clone()));
    }
    if script.catching_up {
        status.phase = Phase::CatchingUp;
    }
    if script.circuit_open {
        status.breaker.state = BreakerState::Open;
        status.breaker.last_error = Some("no broker".to_owned());
        (status.ready, status.phase) = (false, Phase::CircuitOpen);
        status.not_ready_because = Some("the circuit breaker is not closed".to_owned());
    }
    status.data_events = script
        .events
        .iter()
        .map(|(sequence, kind)| DataEvent {
            sequence: *sequence,
            time: time.parse().unwrap(),
            kind: *kind,
            message: format!("number {sequence}"),
        })
        .collect();
    status
}
