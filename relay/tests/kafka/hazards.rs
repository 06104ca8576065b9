//! The whole relay between the sandbox and a real broker, where the log itself loses rows or changes them.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crds::source::{OnChange, OnRetentionGap};
use crds::{RelayConfig, Sink, Source, Timestamp};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message};
use relay::state::ownership::Share;
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(90);

/// Of the log. Above it the relay's horizon and the skew of clocks, both of which a bound stands back.
const RETENTION: Duration = Duration::from_secs(15);

pub(crate) struct Running {
    url: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(config: RelayConfig) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let (stop, listen) = (CancellationToken::new(), address.clone());
        let (token, share) = (stop.clone(), Share::Pinned { index: 1, count: 1 });
        // A runtime of its own, as the program has.
        let task = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            runtime
                .block_on(relay::run::run(config, share, &listen, token))
                .unwrap();
        });
        Self {
            url: format!("http://{address}"),
            stop,
            task,
        }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.ok()?;
        answer.text().await.ok()
    }

    async fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// The status, once it is as it should be.
    pub(crate) async fn status(&self, expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.get("/status").await.unwrap_or_default();
            let status = serde_json::from_str(&text).unwrap_or(Value::Null);
            if expected(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::task::spawn_blocking(|| self.task.join().unwrap())
            .await
            .unwrap();
    }
}

pub(crate) async fn database(cdc: &str) -> (Sandbox, Session) {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let session = SessionBuilder::new()
        .known_node(sandbox.addr().to_string())
        .build()
        .await
        .unwrap();
    for text in [
        "CREATE KEYSPACE shop WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} \
         AND tablets = {'enabled': false}",
        &format!(
            "CREATE TABLE shop.outbox (aggregate_id text, id int, event_type text, payload text, \
             PRIMARY KEY (aggregate_id, id)) WITH cdc = {{'enabled': true, {cdc}}}"
        ),
    ] {
        session.query_unpaged(text, ()).await.unwrap();
    }
    (sandbox, session)
}

pub(crate) fn config(sandbox: &Sandbox, cluster: &Cluster, topic: &str) -> RelayConfig {
    RelayConfig {
        identity: "shop.hazards".to_owned(),
        source: Source {
            contact_points: vec![sandbox.addr().to_string()],
            keyspace: "shop".to_owned(),
            table: "outbox".to_owned(),
            horizon_seconds: 1,
            ..Source::default()
        },
        sink: Sink {
            bootstrap_servers: vec![cluster.bootstrap.clone()],
            topic: topic.to_owned(),
            ..Sink::default()
        },
        ..RelayConfig::default()
    }
}

pub(crate) async fn write(session: &Session, ids: std::ops::Range<i32>) {
    for id in ids {
        let text = "INSERT INTO shop.outbox (aggregate_id, id, event_type, payload) VALUES (?, ?, 'T', '{}')";
        let values = (format!("a{}", id % 20), id);
        session.query_unpaged(text, values).await.unwrap();
    }
}

/// Key, payload (none is a tombstone) and event id.
type Received = (String, Option<String>, i32);

