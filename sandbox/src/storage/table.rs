//! All partitions of one table in ring order, split into token ranges that are locked one by one.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use parking_lot::RwLock;

use super::mutation::{Mutation, PartitionKey};
use super::partition::Partition;
use crate::schema::TableSchema;

/// Enough that threads rarely meet (a few dozen at most), few enough that an empty table costs nothing.
const SHARD_BITS: u32 = 6;

pub struct TableStore {
    shards: Vec<RwLock<BTreeMap<PartitionKey, Partition>>>,
}

/// A stretch of the ring.
pub type RingRange = (Bound<PartitionKey>, Bound<PartitionKey>);

impl TableStore {
    pub fn apply(&self, mutation: &Mutation, now_seconds: i64) {
        let mut shard = self.shards[shard_of(mutation.key.token)].write();
        match shard.get_mut(&mutation.key) {
            Some(partition) => partition.apply(mutation, now_seconds),
            None => shard
                .entry(mutation.key.clone())
                .or_default()
                .apply(mutation, now_seconds),
        }
    }

    /// Reads one partition; None if it does not exist.
    pub fn read<R>(&self, key: &PartitionKey, read: impl FnOnce(&Partition) -> R) -> Option<R> {
        self.shards[shard_of(key.token)].read().get(key).map(read)
    }

    /// Visits the partitions of a stretch of the ring in order until `visit` breaks.
    pub fn scan(
        &self,
        range: &RingRange,
        mut visit: impl FnMut(&PartitionKey, &Partition) -> ControlFlow<()>,
    ) {
        let first = match &range.0 {
            Bound::Included(key) | Bound::Excluded(key) => shard_of(key.token),
            Bound::Unbounded => 0,
        };
        let last = match &range.1 {
            Bound::Included(key) | Bound::Excluded(key) => shard_of(key.token),
            Bound::Unbounded => self.shards.len() - 1,
        };
        if is_empty(range) {
            return;
        }
        for shard in self.shards.get(first..=last).unwrap_or_default() {
            for (key, partition) in shard.read().range((range.0.as_ref(), range.1.as_ref())) {
                if visit(key, partition).is_break() {
                    return;
                }
            }
        }
    }

    pub fn truncate(&self) {
        for shard in &self.shards {
            shard.write().clear();
        }
    }

    /// Drops what has expired, in all partitions, shard by shard.
    pub fn purge(&self, table: &TableSchema, now_seconds: i64) {
        for shard in &self.shards {
            shard
                .write()
                .retain(|_, partition| !partition.purge(table, now_seconds));
        }
    }
}

impl Default for TableStore {
    fn default() -> Self {
        Self {
            shards: (0..1 << SHARD_BITS).map(|_| RwLock::default()).collect(),
        }
    }
}

impl PartitionKey {
    /// Before all keys of this token: no real key is empty, the empty one sorts first.
    pub fn first_of(token: i64) -> Self {
        Self {
            token,
            serialized: Bytes::new(),
        }
    }

    /// Behind all keys: a key of the last token can be at most 65535 bytes of 0xff, which this is.
    pub fn last_of_ring() -> Self {
        Self {
            token: i64::MAX,
            serialized: vec![0xff; usize::from(u16::MAX)].into(),
        }
    }
}

fn shard_of(token: i64) -> usize {
    ((token as u64 ^ (1 << 63)) >> (64 - SHARD_BITS)) as usize
}

/// A BTreeMap panics on bounds that stand the wrong way round.
fn is_empty((start, end): &RingRange) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}
