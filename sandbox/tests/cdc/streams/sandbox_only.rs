//! Switches of streams, which only the sandbox makes when it is told to.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbox::Sandbox;
use sandbox::cdc::generations::{RingToken, SwitchDelays};
use sandbox::cdc::tablets::TabletChange;
use scylla::client::session::Session;
use tokio::time::sleep;

use super::{
    TABLE, execute, expected_stream, generations, id_token, insert, log_rows, tablet_streams, token, vnodes,
};
use crate::node::{connect, use_keyspace};
use crate::row;

const MILLIS: i64 = 1_000;

fn millis(milliseconds: i64) -> SwitchDelays {
    SwitchDelays {
        start: milliseconds * MILLIS,
        ..SwitchDelays::default()
    }
}

fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

async fn started() -> (Session, Sandbox) {
    let sandbox = Sandbox::builder().start().await.expect("the sandbox starts");
    (connect(&sandbox.addr().to_string(), false).await, sandbox)
}

/// docs/features/cdc/cdc-stream-changes.rst: rows go to the generation that their timestamp belongs to.
#[tokio::test]
async fn a_generation_is_switched_while_writing() {
    let (session, sandbox) = started().await;
    use_keyspace(&session, "cdc_switch", false).await;
    execute(&session, TABLE).await;
    insert(&session, 0..50).await;
    let ring: Vec<_> = [-1, i64::MAX].map(|token| RingToken { token, shards: 3 }).into();
    let new = sandbox.cdc().switch_generation(Some(ring), millis(200));
    let mut pk = 50;
    while now_millis() < new.start_millis() + 300 {
        insert(&session, pk..pk + 1).await;
        pk += 1;
        sleep(Duration::from_millis(1)).await;
    }
    let starts = generations(&session).await;
    assert_eq!(starts[0], new.start_millis());
    let (after, before) = (
        vnodes(&session, starts[0]).await,
        vnodes(&session, starts[1]).await,
    );
    assert_eq!(after.values().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    let rows = log_rows(&session).await;
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
    let (session, sandbox) = started().await;
    use_keyspace(&session, "cdc_publish", false).await;
    execute(&session, TABLE).await;
    let delays = SwitchDelays {
        publish: 300 * MILLIS,
        ..millis(0)
    };
    let new = sandbox.cdc().switch_generation(None, delays);
    // It starts with the next millisecond.
    sleep(Duration::from_millis(5)).await;
    insert(&session, [1]).await;
    assert_eq!(generations(&session).await.len(), 1);
    assert!(vnodes(&session, new.start_millis()).await.is_empty());
    let id = row::stream(&log_rows(&session).await[0]);
    assert!(
        new.vnodes
            .iter()
            .any(|vnode| vnode.streams.iter().any(|stream| stream.as_bytes()[..] == id))
    );
    sleep(Duration::from_millis(350)).await;
    assert_eq!(generations(&session).await[0], new.start_millis());
    assert!(!vnodes(&session, new.start_millis()).await.is_empty());
}

/// cdc/metadata.cc get_vnode_stream: closed generations take no writes, tablets' closed sets do.
#[tokio::test]
async fn old_timestamps_after_a_switch() {
    let (session, sandbox) = started().await;
    let old = (now_millis() - 6_000) * MILLIS;
    let update = format!("UPDATE t USING TIMESTAMP {old} SET v = 1 WHERE pk = 1");

    use_keyspace(&session, "cdc_past_vnodes", false).await;
    execute(&session, TABLE).await;
    sandbox.cdc().switch_generation(None, millis(0));
    let refused = session
        .query_unpaged(update.as_str(), ())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("from the past"), "{refused}");

    use_keyspace(&session, "cdc_past_tablets", true).await;
    execute(&session, TABLE).await;
    sandbox
        .cdc()
        .change_tablets("cdc_past_tablets", "t", TabletChange::Split, millis(1_000))
        .unwrap();
    let first = tablet_streams(&session, "cdc_past_tablets").await[0].0;
    sleep(Duration::from_millis(1_100)).await;
    let in_first_set = update.replace(&old.to_string(), &((first + 1) * MILLIS).to_string());
    execute(&session, &in_first_set).await;
    let row = log_rows(&session).await.remove(0);
    let first_set: Vec<_> = tablet_streams(&session, "cdc_past_tablets")
        .await
        .into_iter()
        .filter(|row| row.0 == first)
        .collect();
    assert!(first_set.iter().any(|(_, _, id)| *id == row::stream(&row)));
}

/// docs/features/cdc/cdc-stream-changes.rst (tablets); cdc/generation.cc.
#[tokio::test]
async fn tablets_split_and_merge_while_writing() {
    let (session, sandbox) = started().await;
    use_keyspace(&session, "cdc_split", true).await;
    execute(&session, TABLE).await;
    let mut pk = 0;
    let mut starts = Vec::new();
    for change in [TabletChange::Split, TabletChange::Split, TabletChange::Merge] {
        let set = sandbox
            .cdc()
            .change_tablets("cdc_split", "t", change, millis(100))
            .unwrap();
        starts.push(set.start);
        while now_millis() * MILLIS < set.start + 150 * MILLIS {
            insert(&session, pk..pk + 1).await;
            pk += 1;
            sleep(Duration::from_millis(1)).await;
        }
    }
    let streams = tablet_streams(&session, "cdc_split").await;
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
    let rows = log_rows(&session).await;
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
    let (session, sandbox) = started().await;
    use_keyspace(&session, "cdc_forget", true).await;
    execute(
        &session,
        "CREATE TABLE t (pk int PRIMARY KEY, v int) WITH cdc = {'enabled': true, 'ttl': 1}",
    )
    .await;
    let set = sandbox
        .cdc()
        .change_tablets("cdc_forget", "t", TabletChange::Split, millis(0))
        .unwrap();
    let starts = |rows: Vec<(i64, i8, Vec<u8>)>| rows.into_iter().map(|row| row.0).collect::<BTreeSet<_>>();
    assert_eq!(starts(tablet_streams(&session, "cdc_forget").await).len(), 2);
    sleep(Duration::from_millis(1_200)).await;
    let left = starts(tablet_streams(&session, "cdc_forget").await);
    assert_eq!(left, BTreeSet::from([set.start / MILLIS]));
}
