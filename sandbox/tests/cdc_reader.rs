//! `scylla_cdc`'s own `CDCLogReader`, unmodified, delivers every row of the log, in the order of its stream.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "cdc/log.rs"]
mod log;
#[path = "cdc/reader.rs"]
mod reader;
#[path = "cdc/render.rs"]
mod render;
#[path = "cdc/row.rs"]
mod row;
#[path = "cdc/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use tokio::time::sleep;

use reader::Reading;
use row::LogRow;
use scene::Scene;

/// A reader that is stopped before it has found its streams ends without having read any.
const KNOWS_ITS_STREAMS: Duration = Duration::from_secs(1);

/// One of everything that a log can show.
const WORKLOAD: [&str; 18] = [
    "INSERT INTO t (pk, ck, s, v, m, l, u) VALUES (1, 1, 's', 1, {1: 'a'}, [1, 2], {a: 1, b: 'x'})",
    "INSERT INTO t (pk, ck, v, m) VALUES (1, 2, 2, {2: 'b'}) USING TTL 1000",
    "UPDATE t SET v = 3, m = m + {3: 'c'}, m = m - {1} WHERE pk = 1 AND ck = 1",
    "UPDATE t SET l = l + [3], v = null WHERE pk = 1 AND ck = 1",
    "UPDATE t SET l = l - [1] WHERE pk = 1 AND ck = 1",
    "UPDATE t SET u.a = 2, u.b = null WHERE pk = 1 AND ck = 1",
    "UPDATE t SET m = {9: 'z'}, l = [] WHERE pk = 1 AND ck = 2",
    "UPDATE t SET st = st + {1, 2} WHERE pk = 2 AND ck = 1",
    "DELETE st[1] FROM t WHERE pk = 2 AND ck = 1",
    "UPDATE t SET s = 'other' WHERE pk = 2",
    "DELETE s FROM t WHERE pk = 2",
    "DELETE m, v FROM t WHERE pk = 1 AND ck = 2",
    "DELETE FROM t WHERE pk = 1 AND ck = 2",
    "DELETE FROM t WHERE pk = 1 AND ck > 2 AND ck <= 9",
    "DELETE FROM t WHERE pk = 1 AND ck < 0",
    "BEGIN BATCH INSERT INTO t (pk, ck, v) VALUES (3, 1, 1); UPDATE t SET v = 2 WHERE pk = 3 AND ck = 2; \
     DELETE FROM t WHERE pk = 4; APPLY BATCH",
    "UPDATE t USING TTL 77 SET v = 5, m = null WHERE pk = 3 AND ck = 3",
    "DELETE FROM t WHERE pk = 1",
];

async fn start(keyspace: &'static str, tablets: bool) -> Scene {
    let schema = [
        "CREATE TYPE ut (a int, b text)",
        "CREATE TABLE t (pk int, ck int, s text static, v int, m map<int, text>, l list<int>, st set<int>, u ut, \
         PRIMARY KEY (pk, ck)) WITH cdc = {'enabled': true, 'preimage': 'full', 'postimage': true}",
    ];
    Scene::new(Sandbox::builder(), keyspace, tablets, &schema).await
}

/// The reader delivered the whole log, and every stream in its order.
async fn check(scene: &Scene, delivered: Vec<LogRow>) {
    let mut positions: BTreeMap<Vec<u8>, (i64, i32)> = BTreeMap::new();
    for row in &delivered {
        let position = (row::micros(row), row["cdc$batch_seq_no"].as_int().unwrap());
        let last = positions.insert(row::stream(row), position);
        assert!(
            last.is_none_or(|last| last < position),
            "{last:?} before {position:?}"
        );
    }
    let since = Some(0);
    let expected = log::render(scene.whole_log().await, since).unwrap();
    assert_eq!(log::render(delivered, since).unwrap(), expected);
}

async fn reads_every_change(keyspace: &'static str, tablets: bool) {
    let scene = start(keyspace, tablets).await;
    let from = reader::now();
    for statement in WORKLOAD {
        scene.execute(statement).await;
    }
    let reading = scene.read_from(from).await;
    sleep(KNOWS_ITS_STREAMS).await;
    let rows = reading.finish().await.unwrap();
    assert!(rows.len() > WORKLOAD.len(), "{} rows", rows.len());
    check(&scene, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_every_change_of_vnode_tables() {
    reads_every_change("reader_vnodes", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_every_change_of_tablet_tables() {
    reads_every_change("reader_tablets", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_switch() {
    let delays = SwitchDelays {
        start: 600_000,
        ..SwitchDelays::default()
    };
    follows("reader_switch", false, |scene| {
        scene.sandbox.cdc().switch_generation(None, delays).start
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_that_is_published_late() {
    let delays = SwitchDelays {
        start: 300_000,
        publish: 1_000_000,
        learn: 0,
    };
    follows("reader_late", false, |scene| {
        scene.sandbox.cdc().switch_generation(None, delays).start
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_tablet_split_and_merge() {
    follows("reader_split", true, |scene| {
        let change = |change, start| {
            let delays = SwitchDelays {
                start,
                ..SwitchDelays::default()
            };
            let cdc = scene.sandbox.cdc();
            cdc.change_tablets(scene.keyspace, "t", change, delays)
                .unwrap()
                .start
        };
        change(TabletChange::Split, 300_000);
        change(TabletChange::Merge, 600_000)
    })
    .await;
}

/// Reads across a switch of streams, which `switch` makes and dates.
async fn follows(keyspace: &'static str, tablets: bool, switch: impl Fn(&Scene) -> i64) {
    let scene = start(keyspace, tablets).await;
    let reading = scene.read_from(reader::now()).await;
    let rows = write_across(&scene, switch, reading).await;
    check(&scene, rows).await;
}

/// Writes before and after the switch, until the reader is through it.
async fn write_across(scene: &Scene, switch: impl Fn(&Scene) -> i64, reading: Reading) -> Vec<LogRow> {
    let mut pk = 100;
    let mut insert = async |times: usize| {
        for _ in 0..times {
            scene
                .execute(&format!("INSERT INTO t (pk, ck, v) VALUES ({pk}, 0, 0)"))
                .await;
            pk += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    insert(20).await;
    let start = switch(scene);
    while (reader::now().as_micros() as i64) < start {
        insert(1).await;
    }
    insert(20).await;
    // Late publication, the reader's safety interval and its look for the next generation.
    sleep(Duration::from_millis(1_500)).await;
    insert(5).await;
    let rows = reading.finish().await.expect("the reader ends well");
    let (before, after) = rows.iter().partition::<Vec<_>, _>(|row| row::micros(row) < start);
    assert!(!before.is_empty() && !after.is_empty());
    rows
}
