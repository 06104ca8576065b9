//! Conditional writes.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::write::{Bound, SERIAL};
use super::{Dialect, Engine};
use crate::cdc::log_rules;
use crate::error::CqlError;
use crate::query::api::{QueryParams, QueryResult, Session};
use crate::query::modify::WriteTime;
use crate::query::restriction::Partitions;
use crate::schema::{Catalog, TableSchema};
use crate::storage::mutation::{PartitionKey, Timestamp};
use crate::types::function::FunctionContext;
use outcome::{Looked, Outcome};

pub(super) mod outcome;

/// One lock per partition, as far as hashing keeps them apart. It holds the last ballot: later ones are higher,
/// which is what makes conditional writes of a partition take effect in their order.
pub(super) struct Ballots(Vec<Mutex<Timestamp>>);

/// Locks; far more than threads.
const STRIPES: usize = 256;

impl Engine {
    /// All statements are of one table and partition; their conditions hold all or nothing is written.
    pub(super) fn modify_conditionally(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        statements: &[Bound<'_>],
        batch: bool,
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
        let outcome = Outcome {
            looked: self.check_conditions(&table, &key, statements, &context)?,
            row_in_partition: self.current_rows(now_seconds(now_micros)).any_row(&table, &key),
            batch,
        };
        if outcome.applied() {
            let time = WriteTime {
                timestamp: ballot,
                now_micros,
            };
            let mutations = self.mutations(statements, time)?;
            self.write(session, catalog, mutations, time, params.consistency, true)?;
        }
        drop(last_ballot);
        Ok(QueryResult::Rows(match self.options.dialect {
            Dialect::Scylla => outcome.scylla_rows(&table, &key),
            Dialect::Cassandra => outcome.cassandra_rows(&table),
        }))
    }

    /// Finishes the round that a conditional write of this partition left open, as a serial read does.
    pub(super) fn finish_round(&self, table: &TableSchema, key: &PartitionKey) {
        let _round = self.ballots.of(&table.id, key).lock();
        self.apply(&self.unlearned.take(&table.id, key));
    }

    /// Every statement with the row that it is about, as it is before any of them.
    fn check_conditions<'a>(
        &self,
        table: &TableSchema,
        key: &PartitionKey,
        statements: &[Bound<'a>],
        context: &FunctionContext,
    ) -> Result<Vec<Looked<'a>>, CqlError> {
        let rows = self.current_rows(now_seconds(context.now_micros));
        let mut looked = Vec::new();
        for (plan, values) in statements {
            let values = plan.complete(values, context)?;
            let clustering =
                if plan.clustering.is_full() && (plan.clustering.is_restricted() || !plan.only_static()) {
                    plan.clustering.keys(table, &values, context)?.into_iter().next()
                } else {
                    None
                };
            let row = rows.condition_row(table, key, clustering.as_ref());
            let holds = plan.condition.holds(&row, &values, context)?;
            looked.push(Looked {
                plan,
                clustering,
                row,
                holds,
            });
        }
        Ok(looked)
    }
}

fn now_seconds(now_micros: i64) -> i64 {
    now_micros.div_euclid(1_000_000)
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
