//! Writes: plans to mutations, CDC, faults, storage.

use std::sync::Arc;

use super::Engine;
use crate::error::CqlError;
use crate::query::api::{BindValue, QueryParams, QueryResult, Session};
use crate::query::hooks::{WriteContext, WriteVerdict};
use crate::query::modify::{ModifyPlan, WriteTime, check_timestamp};
use crate::schema::Catalog;
use crate::storage::mutation::{Cell, CellChange, Mutation, RowChange, Timestamp};
use crate::types::function::FunctionContext;

/// Consistency levels SERIAL and LOCAL_SERIAL.
pub(super) const SERIAL: [u16; 2] = [8, 9];

/// ScyllaDB's `batch_size_fail_threshold_in_kb`: 1 MiB.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// A statement and its bound values.
pub(super) type Bound<'a> = (&'a ModifyPlan, &'a [BindValue]);

impl Engine {
    /// Executes one write, or the statements of a `batch`. `timestamp`: that of the batch.
    pub(super) fn modify(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        statements: &[Bound<'_>],
        batch: bool,
        timestamp: Option<Timestamp>,
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        for (plan, _) in statements {
            self.refuse_virtual(&plan.table)?;
        }
        let now_micros = self.coordinator_now_micros(session);
        if let Some(timestamp) = timestamp {
            check_timestamp(timestamp, now_micros)?;
        }
        if statements.iter().any(|(plan, _)| plan.is_conditional()) {
            return self.modify_conditionally(session, catalog, statements, batch, params, now_micros);
        }
        if SERIAL.contains(&params.consistency) {
            return Err(CqlError::invalid(
                "You must use conditional updates for serializable writes",
            ));
        }
        let timestamp = timestamp
            .or(params.timestamp)
            .unwrap_or_else(|| session.next_timestamp(now_micros));
        let time = WriteTime {
            timestamp,
            now_micros,
        };
        let mutations = self.mutations(statements, time)?;
        if statements.len() > 1 {
            check_batch_size(&mutations)?;
        }
        self.write(session, catalog, mutations, time, params.consistency, false)?;
        Ok(QueryResult::Void)
    }

    /// The clock of the coordinator that this session is connected to. Replicas read and expire by the true one.
    fn coordinator_now_micros(&self, session: &Session) -> i64 {
        let offset = self.options.write_faults.clock_offset_micros(session);
        self.options.clock.now_micros().saturating_add(offset)
    }

    pub(super) fn mutations(
        &self,
        statements: &[Bound<'_>],
        time: WriteTime,
    ) -> Result<Vec<Mutation>, CqlError> {
        let rows = self.current_rows(time.now_micros.div_euclid(1_000_000));
        let context = FunctionContext {
            now_micros: time.now_micros,
        };
        let mut mutations = Vec::new();
        for (plan, values) in statements {
            plan.mutate(&plan.complete(values, &context)?, time, &rows, &mut mutations)?;
        }
        mutations.retain(|mutation: &Mutation| !mutation.is_empty());
        Ok(mutations)
    }

    /// The last part of every write: CDC, faults, storage.
    pub(super) fn write(
        &self,
        session: &Session,
        catalog: &Arc<Catalog>,
        mut mutations: Vec<Mutation>,
        time: WriteTime,
        consistency: u16,
        conditional: bool,
    ) -> Result<(), CqlError> {
        let now_seconds = self.options.clock.now_seconds();
        let rows = self.current_rows(now_seconds);
        let context = WriteContext {
            catalog,
            session,
            now_micros: time.now_micros,
            consistency,
            conditional,
            rows: &rows,
        };
        if mutations.iter().any(|mutation| mutation.table.cdc_enabled()) {
            self.options.cdc.augment(&context, &mut mutations)?;
        }
        let verdict = self.options.write_faults.before_apply(&context, &mut mutations)?;
        if let WriteVerdict::Unlearned(error) = verdict {
            self.unlearned.keep(mutations)?;
            return Err(error);
        }
        for mutation in &mutations {
            self.storage.apply(mutation, now_seconds);
        }
        match verdict {
            WriteVerdict::Apply => Ok(()),
            WriteVerdict::ApplyAndFail(error) | WriteVerdict::Unlearned(error) => Err(error),
        }
    }
}

/// Of a batch over several partitions or tables, before CDC adds to it.
///
/// # Errors
/// Invalid: above `MAX_BATCH_BYTES`.
fn check_batch_size(mutations: &[Mutation]) -> Result<(), CqlError> {
    if mutations.len() > 1 && mutations.iter().map(data_bytes).sum::<usize>() > MAX_BATCH_BYTES {
        return Err(CqlError::invalid("Batch too large"));
    }
    Ok(())
}

/// Bytes of keys and values; ScyllaDB also counts its own bookkeeping.
fn data_bytes(mutation: &Mutation) -> usize {
    let cell = |cell: &Cell| cell.value.as_ref().map_or(0, |value| value.len());
    let row = |row: &RowChange| -> usize {
        let sizes = row.cells.iter().map(|(_, change)| match change {
            CellChange::Atomic(atomic) => cell(atomic),
            CellChange::Multi { elements, .. } => elements
                .iter()
                .map(|(path, element)| path.len() + cell(element))
                .sum(),
            CellChange::CounterDelta { .. } => 8,
        });
        sizes.sum()
    };
    let rows = mutation.rows.iter();
    let rows: usize = rows
        .map(|(key, change)| key.encoded_values().len() + row(change))
        .sum();
    mutation.key.serialized.len() + row(&mutation.static_row) + rows
}

impl Session {
    /// A server-side timestamp: the clock, but always later than the one before.
    fn next_timestamp(&mut self, now_micros: i64) -> Timestamp {
        self.last_timestamp = now_micros.max(self.last_timestamp + 1);
        self.last_timestamp
    }
}
