//! A base mutation as the changes that the log shows one by one, grouped by timestamp
//! (ScyllaDB `cdc/split.cc`).
//!
//! A log row has one timestamp, one TTL and one kind of change. Most mutations are uniform and are taken as they
//! are, in clustering order. Others are sorted by timestamp, then kind, then TTL.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::storage::mutation::{
    Cell, CellChange, ClusteringKey, Liveness, Mutation, RangeTombstone, RowChange, Timestamp,
};

/// What becomes one log row (two for a range).
#[derive(Debug)]
pub(super) enum Delta<'a> {
    /// Cells, and a marker in an INSERT; `key` None: the static row.
    Row {
        key: Option<&'a ClusteringKey>,
        change: Cow<'a, RowChange>,
    },
    RowDelete(&'a ClusteringKey),
    RangeDelete(&'a RangeTombstone),
    PartitionDelete,
}

/// The changes of each timestamp in the order of the log, timestamps ascending.
pub(super) fn records(base: &Mutation) -> Vec<(Timestamp, Vec<Delta<'_>>)> {
    let mut scan = Scan::default();
    scan.mutation(base);
    match scan.timestamp.filter(|_| !scan.mixed) {
        Some(timestamp) => vec![(timestamp, as_it_stands(base))],
        None => sorted(base),
    }
}

fn as_it_stands(base: &Mutation) -> Vec<Delta<'_>> {
    let mut deltas = Vec::with_capacity(1 + base.rows.len() + base.range_tombstones.len());
    if !base.static_row.cells.is_empty() {
        deltas.push(Delta::Row {
            key: None,
            change: Cow::Borrowed(&base.static_row),
        });
    }
    for (key, row) in &base.rows {
        if is_upsert(row) {
            deltas.push(Delta::Row {
                key: Some(key),
                change: Cow::Borrowed(row),
            });
        }
        if row.tombstone.is_some() {
            deltas.push(Delta::RowDelete(key));
        }
    }
    deltas.extend(base.range_tombstones.iter().map(Delta::RangeDelete));
    deltas
}

fn is_upsert(row: &RowChange) -> bool {
    row.marker.is_some() || !row.cells.is_empty()
}

fn ttl_of(cell: &Cell) -> i32 {
    cell.expiry
        .filter(|_| cell.value.is_some())
        .map_or(0, |expiry| expiry.ttl)
}

fn marker_ttl(marker: &Liveness) -> i32 {
    marker.expiry.map_or(0, |expiry| expiry.ttl)
}

/// Finds out whether a mutation has one timestamp, one TTL and one kind of change. It looks at things in the
/// order in which ScyllaDB does, because the verdict depends on it: a row deletion before an insert is
/// uniform, the other way round is not.
#[derive(Default)]
struct Scan {
    timestamp: Option<Timestamp>,
    ttl: Option<i32>,
    had_static: bool,
    had_row: bool,
    had_upsert: bool,
    had_marker: bool,
    mixed: bool,
}

impl Scan {
    fn mutation(&mut self, base: &Mutation) {
        if !base.static_row.cells.is_empty() {
            self.had_static = true;
            self.cells(&base.static_row);
        }
        for (_, row) in &base.rows {
            if self.mixed {
                return;
            }
            self.row(row);
        }
        for range in &base.range_tombstones {
            self.mixed |= self.had_static || self.had_row;
            self.see(range.tombstone.timestamp, 0);
        }
        // It has no column to be uniform with; sorting it is simplest.
        self.mixed |= base.partition_tombstone.is_some();
    }

    fn row(&mut self, row: &RowChange) {
        if is_upsert(row) {
            self.mixed |= self.had_static;
            self.had_row = true;
            self.had_upsert = true;
            if let Some(marker) = &row.marker {
                self.had_marker = true;
                self.see(marker.timestamp, marker_ttl(marker));
            }
            self.cells(row);
        }
        if let Some(tombstone) = row.tombstone {
            self.mixed |= self.had_static || self.had_upsert;
            self.had_row = true;
            self.see(tombstone.timestamp, 0);
        }
    }

    fn cells(&mut self, row: &RowChange) {
        for (_, change) in &row.cells {
            match change {
                CellChange::Atomic(cell) => self.see(cell.timestamp, ttl_of(cell)),
                CellChange::Multi { tombstone, elements } => {
                    if let Some(tombstone) = tombstone {
                        self.see(tombstone.timestamp + 1, 0);
                    }
                    for (_, cell) in elements {
                        // An INSERT cannot add to a collection without replacing it.
                        self.mixed |= self.had_marker && cell.value.is_some();
                        self.see(cell.timestamp, ttl_of(cell));
                    }
                }
                // Counter tables have no CDC.
                CellChange::CounterDelta { .. } => {}
            }
        }
    }

    fn see(&mut self, timestamp: Timestamp, ttl: i32) {
        self.mixed |= *self.timestamp.get_or_insert(timestamp) != timestamp;
        self.mixed |= *self.ttl.get_or_insert(ttl) != ttl;
    }
}

