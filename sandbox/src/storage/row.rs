//! One stored row: packed while all of it was written at once, else cell by cell.

use bytes::Bytes;

use super::cell::{MultiCell, newer_tombstone};
use super::mutation::{Cell, CellChange, Expiry, Liveness, RowChange, Timestamp, Tombstone};
use super::packed::PackedRow;
use super::view::{ColumnMap, Slot};
use crate::schema::TableSchema;

/// Most rows are written once: those stay one allocation of their values.
#[derive(Debug, Clone)]
pub enum StoredRow {
    Packed(PackedRow),
    Full(Box<FullRow>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FullRow {
    pub marker: Option<Liveness>,
    pub tombstone: Option<Tombstone>,
    /// By `ColumnSchema::storage_id`.
    pub cells: Vec<(u32, StoredCell)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredCell {
    Atomic(Cell),
    Multi(MultiCell),
    /// The sum so far, big-endian, and when it last changed.
    Counter {
        timestamp: Timestamp,
        value: [u8; 8],
    },
}

impl StoredRow {
    /// Merges a change into a row (or none). `floor`: the newest deletion of the partition or a range that
    /// covers the row. None: nothing is left to store.
    pub fn merge(
        existing: Option<StoredRow>,
        change: &RowChange,
        table: &TableSchema,
        floor: Timestamp,
    ) -> Option<StoredRow> {
        if existing.is_none()
            && let Some(packed) = PackedRow::from_change(change, table, floor)
        {
            return Some(StoredRow::Packed(packed));
        }
        let mut row = existing.map_or_else(FullRow::default, StoredRow::into_full);
        row.apply(change, table, floor);
        row.into_stored()
    }

    /// Drops what a deletion at `timestamp` covers. None: nothing is left.
    pub fn shadowed(self, timestamp: Timestamp) -> Option<StoredRow> {
        match self {
            StoredRow::Packed(row) => (row.timestamp() > timestamp).then_some(StoredRow::Packed(row)),
            StoredRow::Full(mut row) => {
                row.shadow(timestamp);
                row.into_stored()
            }
        }
    }

    /// Drops what has expired and deletions that are older than the grace period. None: nothing is left.
    pub fn purged(self, now_seconds: i64, gc_grace_seconds: i64) -> Option<StoredRow> {
        let over = now_seconds - gc_grace_seconds;
        match self {
            StoredRow::Packed(row) => {
                let gone = row.expiry().is_some_and(|expiry| expiry.at <= over);
                (!gone).then_some(StoredRow::Packed(row))
            }
            StoredRow::Full(mut row) => {
                row.purge(over);
                row.into_stored()
            }
        }
    }

    /// Fills the slots of the columns that `map` wants. False: the row does not exist (any more).
    pub fn view<'a>(&'a self, map: &ColumnMap, now_seconds: i64, slots: &mut [Slot<'a>]) -> bool {
        match self {
            StoredRow::Packed(row) => row.view(map, now_seconds, slots),
            StoredRow::Full(row) => row.view(map, now_seconds, slots),
        }
    }

    fn into_full(self) -> FullRow {
        match self {
            StoredRow::Packed(row) => row.unpack(),
            StoredRow::Full(row) => *row,
        }
    }
}

impl FullRow {
    fn apply(&mut self, change: &RowChange, table: &TableSchema, floor: Timestamp) {
        if let Some(tombstone) = change.tombstone.filter(|new| new.timestamp > floor) {
            self.tombstone = newer_tombstone(self.tombstone, Some(tombstone));
            if self.tombstone == Some(tombstone) {
                self.shadow_cells(tombstone.timestamp);
            }
        }
        let floor = self
            .tombstone
            .map_or(floor, |deleted| deleted.timestamp.max(floor));
        if let Some(marker) = change.marker
            && marker.timestamp > floor
            && self.marker.is_none_or(|have| marker.wins_over(&have))
        {
            self.marker = Some(marker);
        }
        for (column, cell) in &change.cells {
            let column = &table.columns[*column];
            let (position, found) = match self.cells.binary_search_by_key(&column.storage_id, |(id, _)| *id) {
                Ok(position) => (position, true),
                Err(position) => (position, false),
            };
            let existing = found.then(|| &mut self.cells[position].1);
            if let Some(new) = merge_cell(existing, cell, &column.ty, floor) {
                self.cells.insert(position, (column.storage_id, new));
            }
        }
    }

    fn shadow(&mut self, timestamp: Timestamp) {
        self.tombstone = self.tombstone.filter(|deleted| deleted.timestamp > timestamp);
        self.shadow_cells(timestamp);
    }

    fn shadow_cells(&mut self, timestamp: Timestamp) {
        self.marker = self.marker.filter(|marker| marker.timestamp > timestamp);
        self.cells.retain_mut(|(_, cell)| match cell {
            StoredCell::Atomic(cell) => cell.timestamp > timestamp,
            StoredCell::Counter {
                timestamp: written, ..
            } => *written > timestamp,
            StoredCell::Multi(multi) => {
                multi.shadow(timestamp);
                !multi.is_empty()
            }
        });
    }

    /// `over`: what expired or was deleted at or before this second is dropped.
    fn purge(&mut self, over: i64) {
        let expired = |expiry: Option<Expiry>| expiry.is_some_and(|expiry| expiry.at <= over);
        let kept = |tombstone: &Tombstone| tombstone.deletion_time > over;
        self.tombstone = self.tombstone.filter(kept);
        self.marker = self.marker.filter(|marker| !expired(marker.expiry));
        self.cells.retain_mut(|(_, cell)| match cell {
            StoredCell::Atomic(cell) => !expired(cell.expiry),
            StoredCell::Counter { .. } => true,
            StoredCell::Multi(multi) => {
                multi.tombstone = multi.tombstone.filter(kept);
                multi.elements.retain(|(_, cell)| !expired(cell.expiry));
                !multi.is_empty()
            }
        });
    }

    fn into_stored(self) -> Option<StoredRow> {
        if self.marker.is_none() && self.tombstone.is_none() && self.cells.is_empty() {
            return None;
        }
        Some(match PackedRow::from_full(&self) {
            Some(packed) => StoredRow::Packed(packed),
            None => StoredRow::Full(Box::new(self)),
        })
    }

    fn view<'a>(&'a self, map: &ColumnMap, now_seconds: i64, slots: &mut [Slot<'a>]) -> bool {
        let mut live = self.marker.is_some_and(|marker| marker.is_live(now_seconds));
        for (storage_id, cell) in &self.cells {
            let slot = match cell {
                StoredCell::Atomic(cell) => match &cell.value {
                    Some(value) if cell.is_live(now_seconds) => Slot::Atomic {
                        value,
                        timestamp: cell.timestamp,
                        expiry: cell.expiry,
                    },
                    _ => continue,
                },
                StoredCell::Counter { timestamp, value } => Slot::Atomic {
                    value,
                    timestamp: *timestamp,
                    expiry: None,
                },
                StoredCell::Multi(multi) if multi.live(now_seconds).next().is_some() => Slot::Multi(multi),
                StoredCell::Multi(_) => continue,
            };
            if let Some(column) = map.column(*storage_id) {
                slots[column] = slot;
                live = true;
            } else {
                live |= map.exists(*storage_id);
            }
        }
        live
    }
}

/// Merges a change into the cell that exists; otherwise returns the cell to store, if any.
fn merge_cell(
    existing: Option<&mut StoredCell>,
    change: &CellChange,
    ty: &crate::types::CqlType,
    floor: Timestamp,
) -> Option<StoredCell> {
    match (change, existing) {
        (CellChange::Atomic(cell), _) if cell.timestamp <= floor => None,
        (CellChange::Atomic(cell), Some(StoredCell::Atomic(have))) => {
            if cell.wins_over(have) {
                *have = cell.detached();
            }
            None
        }
        (CellChange::Atomic(cell), Some(other)) => {
            // A counter that is deleted, or a column whose kind of type changed.
            *other = StoredCell::Atomic(cell.detached());
            None
        }
        (CellChange::Atomic(cell), None) => Some(StoredCell::Atomic(cell.detached())),
        (CellChange::Multi { tombstone, elements }, Some(StoredCell::Multi(multi))) => {
            multi.merge(ty, *tombstone, elements, floor);
            None
        }
        (CellChange::Multi { tombstone, elements }, _) => {
            let mut multi = MultiCell::default();
            multi.merge(ty, *tombstone, elements, floor);
            (!multi.is_empty()).then_some(StoredCell::Multi(multi))
        }
        (CellChange::CounterDelta { delta, timestamp }, Some(have)) => {
            let before = match have {
                StoredCell::Counter { value, .. } => i64::from_be_bytes(*value),
                _ => 0,
            };
            *have = counter(before, *delta, *timestamp);
            None
        }
        (CellChange::CounterDelta { delta, timestamp }, None) => Some(counter(0, *delta, *timestamp)),
    }
}

fn counter(before: i64, delta: i64, timestamp: Timestamp) -> StoredCell {
    StoredCell::Counter {
        timestamp,
        value: before.wrapping_add(delta).to_be_bytes(),
    }
}

/// A cell on memory of its own.
pub(super) fn atomic(timestamp: Timestamp, value: Option<&[u8]>, expiry: Option<Expiry>) -> StoredCell {
    StoredCell::Atomic(Cell {
        timestamp,
        value: value.map(Bytes::copy_from_slice),
        expiry,
    })
}
