//! A mutation: everything one write does to one partition of one table. The query layer makes them, CDC reads
//! them and adds mutations of the log table, storage merges them (last write wins, cell by cell).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::schema::{ColumnId, TableSchema};

/// Write timestamps are microseconds since the Unix epoch.
pub type Timestamp = i64;

#[derive(Debug, Clone)]
pub struct Mutation {
    pub table: Arc<TableSchema>,
    pub key: PartitionKey,
    pub partition_tombstone: Option<Tombstone>,
    pub static_row: RowChange,
    pub rows: BTreeMap<ClusteringKey, RowChange>,
    pub range_tombstones: Vec<RangeTombstone>,
}

/// A partition key and its token. Ordered by token, then by serialized key, as partitions are on the ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    pub token: i64,
    /// Routing key form: the value itself for one column, else (u16 length, value, 0)* for each.
    pub serialized: Bytes,
}

/// A clustering key, whole or a prefix, in a form whose byte order is the table's clustering order (types and
/// DESC included), so that ranges and prefixes are byte ranges.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusteringKey {
    pub ordered: Bytes,
    /// The serialized values themselves, one per clustering column present. Derivable, kept to avoid decoding.
    pub values: Arc<[Bytes]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    pub timestamp: Timestamp,
    /// Wall clock of the deletion, seconds.
    pub deletion_time: i64,
}

#[derive(Debug, Clone, Default)]
pub struct RowChange {
    /// What an INSERT leaves even when all its columns are null.
    pub marker: Option<Liveness>,
    pub tombstone: Option<Tombstone>,
    /// In column order.
    pub cells: Vec<(ColumnId, CellChange)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    pub timestamp: Timestamp,
    pub expiry: Option<Expiry>,
}

/// A TTL in seconds and when it ends, in seconds of the coordinator's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    pub ttl: i32,
    pub at: i64,
}

#[derive(Debug, Clone)]
pub enum CellChange {
    Atomic(Cell),
    /// A non-frozen collection or UDT. Paths are set elements, map keys, list timeuuids or UDT field indices.
    Multi {
        tombstone: Option<Tombstone>,
        elements: Vec<(Bytes, Cell)>,
    },
    /// Counter increments carry no timestamp of their own.
    CounterDelta(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub timestamp: Timestamp,
    /// None: the cell is deleted.
    pub value: Option<Bytes>,
    pub expiry: Option<Expiry>,
}

/// A deletion of a clustering range; a bound of None is open.
#[derive(Debug, Clone)]
pub struct RangeTombstone {
    pub start: Option<Bound>,
    pub end: Option<Bound>,
    pub tombstone: Tombstone,
}

/// A prefix of the clustering key, included or not (an included prefix includes all keys that extend it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub prefix: ClusteringKey,
    pub inclusive: bool,
}
