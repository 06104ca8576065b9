//! Messages as large as their topic allows, and larger.

use std::time::Duration;

use crds::RelayConfig;

use crate::cluster::Cluster;
use crate::fed::{Relay, Row, incompressible};
use crate::rows;

const MEGABYTES: usize = 2_500_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_topic_takes_is_the_topics_own_matter() {
    let cluster = Cluster::start().await;
    let large = cluster
        .topic("large-events", 1, &[("max.message.bytes", "4000000")])
        .await;
    let small = cluster
        .topic("small-events", 1, &[("max.message.bytes", "3000")])
        .await;
    for template in [large.as_str(), "${event_type}-events"] {
        let relay = Relay::start(&cluster, template);
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
    let cluster = Cluster::start().await;
    let topic = cluster.topic("raised", 1, &[]).await;
    let relay = Relay::start_configured(RelayConfig {
        sink: crds::Sink {
            bootstrap_servers: vec![cluster.bootstrap.clone()],
            topic: topic.clone(),
            ..crds::Sink::default()
        },
        ..RelayConfig::default()
    });
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
