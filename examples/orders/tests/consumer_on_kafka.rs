//! The example consumer on a real topic.

use std::time::Duration;

use orders::broker::Broker;
use orders::consume;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::mpsc;

/// A broker and a first fetch take a second; a busy machine far longer.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_acted_upon_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("kafka"), 1).unwrap();
    broker.create_topic("events", 1, &[]).await.unwrap();
    let producer: FutureProducer = broker.cluster().config().create().unwrap();
    for number in [1, 2, 1, 3, 2, 4] {
        let id = uuid::Uuid::from_u128(number).to_string();
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

    let (acted, mut actions) = mpsc::channel(10);
    let cluster = broker.cluster();
    let consumer = tokio::spawn(async move {
        consume::run(&cluster, "events", "test", |event| {
            acted.try_send(event.to_owned()).unwrap()
        })
        .await
    });
    for number in 1..=4 {
        let action = tokio::time::timeout(PATIENCE, actions.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(
            action.starts_with(&uuid::Uuid::from_u128(number).to_string()),
            "{number}: {action}"
        );
    }
    // It leaves its group while the broker is there: without one, closing waits for the broker's answer.
    consumer.abort();
    assert!(consumer.await.unwrap_err().is_cancelled());
}
