//! The CDC log of one table on a real cluster: the `ChangeLog` port over the `scylla` driver.
//!
//! `table` reads what the schema says, `streams` the stream sets, `read` pages of rows; `unlogged` stands in for the log
//! where the table itself is polled. Rows are decoded here and not
//! by `scylla_cdc::consumer::CDCRow`, which panics on operation codes that it does not know and on null metadata, and
//! looks every column up by name; this runs once per row of the log.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use scylla::value::CqlTimestamp;

use crate::model::Micros;
use crate::ports::{Capture, ChangeLog, LogError, LogPage, LogQuery, StreamSet};

pub(crate) mod errors;
pub(crate) mod read;
pub mod session;
mod streams;
pub mod table;
pub mod unlogged;

use read::RowPlan;
use streams::StreamSets;
use table::OutboxTable;

/// Reads one table's log.
pub struct ScyllaLog {
    session: Arc<Session>,
    identity: Select,
    full: Select,
    sets: StreamSets,
    clock: SourceClock,
    /// As it was when the log was opened.
    table: OutboxTable,
}

/// The statements for one choice of columns, and how their rows are read.
struct Select {
    open: PreparedStatement,
    bounded: PreparedStatement,
    plan: RowPlan,
}

impl ScyllaLog {
    /// `mapped` are the columns that events are made of, in the order of [`crate::ports::LogRow::values`]; at most 64.
    ///
    /// # Errors
    /// [`LogError::Configuration`] if the log or one of the columns is missing.
    pub async fn open(
        session: Arc<Session>,
        table: &OutboxTable,
        mapped: &[String],
        consistency: Consistency,
    ) -> Result<Self, LogError> {
        let select = async |mapped: &[String]| {
            let plan = RowPlan::new(table, mapped);
            let prepare = async |upper: &str| {
                let text = format!(
                    "SELECT {} FROM \"{}\".\"{}_scylla_cdc_log\" WHERE \"cdc$stream_id\" IN ? AND \"cdc$time\" >= ?{upper} \
                     BYPASS CACHE",
                    plan.columns(),
                    table.keyspace,
                    table.name,
                );
                prepare(&session, text, consistency).await
            };
            let (open, bounded) = (prepare("").await?, prepare(" AND \"cdc$time\" < ?").await?);
            Ok(Select { open, bounded, plan })
        };
        let (identity, full) = (select(&[]).await?, select(mapped).await?);
        let sets = StreamSets::open(session.clone(), table).await?;
        Ok(Self {
            clock: SourceClock::open(session.clone()).await?,
            table: table.clone(),
            identity,
            full,
            sets,
            session,
        })
    }
}

impl ChangeLog for ScyllaLog {
    async fn capture(&self) -> Result<Capture, LogError> {
        let options = table::cdc_options(&self.session, &self.table.keyspace, &self.table.name).await?;
        if options.enabled {
            self.sets.retain(options.ttl);
        }
        Ok(Capture {
            hidden: self.table.hidden_by(&options),
            time: self.clock.time().await?,
        })
    }

    async fn stream_sets(&self) -> Result<Vec<StreamSet>, LogError> {
        self.sets.read().await
    }

    fn ttl(&self) -> Option<Duration> {
        Some(self.sets.retention().unwrap_or(Duration::ZERO))
    }

    async fn read(&self, query: LogQuery) -> Result<LogPage, LogError> {
        let select = match query.columns {
            crate::ports::Columns::Identity => &self.identity,
            crate::ports::Columns::Full => &self.full,
        };
        read::page(&self.session, &select.open, &select.bounded, &select.plan, query).await
    }
}

/// Asks the coordinator for its wall clock.
struct SourceClock {
    session: Arc<Session>,
    statement: PreparedStatement,
}

impl SourceClock {
    async fn open(session: Arc<Session>) -> Result<Self, LogError> {
        let text = "SELECT toTimestamp(now()) FROM system.local WHERE key = 'local'".to_owned();
        let statement = prepare(&session, text, Consistency::One).await?;
        Ok(Self { session, statement })
    }

    async fn time(&self) -> Result<Option<Micros>, LogError> {
        let result = self.session.execute_unpaged(&self.statement, ()).await;
        let time = streams::rows::<(CqlTimestamp,)>(result)?;
        Ok(time.first().map(|row| row.0.0 * 1000))
    }
}

/// The driver's name of a level.
pub fn consistency(level: crds::source::Consistency) -> Consistency {
    use crds::source::Consistency as Configured;
    match level {
        Configured::One => Consistency::One,
        Configured::Quorum => Consistency::Quorum,
        Configured::LocalQuorum => Consistency::LocalQuorum,
        Configured::LocalOne => Consistency::LocalOne,
        Configured::All => Consistency::All,
    }
}

/// A read, or a write that may be repeated.
pub(crate) async fn prepare(
    session: &Session,
    text: String,
    consistency: Consistency,
) -> Result<PreparedStatement, LogError> {
    let mut statement = Statement::new(text);
    statement.set_consistency(consistency);
    statement.set_is_idempotent(true);
    statement.set_request_timeout(Some(errors::REQUEST_TIMEOUT));
    session
        .prepare(statement)
        .await
        .map_err(|error| errors::preparing(&error))
}
