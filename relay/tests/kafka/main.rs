//! Delivery against a real Kafka broker, through `scripts/kafka.sh`. Fails where it cannot be had.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod acl;
mod cluster;
mod fed;
mod hazards;
mod introductions;
mod letters;
mod messages;
mod replays;
mod security;
mod sizes;
mod spans;
mod start;
mod tokens;
mod topic_letters;
mod transactions;

use std::collections::BTreeSet;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterWhen;
use crds::relay_status::Health;
use relay::ports::{ErrorClass, Outcome, Reason};

use cluster::Cluster;
use fed::{Relay, Row, incompressible, wait_until};

const A_WHILE: Duration = Duration::from_secs(60);

/// Rows of some aggregates, in order, with numbered payloads.
fn rows(numbers: std::ops::Range<u64>, aggregates: u64) -> Vec<Row> {
    let row = |number: u64| Row::new(number, number % aggregates, format!("{{\"n\":{number}}}"));
    numbers.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_in_the_topic_with_its_headers() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("acknowledged", 4, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..2_000, 7)).await;
    relay.delivered(2_000).await;
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 2_000);
    messages.in_order_once(7);
    let first = &messages.of_aggregate(3)[0];
    assert_eq!(first.header("event-id"), Some("3"));
    assert_eq!(first.header("aggregate-id"), Some("3"));
    assert_eq!(first.header("event-type"), Some("T"));
    assert!(first.header("source-position").is_some());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_slot_was_lost_is_not_sent_beside_what_is_read_anew() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("back", 2, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..50, 5)).await;
    relay.delivered(50).await;
    relay.offer_across_a_loss(rows(50..100, 5)).await;
    relay.offer(rows(100..150, 5)).await;
    relay.delivered(150).await;
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 150);
    messages.in_order_once(5);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_the_topic_never_takes_become_dead_letters_and_the_rest_keeps_its_order() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("small", 2, &[("max.message.bytes", "3000")]).await;
    let relay = Relay::start(&cluster, &topic);
    let mut rows = rows(0..100, 5);
    for row in rows.iter_mut().filter(|row| row.number % 2 == 1) {
        row.payload = Some(incompressible(row.number, 5_000));
    }
    relay.offer(rows).await;
    relay.resolved(100).await;
    let letters = relay.dead_letters();
    assert_eq!(letters.len(), 50);
    assert!(
        letters
            .iter()
            .all(|letter| letter.error.starts_with("MessageSizeTooLarge: ")),
        "{:?}",
        letters[0].error
    );
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 50);
    messages.in_order_once(5);
    // Each would cost half a second, and there would be one for every refused message.
    let ended = relay.metric("outbox_relay_producer_generations_total");
    assert!(ended <= Some(2.0), "{ended:?} producers ended");
    relay.stop().await;
}

/// The limit shrinks after the relay has read it, so that the broker itself refuses whole batches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_the_broker_refuses_are_isolated() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("shrinking", 1, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..10, 5)).await;
    relay.delivered(10).await;
    cluster.alter(&topic, "max.message.bytes", "3000").await;
    let mut bad = rows(10..110, 5);
    for row in bad.iter_mut().filter(|row| row.number % 10 == 3) {
        row.payload = Some(incompressible(row.number, 5_000));
    }
    relay.offer(bad).await;
    relay.resolved(110).await;
    let letters = relay.dead_letters();
    let numbers: Vec<_> = letters.iter().map(|letter| letter.event_id.clone()).collect();
    assert_eq!(numbers.len(), 10, "{numbers:?}");
    assert!(numbers.iter().all(|number| number.ends_with('3')), "{numbers:?}");
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 100);
    messages.in_order_once(5);
    assert_eq!(
        relay.metric("circuit_breaker_state"),
        Some(0.0),
        "the breaker does not count them"
    );
    relay.stop().await;
}

/// librdkafka takes back what was in flight behind the refused message, and would keep it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_behind_a_refused_message_is_no_stalled_attempt() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("behind", 1, &[("max.message.bytes", "3000")]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..5, 5)).await;
    relay.delivered(5).await;
    // No two of them fit into one request.
    let mut rows = rows(5..45, 5);
    for row in &mut rows {
        let refused = row.number == 10;
        row.payload = Some(incompressible(row.number, if refused { 5_000 } else { 2_000 }));
    }
    relay.offer(rows).await;
    relay.resolved(45).await;
    assert_eq!(relay.dead_letters().len(), 1);
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(5, (0..45).filter(|number| *number != 10));
    assert_eq!(relay.metric("retry_attempts_total"), Some(0.0), "nothing stalled");
    relay.stop().await;
}

