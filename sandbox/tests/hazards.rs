//! What a reader of CDC logs has to survive: for each hazard that the sandbox can switch on, `scylla_cdc`'s reader
//! as it is loses, repeats or reorders changes under it; or only delivers them later, which the test's name then says,
//! and a simpler reader loses them. Each test also shows that the log holds the changes (or held them), so that the loss
//! is the reader's.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "hazards/publication.rs"]
mod publication;
#[path = "cdc/reader.rs"]
mod reader;
#[path = "hazards/requests.rs"]
mod requests;
#[path = "cdc/row.rs"]
mod row;
#[path = "cdc/scene.rs"]
mod scene;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use sandbox::fault::rule::Rule;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::response::PagingState;
use scylla::statement::{Consistency, Statement};
use tokio::time::sleep;

use reader::{Reading, SAFETY};
use row::LogRow;

/// A table of events by aggregate, which are written to aggregate 7 unless a test says otherwise.
struct Scene {
    sandbox: Sandbox,
    scene: scene::Scene,
    tablets: bool,
}

impl Deref for Scene {
    type Target = scene::Scene;

    fn deref(&self) -> &scene::Scene {
        &self.scene
    }
}

impl Scene {
    async fn new(tablets: bool, cdc_ttl: u32) -> Self {
        Self::of_nodes(1, tablets, cdc_ttl).await
    }

    async fn of_nodes(nodes: usize, tablets: bool, cdc_ttl: u32) -> Self {
        let table = format!(
            "CREATE TABLE t (aggregate int, seq int, event text, PRIMARY KEY (aggregate, seq)) \
             WITH cdc = {{'enabled': true, 'ttl': {cdc_ttl}}}"
        );
        let sandbox = Sandbox::builder().nodes(nodes).start().await.unwrap();
        let address = sandbox.addr().to_string();
        Self {
            scene: scene::Scene::new(&address, "hazards", tablets, &[&table]).await,
            sandbox,
            tablets,
        }
    }

    fn fault(&self, rule: Rule) {
        self.sandbox.faults().add(rule).unwrap();
    }

    /// New streams: a generation, or those of a tablet split. Gives when they are published, in microseconds.
    fn switch_streams(&self, delays: SwitchDelays) -> i64 {
        let cdc = self.sandbox.cdc();
        if self.tablets {
            let set = cdc.change_tablets(self.keyspace, "t", TabletChange::Split, delays);
            return set.unwrap().published;
        }
        cdc.switch_generation(None, delays).published
    }

    /// Writes the next events of one aggregate.
    async fn write(&self, events: &[&str]) {
        for event in events {
            self.try_write(event).await.unwrap();
        }
    }

    async fn try_write(&self, event: &str) -> Result<(), String> {
        self.run(insert(event)).await
    }

    async fn run(&self, statement: impl Into<Statement>) -> Result<(), String> {
        let result = self.session.query_unpaged(statement, ()).await;
        result.map(drop).map_err(|error| error.to_string())
    }

    async fn read(&self) -> Reading {
        self.read_from(reader::now()).await
    }

    /// What a scan of the whole log finds, by time.
    async fn log(&self) -> Vec<String> {
        let mut rows = self.whole_log().await;
        rows.sort_by_key(row::micros);
        events(&rows)
    }
}

fn insert(event: &str) -> String {
    let seq: i32 = event.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    format!("INSERT INTO t (aggregate, seq, event) VALUES (7, {seq}, '{event}')")
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
    scene.fault(Rule::late_log_rows(SAFETY * 4).contains("e2"));
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
    scene.fault(Rule::old_log_time(SAFETY * 3).contains("e2"));
    scene.write(&["e1"]).await;
    sleep(SAFETY).await;
    scene.write(&["e2", "e3"]).await;
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, ["e2", "e1", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A logged batch whose coordinator died: the client was told that it timed out, and a replay of the batchlog
/// applies all of it later, as of when it was written.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_replayed_is_lost() {
    let scene = Scene::new(false, 3_600).await;
    scene
        .execute("CREATE TABLE orders (id int PRIMARY KEY, state text)")
        .await;
    let reading = scene.read().await;
    scene.fault(Rule::replayed_write(SAFETY * 4).contains("e2"));
    scene.write(&["e1"]).await;
    let batch = format!(
        "BEGIN BATCH INSERT INTO orders (id, state) VALUES (7, 'paid'); {}; APPLY BATCH",
        insert("e2")
    );
    let refused = scene.run(batch).await.unwrap_err();
    assert!(refused.contains("Operation timed out"), "{refused}");
    scene.write(&["e3"]).await;
    let orders = async || {
        let rows = scene
            .session
            .query_unpaged("SELECT id FROM orders", ())
            .await
            .unwrap();
        rows.into_rows_result().unwrap().rows_num()
    };
    assert_eq!(
        (orders().await, scene.log().await),
        (0, vec!["e1".into(), "e3".into()])
    );
    sleep(SAFETY * 6).await;
    assert_eq!(orders().await, 1);
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A conditional write was accepted by a majority but not learned: the client was told that it timed out, plain
/// reads do not see it, and the next round on the partition finishes it, as of when it was proposed.
#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_write_that_is_learned_late_is_lost() {
    let scene = Scene::new(true, 3_600).await;
    let reading = scene.read().await;
    scene.fault(Rule::unlearned_lwt().contains("e2").times(1));
    let conditional = |event: &str| format!("{} IF NOT EXISTS", insert(event));
    scene.run(conditional("e1")).await.unwrap();
    let refused = scene.run(conditional("e2")).await.unwrap_err();
    assert!(refused.contains("Operation timed out"), "{refused}");
    scene.write(&["e3"]).await;
    sleep(SAFETY * 4).await;
    assert_eq!(scene.log().await, ["e1", "e3"]);
    let mut serial = Statement::new("SELECT event FROM t WHERE aggregate = 7");
    serial.set_consistency(Consistency::Serial);
    let read = scene.session.query_unpaged(serial, ()).await.unwrap();
    assert_eq!(read.into_rows_result().unwrap().rows_num(), 3);
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// The log row of a write never comes, although the write does: a hint for a log is discarded.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_log_row_is_lost_is_in_the_table_alone() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene.fault(Rule::lost_log_rows().contains("e2"));
    scene.write(&["e1", "e2", "e3"]).await;
    let table = scene
        .session
        .query_unpaged("SELECT event FROM t", ())
        .await
        .unwrap();
    assert_eq!(table.into_rows_result().unwrap().rows_num(), 3);
    sleep(SAFETY * 2).await;
    assert_eq!(scene.log().await, ["e1", "e3"]);
    assert_eq!(finish(reading).await, ["e1", "e3"]);
}

/// A log record is generated a second time: a batchlog replay of older releases, a conditional write that another
/// coordinator finished. Nothing but the uuid's tail tells the two apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_generated_twice_is_delivered_twice() {
    for delay in [Duration::ZERO, SAFETY / 2] {
        let scene = Scene::new(false, 3_600).await;
        let reading = scene.read().await;
        scene.fault(Rule::duplicate_log_rows(delay).contains("e2"));
        scene.write(&["e1", "e2", "e3"]).await;
        sleep(SAFETY * 2).await;
        let log = scene.whole_log().await;
        let twice: Vec<_> = log
            .iter()
            .filter(|row| events(&[(*row).clone()]) == ["e2"])
            .collect();
        assert_eq!(twice.len(), 2);
        assert_eq!(row::micros(twice[0]), row::micros(twice[1]));
        assert_ne!(twice[0]["cdc$time"], twice[1]["cdc$time"]);
        assert_eq!(finish(reading).await, ["e1", "e2", "e2", "e3"], "{delay:?} apart");
    }
}

