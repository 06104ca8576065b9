//! Mutations, partitions and reads.
//!
//! `mutation` is what goes in; `table` holds partitions on the ring, `partition` merges, `row` and `packed` are
//! rows at rest, `view` is what a reader sees.

pub mod cell;
pub mod clock;
pub mod mutation;
pub mod ordered;
pub mod packed;
pub mod partition;
pub mod row;
pub mod row_map;
pub mod table;
pub mod view;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use mutation::Mutation;
use table::TableStore;

/// The data of all tables, by table id.
#[derive(Default)]
pub struct Storage {
    tables: RwLock<HashMap<Uuid, Arc<TableStore>>>,
}

impl Storage {
    /// None if the table was never created or is dropped.
    pub fn table(&self, id: &Uuid) -> Option<Arc<TableStore>> {
        self.tables.read().get(id).cloned()
    }

    pub fn create(&self, id: Uuid) {
        self.tables.write().entry(id).or_default();
    }

    pub fn drop_table(&self, id: &Uuid) {
        self.tables.write().remove(id);
    }

    pub fn ids(&self) -> Vec<Uuid> {
        self.tables.read().keys().copied().collect()
    }

    /// Merges a mutation; one of a dropped table is ignored.
    pub fn apply(&self, mutation: &Mutation, now_seconds: i64) {
        if let Some(table) = self.table(&mutation.table.id) {
            table.apply(mutation, now_seconds);
        }
    }
}

#[cfg(test)]
mod tests;