/// The answer to the first request never comes; librdkafka sends it again, and that is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_nothing_of_what_was_sent_before_it() {
    let cluster = Cluster::own().await;
    let topic = cluster.topic("timed-out", 1, &[]).await;
    let relay = Relay::start_with(crds::Sink {
        bootstrap_servers: vec![cluster.bootstrap.clone()],
        topic: topic.clone(),
        properties: [("socket.timeout.ms".to_owned(), "3000".to_owned())].into(),
        ..crds::Sink::default()
    });
    relay.offer(rows(0..5, 1)).await;
    relay.delivered(5).await;
    cluster.alter(&topic, "max.message.bytes", "3000").await;
    cluster.script("pause").await;
    relay.offer(vec![Row::new(5, 0, incompressible(5, 5_000))]).await;
    // Longer than a request waits for its answer.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.script("resume").await;
    relay.resolved(6).await;
    let letters = relay.dead_letters();
    assert!(
        letters[0].error.starts_with("MessageSizeTooLarge: "),
        "{}",
        letters[0].error
    );
    assert_eq!(letters[0].outcome, Outcome::Unknown);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_broker_delays_and_repeats_nothing() {
    let cluster = Cluster::own().await;
    let topic = cluster.topic("paused", 4, &[]).await;
    let mut config = RelayConfig::default();
    config.sink.bootstrap_servers = vec![cluster.bootstrap.clone()];
    config.sink.topic = topic.clone();
    config.retry.attempt_timeout_milliseconds = 2_000;
    let relay = Relay::start_configured(config);
    relay.offer(rows(0..500, 5)).await;
    relay.delivered(500).await;
    cluster.script("pause").await;
    relay.offer(rows(500..1_000, 5)).await;
    wait_until("a stalled attempt", A_WHILE, || {
        relay.metric("retry_attempts_total") >= Some(1.0)
    })
    .await;
    cluster.script("resume").await;
    relay.delivered(1_000).await;
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 1_000, "idempotence: nothing twice");
    messages.in_order_once(5);
    assert_eq!(
        relay.metric("outbox_relay_producer_generations_total"),
        Some(0.0),
        "a stall purges nothing"
    );
    assert_eq!(
        relay.sink_health().health,
        Health::Healthy,
        "what is delivered after a failed attempt heals"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_opens_the_breaker_and_everything_is_delivered_after_its_return() {
    let cluster = Cluster::own().await;
    let topic = cluster.topic("killed", 4, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..50, 5)).await;
    relay.delivered(50).await;
    cluster.script("kill").await;
    relay.offer(rows(50..100, 5)).await;
    wait_until("the breaker opens", A_WHILE, || {
        relay.metric("circuit_breaker_state") == Some(1.0)
    })
    .await;
    assert_eq!(relay.view().totals.processed, 50);
    cluster.script("start").await;
    relay.delivered(100).await;
    // What librdkafka delivered while the circuit was open is no probe.
    relay.offer(rows(100..110, 5)).await;
    relay.delivered(110).await;
    wait_until("the breaker closes", A_WHILE, || {
        relay.metric("circuit_breaker_state") == Some(0.0)
    })
    .await;
    let messages = cluster.read(&topic).await;
    messages.in_order_at_least_once(5, 110);
    assert!(relay.dead_letters().is_empty());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_exhausted_a_long_outage_makes_dead_letters_and_the_rest_is_delivered() {
    let cluster = Cluster::own().await;
    let topic = cluster.topic("exhausted", 4, &[]).await;
    let mut config = RelayConfig::default();
    config.sink.bootstrap_servers = vec![cluster.bootstrap.clone()];
    config.sink.topic = topic.clone();
    config.dead_letter.when = DeadLetterWhen::Exhausted;
    let relay = Relay::start_configured(config);
    relay.offer(rows(0..50, 5)).await;
    relay.delivered(50).await;
    cluster.script("kill").await;
    relay.offer(rows(50..100, 5)).await;
    wait_until("a dead letter", A_WHILE, || !relay.dead_letters().is_empty()).await;
    cluster.script("start").await;
    relay.resolved(100).await;
    let letters = relay.dead_letters();
    assert_eq!((letters[0].event_id.as_str(), letters[0].failures), ("50", 5));
    assert_eq!(letters[0].reason, Reason::Exhausted(ErrorClass::Transient));
    let messages = cluster.read(&topic).await;
    messages.in_order_once(5);
    assert_eq!(
        messages.len() + letters.len(),
        100,
        "what is given up is not delivered later"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_an_event_names_and_nobody_made_concerns_that_event_only() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("T-events", 2, &[]).await;
    let relay = Relay::start(&cluster, "${event_type}-events");
    let mut rows = rows(0..20, 2);
    rows[4].event_type = "Unheard-of".to_owned();
    relay.offer(rows).await;
    relay.resolved(20).await;
    let letters = relay.dead_letters();
    assert_eq!((letters.len(), letters[0].event_id.as_str()), (1, "4"));
    assert_eq!(&*letters[0].message.topic, "Unheard-of-events");
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 19);
    messages.in_order_once(2);
    assert_eq!(
        relay.metric("retry_attempts_total"),
        Some(0.0),
        "no fault of the broker"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_under_load_loses_and_reorders_nothing() {
    let cluster = Cluster::own().await;
    let topic = cluster.topic("load", 8, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    let total = 60_000;
    let load = relay.offer_in_batches(rows(0..total, 50), 200, Duration::from_millis(5));
    let faults = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            cluster.script("kill").await;
            cluster.script("start").await;
        }
    };
    tokio::join!(load, faults);
    relay.delivered(total).await;
    cluster.read(&topic).await.in_order_at_least_once(50, total);
    assert!(relay.dead_letters().is_empty());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_goes_missing_keeps_its_events_until_it_is_back() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("vanishing", 2, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..10, 2)).await;
    relay.delivered(10).await;
    cluster.delete(&topic).await;
    relay.offer(rows(10..20, 2)).await;
    wait_until("a failed attempt", A_WHILE, || {
        relay.metric("retry_attempts_total") >= Some(1.0)
    })
    .await;
    cluster.topic("vanishing", 2, &[]).await;
    relay.delivered(20).await;
    let messages = cluster.read(&topic).await;
    assert_eq!(messages.len(), 10);
    messages.in_order_once(2);
    assert!(relay.dead_letters().is_empty());
    relay.stop().await;
}

/// Isolation on several partitions, again and again, while events go on coming.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacceptable_events_in_a_steady_load_leave_every_aggregate_in_order() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("steady", 4, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    relay.offer(rows(0..10, 40)).await;
    relay.delivered(10).await;
    cluster.alter(&topic, "max.message.bytes", "3000").await;
    let total = 8_000;
    let unacceptable = |number: u64| number >= 10 && number.is_multiple_of(149);
    let mut load = rows(10..total, 40);
    for row in load.iter_mut().filter(|row| unacceptable(row.number)) {
        row.payload = Some(incompressible(row.number, 5_000));
    }
    relay.offer_in_batches(load, 100, Duration::from_millis(20)).await;
    relay.resolved(total).await;
    let letters: BTreeSet<u64> = relay
        .dead_letters()
        .iter()
        .map(|letter| letter.event_id.parse().unwrap())
        .collect();
    assert!(
        letters
            .iter()
            .copied()
            .eq((0..total).filter(|n| unacceptable(*n)))
    );
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(40, (0..total).filter(|number| !unacceptable(*number)));
    assert_eq!(
        relay.metric("retry_attempts_total"),
        Some(0.0),
        "no fault of the broker"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_types_that_nobody_has_heard_of_are_delivered_like_any_other() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("types", 2, &[]).await;
    let relay = Relay::start(&cluster, &topic);
    let mut rows = rows(0..300, 3);
    for row in &mut rows {
        row.event_type = format!("Unheard-of {}", row.number);
    }
    relay.offer(rows).await;
    relay.delivered(300).await;
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(3, 0..300);
    let types: BTreeSet<_> = messages
        .all()
        .iter()
        .map(|message| message.header("event-type"))
        .collect();
    assert_eq!(types.len(), 300);
    assert_eq!(relay.metric("cdc_events_processed_total"), Some(300.0));
    relay.stop().await;
}
