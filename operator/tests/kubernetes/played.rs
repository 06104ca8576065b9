//! Plays what a control plane without nodes lacks: pods of relays begin to run, answer `/status`, and stop when they
//! are deleted. Each pod gets an address of its own of the loopback network.

use crate::cluster::Place;
use crds::RelayStatus;
use crds::relay_status::{BreakerState, DataEvent, DataEventKind, Phase};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
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
    script: Arc<Mutex<Script>>,
    happened: Arc<Mutex<Vec<Happened>>>,
    questions: Arc<AtomicU32>,
    _tasks: Arc<JoinSet<()>>,
}

/// Share of a pod whose relay is a sidecar.
const AUTO: &str = "auto";

/// Distinguishes the addresses of all pods of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

struct Running {
    share: String,
    process: String,
    /// Ends the answers.
    _answers: JoinSet<()>,
}

impl Relays {
    pub(crate) async fn play(place: &Place) -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let happened = Arc::<Mutex<Vec<Happened>>>::default();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let pods: Api<Pod> = Api::namespaced(place.admin.clone(), &place.namespace);
        let mut tasks = JoinSet::new();
        let questions = Arc::<AtomicU32>::default();
        tasks.spawn(play(
            pods,
            port,
            script.clone(),
            happened.clone(),
            questions.clone(),
        ));
        Self {
            port,
            script,
            happened,
            questions,
            _tasks: Arc::new(tasks),
        }
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.happened.lock().unwrap().clone()
    }

    /// How often relays were asked.
    pub(crate) fn questions(&self) -> u32 {
        self.questions.load(Ordering::Relaxed)
    }

    pub(crate) fn forget(&self) {
        self.happened.lock().unwrap().clear();
    }
}

async fn play(
    pods: Api<Pod>,
    port: u16,
    script: Arc<Mutex<Script>>,
    happened: Arc<Mutex<Vec<Happened>>>,
    questions: Arc<AtomicU32>,
) {
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        let Ok(list) = pods.list(&ListParams::default()).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        for pod in list.items {
            let now = script.lock().unwrap().clone();
            if !pod.labels().contains_key("outboxrelay.dev/relay") {
                continue;
            }
            let share = pod.labels().get("outboxrelay.dev/share").cloned();
            let share = share.unwrap_or_else(|| AUTO.to_owned());
            let uid = pod.uid().unwrap();
            if pod.metadata.deletion_timestamp.is_some() {
                if !now.hold_drain {
                    if let Some(ended) = running.remove(&uid) {
                        let sidecars = &mut script.lock().unwrap().sidecars;
                        sidecars.retain(|process| *process != ended.process);
                    }
                    let gone = pods
                        .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                        .await;
                    if gone.is_ok() {
                        happened.lock().unwrap().push(Happened::Stopped(share));
                    }
                }
            } else if pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.as_ref())
                .is_none()
                || now.pending.contains(&share)
            {
                // The scheduler, or the script, has not decided yet.
            } else if let Some(known) = running.get(&uid) {
                let ready = now.is_ready(&known.share);
                set_status(&pods, &pod, None, ready).await;
            } else {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let address = Ipv4Addr::new(127, 90, (number / 250) as u8, (number % 250 + 1) as u8);
                let listener = TcpListener::bind((address, port)).await.unwrap();
                let mut answers = JoinSet::new();
                let process = format!("{number:08}");
                answers.spawn(answer(
                    listener,
                    share.clone(),
                    process.clone(),
                    script.clone(),
                    questions.clone(),
                ));
                if share == AUTO {
                    script.lock().unwrap().sidecars.push(process.clone());
                }
                set_status(&pods, &pod, Some(address), now.is_ready(&share)).await;
                happened.lock().unwrap().push(Happened::Started(share.clone()));
                let _answers = answers;
                running.insert(
                    uid,
                    Running {
                        share,
                        process,
                        _answers,
                    },
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a kubelet would say; only when it is something new.
async fn set_status(pods: &Api<Pod>, pod: &Pod, address: Option<Ipv4Addr>, ready: bool) {
    let wanted = if ready { "True" } else { "False" };
    let known = pod.status.as_ref().and_then(|status| {
        let conditions = status.conditions.as_ref()?;
        Some(
            conditions
                .iter()
                .find(|condition| condition.type_ == "Ready")?
                .status
                .clone(),
        )
    });
    if address.is_none() && known.as_deref() == Some(wanted) {
        return;
    }
    let mut status = json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": wanted, "lastTransitionTime": k8s_openapi::jiff::Timestamp::now()}],
    });
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    let patch = Patch::Strategic(json!({"status": status}));
    // A pod may be gone by now.
    let _ = pods
        .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
        .await;
}

async fn answer(
    listener: TcpListener,
    share: String,
    process: String,
    script: Arc<Mutex<Script>>,
    questions: Arc<AtomicU32>,
) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        questions.fetch_add(1, Ordering::Relaxed);
        let now = script.lock().unwrap().clone();
        let (share, process) = (share.clone(), process.clone());
        tokio::spawn(async move {
            if now.silent.contains(&share) {
                tokio::time::sleep(Duration::from_secs(30)).await;
                return;
            }
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let body = serde_json::to_string(&status(&share, &process, &now)).unwrap();
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
