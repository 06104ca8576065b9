//! Messages as large as their topic allows, and larger.

use std::time::Duration;

use crds::Sink;

use crate::cluster::Cluster;
use crate::fed::{Relay, Row, incompressible};
use crate::rows;

const MEGABYTES: usize = 2_500_000;

/// Then the broker measures what we measure.
fn uncompressed(cluster: &Cluster, topic: &str) -> Sink {
    Sink {
        bootstrap_servers: vec![cluster.bootstrap.clone()],
        topic: topic.to_owned(),
        properties: [("compression.type".to_owned(), "none".to_owned())].into(),
        ..Sink::default()
    }
}

/// JSON of about this size, as repetitive as events are.
fn compressible(length: usize) -> String {
    let item = |number: usize| format!("{{\"sku\":\"A-{number:06}\",\"quantity\":{}}}", number % 7);
    let items: Vec<_> = (0..length / item(0).len()).map(item).collect();
    format!("[{}]", items.join(","))
}

/// The broker's limit applies to what it is sent, which is compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_fits_once_it_is_compressed_is_delivered() {
    let cluster = Cluster::shared().await;
    let topic = cluster
        .topic("compressed", 1, &[("max.message.bytes", "1048576")])
        .await;
    let large = || compressible(2_000_000);
    let relay = Relay::start(&cluster, &topic);
    relay
        .offer(vec![
            Row::new(0, 0, "{}".to_owned()),
            Row::new(1, 0, large()),
            Row::new(2, 0, incompressible(2, large().len())),
            Row::new(3, 0, "{}".to_owned()),
        ])
        .await;
    relay.resolved(4).await;
    let letters = relay.dead_letters();
    assert_eq!((letters.len(), letters[0].event_id.as_str()), (1, "2"));
    assert!(
        letters[0].error.starts_with("MessageSizeTooLarge: "),
        "{}",
        letters[0].error
    );
    cluster
        .read(&topic)
        .await
        .in_order_exactly(1, [0, 1, 3].into_iter());
    relay.stop().await;

    let relay = Relay::start_with(uncompressed(&cluster, &topic));
    relay.offer(vec![Row::new(4, 0, large())]).await;
    relay.resolved(1).await;
    let error = &relay.dead_letters()[0].error;
    assert!(
        error.contains("bytes as a record batch; topic compressed takes 1048576"),
        "known before it is sent: {error}"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_topic_takes_is_the_topics_own_matter() {
    let cluster = Cluster::shared().await;
    let large = cluster
        .topic("large-events", 1, &[("max.message.bytes", "4000000")])
        .await;
    let small = cluster
        .topic("small-events", 1, &[("max.message.bytes", "3000")])
        .await;
    for template in [large.as_str(), "${event_type}-events"] {
        let relay = Relay::start_with(uncompressed(&cluster, template));
        let mut row = Row::new(0, 0, incompressible(0, MEGABYTES));
        row.event_type = "large".to_owned();
        let mut refused = Row::new(1, 0, incompressible(1, 5_000_000));
        refused.event_type = "large".to_owned();
        relay.offer(vec![row, refused]).await;
        relay.resolved(2).await;
        let letters = relay.dead_letters();
        assert_eq!(
            (letters.len(), letters[0].event_id.as_str()),
            (1, "1"),
            "{template}"
        );
        relay.stop().await;
    }
    let relay = Relay::start(&cluster, "${event_type}-events");
    let mut row = Row::new(0, 0, incompressible(0, 5_000));
    row.event_type = "small".to_owned();
    relay.offer(vec![row]).await;
    relay.resolved(1).await;
    assert!(relay.dead_letters()[0].error.starts_with("MessageSizeTooLarge: "));
    assert_eq!(cluster.read(&large).await.len(), 2);
    assert_eq!(cluster.read(&small).await.len(), 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_was_raised_holds_for_what_comes_a_while_later() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("raised", 1, &[]).await;
    let relay = Relay::start_with(uncompressed(&cluster, &topic));
    relay.offer(rows(0..3, 1)).await;
    relay.delivered(3).await;
    cluster.alter(&topic, "max.message.bytes", "4000000").await;
    // As long as a refusal may rest on what a topic said before.
    tokio::time::sleep(Duration::from_secs(10)).await;
    relay
        .offer(vec![
            Row::new(3, 0, incompressible(3, MEGABYTES)),
            Row::new(4, 0, "{}".to_owned()),
        ])
        .await;
    relay.delivered(5).await;
    cluster.read(&topic).await.in_order_exactly(1, 0..5);
    relay.stop().await;
}
