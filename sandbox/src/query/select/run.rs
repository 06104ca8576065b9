//! Walks storage for one execution of a SELECT.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::SelectPlan;
use super::output::Output;
use super::paging::PagingState;
use super::selection::RowContext;
use crate::error::CqlError;
use crate::query::api::{BindValue, QueryParams, Rows};
use crate::query::engine::Dialect;
use crate::query::hooks::RowFilter;
use crate::query::restriction::{BoundFilters, FilterRow, Partitions};
use crate::query::terms::Expr;
use crate::schema::TableSchema;
use crate::storage::mutation::{ClusteringKey, PartitionKey};
use crate::storage::partition::Partition;
use crate::storage::row_map::ByteRange;
use crate::storage::table::{RingRange, TableStore};
use crate::storage::view::Slot;
use crate::types::function::FunctionContext;

/// A page ends once its rows take this much (ScyllaDB `query_page_size_in_bytes`, 1 MiB by default), however many
/// the client asked for.
const PAGE_BYTES: usize = 1024 * 1024;

/// One execution.
pub struct SelectRun<'a> {
    pub plan: &'a SelectPlan,
    pub values: &'a [BindValue],
    pub params: &'a QueryParams,
    pub now_micros: i64,
    /// A fault that hides rows.
    pub hidden: Option<RowFilter>,
    pub dialect: Dialect,
}

/// What changes while rows are read.
struct Walk<'a> {
    run: &'a SelectRun<'a>,
    context: FunctionContext,
    now_seconds: i64,
    ranges: Vec<ByteRange>,
    filters: BoundFilters,
    output: Output<'a>,
    /// Rows that LIMIT still allows.
    left: usize,
    per_partition: usize,
    partition_left: usize,
    page_size: usize,
    /// Rows read for this page, those that a filter dropped included.
    examined: usize,
    /// Groups that LIMIT allows; no bound on rows that are not grouped.
    groups: usize,
    /// The row that a full page ended with, if more may follow it.
    /// None for the row: its partition is done. The count is what PER PARTITION LIMIT still allowed there.
    last: Option<(PartitionKey, Option<ClusteringKey>, usize)>,
    /// Where the page before ended.
    resume: Option<PagingState>,
    more: bool,
    failed: Option<CqlError>,
}

impl SelectRun<'_> {
    /// # Errors
    /// Invalid: null or unset values, limits below 1, ...
    pub fn execute(&self, store: Option<&TableStore>) -> Result<Rows, CqlError> {
        let context = FunctionContext {
            now_micros: self.now_micros,
        };
        let plan = self.plan;
        let table = &plan.table;
        let partitions = plan.filter.partitions.evaluate(table, self.values, &context)?;
        let mut walk = self.start(context, &partitions)?;
        if walk.left > 0
            && !walk.ranges.is_empty()
            && let Some(store) = store
        {
            walk.partitions(store, partitions);
        }
        if let Some(error) = walk.failed.take() {
            return Err(error);
        }
        let slots = vec![Slot::Absent; table.columns.len()];
        let limit = if plan.selection.is_grouped() || plan.sort.is_some() {
            self.limit(&plan.limit, &walk.context)?
        } else {
            usize::MAX
        };
        let empty = RowContext {
            table,
            slots: &slots,
            values: self.values,
            context: &context,
            now_seconds: walk.now_seconds,
        };
        walk.output.finish(&empty, limit)?;
        let paging_state = walk.paging_state();
        Ok(Rows {
            metadata: Arc::clone(&plan.metadata),
            row_count: i32::try_from(walk.output.row_count)
                .map_err(|_| CqlError::server("more rows than one answer can hold"))?,
            data: walk.output.data,
            paging_state,
        })
    }

    fn start(&self, context: FunctionContext, partitions: &Partitions) -> Result<Walk<'_>, CqlError> {
        let plan = self.plan;
        let grouped = plan.selection.is_grouped();
        // Groups and sorted rows come in one answer (ScyllaDB `select_statement::do_execute`).
        let in_one_answer = grouped || plan.sort.is_some();
        let page_size = self
            .params
            .page_size
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size > 0);
        let limit = self.limit(&plan.limit, &context)?;
        if plan.sort.is_some() && page_size.is_some() && limit > 1 {
            return Err(CqlError::invalid(
                "Cannot page queries with both ORDER BY and a IN restriction on the partition key; you must either \
                 remove the ORDER BY or the IN and sort client side, or disable paging for this query",
            ));
        }
        let resume = self
            .params
            .paging_state
            .as_ref()
            .map(PagingState::decode)
            .transpose()?;
        let mut per_partition = self.limit(&plan.per_partition_limit, &context)?;
        let mut groups_per_partition = usize::MAX;
        if grouped {
            std::mem::swap(&mut per_partition, &mut groups_per_partition);
        }
        let ranges = plan
            .filter
            .clustering
            .ranges(&plan.table, self.values, &context)?;
        let filters = plan.filter.filters.bind(&plan.table, self.values, &context)?;
        // ScyllaDB `query_pagers::may_need_paging`: what can be one row at most is not paged.
        let one_row = limit <= 1
            || matches!(partitions, Partitions::Keys(keys) if keys.len() == 1)
                && (plan.distinct
                    || per_partition <= 1
                    || ranges.len() == 1
                        && plan.filter.clustering.is_full()
                        && plan.filter.clustering.is_restricted());
        let unpaged = in_one_answer || one_row && filters.is_empty();
        let left = |state: Option<u32>, limit: usize| state.map_or(limit, |left| left as usize);
        Ok(Walk {
            run: self,
            context,
            now_seconds: self.now_micros.div_euclid(1_000_000),
            ranges,
            filters,
            output: Output::new(plan, groups_per_partition),
            left: if in_one_answer {
                usize::MAX
            } else {
                left(resume.as_ref().and_then(|state| state.limit_left), limit)
            },
            per_partition,
            partition_left: left(
                resume.as_ref().and_then(|state| state.partition_left),
                per_partition,
            ),
            page_size: if unpaged {
                usize::MAX
            } else {
                page_size.unwrap_or(usize::MAX)
            },
            examined: 0,
            groups: if grouped { limit } else { usize::MAX },
            last: None,
            resume,
            more: false,
            failed: None,
        })
    }

    fn limit(&self, expr: &Option<Expr>, context: &FunctionContext) -> Result<usize, CqlError> {
        let Some(expr) = expr else { return Ok(usize::MAX) };
        match expr.evaluate(self.values, context)? {
            BindValue::Unset => Ok(usize::MAX),
            BindValue::Null => Err(CqlError::invalid("Invalid null value of limit")),
            BindValue::Value(value) => {
                let limit = value[..].try_into().map_or(0, i32::from_be_bytes);
                usize::try_from(limit)
                    .ok()
                    .filter(|limit| *limit > 0)
                    .ok_or_else(|| CqlError::invalid("LIMIT must be strictly positive"))
            }
        }
    }
}

