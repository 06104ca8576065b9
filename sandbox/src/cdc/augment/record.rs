//! Writing one record: the log rows of one stream and timeuuid.

use bytes::{BufMut, Bytes, BytesMut};

use super::Surroundings;
use super::layout::LogLayout;
use super::split::Delta;
use crate::cdc::stream_id::StreamId;
use crate::cdc::timestamps::timeuuid_from_micros;
use crate::query::hooks::CurrentValue;
use crate::schema::{CdcOptions, ColumnId, DeltaMode, TableSchema};
use crate::storage::cell::path_type;
use crate::storage::mutation::{
    Bound, Cell, CellChange, ClusteringKey, Expiry, Mutation, RowChange, Timestamp,
};
use crate::storage::ordered;
use crate::types::CqlType;

/// `cdc$operation` (ScyllaDB `cdc/log.hh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    PreImage = 0,
    Update = 1,
    Insert = 2,
    RowDelete = 3,
    PartitionDelete = 4,
    RangeStartInclusive = 5,
    RangeStartExclusive = 6,
    RangeEndInclusive = 7,
    RangeEndExclusive = 8,
    PostImage = 9,
}

/// All operations as one-byte values, by code: a log row refers to them and allocates nothing.
static OPERATION_BYTES: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
static TRUE: [u8; 1] = [1];

pub(super) struct Record<'a> {
    layout: &'a LogLayout,
    mutation: Mutation,
    time: [u8; 16],
    timestamp: Timestamp,
    expiry: Option<Expiry>,
    delta: DeltaMode,
    /// Serialized partition key columns of the base row.
    keys: &'a [Bytes],
    /// The row being written.
    row: RowChange,
}

impl<'a> Record<'a> {
    pub(super) fn new(
        around: &Surroundings<'a>,
        stream: StreamId,
        timestamp: Timestamp,
        options: &CdcOptions,
        keys: &'a [Bytes],
    ) -> Self {
        let layout = around.layout;
        let expiry = (options.ttl > 0).then(|| Expiry {
            ttl: options.ttl,
            at: around.now_seconds + i64::from(options.ttl),
        });
        Self {
            layout,
            mutation: Mutation::new(layout.log.clone(), stream.partition_key()),
            time: timeuuid_from_micros(timestamp, (around.random)()),
            timestamp,
            expiry,
            delta: options.delta,
            keys,
            row: RowChange::default(),
        }
    }

    /// The log rows of one change.
    pub(super) fn delta(&mut self, delta: &Delta<'_>, base: &TableSchema) {
        match delta {
            Delta::Row { key, change } => self.upsert(*key, change, base),
            Delta::RowDelete(key) => {
                self.begin(Operation::RowDelete, Some(key));
                self.end();
            }
            Delta::RangeDelete(range) => {
                let (start, end) = range_operations(range.start.as_ref(), range.end.as_ref());
                self.begin(start, range.start.as_ref().map(|bound| &bound.prefix));
                self.end();
                self.begin(end, range.end.as_ref().map(|bound| &bound.prefix));
                self.end();
            }
            Delta::PartitionDelete => {
                self.begin(Operation::PartitionDelete, None);
                self.end();
            }
        }
    }

    /// Starts a log row with its keys and operation; `value` and `deleted` fill it, `end` ends it.
    pub(super) fn begin(&mut self, operation: Operation, key: Option<&ClusteringKey>) {
        // Room for the keys, the operation and about as many changed columns: most rows need no regrowth.
        let columns = 3 + self.layout.partition_key.len() + self.layout.clustering_key.len();
        self.row.cells.reserve(columns * 2);
        for (column, value) in self.layout.partition_key.iter().zip(self.keys) {
            self.set(*column, value.clone());
        }
        if let Some(key) = key {
            for (column, value) in self.layout.clustering_key.iter().zip(key.values()) {
                self.set(*column, Bytes::copy_from_slice(value));
            }
        }
        let code = operation as usize;
        self.set(
            self.layout.operation,
            Bytes::from_static(&OPERATION_BYTES[code..=code]),
        );
    }

    pub(super) fn value(&mut self, column: ColumnId, ty: &CqlType, value: &CurrentValue) {
        if let Some(columns) = self.layout.data(column) {
            let value = match value {
                CurrentValue::Atomic(value) => value.clone(),
                CurrentValue::Multi(elements) => {
                    frozen(ty, elements.iter().map(|(path, value)| (&path[..], &value[..])))
                }
            };
            self.set(columns.value, value);
        }
    }

    pub(super) fn deleted(&mut self, column: ColumnId) {
        if let Some(columns) = self.layout.data(column) {
            self.set(columns.deleted, Bytes::from_static(&TRUE));
        }
    }

    pub(super) fn end(&mut self) {
        let mut row = std::mem::take(&mut self.row);
        row.cells.sort_unstable_by_key(|(column, _)| *column);
        let seq_no = self.mutation.rows.len() as i32;
        let key = ordered::clustering_key(&self.layout.log, &[&self.time, &seq_no.to_be_bytes()]);
        // Sequence numbers rise, so rows stay in clustering order.
        self.mutation.rows.push((key, row));
    }

    /// Marks the last row; None if the record has no rows.
    pub(super) fn finish(mut self) -> Option<Mutation> {
        let column = self.layout.end_of_batch;
        let cell = self.cell(Bytes::from_static(&TRUE));
        let (_, last) = self.mutation.rows.last_mut()?;
        last.set(column, CellChange::Atomic(cell));
        Some(self.mutation)
    }

