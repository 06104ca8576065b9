//! The table changes while it is read.

use std::time::Duration;

use crds::relay_status::Health;
use relay::health::Part;
use relay::source::record::Rules;

use crate::scene::{Arrived, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_come_and_go() {
    for tablets in [false, true] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        scene.write(200).await;
        scene.cql("ALTER TABLE shop.outbox ADD note text").await;
        scene.write(200).await;
        scene.cql("ALTER TABLE shop.outbox DROP note").await;
        scene.write(200).await;
        scene.arrive(&mut arrived, Duration::from_secs(20)).await;
        arrived.check(&scene.written);
        scene.reading.source_says(None).await;
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_waits_for_a_column_that_was_dropped_and_says_which() {
    let mut scene = Scene::new(false).await;
    let mut arrived = Arrived::default();
    scene.write(200).await;
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    scene.cql("ALTER TABLE shop.outbox DROP payload").await;
    scene.reading.source_says(Some("payload")).await;
    // ScyllaDB keeps a dropped column's twin in the log for five seconds. Identities stay readable; that heals nothing.
    let until = tokio::time::Instant::now() + Duration::from_millis(5500);
    while tokio::time::Instant::now() < until {
        let source = scene.reading.board.part(Part::Source).unwrap();
        assert_eq!(source.health, Health::Degraded, "{source:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.cql("ALTER TABLE shop.outbox ADD payload text").await;
    scene.write(200).await;
    scene.arrive(&mut arrived, Duration::from_secs(30)).await;
    arrived.check(&scene.written);
    scene.reading.source_says(None).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_the_log_change() {
    let mut scene = Scene::with(false, "'enabled': true", Rules::default()).await;
    let mut arrived = Arrived::default();
    for options in [
        "'ttl': '3600'",
        "'preimage': 'full'",
        "'postimage': 'true'",
        "'preimage': 'false', 'postimage': 'false'",
    ] {
        scene.write(120).await;
        scene
            .cql(&format!(
                "ALTER TABLE shop.outbox WITH cdc = {{'enabled': 'true', {options}}}"
            ))
            .await;
    }
    scene.write(120).await;
    scene.arrive(&mut arrived, Duration::from_secs(20)).await;
    arrived.check(&scene.written);
    scene.reading.source_says(None).await;
    scene
        .cql("ALTER TABLE shop.outbox WITH cdc = {'enabled': 'true', 'delta': 'keys'}")
        .await;
    scene.reading.source_says(Some("keys only")).await;
    scene
        .cql("ALTER TABLE shop.outbox WITH cdc = {'enabled': 'true', 'delta': 'full'}")
        .await;
    scene.reading.source_says(None).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_that_is_switched_off_is_said_and_goes_on_when_it_is_on_again() {
    let mut scene = Scene::new(false).await;
    let mut arrived = Arrived::default();
    scene.write(200).await;
    scene
        .cql("ALTER TABLE shop.outbox WITH cdc = {'enabled': 'false'}")
        .await;
    scene
        .cql("INSERT INTO shop.outbox (aggregate_id, sequence, payload) VALUES (1000, 0, 'unseen')")
        .await;
    scene.reading.source_says(Some("CDC is switched off")).await;
    scene
        .cql("ALTER TABLE shop.outbox WITH cdc = {'enabled': 'true'}")
        .await;
    scene.reading.source_says(None).await;
    scene.write(200).await;
    scene.arrive(&mut arrived, Duration::from_secs(20)).await;
    arrived.check(&scene.written);
    assert_eq!(
        arrived.sequences.get(&1000),
        None,
        "what was not captured cannot come"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_truncated_had_been_written() {
    for tablets in [false, true] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        scene.write(400).await;
        scene.cql("TRUNCATE shop.outbox").await;
        scene.write(400).await;
        scene.arrive(&mut arrived, Duration::from_secs(20)).await;
        arrived.check(&scene.written);
        scene.end().await;
    }
}