impl<'a> Walk<'a> {
    fn partitions(&mut self, store: &TableStore, partitions: Partitions) {
        let table = &self.run.plan.table;
        let resume_key = self.resume.as_ref().map(|state| PartitionKey {
            token: table.partitioner.token(&state.partition),
            serialized: state.partition.clone(),
        });
        match partitions {
            Partitions::Keys(keys) => {
                // Where the page before ended; the state of another query may name none of these partitions.
                let first = resume_key.map_or(Some(0), |resume| keys.iter().position(|key| *key == resume));
                for key in keys.into_iter().skip(first.unwrap_or(usize::MAX)) {
                    let flow = store.read(&key, |partition| self.partition(&key, partition));
                    if flow.is_some_and(|flow| flow.is_break()) {
                        return;
                    }
                }
            }
            Partitions::Ring(range) => {
                store.scan(&after(range, resume_key), |key, partition| {
                    self.partition(key, partition)
                });
            }
        }
    }

    fn partition(&mut self, key: &PartitionKey, partition: &Partition) -> ControlFlow<()> {
        let plan = self.run.plan;
        let table: &TableSchema = &plan.table;
        let resumed = self.resume.take_if(|state| state.partition == key.serialized);
        let mut ranges = None;
        match resumed {
            Some(PagingState { row: None, .. }) => return ControlFlow::Continue(()),
            Some(_) if self.partition_left == 0 => return ControlFlow::Continue(()),
            Some(PagingState { row: Some(row), .. }) => {
                ranges = Some(rest_of(&self.ranges, &row, plan.reversed))
            }
            None => self.partition_left = self.per_partition,
        }
        self.output.start_partition();
        let resumed = ranges.is_some();
        let ranges = ranges.unwrap_or_else(|| self.ranges.clone());
        let mut base = vec![Slot::Absent; table.columns.len()];
        partition_slots(table, key, &mut base);
        let static_live = partition.static_row().is_some_and(|row| {
            let seen = self.run.hidden.as_ref().is_none_or(|seen| seen(key, None));
            seen && row.view(&plan.map, self.now_seconds, &mut base)
        });
        let mut slots = base.clone();
        let mut any = false;
        let forward = ranges.iter();
        let ranges: Box<dyn Iterator<Item = &ByteRange>> = if plan.reversed {
            Box::new(forward.rev())
        } else {
            Box::new(forward)
        };
        for range in ranges {
            let rows = partition.rows(range);
            let rows: Box<dyn Iterator<Item = _>> = if plan.reversed { Box::new(rows.rev()) } else { rows };
            for (clustering, row) in rows {
                slots.copy_from_slice(&base);
                if !row.view(&plan.map, self.now_seconds, &mut slots) {
                    continue;
                }
                if self
                    .run
                    .hidden
                    .as_ref()
                    .is_some_and(|seen| !seen(key, Some(clustering)))
                {
                    continue;
                }
                any = true;
                for (id, value) in table.clustering_key.iter().zip(clustering.values()) {
                    slots[*id] = Slot::Key(value);
                }
                let position = (!plan.distinct).then_some(clustering);
                match self.row(key, position, &slots) {
                    Ok(ControlFlow::Continue(())) if plan.distinct => return ControlFlow::Continue(()),
                    Ok(ControlFlow::Continue(())) if self.partition_left == 0 => {
                        return ControlFlow::Continue(());
                    }
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
                    Err(error) => {
                        self.failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
        }
        // A partition that has static columns only shows as one row, unless rows were asked for by their key.
        if static_live && !any && !resumed && !plan.filter.clustering.is_restricted() {
            return match self.row(key, None, &base) {
                Ok(flow) => flow,
                Err(error) => {
                    self.failed = Some(error);
                    ControlFlow::Break(())
                }
            };
        }
        ControlFlow::Continue(())
    }

    /// Puts out a row if it passes the filters; ends the page behind it (Cassandra: in front of it).
    fn row(
        &mut self,
        key: &PartitionKey,
        clustering: Option<&ClusteringKey>,
        slots: &[Slot<'_>],
    ) -> Result<ControlFlow<()>, CqlError> {
        let table = &self.run.plan.table;
        let filtered = FilterRow {
            table,
            slots,
            now_seconds: self.now_seconds,
        };
        let accepted = self.filters.accept(&filtered);
        if self.run.dialect == Dialect::Cassandra {
            if !accepted {
                return Ok(ControlFlow::Continue(()));
            }
            if self.output.row_count >= self.page_size {
                self.more = true;
                return Ok(ControlFlow::Break(()));
            }
        }
        self.examined += 1;
        if accepted {
            let row = RowContext {
                table,
                slots,
                values: self.run.values,
                context: &self.context,
                now_seconds: self.now_seconds,
            };
            self.output.add(&row)?;
            self.left = self.left.saturating_sub(1);
            self.partition_left = self.partition_left.saturating_sub(1);
            if self.output.row_count >= self.groups || self.left == 0 {
                return Ok(ControlFlow::Break(()));
            }
        }
        if !self.page_is_full() {
            return Ok(ControlFlow::Continue(()));
        }
        let row = clustering.filter(|_| self.partition_left > 0).cloned();
        self.last = Some((key.clone(), row, self.partition_left));
        if self.run.dialect == Dialect::Cassandra {
            return Ok(ControlFlow::Continue(()));
        }
        self.more = true;
        Ok(ControlFlow::Break(()))
    }

    fn page_is_full(&self) -> bool {
        if self.page_size == usize::MAX {
            return false;
        }
        match self.run.dialect {
            Dialect::Scylla => self.examined >= self.page_size || self.output.data.len() >= PAGE_BYTES,
            Dialect::Cassandra => self.output.row_count >= self.page_size,
        }
    }

    fn paging_state(&self) -> Option<Bytes> {
        let (key, clustering, partition_left) = self.last.as_ref().filter(|_| self.more)?;
        let left = |count: usize| (count != usize::MAX).then_some(count as u32);
        let state = PagingState {
            limit_left: left(self.left),
            partition_left: left(*partition_left),
            partition: key.serialized.clone(),
            row: clustering
                .as_ref()
                .map(|key| Bytes::copy_from_slice(key.ordered())),
        };
        Some(state.encode())
    }
}

/// Slots of the partition key columns.
fn partition_slots<'k>(table: &TableSchema, key: &'k PartitionKey, slots: &mut [Slot<'k>]) {
    if let [only] = table.partition_key[..] {
        slots[only] = Slot::Key(&key.serialized);
        return;
    }
    let mut rest = &key.serialized[..];
    for id in &table.partition_key {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else {
            return;
        };
        let Some((value, tail)) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return;
        };
        slots[*id] = Slot::Key(value);
        rest = tail.get(1..).unwrap_or_default();
    }
}

/// What is left of ascending ranges behind a row.
fn rest_of(ranges: &[ByteRange], row: &[u8], reversed: bool) -> Vec<ByteRange> {
    let rest = if reversed {
        ByteRange {
            start: Vec::new(),
            end: Some(row.to_vec()),
        }
    } else {
        // The smallest bytes behind the row's.
        ByteRange {
            start: [row, &[0]].concat(),
            end: None,
        }
    };
    ranges
        .iter()
        .map(|range| range.clone().intersect(&rest))
        .filter(|range| !range.is_empty())
        .collect()
}

/// What is left of a stretch of the ring; the partition that a page ended in is still part of it.
fn after(range: RingRange, resume: Option<PartitionKey>) -> RingRange {
    match resume {
        Some(key) => (Bound::Included(key), range.1),
        None => range,
    }
}
