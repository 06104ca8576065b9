//! What a reader sees of a row: one slot per column, borrowed from storage.

use super::cell::MultiCell;
use super::mutation::{Expiry, Timestamp};
use crate::schema::{ColumnId, TableSchema};

#[derive(Debug, Clone, Copy)]
pub enum Slot<'a> {
    Absent,
    /// A key column's value.
    Key(&'a [u8]),
    Atomic {
        value: &'a [u8],
        timestamp: Timestamp,
        expiry: Option<Expiry>,
    },
    /// At least one live element.
    Multi(&'a MultiCell),
}

/// Which stored cells a reader wants and where they go.
#[derive(Debug, Clone)]
pub struct ColumnMap {
    /// By storage id.
    targets: Vec<Target>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    /// Dropped, or not of this table version.
    Unknown,
    Unwanted,
    Column(ColumnId),
}

impl ColumnMap {
    pub fn new(table: &TableSchema, wanted: impl Fn(ColumnId) -> bool) -> Self {
        let mut targets = vec![Target::Unknown; table.next_storage_id as usize];
        for (id, column) in table.columns.iter().enumerate() {
            targets[column.storage_id as usize] = if wanted(id) {
                Target::Column(id)
            } else {
                Target::Unwanted
            };
        }
        Self { targets }
    }

    pub fn column(&self, storage_id: u32) -> Option<ColumnId> {
        match self.targets.get(storage_id as usize) {
            Some(Target::Column(id)) => Some(*id),
            _ => None,
        }
    }

    /// True if the column still exists: cells of dropped columns keep no row alive.
    pub fn exists(&self, storage_id: u32) -> bool {
        matches!(
            self.targets.get(storage_id as usize),
            Some(Target::Unwanted | Target::Column(_))
        )
    }
}

impl<'a> Slot<'a> {
    /// The serialized value of anything that is one.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Slot::Key(value) | Slot::Atomic { value, .. } => Some(value),
            Slot::Absent | Slot::Multi(_) => None,
        }
    }
}
