//! The reader on a real driver and the sandbox's log: nothing lost, each aggregate in order, whatever the log does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod clocks;
mod owners;
mod scene;
mod schema;

use std::time::{Duration, Instant};

use relay::model::SECOND;
use relay::source::reader::Command;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use sandbox::fault::rule::{ErrorName, Rule};

use scene::{Arrived, Scene, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_in_milliseconds_and_in_order() {
    for tablets in [false, true] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        scene
            .write_and_arrive(3000, Duration::from_millis(1), &mut arrived)
            .await;
        scene.arrive(&mut arrived, Duration::from_secs(5)).await;
        arrived.check(&scene.written);
        let (p50, p99) = (arrived.percentile(50), arrived.percentile(99));
        eprintln!(
            "tablets {tablets}: p50 {p50:?} p99 {p99:?}, {} queries, {} rows, {} known, {} partitions",
            scene.reading.metric("outbox_relay_cql_queries_total"),
            scene.reading.metric("outbox_relay_log_rows_total"),
            scene.reading.metric("outbox_relay_known_rows_total"),
            scene.reading.metric("outbox_relay_partitions_touched_total"),
        );
        assert!(p50 < Duration::from_millis(100), "p50 {p50:?}, p99 {p99:?}");
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_follow_what_is_swept_and_resolved() {
    let mut scene = Scene::new(false).await;
    scene.write(400).await;
    let mut arrived = Arrived::default();
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    let written = now();
    arrived.check(&scene.written);
    let deadline = Instant::now() + Duration::from_secs(30);
    let bound = loop {
        let bound = scene.reading.lowest_bound();
        if bound > written || Instant::now() > deadline {
            break bound;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(bound > written, "{} s behind", (written - bound) / SECOND);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_hidden_rows_and_errors_lose_nothing() {
    let mut scene = Scene::new(false).await;
    // Late rows that are also hidden from the horizon's sweep would not have been readable within the horizon, so the
    // faults end before it begins.
    let faults = scene.sandbox.faults();
    for rule in [
        Rule::late_log_rows(Duration::from_millis(700)).share_percent(5),
        Rule::missing_rows().table("*_scylla_cdc_log").share_percent(10),
        Rule::error(ErrorName::Overloaded)
            .statement("SELECT*_scylla_cdc_log*")
            .share_percent(5),
    ] {
        faults.add(rule).unwrap();
    }
    let mut arrived = Arrived::default();
    scene
        .write_and_arrive(4000, Duration::from_millis(1), &mut arrived)
        .await;
    scene.sandbox.faults().clear();
    scene.arrive(&mut arrived, Duration::from_secs(20)).await;
    arrived.check(&scene.written);
    assert!(
        !arrived.late.is_empty(),
        "rows that surfaced 700 ms late were overtaken"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_and_a_tablet_split_keep_the_order() {
    let second = |n: i64| n * SECOND;
    for (tablets, publish, learn) in [
        (false, 0, 0),
        (false, second(3), 0),
        (false, 0, second(3)),
        (true, 0, 0),
    ] {
        let mut scene = Scene::new(tablets).await;
        let mut arrived = Arrived::default();
        let delays = SwitchDelays {
            start: second(1),
            publish,
            learn,
        };
        if tablets {
            let change = TabletChange::Split;
            scene
                .sandbox
                .cdc()
                .change_tablets("shop", "outbox", change, delays)
                .unwrap();
        } else {
            scene.sandbox.cdc().switch_generation(None, delays);
        }
        scene
            .write_and_arrive(4000, Duration::from_millis(1), &mut arrived)
            .await;
        scene.arrive(&mut arrived, Duration::from_secs(20)).await;
        arrived.check(&scene.written);
        assert!(
            arrived.late.is_empty(),
            "tablets {tablets} {publish} {learn}: {:?}",
            arrived.late
        );
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_reader_asks_nothing_and_goes_on_where_it_was() {
    let mut scene = Scene::new(false).await;
    let mut arrived = Arrived::default();
    scene.write(40).await;
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    scene.reading.commands.send(Command::Pause).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = scene.reading.metric("outbox_relay_cql_queries_total");
    scene.write(400).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.reading.metric("outbox_relay_cql_queries_total"), asked);
    scene.reading.commands.send(Command::Resume).await.unwrap();
    scene.arrive(&mut arrived, Duration::from_secs(10)).await;
    arrived.check(&scene.written);
    scene.end().await;
}
