//! Base mutations written step by step, the rows before them, and log rows as text: `@time seq op
//! column=value...`, ints in decimal, collections of ints as `{key,value,...}`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::query::hooks::{CurrentRow, CurrentRows, CurrentValue};
use crate::schema::builder::TableBuilder;
use crate::schema::{CdcOptions, TableSchema};
use crate::storage::mutation::{
    Bound, Cell, CellChange, ClusteringKey, Expiry, Liveness, Mutation, PartitionKey, RangeTombstone,
    RowChange, Tombstone,
};
use crate::storage::ordered;
use crate::types::CqlType;

pub(super) const T: i64 = 1_700_000_000_000_000;
pub(super) const NOW_SECONDS: i64 = 1_700_000_100;

pub(super) fn options() -> CdcOptions {
    CdcOptions {
        enabled: true,
        ..CdcOptions::default()
    }
}

/// (pk int, ck int, s int static, m map<int, int>, v int, w int).
pub(super) fn table(options: CdcOptions) -> Arc<TableSchema> {
    let int = || Arc::new(CqlType::Int);
    let table = TableBuilder::new("ks", "t")
        .partition_key("pk", CqlType::Int)
        .clustering("ck", CqlType::Int)
        .static_column("s", CqlType::Int)
        .regular(
            "m",
            CqlType::Map {
                key: int(),
                value: int(),
                frozen: false,
            },
        )
        .regular("v", CqlType::Int)
        .regular("w", CqlType::Int)
        .with(|table| table.cdc = Some(options));
    Arc::new(table.build())
}

fn int(value: i32) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// A base mutation of partition 7, built step by step.
pub(super) struct Write(pub(super) Mutation);

impl Write {
    pub(super) fn new(table: &Arc<TableSchema>) -> Self {
        Self(Mutation::new(
            table.clone(),
            PartitionKey {
                token: 99,
                serialized: int(7),
            },
        ))
    }

    fn key(&self, ck: i32) -> ClusteringKey {
        ordered::clustering_key(&self.0.table, &[&ck.to_be_bytes()])
    }

    fn row(&mut self, ck: i32) -> &mut RowChange {
        let key = self.key(ck);
        self.0.row_mut(key)
    }

    fn column(&self, name: &str) -> usize {
        self.0.table.column_id(name).unwrap()
    }

    pub(super) fn marker(mut self, ck: i32, timestamp: i64, ttl: i32) -> Self {
        self.row(ck).marker = Some(Liveness {
            timestamp,
            expiry: expiry(ttl),
        });
        self
    }

    pub(super) fn cell(mut self, ck: i32, name: &str, value: Option<i32>, timestamp: i64, ttl: i32) -> Self {
        let column = self.column(name);
        self.row(ck).set(column, atomic(value, timestamp, ttl));
        self
    }

    pub(super) fn statics(mut self, value: Option<i32>, timestamp: i64) -> Self {
        let column = self.column("s");
        self.0.static_row.set(column, atomic(value, timestamp, 0));
        self
    }

    pub(super) fn map(
        mut self,
        ck: i32,
        deleted: Option<i64>,
        elements: &[(i32, Option<i32>, i64, i32)],
    ) -> Self {
        let column = self.column("m");
        let elements = elements
            .iter()
            .map(|(key, value, timestamp, ttl)| (int(*key), cell(*value, *timestamp, *ttl)))
            .collect();
        self.row(ck).set(
            column,
            CellChange::Multi {
                tombstone: deleted.map(tombstone),
                elements,
            },
        );
        self
    }

    pub(super) fn delete_row(mut self, ck: i32, timestamp: i64) -> Self {
        self.row(ck).tombstone = Some(tombstone(timestamp));
        self
    }

    pub(super) fn delete_range(
        mut self,
        start: Option<(i32, bool)>,
        end: Option<(i32, bool)>,
        timestamp: i64,
    ) -> Self {
        let bound = |at: (i32, bool)| Bound {
            prefix: self.key(at.0),
            inclusive: at.1,
        };
        let (start, end) = (start.map(bound), end.map(bound));
        self.0.range_tombstones.push(RangeTombstone {
            start,
            end,
            tombstone: tombstone(timestamp),
        });
        self
    }

    pub(super) fn delete_partition(mut self, timestamp: i64) -> Self {
        self.0.partition_tombstone = Some(tombstone(timestamp));
        self
    }
}

