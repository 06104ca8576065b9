//! The engine: text or prepared statements in, results out. Synchronous; callers bring the threads.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::api::{BatchKind, BatchStatement, QueryParams, QueryResult, ResultMetadata, Session, Values};
use super::hooks::{Administration, Cdc, NoAdministration, NoCdc, NoFaults, ReadFaults, WriteFaults};
use super::virtual_table::VirtualTable;
use crate::cql::ast::Parsed;
use crate::error::CqlError;
use crate::schema::Catalog;
use crate::storage::clock::{Clock, SystemClock};
use crate::storage::mutation::Mutation;

/// What an engine is made of; `..Default::default()` gives a node without CDC, faults and roles.
pub struct EngineOptions {
    pub clock: Arc<dyn Clock>,
    pub cdc: Arc<dyn Cdc>,
    pub write_faults: Arc<dyn WriteFaults>,
    pub read_faults: Arc<dyn ReadFaults>,
    pub administration: Arc<dyn Administration>,
    pub virtual_tables: Vec<Arc<dyn VirtualTable>>,
    pub lwt_result: LwtResult,
    /// Whether a NetworkTopologyStrategy keyspace that does not say gets tablets.
    pub tablets_by_default: bool,
    /// Datacenter that `replication_factor` of NetworkTopologyStrategy expands to.
    pub datacenter: String,
}

/// The rows of a conditional write's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LwtResult {
    /// `[applied]` and all columns with the old row or nulls, also when applied.
    Scylla,
    /// `[applied]` alone when applied; else with the columns of the row that stood against it.
    Cassandra,
}

/// A statement planned against one schema version.
pub struct Prepared {
    /// MD5 of keyspace and text, as ScyllaDB derives it: equal on all nodes.
    pub id: Bytes,
    pub text: String,
    /// The keyspace that unqualified names belong to.
    pub keyspace: Option<String>,
    pub parsed: Parsed,
    pub binds: Arc<ResultMetadata>,
    /// For each partition key column, which bind marker gives it; empty if not all of them are markers.
    pub partition_key_binds: Vec<u16>,
    /// None: the statement returns no rows.
    pub result: Option<Arc<ResultMetadata>>,
    pub conditional: bool,
}

pub struct Engine {
    options: EngineOptions,
    catalog: RwLock<Arc<Catalog>>,
    /// Held while a schema change is planned and made.
    ddl: Mutex<()>,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            catalog: RwLock::default(),
            ddl: Mutex::new(()),
        })
    }

    /// The schema as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Executes one text.
    ///
    /// # Errors
    /// As the native protocol knows them.
    pub fn query(
        &self,
        session: &mut Session,
        text: &str,
        values: &Values,
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        let _ = (session, text, values, params);
        Err(CqlError::server("queries are not executed yet"))
    }

    /// Plans one text; the result stays known under its id until the schema of its table changes.
    ///
    /// # Errors
    /// Syntax, Invalid.
    pub fn prepare(&self, session: &Session, text: &str) -> Result<Arc<Prepared>, CqlError> {
        let _ = (session, text);
        Err(CqlError::server("statements are not prepared yet"))
    }

    /// What `prepare` made under this id, if it is still known.
    pub fn prepared(&self, id: &[u8]) -> Option<Arc<Prepared>> {
        let _ = id;
        None
    }

    /// Executes what `prepare` made.
    ///
    /// # Errors
    /// Unprepared if the id is unknown (any more), else as the native protocol knows them.
    pub fn execute(
        &self,
        session: &mut Session,
        id: &[u8],
        values: &Values,
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        let _ = (session, id, values, params);
        Err(CqlError::server("statements are not executed yet"))
    }

    /// Executes a BATCH frame.
    ///
    /// # Errors
    /// As `execute`.
    pub fn batch(
        &self,
        session: &mut Session,
        kind: BatchKind,
        statements: &[(BatchStatement, Values)],
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        let _ = (session, kind, statements, params);
        Err(CqlError::server("batches are not executed yet"))
    }

    /// Applies mutations as they are: no hooks, no validation. For what the node itself writes and for delayed
    /// writes; mutations of tables that were dropped meanwhile are ignored.
    pub fn apply(&self, mutations: &[Mutation]) {
        let _ = mutations;
    }

    /// Makes a schema change of the node itself (system keyspaces); clients use DDL.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change_schema(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<(), CqlError>,
    ) -> Result<(), CqlError> {
        let _only_one = self.ddl.lock();
        let mut next = Catalog::clone(&self.catalog.read());
        change(&mut next)?;
        next.version = uuid::Uuid::new_v4();
        *self.catalog.write() = Arc::new(next);
        Ok(())
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            cdc: Arc::new(NoCdc),
            write_faults: Arc::new(NoFaults),
            read_faults: Arc::new(NoFaults),
            administration: Arc::new(NoAdministration),
            virtual_tables: Vec::new(),
            lwt_result: LwtResult::Scylla,
            tablets_by_default: false,
            datacenter: "datacenter1".to_owned(),
        }
    }
}
