//! Which streams log rows go to: by token, by time; and in `sandbox_only` when generations switch and tablets split
//! or merge.

#[path = "streams/sandbox_only.rs"]
mod sandbox_only;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sandbox::cdc::generations::shard_of;
use sandbox::schema::partitioner::murmur3_token;
use scylla::client::session::Session;
use scylla::value::{CqlTimestamp, CqlValue};
use tokio::time::sleep;

use crate::node::Node;
use crate::row::{self, LogRow};

const TABLE: &str = "CREATE TABLE t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true}";

async fn execute(session: &Session, text: &str) {
    session
        .query_unpaged(text, ())
        .await
        .unwrap_or_else(|error| panic!("{text}: {error}"));
}

async fn insert(session: &Session, pks: impl IntoIterator<Item = i32>) {
    let statement = session
        .prepare("INSERT INTO t (pk, v) VALUES (?, 0)")
        .await
        .unwrap();
    for pk in pks {
        session.execute_unpaged(&statement, (pk,)).await.unwrap();
    }
}

async fn log_rows(session: &Session) -> Vec<LogRow> {
    let (columns, rows) = crate::query(session, "SELECT * FROM t_scylla_cdc_log")
        .await
        .unwrap();
    row::rows(&columns, rows)
}

fn token(row: &LogRow) -> i64 {
    murmur3_token(&row["pk"].as_int().unwrap().to_be_bytes())
}

fn id_token(id: &[u8]) -> i64 {
    i64::from_be_bytes(id[..8].try_into().unwrap())
}

/// Starts of the published generations, newest first.
async fn generations(session: &Session) -> Vec<i64> {
    let text = "SELECT time FROM system_distributed.cdc_generation_timestamps WHERE key = 'timestamps'";
    let rows = session
        .query_unpaged(text, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    rows.rows::<(CqlTimestamp,)>()
        .unwrap()
        .map(|row| row.unwrap().0.0)
        .collect()
}

/// Streams of a generation by the end of their vnode.
async fn vnodes(session: &Session, start: i64) -> BTreeMap<i64, Vec<Vec<u8>>> {
    let text = "SELECT range_end, streams FROM system_distributed.cdc_streams_descriptions_v2 WHERE time = ?";
    let rows = session
        .query_unpaged(text, (CqlTimestamp(start),))
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    rows.rows::<(i64, Vec<Vec<u8>>)>()
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Streams that a table has had: (start, state, id), in key order.
async fn tablet_streams(session: &Session, keyspace: &str) -> Vec<(i64, i8, Vec<u8>)> {
    let text = "SELECT timestamp, stream_state, stream_id FROM system.cdc_streams WHERE keyspace_name = ? AND table_name = 't'";
    let rows = session
        .query_unpaged(text, (keyspace,))
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let rows = rows.rows::<(CqlTimestamp, i8, Vec<u8>)>().unwrap();
    rows.map(|row| row.map(|(start, state, id)| (start.0, state, id)).unwrap())
        .collect()
}

/// The stream of a generation in which the log row of a token belongs: that of its vnode and shard.
fn expected_stream(vnodes: &BTreeMap<i64, Vec<Vec<u8>>>, token: i64) -> &Vec<u8> {
    let (_, streams) = vnodes
        .range(token..)
        .next()
        .or_else(|| vnodes.first_key_value())
        .unwrap();
    let shards = streams.len() as u32;
    let of_shard = |id: &&Vec<u8>| shard_of(id_token(id), shards) == shard_of(token, shards);
    streams.iter().find(of_shard).unwrap()
}

/// docs/features/cdc/cdc-streams.rst; test/cqlpy/test_cdc.py test_cdc_log_entries_use_cdc_streams.
#[tokio::test]
async fn vnode_log_rows_lie_in_the_stream_of_their_vnode_and_shard() {
    let node = Node::start().await;
    node.use_keyspace("cdc_streams_vnodes", false).await;
    execute(&node.session, TABLE).await;
    insert(&node.session, 0..200).await;
    let newest = generations(&node.session).await[0];
    let vnodes = vnodes(&node.session, newest).await;
    let rows = log_rows(&node.session).await;
    assert_eq!(rows.len(), 200);
    for row in &rows {
        assert_eq!(
            &row::stream(row),
            expected_stream(&vnodes, token(row)),
            "pk {:?}",
            row["pk"]
        );
    }
}

/// docs/features/cdc/cdc-streams.rst; test/cluster/test_cdc_with_tablets.py.
#[tokio::test]
async fn tablet_log_rows_lie_in_the_stream_of_their_tablet() {
    let node = Node::start().await;
    node.use_keyspace("cdc_streams_tablets", true).await;
    execute(&node.session, TABLE).await;
    insert(&node.session, 0..200).await;
    let streams = tablet_streams(&node.session, "cdc_streams_tablets").await;
    let current: BTreeMap<i64, Vec<u8>> = streams
        .iter()
        .filter(|row| row.1 == 0)
        .map(|row| (id_token(&row.2), row.2.clone()))
        .collect();
    assert_eq!(current.last_key_value().map(|(token, _)| *token), Some(i64::MAX));
    let opened: BTreeSet<_> = streams
        .iter()
        .filter(|row| row.1 == 2)
        .map(|row| row.2.clone())
        .collect();
    assert_eq!(
        opened,
        current.values().cloned().collect(),
        "the first set opens all of its streams"
    );
    for row in &log_rows(&node.session).await {
        assert_eq!(
            &row::stream(row),
            current.range(token(row)..).next().unwrap().1,
            "pk {:?}",
            row["pk"]
        );
    }
}

/// docs/features/cdc/cdc-intro.rst (ttl): log rows expire, the base table keeps its rows.
#[tokio::test]
async fn log_rows_expire_after_the_cdc_ttl() {
    let node = Node::start().await;
    for (keyspace, tablets) in [("cdc_expiry_vnodes", false), ("cdc_expiry_tablets", true)] {
        node.use_keyspace(keyspace, tablets).await;
        execute(
            &node.session,
            "CREATE TABLE t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true, 'ttl': 2}",
        )
        .await;
        insert(&node.session, [1]).await;
        let (_, ttls) = crate::query(&node.session, "SELECT ttl(v), ttl(pk) FROM t_scylla_cdc_log")
            .await
            .unwrap();
        let all: Vec<_> = ttls[0]
            .columns
            .iter()
            .flatten()
            .filter_map(CqlValue::as_int)
            .collect();
        assert!(
            all.len() == 2 && all.iter().all(|ttl| (1..=2).contains(ttl)),
            "{all:?}"
        );
        sleep(Duration::from_millis(3_100)).await;
        assert!(log_rows(&node.session).await.is_empty());
        let (_, base) = crate::query(&node.session, "SELECT pk FROM t").await.unwrap();
        assert_eq!(base.len(), 1);
    }
}
