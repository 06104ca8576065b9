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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sandbox::Sandbox;
use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::Row;
use tokio::time::sleep;

use reader::Reading;
use row::LogRow;

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

async fn start(keyspace: &str, tablets: bool) -> (Sandbox, Arc<Session>) {
    let sandbox = Sandbox::builder()
        .nodes(1)
        .start()
        .await
        .expect("the sandbox starts");
    let session = SessionBuilder::new()
        .known_node(sandbox.addr().to_string())
        .build()
        .await
        .expect("a session");
    let session = Arc::new(session);
    for statement in [
        format!(
            "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', \
             'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
        ),
        format!("CREATE TYPE {keyspace}.ut (a int, b text)"),
        format!(
            "CREATE TABLE {keyspace}.t (pk int, ck int, s text static, v int, m map<int, text>, l list<int>, \
             st set<int>, u ut, PRIMARY KEY (pk, ck)) \
             WITH cdc = {{'enabled': true, 'preimage': 'full', 'postimage': true}}"
        ),
    ] {
        execute(&session, &statement).await;
    }
    session
        .use_keyspace(keyspace, false)
        .await
        .expect("the keyspace is used");
    (sandbox, session)
}

async fn execute(session: &Session, text: &str) {
    session
        .query_unpaged(text, ())
        .await
        .unwrap_or_else(|error| panic!("{text}: {error}"));
}

async fn whole_log(session: &Session) -> Vec<LogRow> {
    let result = session
        .query_unpaged("SELECT * FROM t_scylla_cdc_log", ())
        .await
        .unwrap();
    let result = result.into_rows_result().unwrap();
    let columns: Vec<_> = result
        .column_specs()
        .iter()
        .map(|column| column.name().to_string())
        .collect();
    row::rows(
        &columns,
        result.rows::<Row>().unwrap().map(Result::unwrap).collect(),
    )
}

/// The reader delivered the whole log, and every stream in its order.
async fn check(session: &Session, delivered: Vec<LogRow>) {
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
    let expected = log::render(whole_log(session).await, since).unwrap();
    assert_eq!(log::render(delivered, since).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_every_change_of_vnode_tables() {
    let (_sandbox, session) = start("reader_vnodes", false).await;
    let from = reader::now();
    for statement in WORKLOAD {
        execute(&session, statement).await;
    }
    let reading = Reading::start(&session, "reader_vnodes", from).await.unwrap();
    sleep(KNOWS_ITS_STREAMS).await;
    let rows = reading.finish().await.unwrap();
    assert!(rows.len() > WORKLOAD.len(), "{} rows", rows.len());
    check(&session, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_every_change_of_tablet_tables() {
    let (_sandbox, session) = start("reader_tablets", true).await;
    let from = reader::now();
    for statement in WORKLOAD {
        execute(&session, statement).await;
    }
    let reading = Reading::start(&session, "reader_tablets", from).await.unwrap();
    sleep(KNOWS_ITS_STREAMS).await;
    let rows = reading.finish().await.unwrap();
    assert!(rows.len() > WORKLOAD.len(), "{} rows", rows.len());
    check(&session, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_switch() {
    let (sandbox, session) = start("reader_switch", false).await;
    let reading = Reading::start(&session, "reader_switch", reader::now())
        .await
        .unwrap();
    let delays = SwitchDelays {
        start: 600_000,
        ..SwitchDelays::default()
    };
    let rows = write_across(
        &session,
        || sandbox.cdc().switch_generation(None, delays).start,
        reading,
    )
    .await;
    check(&session, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_generation_that_is_published_late() {
    let (sandbox, session) = start("reader_late", false).await;
    let reading = Reading::start(&session, "reader_late", reader::now())
        .await
        .unwrap();
    let delays = SwitchDelays {
        start: 300_000,
        publish: 1_000_000,
        learn: 0,
    };
    let rows = write_across(
        &session,
        || sandbox.cdc().switch_generation(None, delays).start,
        reading,
    )
    .await;
    check(&session, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_tablet_split_and_merge() {
    let (sandbox, session) = start("reader_split", true).await;
    let reading = Reading::start(&session, "reader_split", reader::now())
        .await
        .unwrap();
    let change = |change, start| {
        let delays = SwitchDelays {
            start,
            ..SwitchDelays::default()
        };
        sandbox
            .cdc()
            .change_tablets("reader_split", "t", change, delays)
            .unwrap()
            .start
    };
    let both = || {
        change(TabletChange::Split, 300_000);
        change(TabletChange::Merge, 600_000)
    };
    let rows = write_across(&session, both, reading).await;
    check(&session, rows).await;
}

/// Writes before and after a switch of streams, which `switch` makes and dates, until the reader is through it.
async fn write_across(session: &Session, switch: impl Fn() -> i64, reading: Reading) -> Vec<LogRow> {
    let mut pk = 100;
    let mut insert = async |times: usize| {
        for _ in 0..times {
            execute(session, &format!("INSERT INTO t (pk, ck, v) VALUES ({pk}, 0, 0)")).await;
            pk += 1;
            sleep(Duration::from_millis(10)).await;
        }
    };
    insert(20).await;
    let start = switch();
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
