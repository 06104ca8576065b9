//! The example consumer on a real topic.

#![expect(clippy::unwrap_used, reason = "a test stops where something is missing")]

use std::process::Stdio;
use std::time::Duration;

use orders::broker::Broker;
use orders::consume;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

/// A broker and a first fetch take a second; a busy machine far longer.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_acted_upon_once() {
    let (_folder, broker) = broker_with(&[1, 2, 1, 3, 2, 4]).await;
    let (acted, mut actions) = mpsc::channel(10);
    let cluster = broker.cluster();
    let consumer = tokio::spawn(async move {
        consume::run(&cluster, "events", "test", |event| {
            acted.try_send(event.to_owned()).unwrap()
        })
        .await
    });
    for number in 1..=4 {
        let action = timeout(PATIENCE, actions.recv()).await.unwrap().unwrap();
        assert!(action.starts_with(&id(number)), "{number}: {action}");
    }
    // It leaves its group while the broker is there: without one, closing may wait for ever.
    consumer.abort();
    assert!(consumer.await.unwrap_err().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_when_it_is_told_to_also_without_its_broker() {
    let (_folder, broker) = broker_with(&[1]).await;
    let bootstrap = broker.cluster().bootstrap;
    let mut consumer = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args(["consume", "--kafka", &bootstrap, "--topic", "events"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(consumer.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert!(line.unwrap().starts_with(&id(1)));

    broker.kill().unwrap();
    let pid = consumer.id().unwrap().to_string();
    let signal = Command::new("kill").args(["-TERM", &pid]).status().await;
    assert!(signal.unwrap().success());
    let ended = timeout(PATIENCE, consumer.wait()).await.expect("it should end");
    assert!(ended.unwrap().success());
}

/// A broker, and these events in its topic.
async fn broker_with(numbers: &[u128]) -> (TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("kafka"), 1).unwrap();
    broker.create_topic("events", 1, &[]).await.unwrap();
    let producer: FutureProducer = broker.cluster().config().create().unwrap();
    for number in numbers {
        let id = id(*number);
        let headers = OwnedHeaders::new().insert(Header {
            key: "event-id",
            value: Some(&id),
        });
        let record = FutureRecord::to("events")
            .key("order")
            .payload(&id)
            .headers(headers);
        producer.send(record, PATIENCE).await.unwrap();
    }
    (folder, broker)
}

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}
