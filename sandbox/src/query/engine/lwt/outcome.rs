//! What a conditional write answers, in either form.

use std::sync::Arc;

use bytes::Bytes;

use crate::query::api::{ColumnSpec, ResultMetadata, Rows};
use crate::query::modify::{ConditionPlan, ConditionRow, ModifyPlan};
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::storage::mutation::{ClusteringKey, PartitionKey};
use crate::types::CqlType;

/// A statement and the row that it is about, before the write.
pub(super) struct Looked<'a> {
    pub(super) plan: &'a ModifyPlan,
    pub(super) clustering: Option<ClusteringKey>,
    pub(super) row: ConditionRow,
    /// True without a condition.
    pub(super) holds: bool,
}

pub(super) struct Outcome<'a> {
    /// In the order of the statements.
    pub(super) looked: Vec<Looked<'a>>,
    /// Whether the partition has any row.
    pub(super) row_in_partition: bool,
    pub(super) batch: bool,
}

type Values = Vec<Option<Bytes>>;

impl Outcome<'_> {
    pub(super) fn applied(&self) -> bool {
        self.looked.iter().all(|one| one.holds)
    }

    /// One row for each statement of a batch, also for those without a condition: the old one, if the conditions
    /// had it read (ScyllaDB: `cql3/statements/cas_request.cc`, `test/cql/lwt_batch_test.result`).
    pub(super) fn scylla_rows(&self, table: &TableSchema, key: &PartitionKey) -> Rows {
        let plans = self.looked.iter().map(|one| one.plan);
        let columns = scylla_columns(table, plans, self.batch);
        let fetched = self.fetched(table);
        let partition_was_read = self.partition_was_read(table, &columns, &fetched);
        let old_row = |one: &Looked<'_>| {
            if one.row.exists && fetched.contains(&one.key()) {
                one.row.values.clone()
            } else if partition_was_read && has_static_row(table) && !one.asks_for_the_row_itself() {
                one.static_row(table, key)
            } else {
                vec![None; table.columns.len()]
            }
        };
        let rows: Vec<Values> = self.looked.iter().map(old_row).collect();
        rows_of(table, self.applied(), &columns, rows.iter())
    }

    /// Whether what was fetched, or a static column that is shown, is there.
    fn partition_was_read(
        &self,
        table: &TableSchema,
        columns: &[ColumnId],
        fetched: &[Option<&ClusteringKey>],
    ) -> bool {
        let there = |one: &Looked<'_>| {
            let mut statics = columns.iter().filter(|id| is_static(table, **id));
            one.row.exists && fetched.contains(&one.key()) || statics.any(|id| one.has(*id))
        };
        fetched.is_empty() && self.row_in_partition || self.looked.iter().any(there)
    }

    /// Rows that the conditions look at. Those on static columns alone look at whatever row comes first.
    fn fetched(&self, table: &TableSchema) -> Vec<Option<&ClusteringKey>> {
        let reads = |plan: &ModifyPlan| {
            plan.reads_before_write() || plan.is_conditional() && !plan.condition.only_static(table)
        };
        let keyed = self.looked.iter().filter(|one| one.clustering.is_some());
        keyed.filter(|one| reads(one.plan)).map(Looked::key).collect()
    }

    /// `[applied]` alone when applied or when there is no row; else the columns that conditions name (all of them
    /// for IF NOT EXISTS, the primary key before them in a batch).
    pub(super) fn cassandra_rows(&self, table: &TableSchema) -> Rows {
        let checked = || self.looked.iter().filter(|one| one.plan.is_conditional());
        let mut seen: Vec<Option<&ClusteringKey>> = Vec::new();
        let mut rows = Vec::new();
        for one in checked() {
            let there = one.row.exists || one.names_a_live_static(table);
            if there && !seen.contains(&one.key()) {
                seen.push(one.key());
                rows.push(&one.row.values);
            }
        }
        if self.applied() || rows.is_empty() {
            return rows_of(table, self.applied(), &[], [&Vec::new()].into_iter());
        }
        let columns = if checked().any(|one| names_no_columns(one.plan)) {
            (0..table.columns.len()).collect()
        } else {
            let keys = table.partition_key.iter().chain(&table.clustering_key).copied();
            let mut columns: Vec<ColumnId> = if self.batch { keys.collect() } else { Vec::new() };
            for id in checked().flat_map(|one| one.plan.condition.columns()) {
                if !columns.contains(&id) {
                    columns.push(id);
                }
            }
            columns
        };
        rows_of(table, false, &columns, rows.into_iter())
    }
}

