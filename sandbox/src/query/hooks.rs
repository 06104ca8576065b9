//! Where others join the path of a write, a read and a schema change. The order of a write:
//! validate → mutations → [`Cdc::augment`] → [`WriteFaults::before_apply`] → storage.
//!
//! All of them run on the thread of the request and may block it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::api::{QueryResult, Session};
use super::virtual_table::VirtualContext;
use crate::cql::ast::Statement;
use crate::error::CqlError;
use crate::schema::{Catalog, CdcOptions, ColumnId, TableSchema};
use crate::storage::mutation::{ClusteringKey, Mutation, PartitionKey};

/// Change data capture: what it adds to schema changes and to writes.
pub trait Cdc: Send + Sync {
    /// Options from `WITH cdc = {...}` (keys and values as given); `altering` in ALTER TABLE, which must name
    /// `enabled` and inherits nothing from the options before.
    ///
    /// # Errors
    /// Config: an unknown key or a bad value. Invalid: ALTER without `enabled`.
    fn parse_options(&self, given: &BTreeMap<String, String>, altering: bool)
    -> Result<CdcOptions, CqlError>;

    /// The log table that `base` needs from now on. Called when DDL creates or alters a table that has CDC
    /// enabled, or that still has a log; `existing` is the log of the schema before this statement.
    ///
    /// # Errors
    /// Invalid: counters, a user's table under the log's name, ...
    fn log_table(
        &self,
        catalog: &Catalog,
        base: &TableSchema,
        existing: Option<&TableSchema>,
    ) -> Result<TableSchema, CqlError>;

    /// After a schema change became visible (streams of tablet tables are made and dropped here).
    fn schema_changed(&self, before: &Catalog, after: &Catalog);

    /// Adds the log's mutations to those of a write. Called only if one of them is of a table with CDC.
    ///
    /// # Errors
    /// The write is refused: no stream for this timestamp, ...
    fn augment(&self, write: &WriteContext<'_>, mutations: &mut Vec<Mutation>) -> Result<(), CqlError>;
}

/// What surrounds a write.
pub struct WriteContext<'a> {
    pub catalog: &'a Catalog,
    pub session: &'a Session,
    /// The coordinator's clock, µs.
    pub now_micros: i64,
    pub consistency: u16,
    /// True for a conditional write: `consistency` is then that of the learn phase.
    pub conditional: bool,
    pub rows: &'a dyn CurrentRows,
}

/// Read access to the rows as they are before the write.
pub trait CurrentRows {
    /// A row's live columns; None if the row does not exist. `clustering` None: the static row.
    fn row(
        &self,
        table: &TableSchema,
        key: &PartitionKey,
        clustering: Option<&ClusteringKey>,
    ) -> Option<CurrentRow>;
}

/// Live values in column order, key columns left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CurrentRow {
    pub cells: Vec<(ColumnId, CurrentValue)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CurrentValue {
    Atomic(Bytes),
    /// (path, value) in path order: for a list, timeuuid and element.
    Multi(Vec<(Bytes, Bytes)>),
}

/// Faults on the way of a write.
pub trait WriteFaults: Send + Sync {
    /// May change or take out mutations (and apply them later by `Engine::apply`).
    ///
    /// # Errors
    /// The write is not applied and the client gets this.
    fn before_apply(
        &self,
        write: &WriteContext<'_>,
        mutations: &mut Vec<Mutation>,
    ) -> Result<WriteVerdict, CqlError>;

    /// How far the clock of the coordinator that a write was sent to is ahead, µs.
    fn clock_offset_micros(&self, _session: &Session) -> i64 {
        0
    }
}

/// What happens to a write that a fault let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteVerdict {
    Apply,
    /// The write is applied and the client gets an error all the same.
    ApplyAndFail(CqlError),
    /// A conditional write is decided but not applied before the next round on its partition; the client gets an
    /// error.
    Unlearned(CqlError),
}

/// Faults on the way of a read.
pub trait ReadFaults: Send + Sync {
    /// # Errors
    /// The client gets this instead of rows.
    fn before_read(&self, session: &Session, table: &TableSchema) -> Result<Option<RowFilter>, CqlError>;
}

/// Roles, permissions and DESCRIBE, which the engine leaves to the server.
pub trait Administration: Send + Sync {
    /// Called before each statement of a client is executed (also prepared ones and those of a batch), with the
    /// keyspace that unqualified names belong to.
    ///
    /// # Errors
    /// Unauthorized.
    fn authorize(
        &self,
        context: &VirtualContext<'_>,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<(), CqlError>;

    /// Executes a statement about roles or permissions, or DESCRIBE.
    ///
    /// # Errors
    /// As the statement demands.
    fn execute(&self, context: &VirtualContext<'_>, statement: &Statement) -> Result<QueryResult, CqlError>;
}

/// Says whether a row is seen (None: the static row).
pub type RowFilter = Arc<dyn Fn(&PartitionKey, Option<&ClusteringKey>) -> bool + Send + Sync>;

/// A node without CDC: the option is refused.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoCdc;

/// A node where everyone may do everything and roles are unknown.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoAdministration;

/// A node without faults.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoFaults;

impl Cdc for NoCdc {
    fn parse_options(
        &self,
        _given: &BTreeMap<String, String>,
        _altering: bool,
    ) -> Result<CdcOptions, CqlError> {
        Err(CqlError::config("Unknown property 'cdc'"))
    }

    fn log_table(
        &self,
        _catalog: &Catalog,
        base: &TableSchema,
        _existing: Option<&TableSchema>,
    ) -> Result<TableSchema, CqlError> {
        Err(CqlError::invalid(format!(
            "Cannot create CDC log for table {}.{}: CDC is off on this node",
            base.keyspace, base.name
        )))
    }

    fn schema_changed(&self, _before: &Catalog, _after: &Catalog) {}

    fn augment(&self, _write: &WriteContext<'_>, _mutations: &mut Vec<Mutation>) -> Result<(), CqlError> {
        Ok(())
    }
}

impl WriteFaults for NoFaults {
    fn before_apply(
        &self,
        _write: &WriteContext<'_>,
        _mutations: &mut Vec<Mutation>,
    ) -> Result<WriteVerdict, CqlError> {
        Ok(WriteVerdict::Apply)
    }
}

impl ReadFaults for NoFaults {
    fn before_read(&self, _session: &Session, _table: &TableSchema) -> Result<Option<RowFilter>, CqlError> {
        Ok(None)
    }
}

impl Administration for NoAdministration {
    fn authorize(
        &self,
        _context: &VirtualContext<'_>,
        _statement: &Statement,
        _keyspace: Option<&str>,
    ) -> Result<(), CqlError> {
        Ok(())
    }

    fn execute(
        &self,
        _context: &VirtualContext<'_>,
        _statement: &Statement,
    ) -> Result<QueryResult, CqlError> {
        Err(CqlError::invalid(
            "Roles and DESCRIBE are not served by this node",
        ))
    }
}
