//! Conditional writes that were decided but not learned: a round on their partition finishes them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{CqlError, ErrorKind};
use crate::storage::mutation::{Mutation, PartitionKey};

/// Writes kept at a time, each at most one frame: faults make a few.
const MAX_UNLEARNED: usize = 1_000;

/// By table and partition of the conditional write; its log rows are kept with it.
#[derive(Default)]
pub(super) struct Unlearned {
    writes: Mutex<HashMap<(Uuid, PartitionKey), Vec<Mutation>>>,
    /// Looked at by every conditional write and serial read.
    count: AtomicUsize,
}

impl Unlearned {
    /// Keeps what a conditional write decided: the first mutation is the base table's.
    ///
    /// # Errors
    /// Overloaded: too many are kept.
    pub(super) fn keep(&self, mutations: Vec<Mutation>) -> Result<(), CqlError> {
        let Some(base) = mutations.first() else {
            return Ok(());
        };
        let mut writes = self.writes.lock();
        if writes.len() >= MAX_UNLEARNED {
            return Err(CqlError::new(
                ErrorKind::Overloaded,
                format!("{MAX_UNLEARNED} conditional writes wait for a round on their partition already"),
            ));
        }
        let key = (base.table.id, base.key.clone());
        writes.entry(key).or_default().extend(mutations);
        self.count.store(writes.len(), Ordering::Release);
        Ok(())
    }

    /// What a round on this partition has to finish first.
    pub(super) fn take(&self, table: &Uuid, key: &PartitionKey) -> Vec<Mutation> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut writes = self.writes.lock();
        let taken = writes.remove(&(*table, key.clone()));
        self.count.store(writes.len(), Ordering::Release);
        taken.unwrap_or_default()
    }
}