fn tombstone(timestamp: i64) -> Tombstone {
    Tombstone {
        timestamp,
        deletion_time: NOW_SECONDS,
    }
}

fn expiry(ttl: i32) -> Option<Expiry> {
    (ttl > 0).then(|| Expiry {
        ttl,
        at: NOW_SECONDS + i64::from(ttl),
    })
}

fn cell(value: Option<i32>, timestamp: i64, ttl: i32) -> Cell {
    Cell {
        timestamp,
        value: value.map(int),
        expiry: expiry(ttl),
    }
}

fn atomic(value: Option<i32>, timestamp: i64, ttl: i32) -> CellChange {
    CellChange::Atomic(cell(value, timestamp, ttl))
}

/// What is in partition 7 before the write: rows by clustering key (None: static), columns by name.
#[derive(Default)]
pub(super) struct Before(HashMap<Option<i32>, Vec<(&'static str, CurrentValue)>>);

impl Before {
    pub(super) fn row(mut self, ck: Option<i32>, columns: &[(&'static str, i32)]) -> Self {
        let values = columns
            .iter()
            .map(|(name, value)| (*name, CurrentValue::Atomic(int(*value))));
        self.0.entry(ck).or_default().extend(values);
        self
    }

    pub(super) fn map(mut self, ck: i32, elements: &[(i32, i32)]) -> Self {
        let elements = elements
            .iter()
            .map(|(key, value)| (int(*key), int(*value)))
            .collect();
        self.0
            .entry(Some(ck))
            .or_default()
            .insert(0, ("m", CurrentValue::Multi(elements)));
        self
    }
}

impl CurrentRows for Before {
    fn row(
        &self,
        table: &TableSchema,
        _key: &PartitionKey,
        clustering: Option<&ClusteringKey>,
    ) -> Option<CurrentRow> {
        let ck = clustering.map(|key| i32::from_be_bytes(key.value(0).unwrap().try_into().unwrap()));
        let columns = self.0.get(&ck)?;
        let cells = columns
            .iter()
            .map(|(name, value)| (table.column_id(name).unwrap(), value.clone()));
        Some(CurrentRow {
            cells: cells.collect(),
        })
    }
}

/// Key columns, of which every row has `pk=7`, are shown without it; `@n` is the time after T.
pub(super) fn show(log: &Mutation) -> Vec<String> {
    let mut shown = Vec::new();
    for (key, row) in &log.rows {
        let mut values: HashMap<&str, &Cell> = HashMap::new();
        for (column, change) in &row.cells {
            let CellChange::Atomic(cell) = change else {
                panic!("log columns are atomic: {change:?}")
            };
            assert_eq!(
                cell.expiry,
                Some(Expiry {
                    ttl: 86_400,
                    at: NOW_SECONDS + 86_400
                })
            );
            values.insert(&log.table.columns[*column].name, cell);
        }
        assert!(row.cells.is_sorted_by_key(|(column, _)| *column));
        assert_eq!(values.remove("pk").unwrap().value, Some(int(7)));
        let operation = values.remove("cdc$operation").unwrap();
        let seq_no = number(key.value(1).unwrap());
        let mut text = format!(
            "@{} {seq_no} op{}",
            operation.timestamp - T,
            number(operation.value.as_ref().unwrap())
        );
        let mut rest: Vec<_> = values.into_iter().collect();
        rest.sort_unstable_by_key(|(name, _)| name.trim_start_matches("cdc$"));
        for (name, cell) in rest {
            let value = cell.value.as_ref().unwrap();
            let is_collection = matches!(
                log.table.column(name).unwrap().ty,
                CqlType::Map { .. } | CqlType::Set { .. }
            );
            let value = if is_collection {
                collection(value)
            } else {
                number(value).to_string()
            };
            text.push_str(&format!(" {}={value}", name.trim_start_matches("cdc$")));
        }
        shown.push(text);
    }
    shown
}

fn number(bytes: &[u8]) -> i64 {
    bytes
        .iter()
        .fold(if bytes[0] & 0x80 == 0 { 0 } else { -1 }, |n, byte| {
            n << 8 | i64::from(*byte)
        })
}

/// Keys and values one after the other.
fn collection(bytes: &[u8]) -> String {
    let parts: Vec<_> = bytes[4..]
        .chunks(8)
        .map(|part| number(&part[4..]).to_string())
        .collect();
    format!("{{{}}}", parts.join(","))
}
