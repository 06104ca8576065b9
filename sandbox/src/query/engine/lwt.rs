//! Conditional writes.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::write::{Bound, SERIAL};
use super::{Dialect, Engine};
use crate::cdc::log_rules;
use crate::error::CqlError;
use crate::query::api::{ColumnSpec, QueryParams, QueryResult, ResultMetadata, Rows, Session};
use crate::query::modify::{ConditionPlan, ConditionRow, ModifyPlan, WriteTime};
use crate::query::restriction::Partitions;
use crate::schema::{Catalog, ColumnId, TableSchema};
use crate::storage::mutation::{ClusteringKey, PartitionKey, Timestamp};
use crate::types::CqlType;
use crate::types::function::FunctionContext;

/// One lock per partition, as far as hashing keeps them apart. It holds the last ballot: later ones are higher,
/// which is what makes conditional writes of a partition take effect in their order.
pub(super) struct Ballots(Vec<Mutex<Timestamp>>);

/// Locks; far more than threads.
const STRIPES: usize = 256;

/// A row that conditions were checked against.
struct Checked<'a> {
    plan: &'a ModifyPlan,
    clustering: Option<ClusteringKey>,
    row: ConditionRow,
    holds: bool,
}

impl Engine {
    /// All statements are of one table and partition; their conditions hold all or nothing is written.
    pub(super) fn modify_conditionally(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        statements: &[Bound<'_>],
        params: &QueryParams,
        now_micros: i64,
    ) -> Result<QueryResult, CqlError> {
        if params
            .serial_consistency
            .is_some_and(|level| !SERIAL.contains(&level))
        {
            return Err(CqlError::invalid(
                "Invalid consistency for conditional update. Must be one of SERIAL or LOCAL_SERIAL",
            ));
        }
        let table = statements[0].0.table.clone();
        log_rules::refuse_conditional(&table)?;
        let tablets = catalog
            .keyspace(&table.keyspace)
            .is_some_and(|keyspace| keyspace.initial_tablets.is_some());
        if tablets && !self.options.lwt_with_tablets {
            return Err(CqlError::invalid("LWT is not yet supported with tablets"));
        }
        if statements.iter().any(|(plan, _)| plan.has_timestamp()) {
            return Err(CqlError::invalid(
                "Cannot provide custom timestamp for conditional BATCH",
            ));
        }
        let context = FunctionContext { now_micros };
        let key = one_partition(&table, statements, &context)?;
        let mut last_ballot = self.ballots.of(&table.id, &key).lock();
        self.apply(&self.unlearned.take(&table.id, &key));
        let ballot = now_micros.max(*last_ballot + 1);
        *last_ballot = ballot;
        let checked = self.check_conditions(&table, &key, statements, &context)?;
        let applied = checked.iter().all(|one| one.holds);
        if applied {
            let time = WriteTime {
                timestamp: ballot,
                now_micros,
            };
            let mutations = self.mutations(statements, time)?;
            self.write(session, catalog, mutations, time, params.consistency, true)?;
        }
        drop(last_ballot);
        Ok(QueryResult::Rows(match self.options.dialect {
            Dialect::Scylla => scylla_rows(&table, applied, &checked),
            Dialect::Cassandra => cassandra_rows(&table, applied, &checked, statements.len() > 1),
        }))
    }

    /// Finishes the round that a conditional write of this partition left open, as a serial read does.
    pub(super) fn finish_round(&self, table: &TableSchema, key: &PartitionKey) {
        let _round = self.ballots.of(&table.id, key).lock();
        self.apply(&self.unlearned.take(&table.id, key));
    }

    fn check_conditions<'a>(
        &self,
        table: &TableSchema,
        key: &PartitionKey,
        statements: &[Bound<'a>],
        context: &FunctionContext,
    ) -> Result<Vec<Checked<'a>>, CqlError> {
        let rows = self.current_rows(context.now_micros.div_euclid(1_000_000));
        let mut checked = Vec::new();
        for (plan, values) in statements {
            if !plan.is_conditional() {
                continue;
            }
            let values = plan.complete(values, context)?;
            let clustering =
                if plan.clustering.is_full() && (plan.clustering.is_restricted() || !plan.only_static()) {
                    plan.clustering.keys(table, &values, context)?.into_iter().next()
                } else {
                    None
                };
            let row = rows.condition_row(table, key, clustering.as_ref());
            let holds = plan.condition.holds(&row, &values, context)?;
            checked.push(Checked {
                plan,
                clustering,
                row,
                holds,
            });
        }
        Ok(checked)
    }
}

