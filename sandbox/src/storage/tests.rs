//! Writes commute: whatever order they arrive in, readers see the same.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

use super::mutation::{Bound, Cell, CellChange, Liveness, Mutation, RangeTombstone, Tombstone};
use super::ordered;
use super::partition::Partition;
use super::row_map::ByteRange;
use super::view::{ColumnMap, Slot};
use crate::schema::TableSchema;
use crate::schema::builder::TableBuilder;
use crate::types::CqlType;

/// A write and its timestamp.
#[derive(Debug, Clone)]
enum Write {
    Insert { row: i32, value: Option<u8> },
    Update { row: i32, value: Option<u8> },
    DeleteRow(i32),
    DeleteFrom(i32),
    DeleteAll,
}

fn write() -> impl Strategy<Value = (i64, Write)> {
    let value = || prop_oneof![Just(None), (0u8..3).prop_map(Some)];
    let kind = prop_oneof![
        (0..4i32, value()).prop_map(|(row, value)| Write::Insert { row, value }),
        (0..4i32, value()).prop_map(|(row, value)| Write::Update { row, value }),
        (0..4i32).prop_map(Write::DeleteRow),
        (0..4i32).prop_map(Write::DeleteFrom),
        Just(Write::DeleteAll),
    ];
    (0..6i64, kind)
}

fn table() -> Arc<TableSchema> {
    let table = TableBuilder::new("ks", "t")
        .partition_key("p", CqlType::Int)
        .clustering("c", CqlType::Int)
        .regular("v", CqlType::Blob);
    Arc::new(table.build())
}

fn mutation(table: &Arc<TableSchema>, timestamp: i64, write: &Write) -> Mutation {
    let key = |row: &i32| ordered::clustering_key(table, &[&row.to_be_bytes()]);
    let tombstone = Tombstone {
        timestamp,
        deletion_time: 0,
    };
    let mut mutation = Mutation::new(
        table.clone(),
        table.make_partition_key(&[Bytes::from_static(&[0; 4])]),
    );
    match write {
        Write::Insert { row, value } | Write::Update { row, value } => {
            let change = mutation.row_mut(key(row));
            let cell = Cell {
                timestamp,
                value: value.map(|value| vec![value].into()),
                expiry: None,
            };
            change.set(2, CellChange::Atomic(cell));
            if matches!(write, Write::Insert { .. }) {
                change.marker = Some(Liveness {
                    timestamp,
                    expiry: None,
                });
            }
        }
        Write::DeleteRow(row) => mutation.row_mut(key(row)).delete(tombstone),
        Write::DeleteFrom(row) => mutation.range_tombstones.push(RangeTombstone {
            start: Some(Bound {
                prefix: key(row),
                inclusive: true,
            }),
            end: None,
            tombstone,
        }),
        Write::DeleteAll => mutation.delete_partition(tombstone),
    }
    mutation
}

/// Keys and values of the rows that a reader sees.
fn seen(table: &TableSchema, partition: &Partition) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let map = ColumnMap::new(table, |_| true);
    let rows = partition.rows(&ByteRange::default()).filter_map(|(key, row)| {
        let mut slots = [Slot::Absent; 3];
        let live = row.view(&map, 0, &mut slots);
        live.then(|| (key.ordered().to_vec(), slots[2].bytes().map(<[u8]>::to_vec)))
    });
    rows.collect()
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(writes in vec(write(), 0..12), turn in 0usize..12) {
        let table = table();
        let mut in_order = Partition::default();
        let mut otherwise = Partition::default();
        for (timestamp, write) in &writes {
            in_order.apply(&mutation(&table, *timestamp, write), 0);
        }
        let turn = turn.min(writes.len());
        for (timestamp, write) in writes[turn..].iter().rev().chain(&writes[..turn]) {
            otherwise.apply(&mutation(&table, *timestamp, write), 0);
        }
        assert_eq!(seen(&table, &in_order), seen(&table, &otherwise));
    }
}
