//! Pre-images and post-images: the rows of a write as they are before it, changed step by step with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::record::{Operation, Record};
use super::split::Delta;
use crate::query::hooks::{CurrentRow, CurrentRows, CurrentValue};
use crate::schema::{ColumnId, ColumnKind, PreimageMode, TableSchema};
use crate::storage::cell::path_type;
use crate::storage::mutation::{Cell, CellChange, ClusteringKey, Mutation, RowChange};
use crate::storage::ordered;
use crate::types::CqlType;

type Row = BTreeMap<ColumnId, CurrentValue>;

/// The rows that a write touches, as they stand. A row that is missing does not exist.
#[derive(Debug, Default)]
pub(super) struct Images {
    statics: Row,
    rows: BTreeMap<ClusteringKey, Row>,
    /// Whether a change to the static row was logged.
    static_touched: bool,
}

/// The columns of each row that one record changes.
#[derive(Debug, Default)]
pub(super) struct Affected<'a> {
    statics: BTreeSet<ColumnId>,
    rows: BTreeMap<&'a ClusteringKey, BTreeSet<ColumnId>>,
    /// The deletion of a partition of a table without clustering key is that of its only row.
    only_row: bool,
}

impl<'a> Affected<'a> {
    pub(super) fn of(base: &TableSchema, deltas: &'a [Delta<'a>]) -> Self {
        let mut affected = Self::default();
        for delta in deltas {
            match delta {
                Delta::Row { key: None, change } => affected.statics.extend(columns(change)),
                Delta::Row {
                    key: Some(key),
                    change,
                } => {
                    affected.rows.entry(*key).or_default().extend(columns(change));
                }
                Delta::RowDelete(key) => {
                    affected
                        .rows
                        .entry(*key)
                        .or_default()
                        .extend(of_kind(base, ColumnKind::Regular));
                }
                Delta::PartitionDelete => affected.only_row = base.clustering_key.is_empty(),
                Delta::RangeDelete(_) => {}
            }
        }
        affected
    }
}

fn columns(change: &RowChange) -> impl Iterator<Item = ColumnId> {
    change.cells.iter().map(|(column, _)| *column)
}

fn of_kind(base: &TableSchema, kind: ColumnKind) -> impl Iterator<Item = ColumnId> {
    (0..base.columns.len()).filter(move |column| base.columns[*column].kind == kind)
}

impl Images {
    /// Reads the rows that the mutation names; ranges and whole partitions are not read, as in ScyllaDB. Unless
    /// `whole`, only the columns that the first of the rows changes are read of any of them (`cdc/log.cc`,
    /// `pre_image_select`, where it stands as a TODO): of a batch that changes different columns of several rows
    /// the pre-images show the others as deleted.
    pub(super) fn load(base: &Mutation, current: &dyn CurrentRows, whole: bool) -> Self {
        let read = |key: Option<&ClusteringKey>| current.row(&base.table, &base.key, key);
        let whole = whole || base.rows.iter().any(|(_, row)| row.tombstone.is_some());
        let first: Option<BTreeSet<ColumnId>> = match base.rows.first() {
            Some((_, row)) if !whole => Some(columns(row).collect()),
            _ => None,
        };
        let state = |row: CurrentRow| {
            let cells = row.cells.into_iter();
            cells
                .filter(|(column, _)| first.as_ref().is_none_or(|first| first.contains(column)))
                .collect::<Row>()
        };
        let mut images = Self::default();
        if !base.static_row.cells.is_empty() {
            images.statics = read(None)
                .map(|row| row.cells.into_iter().collect())
                .unwrap_or_default();
        }
        for (key, _) in &base.rows {
            if let Some(row) = read(Some(key)) {
                images.rows.insert(key.clone(), state(row));
            }
        }
        if base.partition_tombstone.is_some() && base.table.clustering_key.is_empty() {
            let key = ClusteringKey::empty();
            if let Some(row) = read(Some(&key)) {
                images.rows.insert(key, state(row));
            }
        }
        images
    }

    pub(super) fn touch(&mut self, delta: &Delta<'_>) {
        self.static_touched |= matches!(delta, Delta::Row { key: None, .. });
    }

