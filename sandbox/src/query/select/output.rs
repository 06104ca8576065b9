//! Where the rows of a SELECT go: straight into the answer, into groups, or to be sorted.

use bytes::Bytes;

use super::SelectPlan;
use super::selection::{Group, RowContext, serialize_multi};
use crate::error::CqlError;
use crate::schema::{ColumnId, TableSchema};
use crate::storage::ordered;
use crate::storage::view::Slot;
use crate::types::json;

pub(super) struct Output<'a> {
    plan: &'a SelectPlan,
    /// Encoded rows.
    pub data: Vec<u8>,
    pub row_count: usize,
    /// The group that is being read: its key and state.
    group: Option<(Vec<Option<Bytes>>, Group)>,
    /// Whether rows of another partition follow: no group goes on there.
    new_partition: bool,
    /// What PER PARTITION LIMIT allows, and how many groups of this partition were put out.
    groups_per_partition: usize,
    partition_groups: usize,
    sorted: Vec<(Vec<Option<Bytes>>, Vec<u8>)>,
}

impl<'a> Output<'a> {
    pub(super) fn new(plan: &'a SelectPlan, groups_per_partition: usize) -> Self {
        Self {
            plan,
            data: Vec::new(),
            row_count: 0,
            group: None,
            new_partition: false,
            groups_per_partition,
            partition_groups: 0,
            sorted: Vec::new(),
        }
    }

    /// Says that rows of another partition follow.
    pub(super) fn start_partition(&mut self) {
        self.new_partition = !self.plan.group_by.is_empty();
    }

    /// Takes one row, which makes (or will make) a row of the answer of its own or is added to a group.
    pub(super) fn add(&mut self, row: &RowContext<'_>) -> Result<(), CqlError> {
        let plan = self.plan;
        if plan.selection.is_grouped() {
            return self.add_to_group(row);
        }
        if let Some(order) = &plan.sort {
            let key = order
                .iter()
                .map(|(id, _)| row.slots[*id].bytes().map(Bytes::copy_from_slice))
                .collect();
            let mut encoded = Vec::new();
            encode(plan, row, &mut encoded)?;
            self.sorted.push((key, encoded));
        } else {
            encode(plan, row, &mut self.data)?;
        }
        self.row_count += 1;
        Ok(())
    }

    /// Ends the last group and sorts; `empty` stands for a row where there was none. `limit` counts the rows
    /// of the answer where storage could not.
    pub(super) fn finish(&mut self, empty: &RowContext<'_>, limit: usize) -> Result<(), CqlError> {
        if self.plan.selection.is_grouped() {
            if self.group.is_none() && self.plan.group_by.is_empty() {
                self.group = Some((Vec::new(), self.plan.selection.start_group()));
            }
            if self.row_count < limit {
                self.end_group(empty)?;
            }
        }
        if let Some(order) = &self.plan.sort {
            let columns = &self.plan.table.columns;
            self.sorted.sort_by(|(a, _), (b, _)| {
                let by_column = order
                    .iter()
                    .zip(a.iter().zip(b))
                    .map(|((id, descending), (a, b))| {
                        let order = match (a, b) {
                            (Some(a), Some(b)) => ordered::compare(&columns[*id].ty, a, b),
                            (a, b) => a.is_some().cmp(&b.is_some()),
                        };
                        if *descending { order.reverse() } else { order }
                    });
                by_column
                    .into_iter()
                    .find(|order| order.is_ne())
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            self.sorted.truncate(limit);
            self.row_count = self.sorted.len();
            self.data = self.sorted.drain(..).flat_map(|(_, row)| row).collect();
        }
        Ok(())
    }

    fn add_to_group(&mut self, row: &RowContext<'_>) -> Result<(), CqlError> {
        let plan = self.plan;
        let key: Vec<_> = plan
            .group_by
            .iter()
            .map(|id| row.slots[*id].bytes().map(Bytes::copy_from_slice))
            .collect();
        if self.new_partition || self.group.as_ref().is_some_and(|(have, _)| *have != key) {
            self.end_group(row)?;
        }
        if std::mem::take(&mut self.new_partition) {
            self.partition_groups = 0;
        }
        let (_, group) = self
            .group
            .get_or_insert_with(|| (key, plan.selection.start_group()));
        plan.selection.add_row(group, row)
    }

    fn end_group(&mut self, row: &RowContext<'_>) -> Result<(), CqlError> {
        if let Some((_, group)) = self.group.take()
            && self.partition_groups < self.groups_per_partition
        {
            self.partition_groups += 1;
            let values = self.plan.selection.finish_group(group, row)?;
            encode_values(self.plan, &values, &mut self.data)?;
            self.row_count += 1;
        }
        Ok(())
    }
}

/// A row in the form that a RESULT frame has.
fn encode(plan: &SelectPlan, row: &RowContext<'_>, out: &mut Vec<u8>) -> Result<(), CqlError> {
    match &plan.selection.plain {
        Some(columns) if plan.json.is_none() => {
            encode_columns(row.table, columns, row, out);
            Ok(())
        }
        _ => encode_values(plan, &plan.selection.row(row)?, out),
    }
}

fn encode_columns(table: &TableSchema, columns: &[ColumnId], row: &RowContext<'_>, out: &mut Vec<u8>) {
    for &id in columns {
        match &row.slots[id] {
            Slot::Absent => put(None, out),
            Slot::Key(value) | Slot::Atomic { value, .. } => put(Some(value), out),
            Slot::Multi(multi) => {
                put(
                    Some(&serialize_multi(multi, &table.columns[id].ty, row.now_seconds)),
                    out,
                );
            }
        }
    }
}

fn encode_values(plan: &SelectPlan, values: &[Option<Bytes>], out: &mut Vec<u8>) -> Result<(), CqlError> {
    match &plan.json {
        Some(fields) => {
            let columns = fields
                .iter()
                .zip(values)
                .map(|((name, ty), value)| (&name[..], ty, value.as_deref()));
            put(Some(json::row_to_json(columns)?.as_bytes()), out);
        }
        None => values.iter().for_each(|value| put(value.as_deref(), out)),
    }
    Ok(())
}

fn put(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value {
        // A value fits an i32: it came in a frame of at most 256 MiB.
        Some(value) => {
            out.extend_from_slice(&(value.len() as i32).to_be_bytes());
            out.extend_from_slice(value);
        }
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
}
