//! Which streams log rows go to: by token, by time, when generations switch and tablets split or merge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbox::Sandbox;
use sandbox::cdc::generations::{RingToken, SwitchDelays, shard_of};
use sandbox::cdc::tablets::TabletChange;
use sandbox::schema::partitioner::murmur3_token;
use scylla::client::session::Session;
use scylla::value::{CqlTimestamp, CqlValue};
use tokio::time::sleep;

use crate::node::Node;
use crate::row::{self, LogRow};

const TABLE: &str = "CREATE TABLE t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true}";
const MILLIS: i64 = 1_000;

fn millis(milliseconds: i64) -> SwitchDelays {
    SwitchDelays {
        start: milliseconds * MILLIS,
        ..SwitchDelays::default()
    }
}

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

fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
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

/// docs/features/cdc/cdc-stream-changes.rst: rows go to the generation that their timestamp belongs to.
#[tokio::test]
async fn a_generation_is_switched_while_writing() {
    let (node, sandbox) = started().await;
    node.use_keyspace("cdc_switch", false).await;
    execute(&node.session, TABLE).await;
    insert(&node.session, 0..50).await;
    let ring: Vec<_> = [-1, i64::MAX].map(|token| RingToken { token, shards: 3 }).into();
    let new = sandbox.cdc().switch_generation(Some(ring), millis(200));
    let mut pk = 50;
    while now_millis() < new.start_millis() + 300 {
        insert(&node.session, pk..pk + 1).await;
        pk += 1;
        sleep(Duration::from_millis(1)).await;
    }
    let starts = generations(&node.session).await;
    assert_eq!(starts[0], new.start_millis());
    let (after, before) = (
        vnodes(&node.session, starts[0]).await,
        vnodes(&node.session, starts[1]).await,
    );
    assert_eq!(after.values().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    let rows = log_rows(&node.session).await;
    assert_eq!(rows.len(), pk as usize, "every write is in one stream or another");
    let switched = rows.iter().filter(|row| row::micros(row) >= new.start).count();
    assert!(
        switched > 0 && switched < rows.len() - 50,
        "writes on both sides: {switched} of {}",
        rows.len()
    );
    for row in &rows {
        let vnodes = if row::micros(row) >= new.start {
            &after
        } else {
            &before
        };
        assert_eq!(&row::stream(row), expected_stream(vnodes, token(row)));
    }
}

/// db/virtual_tables.cc: the streams come first, the timestamp is their commit; both may be late.
#[tokio::test]
async fn a_generation_is_published_when_it_is_told_to() {
    let (node, sandbox) = started().await;
    node.use_keyspace("cdc_publish", false).await;
    execute(&node.session, TABLE).await;
    let delays = SwitchDelays {
        publish: 300 * MILLIS,
        ..millis(0)
    };
    let new = sandbox.cdc().switch_generation(None, delays);
    // It starts with the next millisecond.
    sleep(Duration::from_millis(5)).await;
    insert(&node.session, [1]).await;
    assert_eq!(generations(&node.session).await.len(), 1);
    assert!(vnodes(&node.session, new.start_millis()).await.is_empty());
    let id = row::stream(&log_rows(&node.session).await[0]);
    assert!(
        new.vnodes
            .iter()
            .any(|vnode| vnode.streams.iter().any(|stream| stream.as_bytes()[..] == id))
    );
    sleep(Duration::from_millis(350)).await;
    assert_eq!(generations(&node.session).await[0], new.start_millis());
    assert!(!vnodes(&node.session, new.start_millis()).await.is_empty());
}

/// cdc/metadata.cc get_vnode_stream: closed generations take no writes, tablets' closed sets do.
#[tokio::test]
async fn old_timestamps_after_a_switch() {
    let (node, sandbox) = started().await;
    let old = (now_millis() - 6_000) * MILLIS;
    let update = format!("UPDATE t USING TIMESTAMP {old} SET v = 1 WHERE pk = 1");

    node.use_keyspace("cdc_past_vnodes", false).await;
    execute(&node.session, TABLE).await;
    sandbox.cdc().switch_generation(None, millis(0));
    let refused = node
        .session
        .query_unpaged(update.as_str(), ())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("from the past"), "{refused}");

    node.use_keyspace("cdc_past_tablets", true).await;
    execute(&node.session, TABLE).await;
    sandbox
        .cdc()
        .change_tablets("cdc_past_tablets", "t", TabletChange::Split, millis(1_000))
        .unwrap();
    let first = tablet_streams(&node.session, "cdc_past_tablets").await[0].0;
    sleep(Duration::from_millis(1_100)).await;
    let in_first_set = update.replace(&old.to_string(), &((first + 1) * MILLIS).to_string());
    execute(&node.session, &in_first_set).await;
    let row = log_rows(&node.session).await.remove(0);
    let first_set: Vec<_> = tablet_streams(&node.session, "cdc_past_tablets")
        .await
        .into_iter()
        .filter(|row| row.0 == first)
        .collect();
    assert!(first_set.iter().any(|(_, _, id)| *id == row::stream(&row)));
}

