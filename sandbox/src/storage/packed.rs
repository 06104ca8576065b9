//! A row whose cells were all written at one timestamp with one TTL, as one allocation.
//!
//! Layout: flags, timestamp (i64), TTL (i32) and end (i64, seconds), then per cell storage id (u16), length
//! (i32, -1 for a deleted cell), bytes.

use super::mutation::{Cell, CellChange, Expiry, Liveness, RowChange, Timestamp};
use super::row::{FullRow, StoredCell, atomic};
use super::view::{ColumnMap, Slot};
use crate::schema::TableSchema;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRow(Box<[u8]>);

const MARKER: u8 = 1;
const EXPIRES: u8 = 2;
const HEADER: usize = 1 + 8 + 4 + 8;

impl PackedRow {
    /// None if the change has more than one timestamp or TTL, tombstones, collections, or is deleted by `floor`.
    pub fn from_change(change: &RowChange, table: &TableSchema, floor: Timestamp) -> Option<Self> {
        if change.tombstone.is_some() {
            return None;
        }
        let mut size = HEADER;
        let mut common = change.marker;
        for (_, cell) in &change.cells {
            let CellChange::Atomic(cell) = cell else {
                return None;
            };
            size += fits(&mut common, cell)?;
        }
        let common = common.filter(|common| common.timestamp > floor)?;
        let mut out = header(common, change.marker.is_some(), size);
        for (column, cell) in &change.cells {
            let CellChange::Atomic(cell) = cell else {
                return None;
            };
            push(&mut out, table.columns[*column].storage_id, cell)?;
        }
        Some(Self(out.into_boxed_slice()))
    }

    pub fn from_full(row: &FullRow) -> Option<Self> {
        if row.tombstone.is_some() {
            return None;
        }
        let mut size = HEADER;
        let mut common = row.marker;
        for (_, cell) in &row.cells {
            let StoredCell::Atomic(cell) = cell else {
                return None;
            };
            size += fits(&mut common, cell)?;
        }
        let mut out = header(common?, row.marker.is_some(), size);
        for (id, cell) in &row.cells {
            let StoredCell::Atomic(cell) = cell else {
                return None;
            };
            push(&mut out, *id, cell)?;
        }
        Some(Self(out.into_boxed_slice()))
    }

    pub fn unpack(&self) -> FullRow {
        let (timestamp, expiry) = (self.timestamp(), self.expiry());
        let mut cells: Vec<_> = self
            .cells()
            .map(|(id, value)| (id, atomic(timestamp, value, expiry.filter(|_| value.is_some()))))
            .collect();
        cells.sort_by_key(|(id, _)| *id);
        FullRow {
            marker: (self.0[0] & MARKER != 0).then_some(Liveness { timestamp, expiry }),
            tombstone: None,
            cells,
        }
    }

    pub fn timestamp(&self) -> Timestamp {
        i64::from_be_bytes(self.fixed(1))
    }

    pub fn expiry(&self) -> Option<Expiry> {
        (self.0[0] & EXPIRES != 0).then(|| Expiry {
            ttl: i32::from_be_bytes(self.fixed(9)),
            at: i64::from_be_bytes(self.fixed(13)),
        })
    }

    pub fn view<'a>(&'a self, map: &ColumnMap, now_seconds: i64, slots: &mut [Slot<'a>]) -> bool {
        let (timestamp, expiry) = (self.timestamp(), self.expiry());
        if expiry.is_some_and(|expiry| expiry.has_passed(now_seconds)) {
            return false;
        }
        let mut live = self.0[0] & MARKER != 0;
        for (id, value) in self.cells() {
            let Some(value) = value else { continue };
            if let Some(column) = map.column(id) {
                slots[column] = Slot::Atomic {
                    value,
                    timestamp,
                    expiry,
                };
                live = true;
            } else {
                live |= map.exists(id);
            }
        }
        live
    }

    fn cells(&self) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        let mut rest = &self.0[HEADER..];
        std::iter::from_fn(move || {
            let (id, tail) = rest.split_first_chunk::<2>()?;
            let (length, tail) = tail.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, tail) = tail.split_at_checked(length.unwrap_or(0))?;
            rest = tail;
            Some((u32::from(u16::from_be_bytes(*id)), length.map(|_| value)))
        })
    }

    fn fixed<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }
}

/// The size of a cell if it shares timestamp and TTL with what came before. Deleted cells have no TTL and fit
/// any, for the row ends with its values: that is why a row with a TTL may not carry them.
fn fits(common: &mut Option<Liveness>, cell: &Cell) -> Option<usize> {
    let expected = common.get_or_insert(Liveness {
        timestamp: cell.timestamp,
        expiry: cell.expiry,
    });
    (expected.timestamp == cell.timestamp && expected.expiry == cell.expiry)
        .then(|| 6 + cell.value.as_ref().map_or(0, |value| value.len()))
}

fn header(common: Liveness, marker: bool, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    let expiry = common.expiry.unwrap_or(Expiry { ttl: 0, at: 0 });
    let marker = if marker { MARKER } else { 0 };
    let expires = if common.expiry.is_some() { EXPIRES } else { 0 };
    out.push(marker | expires);
    out.extend_from_slice(&common.timestamp.to_be_bytes());
    out.extend_from_slice(&expiry.ttl.to_be_bytes());
    out.extend_from_slice(&expiry.at.to_be_bytes());
    out
}

fn push(out: &mut Vec<u8>, id: u32, cell: &Cell) -> Option<()> {
    out.extend_from_slice(&u16::try_from(id).ok()?.to_be_bytes());
    match &cell.value {
        Some(value) => {
            out.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
            out.extend_from_slice(value);
        }
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
    Some(())
}
