//! What a reader of CDC logs has to survive: for each hazard that the sandbox can switch on, `scylla_cdc`'s reader
//! as it is loses, repeats or reorders changes under it. Each test also shows that the log holds the changes (or
//! held them), so that the loss is the reader's.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "cdc/reader.rs"]
mod reader;
#[path = "cdc/row.rs"]
mod row;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use sandbox::fault::rule::Rule;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::Row;
use tokio::time::sleep;

use reader::{Reading, SAFETY};
use row::LogRow;

const KEYSPACE: &str = "hazards";

struct Scene {
    sandbox: Sandbox,
    session: Arc<Session>,
}

impl Scene {
    async fn new(tablets: bool, cdc_ttl: u32) -> Self {
        let sandbox = Sandbox::builder().start().await.expect("the sandbox starts");
        let session = SessionBuilder::new()
            .known_node(sandbox.addr().to_string())
            .build()
            .await
            .expect("a session");
        for statement in [
            format!(
                "CREATE KEYSPACE {KEYSPACE} WITH replication = {{'class': 'NetworkTopologyStrategy', \
                 'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
            ),
            format!(
                "CREATE TABLE {KEYSPACE}.t (aggregate int, seq int, event text, PRIMARY KEY (aggregate, seq)) \
                 WITH cdc = {{'enabled': true, 'ttl': {cdc_ttl}}}"
            ),
        ] {
            session
                .query_unpaged(statement, ())
                .await
                .expect("the table is made");
        }
        session
            .use_keyspace(KEYSPACE, false)
            .await
            .expect("the keyspace is used");
        Self {
            sandbox,
            session: Arc::new(session),
        }
    }

    /// Writes the next events of one aggregate.
    async fn write(&self, events: &[&str]) {
        for event in events {
            self.try_write(event).await.unwrap();
        }
    }

    async fn try_write(&self, event: &str) -> Result<(), String> {
        let seq: i32 = event.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let text = format!("INSERT INTO t (aggregate, seq, event) VALUES (7, {seq}, '{event}')");
        self.session
            .query_unpaged(text, ())
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    async fn read(&self) -> Reading {
        self.read_from(reader::now()).await
    }

    async fn read_from(&self, start: Duration) -> Reading {
        Reading::start(&self.session, KEYSPACE, start)
            .await
            .expect("the reader starts")
    }

    /// What a scan of the whole log finds, by time.
    async fn log(&self) -> Vec<String> {
        let result = self
            .session
            .query_unpaged("SELECT * FROM t_scylla_cdc_log", ())
            .await
            .unwrap();
        let result = result.into_rows_result().unwrap();
        let columns: Vec<_> = result
            .column_specs()
            .iter()
            .map(|column| column.name().to_string())
            .collect();
        let mut rows = row::rows(
            &columns,
            result.rows::<Row>().unwrap().map(Result::unwrap).collect(),
        );
        rows.sort_by_key(row::micros);
        events(&rows)
    }
}

fn events(rows: &[LogRow]) -> Vec<String> {
    rows.iter()
        .map(|row| row["event"].as_text().unwrap().clone())
        .collect()
}

async fn finish(reading: Reading) -> Vec<String> {
    events(&reading.finish().await.expect("the reader ends well"))
}

/// The control: without a fault the reader delivers everything in order.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_hazard_nothing_is_lost() {
    for tablets in [false, true] {
        let scene = Scene::new(tablets, 3_600).await;
        let reading = scene.read().await;
        scene.write(&["e1", "e2", "e3"]).await;
        sleep(SAFETY * 2).await;
        assert_eq!(finish(reading).await, ["e1", "e2", "e3"]);
    }
}