    /// Pre-images of the rows that exist. A null column is marked deleted, or it could not be told from one
    /// that is not part of the image.
    pub(super) fn write_before(
        &self,
        record: &mut Record<'_>,
        affected: &Affected<'_>,
        mode: PreimageMode,
        base: &TableSchema,
    ) {
        let chosen = |touched: &BTreeSet<ColumnId>, kind| match mode {
            PreimageMode::Full => of_kind(base, kind).collect(),
            _ => touched.clone(),
        };
        let mut write = |key: Option<&ClusteringKey>, row: &Row, columns: BTreeSet<ColumnId>| {
            record.begin(Operation::PreImage, key);
            for column in columns {
                match row.get(&column) {
                    Some(value) => record.value(column, &base.columns[column].ty, value),
                    None => record.deleted(column),
                }
            }
            record.end();
        };
        if !affected.statics.is_empty() && self.has_static_image() {
            write(None, &self.statics, chosen(&affected.statics, ColumnKind::Static));
        }
        for (key, touched) in &affected.rows {
            if let Some(row) = self.rows.get(*key) {
                write(Some(key), row, chosen(touched, ColumnKind::Regular));
            }
        }
        let only = ClusteringKey::empty();
        if let Some(row) = self
            .rows
            .get(&only)
            .filter(|_| affected.only_row && !affected.rows.contains_key(&only))
        {
            write(Some(&only), row, of_kind(base, ColumnKind::Regular).collect());
        }
    }

    /// Post-images of the rows that exist now, always whole.
    pub(super) fn write_after(&self, record: &mut Record<'_>, affected: &Affected<'_>, base: &TableSchema) {
        let mut write = |key: Option<&ClusteringKey>, row: &Row| {
            record.begin(Operation::PostImage, key);
            for (column, value) in row {
                record.value(*column, &base.columns[*column].ty, value);
            }
            record.end();
        };
        if !affected.statics.is_empty() && self.has_static_image() {
            write(None, &self.statics);
        }
        for key in affected.rows.keys() {
            if let Some(row) = self.rows.get(*key) {
                write(Some(key), row);
            }
        }
    }

    fn has_static_image(&self) -> bool {
        !self.statics.is_empty() || self.static_touched
    }

    /// Carries one change out on the rows.
    pub(super) fn apply(&mut self, delta: &Delta<'_>, base: &TableSchema) {
        match delta {
            Delta::Row { key: None, change } => apply_cells(&mut self.statics, change, base),
            Delta::Row {
                key: Some(key),
                change,
            } => {
                apply_cells(self.rows.entry((*key).clone()).or_default(), change, base);
            }
            Delta::RowDelete(key) => {
                self.rows.remove(*key);
            }
            Delta::RangeDelete(range) => {
                let deleted = range.bytes();
                self.rows.retain(|key, _| !deleted.contains(key.ordered()));
            }
            Delta::PartitionDelete => self.rows.clear(),
        }
    }
}

fn apply_cells(row: &mut Row, change: &RowChange, base: &TableSchema) {
    for (column, cell) in &change.cells {
        let after = match cell {
            CellChange::Atomic(cell) => cell.value.clone().map(CurrentValue::Atomic),
            CellChange::Multi { tombstone, elements } => {
                let before = row.remove(column).filter(|_| tombstone.is_none());
                merged(&base.columns[*column].ty, before, elements)
            }
            CellChange::CounterDelta { .. } => None,
        };
        match after {
            Some(value) => row.insert(*column, value),
            None => row.remove(column),
        };
    }
}

/// A column of several cells after a change. A collection that loses its last element shows as empty in the
/// image although it reads as null, as in ScyllaDB; so does a UDT that is set to null.
fn merged(ty: &CqlType, before: Option<CurrentValue>, elements: &[(Bytes, Cell)]) -> Option<CurrentValue> {
    let is_udt = matches!(ty, CqlType::Udt { .. });
    let adds = elements.iter().any(|(_, cell)| cell.value.is_some());
    if !is_udt && !adds && (before.is_none() || elements.is_empty()) {
        return before.filter(|_| elements.is_empty());
    }
    let mut values = match before {
        Some(CurrentValue::Multi(values)) => values,
        _ => Vec::new(),
    };
    let path_type = path_type(ty);
    for (path, cell) in elements {
        let at = values.binary_search_by(|(have, _)| ordered::compare(&path_type, have, path));
        match (at, &cell.value) {
            (Ok(found), Some(value)) => values[found].1 = value.clone(),
            (Ok(found), None) => {
                values.remove(found);
            }
            (Err(free), Some(value)) => values.insert(free, (path.clone(), value.clone())),
            (Err(_), None) => {}
        }
    }
    Some(CurrentValue::Multi(values))
}
