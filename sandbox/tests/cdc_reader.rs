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
#[path = "cdc_reader/sandbox_only.rs"]
mod sandbox_only;
#[path = "cdc/scene.rs"]
mod scene;

use std::collections::BTreeMap;

use sandbox::Sandbox;

use row::LogRow;
use scene::Scene;

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

async fn scene_on(address: &str, keyspace: &'static str, tablets: bool) -> Scene {
    let schema = [
        "CREATE TYPE ut (a int, b text)",
        "CREATE TABLE t (pk int, ck int, s text static, v int, m map<int, text>, l list<int>, st set<int>, u ut, \
         PRIMARY KEY (pk, ck)) WITH cdc = {'enabled': true, 'preimage': 'full', 'postimage': true}",
    ];
    Scene::new(address, keyspace, tablets, &schema).await
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

/// On a sandbox, or the node that `SCYLLA_CONTACT_POINT` names.
async fn reads_every_change(keyspace: &'static str, tablets: bool) {
    let (address, _sandbox) = match std::env::var("SCYLLA_CONTACT_POINT") {
        Ok(address) => (address, None),
        Err(_) => {
            let sandbox = Sandbox::builder().start().await.unwrap();
            (sandbox.addr().to_string(), Some(sandbox))
        }
    };
    let scene = scene_on(&address, keyspace, tablets).await;
    let from = reader::now();
    for statement in WORKLOAD {
        scene.execute(statement).await;
    }
    let reading = scene.read_from(from).await;
    // A reader that is stopped before it has found its streams ends without having read any.
    reading.until(1).await.unwrap();
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