/// The clocks of two coordinators differ by more than two writes of one aggregate lie apart: the log has them the
/// other way round. The earlier one is also dated ahead of what any other clock shows.
#[tokio::test(flavor = "multi_thread")]
async fn events_by_way_of_a_fast_clock_are_reordered() {
    let scene = Scene::of_nodes(2, false, 3_600).await;
    let reading = scene.read().await;
    scene.fault(Rule::clock_ahead(SAFETY * 2).node(1));
    let by_way_of = async |node: usize, event: &str| {
        let address = scene.sandbox.cluster().nodes()[node].address;
        let mut statement = Statement::new(insert(event));
        let target = NodeIdentifier::NodeAddress(address);
        statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
        scene.run(statement).await.unwrap();
    };
    by_way_of(1, "e1").await;
    let ahead = row::micros(&scene.whole_log().await[0]) - reader::now().as_micros() as i64;
    assert!(ahead > SAFETY.as_micros() as i64, "{ahead} us ahead");
    by_way_of(0, "e2").await;
    sleep(SAFETY * 4).await;
    assert_eq!(scene.log().await, ["e2", "e1"]);
    assert_eq!(finish(reading).await, ["e2", "e1"]);
}

/// A row lands behind the position of a scan that is under way: that scan does not come back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_behind_a_running_scan_is_missed_by_it() {
    let scene = Scene::new(true, 3_600).await;
    scene.write(&["e1", "e2", "e3"]).await;
    let mut scan = Statement::new("SELECT event FROM t_scylla_cdc_log");
    scan.set_page_size(2);
    let page = async |state| {
        scene
            .session
            .query_single_page(scan.clone(), (), state)
            .await
            .unwrap()
    };
    let of = |result: scylla::response::query_result::QueryResult| -> Vec<String> {
        let rows = result.into_rows_result().unwrap();
        rows.rows::<(String,)>()
            .unwrap()
            .map(|row| row.unwrap().0)
            .collect()
    };
    let (first, rest) = page(PagingState::start()).await;
    scene.fault(Rule::old_log_time(SAFETY).contains("e4"));
    scene.write(&["e4"]).await;
    let std::ops::ControlFlow::Continue(rest) = rest.into_paging_control_flow() else {
        panic!("there is a second page")
    };
    let (second, _) = page(rest).await;
    assert_eq!(
        (of(first), of(second)),
        (vec!["e1".into(), "e2".into()], vec!["e3".into()])
    );
    assert_eq!(scene.log().await, ["e4", "e1", "e2", "e3"]);
}

/// A write times out and is applied all the same; the client tries again: two records of one event.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_timed_out_is_delivered_twice() {
    let scene = Scene::new(false, 3_600).await;
    let reading = scene.read().await;
    scene.fault(Rule::write_timeout(true).contains("e2").times(1));
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
    scene.fault(Rule::write_timeout(false).contains("e2").times(1));
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
    scene.fault(Rule::missing_rows().table("*_scylla_cdc_log").share_percent(40));
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
    scene.switch_streams(delays);
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
        scene.fault(Rule::late_log_rows(SAFETY * 5).contains("e2"));
        let delays = SwitchDelays {
            start: 200_000,
            ..SwitchDelays::default()
        };
        scene.switch_streams(delays);
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
    scene.fault(Rule::late_log_rows(SAFETY * 6).contains("e2"));
    let delays = SwitchDelays {
        start: 0,
        publish: 800_000,
        learn: 0,
    };
    scene.switch_streams(delays);
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