impl Looked<'_> {
    fn key(&self) -> Option<&ClusteringKey> {
        self.clustering.as_ref()
    }

    /// Static columns are there without the row.
    fn names_a_live_static(&self, table: &TableSchema) -> bool {
        let mut named = self.plan.condition.columns().into_iter();
        named.any(|id| is_static(table, id) && self.has(id))
    }

    fn has(&self, id: ColumnId) -> bool {
        self.row.values.get(id).is_some_and(Option::is_some)
    }

    /// Of a row that is not there, IF [NOT] EXISTS shows not even the static columns.
    fn asks_for_the_row_itself(&self) -> bool {
        self.clustering.is_some() && names_no_columns(self.plan)
    }

    /// Partition key and static columns.
    fn static_row(&self, table: &TableSchema, key: &PartitionKey) -> Values {
        let mut values: Values = vec![None; table.columns.len()];
        for (id, value) in self.row.values.iter().enumerate() {
            if is_static(table, id) {
                values[id].clone_from(value);
            }
        }
        for (id, value) in table.partition_key.iter().zip(key.components(table)) {
            values[*id] = Some(value);
        }
        values
    }
}

fn is_static(table: &TableSchema, id: ColumnId) -> bool {
    table.columns[id].kind == ColumnKind::Static
}

fn has_static_row(table: &TableSchema) -> bool {
    !table.clustering_key.is_empty() && (0..table.columns.len()).any(|id| is_static(table, id))
}

/// IF EXISTS and IF NOT EXISTS.
fn names_no_columns(plan: &ModifyPlan) -> bool {
    matches!(plan.condition, ConditionPlan::Exists | ConditionPlan::NotExists)
}

/// ScyllaDB's columns, in the table's order: they do not depend on the outcome.
fn scylla_columns<'a>(
    table: &TableSchema,
    plans: impl Iterator<Item = &'a ModifyPlan>,
    batch: bool,
) -> Vec<ColumnId> {
    let mut shown = vec![false; table.columns.len()];
    if batch {
        for id in table.partition_key.iter().chain(&table.clustering_key) {
            shown[*id] = true;
        }
    }
    for plan in plans {
        if names_no_columns(plan) {
            shown.fill(true);
        }
        for id in plan.condition.columns() {
            shown[id] = true;
        }
    }
    (0..table.columns.len()).filter(|id| shown[*id]).collect()
}

/// What a prepared conditional write announces: the columns of ScyllaDB's answer. At least one statement, all of one
/// table.
pub(in crate::query::engine) fn scylla_metadata(statements: &[ModifyPlan], batch: bool) -> ResultMetadata {
    let table = &statements[0].table;
    metadata_of(table, &scylla_columns(table, statements.iter(), batch))
}

fn metadata_of(table: &TableSchema, columns: &[ColumnId]) -> ResultMetadata {
    let spec = |name: &str, ty: &CqlType| ColumnSpec {
        keyspace: table.keyspace.as_str().into(),
        table: table.name.as_str().into(),
        name: name.to_owned(),
        ty: ty.clone(),
    };
    let mut specs = vec![spec("[applied]", &CqlType::Boolean)];
    specs.extend(
        columns
            .iter()
            .map(|id| spec(&table.columns[*id].name, &table.columns[*id].ty)),
    );
    ResultMetadata { columns: specs }
}

fn rows_of<'a>(
    table: &TableSchema,
    applied: bool,
    columns: &[ColumnId],
    rows: impl ExactSizeIterator<Item = &'a Values>,
) -> Rows {
    // A batch has at most 65535 statements.
    let row_count = rows.len() as i32;
    let mut data = Vec::new();
    for values in rows {
        data.extend_from_slice(&[0, 0, 0, 1, u8::from(applied)]);
        for id in columns {
            match values.get(*id).and_then(Option::as_ref) {
                Some(value) => {
                    data.extend_from_slice(&(value.len() as i32).to_be_bytes());
                    data.extend_from_slice(value);
                }
                None => data.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    }
    Rows {
        metadata: Arc::new(metadata_of(table, columns)),
        row_count,
        data,
        paging_state: None,
    }
}
