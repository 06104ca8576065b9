//! The first messages of a producer: the broker knows no sequence numbers of it yet, and takes whatever comes.

use crds::dead_letter::OnAggregate;
use crds::{RelayConfig, Sink};
use relay::deliver::kafka::{KafkaBroker, KafkaSettings};
use relay::ports::{Broker, Producer, Reason, Role, Signals};

use crate::cluster::Cluster;
use crate::fed::{Relay, incompressible};
use crate::rows;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_the_first_message_of_a_producer_if_it_is_refused() {
    let cluster = Cluster::shared().await;
    let topic = cluster
        .topic("introduced", 1, &[("max.message.bytes", "3000")])
        .await;
    let mut config = RelayConfig::default();
    config.sink.bootstrap_servers = vec![cluster.bootstrap.clone()];
    config.sink.topic = topic.clone();
    config.dead_letter.on_aggregate = OnAggregate::Hold;
    let relay = Relay::start_configured(config);
    // No two of them fit into one request, so that several are under way at once.
    let mut rows = rows(0..8, 1);
    for row in &mut rows {
        let refused = row.number == 0;
        row.payload = Some(incompressible(row.number, if refused { 5_000 } else { 2_000 }));
    }
    relay.offer(rows).await;
    relay.resolved(8).await;
    assert_eq!(
        cluster.read(&topic).await.numbers(),
        [].into(),
        "the first holds them"
    );
    let letters = relay.dead_letters();
    let held = letters.iter().filter(|letter| letter.reason == Reason::Held);
    assert_eq!(held.count(), 7);
    relay.stop().await;
}

/// What is known of partitions is known by their numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_lead_to_the_partitions_that_are_expected() {
    const PARTITIONS: i32 = 12;
    const AGGREGATES: u64 = 200;
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("keys", PARTITIONS, &[]).await;
    let sink = Sink {
        bootstrap_servers: vec![cluster.bootstrap.clone()],
        topic: topic.clone(),
        ..Sink::default()
    };
    let settings = KafkaSettings::new(&sink, &RelayConfig::default().memory, "test").unwrap();
    let broker = KafkaBroker::new(settings, false).unwrap();
    let producer = broker.producer(Role::Flow, Signals::new(|_| ())).unwrap();
    let relay = Relay::start_with(sink);
    relay.offer(rows(0..AGGREGATES, AGGREGATES)).await;
    relay.delivered(AGGREGATES).await;
    for message in cluster.read(&topic).await.all() {
        let key = message.aggregate.to_string();
        assert_eq!(
            message.partition,
            producer.partition(key.as_bytes(), PARTITIONS),
            "{key}"
        );
    }
    producer.close().await;
    relay.stop().await;
}