impl Ballots {
    fn of(&self, table: &Uuid, key: &PartitionKey) -> &Mutex<Timestamp> {
        // Tokens are hashes already (or, of CDC logs, random); the table's id keeps equal keys apart.
        let mixed = key.token as u64 ^ table.as_u64_pair().1;
        &self.0[(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % STRIPES]
    }
}

impl Default for Ballots {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(0)).collect())
    }
}

fn one_partition(
    table: &TableSchema,
    statements: &[Bound<'_>],
    context: &FunctionContext,
) -> Result<PartitionKey, CqlError> {
    let mut only: Option<PartitionKey> = None;
    for (plan, values) in statements {
        let values = plan.complete(values, context)?;
        let Partitions::Keys(keys) = plan.partitions.evaluate(table, &values, context)? else {
            return Err(CqlError::server("a write names its partitions"));
        };
        for key in keys {
            if only.as_ref().is_some_and(|only| *only != key) {
                return Err(CqlError::invalid(
                    "Batch with conditions cannot span multiple partitions",
                ));
            }
            only = Some(key);
        }
    }
    only.ok_or_else(|| CqlError::invalid("A conditional write needs a partition key"))
}

/// `[applied]` and all columns: the old row or nulls, one row per conditional statement.
fn scylla_rows(table: &TableSchema, applied: bool, checked: &[Checked<'_>]) -> Rows {
    let columns: Vec<_> = (0..table.columns.len()).collect();
    let rows: Vec<_> = checked.iter().map(|one| &one.row).collect();
    rows_of(table, applied, &columns, &rows)
}

/// `[applied]` alone when applied or when there is no row; else the columns that conditions name (all of them
/// for IF NOT EXISTS, the primary key before them in a batch).
fn cassandra_rows(table: &TableSchema, applied: bool, checked: &[Checked<'_>], batch: bool) -> Rows {
    let mut seen: Vec<Option<&ClusteringKey>> = Vec::new();
    let mut rows = Vec::new();
    for one in checked {
        let there = one.row.values.iter().any(Option::is_some);
        if there && !seen.contains(&one.clustering.as_ref()) {
            seen.push(one.clustering.as_ref());
            rows.push(&one.row);
        }
    }
    if applied || rows.is_empty() {
        return rows_of(table, applied, &[], &[&ConditionRow::default()]);
    }
    let whole = |plan: &ModifyPlan| !matches!(plan.condition, ConditionPlan::Columns(_));
    let columns = if checked.iter().any(|one| whole(one.plan)) {
        (0..table.columns.len()).collect()
    } else {
        let keys = table.partition_key.iter().chain(&table.clustering_key).copied();
        let mut columns: Vec<ColumnId> = if batch { keys.collect() } else { Vec::new() };
        for id in checked.iter().flat_map(|one| one.plan.condition.columns()) {
            if !columns.contains(&id) {
                columns.push(id);
            }
        }
        columns
    };
    rows_of(table, applied, &columns, &rows)
}

/// The columns of ScyllaDB's answer, which do not depend on the outcome.
pub(super) fn scylla_metadata(table: &TableSchema) -> ResultMetadata {
    let columns: Vec<_> = (0..table.columns.len()).collect();
    metadata_of(table, &columns)
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

fn rows_of(table: &TableSchema, applied: bool, columns: &[ColumnId], rows: &[&ConditionRow]) -> Rows {
    let mut data = Vec::new();
    for row in rows {
        data.extend_from_slice(&[0, 0, 0, 1, u8::from(applied)]);
        for id in columns {
            match row.values.get(*id).and_then(Option::as_ref) {
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
        // A batch has at most 65535 statements.
        row_count: rows.len() as i32,
        data,
        paging_state: None,
    }
}