    fn upsert(&mut self, key: Option<&ClusteringKey>, change: &RowChange, base: &TableSchema) {
        let operation = if change.marker.is_some() {
            Operation::Insert
        } else {
            Operation::Update
        };
        self.begin(operation, key);
        let mut ttl = change.marker.and_then(|marker| marker.expiry);
        for (column, cell) in &change.cells {
            ttl = self.cell_change(*column, &base.columns[*column].ty, cell).or(ttl);
        }
        if let Some(expiry) = ttl {
            self.set(
                self.layout.ttl,
                Bytes::copy_from_slice(&i64::from(expiry.ttl).to_be_bytes()),
            );
        }
        self.end();
    }

    /// Writes one column's change (with `delta: keys` nothing) and returns the TTL in it.
    fn cell_change(&mut self, column: ColumnId, ty: &CqlType, change: &CellChange) -> Option<Expiry> {
        let keys_only = self.delta == DeltaMode::Keys;
        match change {
            CellChange::Atomic(cell) => {
                match (self.layout.data(column), &cell.value) {
                    _ if keys_only => {}
                    (Some(columns), Some(value)) => self.set(columns.value, value.clone()),
                    (Some(columns), None) => self.set(columns.deleted, Bytes::from_static(&TRUE)),
                    (None, _) => {}
                }
                cell.expiry.filter(|_| cell.value.is_some())
            }
            CellChange::Multi { tombstone, elements } => {
                if !keys_only {
                    if tombstone.is_some() {
                        self.deleted(column);
                    }
                    self.elements(column, ty, elements);
                }
                elements
                    .iter()
                    .filter(|(_, cell)| cell.value.is_some())
                    .find_map(|(_, cell)| cell.expiry)
            }
            CellChange::CounterDelta { .. } => None,
        }
    }

    fn elements(&mut self, column: ColumnId, ty: &CqlType, elements: &[(Bytes, Cell)]) {
        let Some(columns) = self.layout.data(column) else {
            return;
        };
        let mut ordered: Vec<_> = elements.iter().collect();
        let path_type = path_type(ty);
        ordered.sort_by(|a, b| ordered::compare(&path_type, &a.0, &b.0));
        let added: Vec<_> = ordered
            .iter()
            .filter_map(|(path, cell)| cell.value.as_deref().map(|value| (&path[..], value)))
            .collect();
        // ScyllaDB always writes a UDT's value, with null fields where nothing was set.
        if !added.is_empty() || matches!(ty, CqlType::Udt { .. }) {
            self.set(columns.value, frozen(ty, added.into_iter()));
        }
        let removed = ordered
            .iter()
            .filter(|(_, cell)| cell.value.is_none())
            .map(|(path, _)| &path[..]);
        if let Some(log_column) = columns.deleted_elements
            && removed.clone().next().is_some()
        {
            self.set(log_column, frozen_set(removed));
        }
    }

    fn set(&mut self, column: ColumnId, value: Bytes) {
        let cell = self.cell(value);
        self.row.cells.push((column, CellChange::Atomic(cell)));
    }

    fn cell(&self, value: Bytes) -> Cell {
        Cell {
            timestamp: self.timestamp,
            value: Some(value),
            expiry: self.expiry,
        }
    }
}

fn range_operations(start: Option<&Bound>, end: Option<&Bound>) -> (Operation, Operation) {
    // An open side is a prefix of no columns, which all keys extend: inclusive.
    let exclusive = |bound: Option<&Bound>| bound.is_some_and(|bound| !bound.inclusive);
    (
        if exclusive(start) {
            Operation::RangeStartExclusive
        } else {
            Operation::RangeStartInclusive
        },
        if exclusive(end) {
            Operation::RangeEndExclusive
        } else {
            Operation::RangeEndInclusive
        },
    )
}

/// The frozen form of live elements in path order: what the log column of a collection or UDT holds.
fn frozen<'a>(ty: &CqlType, elements: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
    match ty {
        CqlType::Set { .. } => frozen_set(elements.map(|(path, _)| path)),
        CqlType::Udt { definition, .. } => frozen_udt(definition.fields.len(), elements),
        _ => {
            let mut out = BytesMut::new();
            let mut count = 0;
            out.put_i32(0);
            for (path, value) in elements {
                put_value(&mut out, path);
                put_value(&mut out, value);
                count += 1;
            }
            with_count(out, count)
        }
    }
}

fn frozen_set<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    let mut count = 0;
    out.put_i32(0);
    for path in paths {
        put_value(&mut out, path);
        count += 1;
    }
    with_count(out, count)
}

fn frozen_udt<'a>(fields: usize, elements: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
    let mut values = vec![None; fields];
    for (path, value) in elements {
        let index = path
            .first_chunk::<2>()
            .map(|index| usize::from(u16::from_be_bytes(*index)));
        if let Some(field) = index.and_then(|index| values.get_mut(index)) {
            *field = Some(value);
        }
    }
    let mut out = BytesMut::new();
    for value in values {
        match value {
            Some(value) => put_value(&mut out, value),
            None => out.put_i32(-1),
        }
    }
    out.freeze()
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    // A value fits its frame, which is below 2^31 bytes.
    out.put_i32(value.len() as i32);
    out.put_slice(value);
}

fn with_count(mut out: BytesMut, count: i32) -> Bytes {
    out[..4].copy_from_slice(&count.to_be_bytes());
    out.freeze()
}
