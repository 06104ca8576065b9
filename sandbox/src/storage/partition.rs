//! One partition: deletions, the static row, rows.

use super::cell::newer_tombstone;
use super::mutation::{Bound, ClusteringKey, Mutation, RangeTombstone, Timestamp, Tombstone};
use super::row::StoredRow;
use super::row_map::{ByteRange, RowMap, after_prefix};
use crate::schema::TableSchema;

#[derive(Debug, Default)]
pub struct Partition {
    tombstone: Option<Tombstone>,
    static_row: Option<StoredRow>,
    rows: RowMap,
    range_tombstones: Vec<(ByteRange, Tombstone)>,
    /// Applied mutations since the last purge.
    writes: usize,
}

/// A purge costs O(rows); it runs when as many writes as rows came since the last one, which makes it O(1) per
/// write and lets at most about half of a partition be garbage. This many always pass without one.
const WRITES_BETWEEN_PURGES: usize = 1024;

impl Partition {
    pub fn static_row(&self) -> Option<&StoredRow> {
        self.static_row.as_ref()
    }

    pub fn row(&self, key: &ClusteringKey) -> Option<&StoredRow> {
        self.rows.get(key)
    }

    pub fn rows(
        &self,
        range: &ByteRange,
    ) -> Box<dyn DoubleEndedIterator<Item = (&ClusteringKey, &StoredRow)> + '_> {
        self.rows.range(range)
    }

    /// Merges a mutation; readers see all of it or nothing, for they are locked out meanwhile.
    pub fn apply(&mut self, mutation: &Mutation, now_seconds: i64) {
        let table = &mutation.table;
        if let Some(tombstone) = mutation.partition_tombstone {
            self.delete_all(tombstone);
        }
        for tombstone in &mutation.range_tombstones {
            self.delete_range(tombstone);
        }
        if !mutation.static_row.is_empty() {
            let floor = self.tombstone.map_or(Timestamp::MIN, |deleted| deleted.timestamp);
            self.static_row = StoredRow::merge(self.static_row.take(), &mutation.static_row, table, floor);
        }
        for (key, change) in &mutation.rows {
            let floor = self.floor(key);
            self.rows
                .update(key, |existing| StoredRow::merge(existing, change, table, floor));
        }
        self.writes += 1;
        if self.writes > self.rows.len().max(WRITES_BETWEEN_PURGES) {
            self.purge(table, now_seconds);
        }
    }

    /// Drops what has expired and deletions past their grace. True if nothing is left.
    pub fn purge(&mut self, table: &TableSchema, now_seconds: i64) -> bool {
        let grace = i64::from(table.gc_grace_seconds);
        let kept = |tombstone: &Tombstone| tombstone.deletion_time > now_seconds - grace;
        self.writes = 0;
        self.tombstone = self.tombstone.filter(kept);
        self.range_tombstones.retain(|(_, tombstone)| kept(tombstone));
        self.static_row = self
            .static_row
            .take()
            .and_then(|row| row.purged(now_seconds, grace));
        self.rows
            .update_range(&ByteRange::default(), |row| row.purged(now_seconds, grace));
        self.tombstone.is_none()
            && self.static_row.is_none()
            && self.rows.is_empty()
            && self.range_tombstones.is_empty()
    }

    /// The newest deletion of the partition or a range that covers a row.
    fn floor(&self, key: &ClusteringKey) -> Timestamp {
        let ranges = self
            .range_tombstones
            .iter()
            .filter(|(range, _)| range.contains(key.ordered()));
        ranges
            .map(|(_, tombstone)| tombstone.timestamp)
            .chain(self.tombstone.map(|tombstone| tombstone.timestamp))
            .max()
            .unwrap_or(Timestamp::MIN)
    }

    fn delete_all(&mut self, tombstone: Tombstone) {
        self.tombstone = newer_tombstone(self.tombstone, Some(tombstone));
        let timestamp = tombstone.timestamp;
        self.range_tombstones
            .retain(|(_, range)| range.timestamp > timestamp);
        self.static_row = self.static_row.take().and_then(|row| row.shadowed(timestamp));
        self.rows
            .update_range(&ByteRange::default(), |row| row.shadowed(timestamp));
    }

    fn delete_range(&mut self, deletion: &RangeTombstone) {
        let tombstone = deletion.tombstone;
        if self
            .tombstone
            .is_some_and(|all| all.timestamp >= tombstone.timestamp)
        {
            return;
        }
        let range = deletion.bytes();
        self.range_tombstones
            .retain(|(have, older)| older.timestamp > tombstone.timestamp || !range.covers(have));
        self.rows
            .update_range(&range, |row| row.shadowed(tombstone.timestamp));
        self.range_tombstones.push((range, tombstone));
    }
}

impl RangeTombstone {
    /// The deleted keys.
    pub fn bytes(&self) -> ByteRange {
        byte_range(self.start.as_ref(), self.end.as_ref())
    }
}

/// The keys between two bounds (None: open).
pub fn byte_range(start: Option<&Bound>, end: Option<&Bound>) -> ByteRange {
    let nothing = || ByteRange {
        start: Vec::new(),
        end: Some(Vec::new()),
    };
    let start = match start {
        None => Vec::new(),
        Some(bound) if bound.inclusive => bound.prefix.ordered().to_vec(),
        Some(bound) => match after_prefix(bound.prefix.ordered()) {
            Some(after) => after,
            None => return nothing(),
        },
    };
    let end = match end {
        None => None,
        Some(bound) if bound.inclusive => after_prefix(bound.prefix.ordered()),
        Some(bound) => Some(bound.prefix.ordered().to_vec()),
    };
    ByteRange { start, end }
}