/// A row becomes visible later than the safety interval after its cdc$time: hints, repair, batchlog replay.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_is_lost() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene
        .sandbox
        .faults()
        .add(Rule::late_log_rows(SAFETY * 4).contains("e2"))
        .unwrap();
    scene.write(&["e1", "e2", "e3"]).await;
    sleep(SAFETY * 6).await;
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A row is written at an old cdc$time: USING TIMESTAMP, a client's slow clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_at_an_old_time_is_lost() {
    let scene = Scene::new(true, 3_600).await;
    let start = reader::now();
    sleep(SAFETY * 4).await;
    let reading = scene.read_from(start).await;
    scene
        .sandbox
        .faults()
        .add(Rule::old_log_time(SAFETY * 3).contains("e2"))
        .unwrap();
    scene.write(&["e1"]).await;
    sleep(SAFETY).await;
    scene.write(&["e2", "e3"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, ["e2", "e1", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A write times out and is applied all the same; the client tries again: two records of one event.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_timed_out_is_delivered_twice() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene
        .sandbox
        .faults()
        .add(Rule::write_timeout(true).contains("e2").times(1))
        .unwrap();
    scene.write(&["e1"]).await;
    let refused = scene.try_write("e2").await.unwrap_err();
    assert!(refused.contains("Operation timed out"), "{refused}");
    scene.write(&["e2", "e3"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(finish(reading).await, ["e1", "e2", "e2", "e3"]);
}

/// A write times out and is not applied: nothing of it is in the log. The client cannot tell this from the case
/// above.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_timed_out_may_not_be_delivered_at_all() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene
        .sandbox
        .faults()
        .add(Rule::write_timeout(false).contains("e2").times(1))
        .unwrap();
    scene.write(&["e1"]).await;
    let refused = scene.try_write("e2").await.unwrap_err();
    assert!(refused.contains("Operation timed out"), "{refused}");
    scene.write(&["e3"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, ["e1", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// Reads are answered by replicas that lack rows: a consistency level below the write's complement.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_replica_lacks_are_lost() {
    let scene = Scene::new(false, 3_600).await;
    let written: Vec<_> = (1..=40).map(|n| format!("e{n}")).collect();
    let names: Vec<_> = written.iter().map(String::as_str).collect();
    scene
        .sandbox
        .faults()
        .add(Rule::missing_rows().table("*_scylla_cdc_log").share_percent(40))
        .unwrap();
    let reading = scene.read().await;
    scene.write(&names).await;
    sleep(SAFETY * 2).await;
    let delivered = finish(reading).await;
    scene.sandbox.faults().clear();
    assert_eq!(scene.log().await, written);
    assert!(
        delivered.len() < written.len(),
        "{} of {}",
        delivered.len(),
        written.len()
    );
}

/// A coordinator learns of a generation late: it writes into the old streams beyond the switch.
#[tokio::test(flavor = "multi_thread")]
async fn rows_in_old_streams_after_the_switch_are_lost() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene.write(&["e1"]).await;
    let delays = SwitchDelays {
        start: 200_000,
        publish: 0,
        learn: 1_500_000,
    };
    scene.sandbox.cdc().switch_generation(None, delays);
    sleep(Duration::from_millis(500)).await;
    scene.write(&["e2"]).await;
    sleep(Duration::from_millis(1_300)).await;
    scene.write(&["e3"]).await;
    sleep(SAFETY * 3).await;
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A row of a closed stream becomes visible after the reader has left the stream for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_in_a_closed_stream_is_lost() {
    for tablets in [false, true] {
        let scene = Scene::new(tablets, 3_600).await;
        let reading = scene.read().await;
        scene
            .sandbox
            .faults()
            .add(Rule::late_log_rows(SAFETY * 5).contains("e2"))
            .unwrap();
        let delays = SwitchDelays {
            start: 200_000,
            ..SwitchDelays::default()
        };
        match tablets {
            false => drop(scene.sandbox.cdc().switch_generation(None, delays)),
            true => {
                scene
                    .sandbox
                    .cdc()
                    .change_tablets(KEYSPACE, "t", TabletChange::Split, delays)
                    .unwrap();
            }
        }
        scene.write(&["e1", "e2"]).await;
        sleep(Duration::from_millis(300)).await;
        scene.write(&["e3"]).await;
        sleep(SAFETY * 6).await;
        assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
        assert_eq!(finish(reading).await, ["e1", "e3"]);
    }
}

/// A generation is published late, and a row of it becomes visible later still: the reader reads the generation
/// from its own start once it knows it, but no row twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_of_a_generation_that_is_published_late_is_lost() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene
        .sandbox
        .faults()
        .add(Rule::late_log_rows(SAFETY * 6).contains("e2"))
        .unwrap();
    let delays = SwitchDelays {
        start: 0,
        publish: 800_000,
        learn: 0,
    };
    scene.sandbox.cdc().switch_generation(None, delays);
    sleep(Duration::from_millis(10)).await;
    scene.write(&["e1", "e2", "e3"]).await;
    sleep(SAFETY * 8).await;
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// The reader is further behind than the log's TTL: rows are gone, and nothing says so.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_expire_before_they_are_read_are_lost() {
    // Expiry counts whole seconds: a row lives for 2 to 3 s.
    let scene = Scene::new(false, 3).await;
    let start = reader::now();
    scene.write(&["e1", "e2"]).await;
    assert_eq!(scene.log().await, ["e1", "e2"]);
    sleep(Duration::from_millis(3_100)).await;
    let reading = scene.read_from(start).await;
    sleep(SAFETY * 2).await;
    scene.write(&["e3"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(finish(reading).await, ["e3"]);
}

/// Two partitions of one event stream: within one microsecond, and across streams, there is no order.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_different_streams_are_reordered() {
    let scene = Scene::new(true, 3_600).await;
    let reading = scene.read().await;
    let mut written = Vec::new();
    for n in 0..60 {
        let text = format!("INSERT INTO t (aggregate, seq, event) VALUES ({n}, 0, 'e{n}')");
        scene.session.query_unpaged(text, ()).await.unwrap();
        written.push(format!("e{n}"));
    }
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, written);
    let delivered = reading.finish().await.expect("the reader ends well");
    assert!(delivered.iter().map(row::stream).collect::<BTreeSet<_>>().len() > 1);
    assert_eq!(delivered.len(), written.len());
    assert_ne!(events(&delivered), written);
}