/// The changes of one timestamp by kind.
#[derive(Default)]
struct Changes<'a> {
    statics: Vec<Delta<'a>>,
    inserts: Vec<Delta<'a>>,
    updates: Vec<Delta<'a>>,
    row_deletes: Vec<Delta<'a>>,
    range_deletes: Vec<Delta<'a>>,
    partition_delete: Option<Delta<'a>>,
}

fn sorted(base: &Mutation) -> Vec<(Timestamp, Vec<Delta<'_>>)> {
    let mut changes: BTreeMap<Timestamp, Changes<'_>> = BTreeMap::new();
    for ((timestamp, _), change) in by_timestamp_and_ttl(&base.static_row) {
        let delta = Delta::Row {
            key: None,
            change: Cow::Owned(change),
        };
        changes.entry(timestamp).or_default().statics.push(delta);
    }
    for (key, row) in &base.rows {
        add_upserts(&mut changes, key, row);
        if let Some(tombstone) = row.tombstone {
            changes
                .entry(tombstone.timestamp)
                .or_default()
                .row_deletes
                .push(Delta::RowDelete(key));
        }
    }
    for range in &base.range_tombstones {
        let of_time = changes.entry(range.tombstone.timestamp).or_default();
        of_time.range_deletes.push(Delta::RangeDelete(range));
    }
    if let Some(tombstone) = base.partition_tombstone {
        changes.entry(tombstone.timestamp).or_default().partition_delete = Some(Delta::PartitionDelete);
    }
    changes
        .into_iter()
        .map(|(timestamp, of_time)| (timestamp, of_time.in_log_order()))
        .collect()
}

impl<'a> Changes<'a> {
    fn in_log_order(self) -> Vec<Delta<'a>> {
        let mut deltas = self.statics;
        deltas.extend(self.inserts);
        deltas.extend(self.updates);
        deltas.extend(self.row_deletes);
        deltas.extend(self.range_deletes);
        deltas.extend(self.partition_delete);
        deltas
    }
}

fn add_upserts<'a>(changes: &mut BTreeMap<Timestamp, Changes<'a>>, key: &'a ClusteringKey, row: &RowChange) {
    let mut buckets = by_timestamp_and_ttl(row);
    let insert_at = row.marker.map(|marker| (marker.timestamp, marker_ttl(&marker)));
    if let Some(at) = insert_at {
        buckets.entry(at).or_default().marker = row.marker;
    }
    for ((timestamp, ttl), mut change) in buckets {
        let of_time = changes.entry(timestamp).or_default();
        let row = |change| Delta::Row {
            key: Some(key),
            change: Cow::Owned(change),
        };
        if insert_at != Some((timestamp, ttl)) {
            of_time.updates.push(row(change));
            continue;
        }
        let additions = take_bare_additions(&mut change);
        of_time.inserts.push(row(change));
        if !additions.is_empty() {
            of_time.updates.push(row(additions));
        }
    }
}

/// Takes out the elements whose collection is not replaced in the same change: an INSERT cannot say that.
fn take_bare_additions(change: &mut RowChange) -> RowChange {
    let bare = |cell: &CellChange| matches!(cell, CellChange::Multi { tombstone: None, .. });
    let (additions, rest) = std::mem::take(&mut change.cells)
        .into_iter()
        .partition(|(_, cell)| bare(cell));
    change.cells = rest;
    RowChange {
        cells: additions,
        ..RowChange::default()
    }
}

fn by_timestamp_and_ttl(row: &RowChange) -> BTreeMap<(Timestamp, i32), RowChange> {
    let mut buckets: BTreeMap<(Timestamp, i32), RowChange> = BTreeMap::new();
    for (column, change) in &row.cells {
        match change {
            CellChange::Atomic(cell) => {
                let bucket = buckets.entry((cell.timestamp, ttl_of(cell))).or_default();
                bucket.cells.push((*column, change.clone()));
            }
            CellChange::Multi { tombstone, elements } => {
                if let Some(deleted) = tombstone {
                    // Replacing a collection deletes it one microsecond before the new elements.
                    let bucket = buckets.entry((deleted.timestamp + 1, 0)).or_default();
                    bucket.cells.push((
                        *column,
                        CellChange::Multi {
                            tombstone: *tombstone,
                            elements: vec![],
                        },
                    ));
                }
                for element in elements {
                    let bucket = buckets
                        .entry((element.1.timestamp, ttl_of(&element.1)))
                        .or_default();
                    match bucket.cells.last_mut() {
                        Some((last, CellChange::Multi { elements, .. })) if last == column => {
                            elements.push(element.clone());
                        }
                        _ => {
                            let elements = vec![element.clone()];
                            bucket.cells.push((
                                *column,
                                CellChange::Multi {
                                    tombstone: None,
                                    elements,
                                },
                            ));
                        }
                    }
                }
            }
            CellChange::CounterDelta { .. } => {}
        }
    }
    buckets
}