/// docs/features/cdc/cdc-stream-changes.rst (tablets); cdc/generation.cc.
#[tokio::test]
async fn tablets_split_and_merge_while_writing() {
    let (node, sandbox) = started().await;
    node.use_keyspace("cdc_split", true).await;
    execute(&node.session, TABLE).await;
    let mut pk = 0;
    let mut starts = Vec::new();
    for change in [TabletChange::Split, TabletChange::Split, TabletChange::Merge] {
        let set = sandbox
            .cdc()
            .change_tablets("cdc_split", "t", change, millis(100))
            .unwrap();
        starts.push(set.start);
        while now_millis() * MILLIS < set.start + 150 * MILLIS {
            insert(&node.session, pk..pk + 1).await;
            pk += 1;
            sleep(Duration::from_millis(1)).await;
        }
    }
    let streams = tablet_streams(&node.session, "cdc_split").await;
    let count = |start: i64, state| {
        streams
            .iter()
            .filter(|row| row.0 == start / MILLIS && row.1 == state)
            .count()
    };
    let counts: Vec<_> = starts
        .iter()
        .map(|start| [0, 1, 2].map(|state| count(*start, state)))
        .collect();
    assert_eq!(
        counts,
        [[4, 2, 4], [8, 4, 8], [4, 8, 4]],
        "current, closed and opened streams of each set"
    );
    let rows = log_rows(&node.session).await;
    assert_eq!(rows.len(), pk as usize);
    let mut used = BTreeSet::new();
    for row in &rows {
        let starts = streams.iter().map(|(start, ..)| *start);
        let covering = starts
            .filter(|start| start * MILLIS <= row::micros(row))
            .max()
            .unwrap();
        let current = streams
            .iter()
            .filter(|(start, state, _)| (*start, *state) == (covering, 0));
        let behind = current.map(|(.., id)| id).filter(|id| id_token(id) >= token(row));
        assert_eq!(Some(&row::stream(row)), behind.min_by_key(|id| id_token(id)));
        used.insert(covering);
    }
    assert_eq!(used.len(), 4, "every set took writes");
}

/// cdc/generation.cc: sets closed for longer than the cdc TTL are forgotten.
#[tokio::test]
async fn closed_stream_sets_are_forgotten_after_the_ttl() {
    let (node, sandbox) = started().await;
    node.use_keyspace("cdc_forget", true).await;
    execute(
        &node.session,
        "CREATE TABLE t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true, 'ttl': 1}",
    )
    .await;
    let set = sandbox
        .cdc()
        .change_tablets("cdc_forget", "t", TabletChange::Split, millis(0))
        .unwrap();
    let starts = |rows: Vec<(i64, i8, Vec<u8>)>| rows.into_iter().map(|row| row.0).collect::<BTreeSet<_>>();
    assert_eq!(starts(tablet_streams(&node.session, "cdc_forget").await).len(), 2);
    sleep(Duration::from_millis(1_200)).await;
    let left = starts(tablet_streams(&node.session, "cdc_forget").await);
    assert_eq!(left, BTreeSet::from([set.start / MILLIS]));
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

async fn started() -> (Node, Sandbox) {
    let mut node = Node::sandbox().await;
    let sandbox = node.sandbox.take().expect("a sandbox was started");
    (node, sandbox)
}
