//! A mutation: everything one write does to one partition of one table. The query layer makes them, CDC reads
//! them and adds mutations of the log table, storage merges them (last write wins, cell by cell).

use std::sync::Arc;

use bytes::Bytes;

use super::cell::{MultiCell, newer_tombstone};
use crate::schema::{ColumnId, TableSchema};
use crate::types::CqlType;

/// Write timestamps are microseconds since the Unix epoch.
pub type Timestamp = i64;

#[derive(Debug, Clone)]
pub struct Mutation {
    pub table: Arc<TableSchema>,
    pub key: PartitionKey,
    pub partition_tombstone: Option<Tombstone>,
    pub static_row: RowChange,
    /// In clustering order, each key once; `row_mut` keeps it so.
    pub rows: Vec<(ClusteringKey, RowChange)>,
    pub range_tombstones: Vec<RangeTombstone>,
}

/// A partition key and its token. Ordered by token, then by serialized key, as partitions are on the ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    pub token: i64,
    /// Routing key form: the value itself for one column, else (u16 length, value, 0)* for each.
    pub serialized: Bytes,
}

/// A clustering key, whole or a prefix. It leads with a form whose byte order is the table's clustering order
/// (types and DESC included), so that ranges and prefixes are byte ranges; the serialized values follow, so
/// that reading a key decodes nothing.
#[derive(Clone)]
pub struct ClusteringKey {
    /// The ordered form, then `[i32 length][bytes]` per clustering column present, as in a result row.
    data: Arc<[u8]>,
    ordered_len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    pub timestamp: Timestamp,
    /// Wall clock of the deletion, seconds.
    pub deletion_time: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowChange {
    /// What an INSERT leaves even when all its columns are null.
    pub marker: Option<Liveness>,
    pub tombstone: Option<Tombstone>,
    /// In column order, each column once; `set` keeps it so.
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CellChange {
    Atomic(Cell),
    /// A non-frozen collection or UDT. Paths are set elements, map keys, list timeuuids or UDT field indices.
    Multi {
        tombstone: Option<Tombstone>,
        elements: Vec<(Bytes, Cell)>,
    },
    CounterDelta {
        delta: i64,
        timestamp: Timestamp,
    },
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

impl Mutation {
    pub fn new(table: Arc<TableSchema>, key: PartitionKey) -> Self {
        Self {
            table,
            key,
            partition_tombstone: None,
            static_row: RowChange::default(),
            rows: Vec::new(),
            range_tombstones: Vec::new(),
        }
    }

    /// The change of one row, made if it is not there yet.
    pub fn row_mut(&mut self, key: ClusteringKey) -> &mut RowChange {
        // Statements mostly come in clustering order: looking at the end first makes a batch of n rows O(n).
        let position = match self.rows.last() {
            Some((last, _)) if *last >= key => self.rows.binary_search_by(|(have, _)| have.cmp(&key)),
            _ => Err(self.rows.len()),
        };
        let position = position.unwrap_or_else(|free| {
            self.rows.insert(free, (key, RowChange::default()));
            free
        });
        &mut self.rows[position].1
    }
}

impl Mutation {
    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.partition_tombstone.is_none()
            && self.static_row.is_empty()
            && self.range_tombstones.is_empty()
            && self.rows.iter().all(|(_, row)| row.is_empty())
    }

    pub fn delete_partition(&mut self, tombstone: Tombstone) {
        self.partition_tombstone = newer_tombstone(self.partition_tombstone, Some(tombstone));
    }
}

impl RowChange {
    pub fn delete(&mut self, tombstone: Tombstone) {
        self.tombstone = newer_tombstone(self.tombstone, Some(tombstone));
    }

    /// Merges a change of a column with what is there: of two writes to one cell the winner stays.
    pub fn add(&mut self, column: ColumnId, change: CellChange, ty: &CqlType) {
        let found = self.cells.binary_search_by_key(&column, |(id, _)| *id);
        let have = match found {
            Ok(position) => &mut self.cells[position].1,
            Err(free) => return self.cells.insert(free, (column, change)),
        };
        match (have, change) {
            (CellChange::Atomic(have), CellChange::Atomic(new)) => {
                if new.wins_over(have) {
                    *have = new;
                }
            }
            (
                CellChange::Multi { tombstone, elements },
                CellChange::Multi {
                    tombstone: new_tombstone,
                    elements: new_elements,
                },
            ) => {
                // Elements of a statement may repeat a path; merging sorts them and keeps the winners.
                let mut merged = MultiCell::default();
                merged.merge(ty, *tombstone, elements, Timestamp::MIN);
                merged.merge(ty, new_tombstone, &new_elements, Timestamp::MIN);
                (*tombstone, *elements) = (merged.tombstone, merged.elements);
            }
            (
                CellChange::CounterDelta { delta, timestamp },
                CellChange::CounterDelta {
                    delta: more,
                    timestamp: newer,
                },
            ) => {
                *delta = delta.wrapping_add(more);
                *timestamp = newer.max(*timestamp);
            }
            (have, new) => *have = new,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.marker.is_none() && self.tombstone.is_none() && self.cells.is_empty()
    }

    pub fn cell(&self, column: ColumnId) -> Option<&CellChange> {
        self.cells
            .binary_search_by_key(&column, |(id, _)| *id)
            .ok()
            .map(|found| &self.cells[found].1)
    }

    /// Puts a change in column order, over an earlier one of the same column.
    pub fn set(&mut self, column: ColumnId, change: CellChange) {
        match self.cells.binary_search_by_key(&column, |(id, _)| *id) {
            Ok(found) => self.cells[found].1 = change,
            Err(free) => self.cells.insert(free, (column, change)),
        }
    }
}

impl PartitionKey {
    /// The serialized value of each partition key column.
    pub fn components(&self, table: &TableSchema) -> Vec<Bytes> {
        if table.partition_key.len() == 1 {
            return vec![self.serialized.clone()];
        }
        let mut components = Vec::with_capacity(table.partition_key.len());
        let mut at = 0;
        while let Some(length) = self.serialized.get(at..at + 2) {
            let end = at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            components.push(self.serialized.slice(at + 2..end));
            at = end + 1;
        }
        components
    }
}

impl ClusteringKey {
    /// `ordered`: see `storage::ordered`; `values`: the serialized value of each column present, in key order.
    pub fn new<'a>(ordered: &[u8], values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut data = Vec::with_capacity(ordered.len() * 2 + 16);
        data.extend_from_slice(ordered);
        for value in values {
            // A clustering value is at most 64 KiB, checked where values are bound.
            data.extend_from_slice(&(value.len() as i32).to_be_bytes());
            data.extend_from_slice(value);
        }
        Self {
            data: data.into(),
            ordered_len: ordered.len() as u32,
        }
    }

    /// The key of the only row of a partition whose table has no clustering columns, and the empty prefix.
    pub fn empty() -> Self {
        Self::new(&[], [])
    }

    /// The form whose byte order is clustering order.
    pub fn ordered(&self) -> &[u8] {
        &self.data[..self.ordered_len as usize]
    }

    /// All values as they stand in a result row: `[i32 length][bytes]` each.
    pub fn encoded_values(&self) -> &[u8] {
        &self.data[self.ordered_len as usize..]
    }

    /// The serialized values in key order; a prefix has fewer than the table has clustering columns.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.encoded_values();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (value, tail) = tail.split_at_checked(i32::from_be_bytes(*length) as usize)?;
            rest = tail;
            Some(value)
        })
    }

    pub fn value(&self, position: usize) -> Option<&[u8]> {
        self.values().nth(position)
    }

    /// Number of clustering columns present.
    pub fn len(&self) -> usize {
        self.values().count()
    }

    pub fn is_empty(&self) -> bool {
        self.encoded_values().is_empty()
    }
}

/// Keys are looked up by their ordered form alone: `Ord`, `Eq` and `Hash` look at nothing else.
impl std::borrow::Borrow<[u8]> for ClusteringKey {
    fn borrow(&self) -> &[u8] {
        self.ordered()
    }
}

impl PartialEq for ClusteringKey {
    fn eq(&self, other: &Self) -> bool {
        self.ordered() == other.ordered()
    }
}

impl Eq for ClusteringKey {}

impl Ord for ClusteringKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ordered().cmp(other.ordered())
    }
}

impl PartialOrd for ClusteringKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::hash::Hash for ClusteringKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ordered().hash(state);
    }
}

impl std::fmt::Debug for ClusteringKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values().map(hex::encode)).finish()
    }
}