/// Every message in order, once the ids are there and so many messages.
async fn read(
    cluster: &Cluster,
    topic: &str,
    ids: impl IntoIterator<Item = i32>,
    count: usize,
) -> Vec<Received> {
    let (bootstrap, topic) = (cluster.bootstrap.clone(), topic.to_owned());
    let wanted: BTreeSet<i32> = ids.into_iter().collect();
    let read = move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "hazards")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[&topic]).unwrap();
        let (mut messages, mut deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while Instant::now() < deadline {
            let missing = |id: &&i32| !messages.iter().any(|message: &Received| message.2 == **id);
            if messages.len() >= count && wanted.iter().find(missing).is_none() {
                // Whatever comes beyond what is expected comes soon.
                deadline = deadline.min(Instant::now() + Duration::from_secs(3));
            }
            let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let message = message.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let id = header(&message, "event-id").parse().unwrap();
            messages.push((text(message.key().unwrap()), message.payload().map(text), id));
        }
        messages
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn header(message: &rdkafka::message::BorrowedMessage<'_>, name: &str) -> String {
    use rdkafka::message::Headers;
    let headers = message.headers().unwrap();
    let header = headers.iter().find(|header| header.key == name);
    String::from_utf8(header.unwrap().value.unwrap().to_vec()).unwrap()
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// From when to when rows are said to be lost, milliseconds: the narrowest of what the slots say.
fn said(status: &Value) -> Option<(u128, u128)> {
    let events = status["dataEvents"].as_array()?;
    let gaps = events.iter().filter(|event| event["kind"] == "RetentionGap");
    let mut said = None;
    for gap in gaps {
        let message = gap["message"].as_str().unwrap();
        let mut times = message
            .split_whitespace()
            .filter_map(|word| word.parse::<Timestamp>().ok())
            .map(|time| u128::from(time.milliseconds()));
        let (from, until) = (times.next().unwrap(), times.next().unwrap());
        let (latest, earliest) = said.unwrap_or((from, until));
        said = Some((from.max(latest), until.min(earliest)));
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_expired_unread_stop_the_relay_or_are_told_and_left() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("gap", 3, &[]).await;
    let (sandbox, session) = database(&format!("'ttl': '{}'", RETENTION.as_secs())).await;
    let base = config(&sandbox, &cluster, &topic);

    let relay = Running::start(base.clone());
    write(&session, 0..40).await;
    let delivered = |status: &Value| status["totals"]["processed"] == 40;
    relay.status(delivered).await;
    relay.end().await;
    let lost_from = now();
    write(&session, 40..80).await;
    let lost_until = now();
    tokio::time::sleep(RETENTION + Duration::from_secs(2)).await;

    let relay = Running::start(base.clone());
    let stopped = relay.status(|status| status["phase"] == "Stopped").await;
    let because = stopped["notReadyBecause"].as_str().unwrap();
    assert!(because.contains("onRetentionGap: Continue"), "{because}");
    let (from, until) = said(&stopped).expect("a retention gap");
    assert!(
        from <= lost_from && lost_until <= until,
        "{from} {lost_from} {lost_until} {until}"
    );
    while relay.metric("outbox_relay_retention_headroom_seconds").await >= 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    write(&session, 80..90).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = relay.status(|status| status.is_object()).await;
    assert_eq!(status["totals"]["processed"], 0, "{status:#}");
    relay.end().await;

    let mut going_on = base;
    going_on.source.on_retention_gap = OnRetentionGap::Continue;
    let relay = Running::start(going_on);
    let status = relay.status(|status| said(status).is_some()).await;
    let (from, until) = said(&status).unwrap();
    assert!(
        from <= lost_from && lost_until <= until,
        "{from} {lost_from} {lost_until} {until}"
    );
    relay.status(|status| status["ready"] == true).await;
    write(&session, 90..120).await;
    let ids: Vec<_> = read(&cluster, &topic, (0..40).chain(90..120), 70)
        .await
        .into_iter()
        .map(|message| message.2)
        .collect();
    relay.end().await;
    sandbox.stop().await;
    let seen: BTreeSet<_> = ids.iter().copied().collect();
    assert_eq!(seen.len(), ids.len(), "nothing twice");
    let left: BTreeSet<_> = seen.iter().copied().filter(|id| !(80..90).contains(id)).collect();
    assert!(left.into_iter().eq((0..40).chain(90..120)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_updates_and_deletes_reach_the_topic_in_order() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("changes", 1, &[]).await;
    let (sandbox, session) = database("'postimage': true").await;
    let mut config = config(&sandbox, &cluster, &topic);
    config.source.on_change = OnChange::Forward;
    let relay = Running::start(config);
    let mut expected = Vec::new();
    for id in 0..20 {
        let at = format!("WHERE aggregate_id = 'a' AND id = {id}");
        for text in [
            format!(
                "INSERT INTO shop.outbox (aggregate_id, id, event_type, payload) VALUES ('a', {id}, 'T', '{{}}')"
            ),
            format!("UPDATE shop.outbox SET payload = '[]' {at}"),
            format!("DELETE FROM shop.outbox {at}"),
        ] {
            session.query_unpaged(text, ()).await.unwrap();
        }
        let message = |payload: Option<&str>| ("a".to_owned(), payload.map(str::to_owned), id);
        expected.extend([message(Some("{}")), message(Some("[]")), message(None)]);
    }
    assert_eq!(read(&cluster, &topic, 0..20, expected.len()).await, expected);
    relay.end().await;
    sandbox.stop().await;
}
