//! Writes: plans to mutations, CDC, faults, storage.

use std::sync::Arc;

use super::Engine;
use crate::error::CqlError;
use crate::query::api::{BindValue, QueryParams, QueryResult, Session};
use crate::query::hooks::{WriteContext, WriteVerdict};
use crate::query::modify::{ModifyPlan, WriteTime, check_timestamp};
use crate::schema::Catalog;
use crate::storage::mutation::{Mutation, Timestamp};
use crate::types::function::FunctionContext;

/// Consistency levels SERIAL and LOCAL_SERIAL.
pub(super) const SERIAL: [u16; 2] = [8, 9];

/// A statement and its bound values.
pub(super) type Bound<'a> = (&'a ModifyPlan, &'a [BindValue]);

impl Engine {
    /// Executes one write or the statements of a batch. `timestamp`: that of the batch.
    pub(super) fn modify(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        statements: &[Bound<'_>],
        timestamp: Option<Timestamp>,
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        for (plan, _) in statements {
            self.refuse_virtual(&plan.table)?;
        }
        let now_micros = self.options.clock.now_micros();
        if let Some(timestamp) = timestamp {
            check_timestamp(timestamp, now_micros)?;
        }
        if statements.iter().any(|(plan, _)| plan.is_conditional()) {
            return self.modify_conditionally(session, catalog, statements, params);
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
        self.write(session, catalog, mutations, time, params.consistency, false)?;
        Ok(QueryResult::Void)
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
        let now_seconds = time.now_micros.div_euclid(1_000_000);
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
        for mutation in &mutations {
            self.storage.apply(mutation, now_seconds);
        }
        match verdict {
            WriteVerdict::Apply => Ok(()),
            WriteVerdict::ApplyAndFail(error) => Err(error),
        }
    }
}

impl Session {
    /// A server-side timestamp: the clock, but always later than the one before.
    fn next_timestamp(&mut self, now_micros: i64) -> Timestamp {
        self.last_timestamp = now_micros.max(self.last_timestamp + 1);
        self.last_timestamp
    }
}
