//! The engine: text or prepared statements in, results out. Synchronous; callers bring the threads.

mod lwt;
mod prepared;
mod read;
mod schema;
mod unlearned;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::api::{BatchKind, BatchStatement, BindValue, QueryParams, QueryResult, Session, Values};
use super::hooks::{Administration, Cdc, NoAdministration, NoCdc, NoFaults, ReadFaults, WriteFaults};
use super::modify::ModifyPlan;
use super::plan::{BatchPlan, Plan, Planned};
use super::terms::bind_values;
use super::virtual_table::{VirtualContext, VirtualTable};
use crate::cql;
use crate::cql::ast::Parsed;
use crate::error::CqlError;
use crate::schema::Catalog;
use crate::storage::Storage;
use crate::storage::clock::{Clock, SystemClock};
use crate::storage::mutation::Mutation;
use crate::types::function::FunctionContext;
use lwt::Ballots;
pub use prepared::Prepared;
use prepared::PreparedCache;
use unlearned::Unlearned;

/// What an engine is made of; `..Default::default()` gives a node without CDC, faults and roles.
pub struct EngineOptions {
    pub clock: Arc<dyn Clock>,
    pub cdc: Arc<dyn Cdc>,
    pub write_faults: Arc<dyn WriteFaults>,
    pub read_faults: Arc<dyn ReadFaults>,
    pub administration: Arc<dyn Administration>,
    pub virtual_tables: Vec<Arc<dyn VirtualTable>>,
    pub dialect: Dialect,
    /// ScyllaDB before 2025.4 refuses conditional writes to tables with tablets.
    pub lwt_with_tablets: bool,
    /// Whether a NetworkTopologyStrategy keyspace that does not say gets tablets.
    pub tablets_by_default: bool,
    /// Datacenter that `replication_factor` of NetworkTopologyStrategy expands to.
    pub datacenter: String,
}

/// The form of answers where ScyllaDB and Cassandra give the same facts in two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A conditional write answers `[applied]` and the columns that its conditions name (all of them with IF [NOT]
    /// EXISTS, the primary key before them in a batch) with the old row or nulls, also when applied; a batch one row
    /// for each statement. A page ends once it has its rows, rows that a filter drops counted, or 1 MiB; then another
    /// follows even if it is empty.
    Scylla,
    /// A conditional write answers `[applied]` alone when applied; else with the columns of the row that stood
    /// against it. A page ends in front of a row that no longer fits, so the last one is never empty.
    Cassandra,
}

pub struct Engine {
    options: EngineOptions,
    catalog: RwLock<Arc<Catalog>>,
    /// Held while a schema change is planned and made.
    ddl: Mutex<()>,
    storage: Storage,
    prepared: PreparedCache,
    virtual_tables: HashMap<Uuid, Arc<dyn VirtualTable>>,
    ballots: Ballots,
    unlearned: Unlearned,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Arc<Self> {
        let catalog = schema::initial_catalog(&options.virtual_tables);
        let virtual_tables = options.virtual_tables.iter();
        let virtual_tables = virtual_tables
            .map(|table| (table.schema().id, table.clone()))
            .collect();
        Arc::new(Self {
            options,
            catalog: RwLock::new(Arc::new(catalog)),
            ddl: Mutex::new(()),
            storage: Storage::default(),
            prepared: PreparedCache::default(),
            virtual_tables,
            ballots: Ballots::default(),
            unlearned: Unlearned::default(),
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
        let parsed = cql::parse(text)?;
        let catalog = self.catalog();
        let planned = Planned::new(&catalog, session.keyspace.as_deref(), &parsed)?;
        let keyspace = session.keyspace.clone();
        self.run(
            session,
            &catalog,
            &parsed,
            keyspace.as_deref(),
            &planned,
            values,
            params,
        )
    }

    /// Plans one text; the result stays known under its id until the schema of its table changes.
    ///
    /// # Errors
    /// Syntax, Invalid.
    pub fn prepare(&self, session: &Session, text: &str) -> Result<Arc<Prepared>, CqlError> {
        let id = prepared::id_of(session.keyspace.as_deref(), text);
        let catalog = self.catalog();
        if let Some(known) = self
            .prepared
            .get(&id)
            .filter(|known| known.planned.is_current(&catalog))
        {
            return Ok(known);
        }
        let prepared = Arc::new(Prepared::new(
            &catalog,
            session.keyspace.as_deref(),
            text,
            id,
            self.options.dialect,
        )?);
        self.prepared.insert(prepared.clone());
        Ok(prepared)
    }

    /// A statement that was prepared, if it is still known.
    pub fn prepared(&self, id: &[u8]) -> Option<Arc<Prepared>> {
        self.prepared.get(id)
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
        let catalog = self.catalog();
        let prepared = self.prepared.current(id, &catalog)?;
        let keyspace = prepared.keyspace.as_deref();
        self.run(
            session,
            &catalog,
            &prepared.parsed,
            keyspace,
            &prepared.planned,
            values,
            params,
        )
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
        let catalog = self.catalog();
        let mut owned = Vec::new();
        for (statement, _) in statements {
            owned.push(match statement {
                BatchStatement::Prepared(id) => self.prepared.current(id, &catalog)?,
                BatchStatement::Text(text) => {
                    let keyspace = session.keyspace.as_deref();
                    Arc::new(Prepared::new(
                        &catalog,
                        keyspace,
                        text,
                        Bytes::new(),
                        self.options.dialect,
                    )?)
                }
            });
        }
        let mut plans = Vec::with_capacity(owned.len());
        for (prepared, (_, values)) in owned.iter().zip(statements) {
            self.authorize(session, &catalog, &prepared.parsed, prepared.keyspace.as_deref())?;
            let Plan::Modify(plan) = &prepared.planned.plan else {
                return Err(CqlError::invalid(
                    "Invalid statement in batch: only UPDATE, INSERT and DELETE statements are allowed.",
                ));
            };
            plans.push((plan.as_ref(), bind_values(&prepared.planned.binds, values)?));
        }
        BatchPlan::check_all(kind, false, plans.iter().map(|(plan, _)| *plan))?;
        let plans: Vec<_> = plans.iter().map(|(plan, values)| (*plan, &values[..])).collect();
        self.modify(session, &catalog, &plans, true, None, params)
    }

    /// Applies mutations as they are: no hooks, no validation. For what the node itself writes and for delayed
    /// writes; mutations of tables that were dropped meanwhile are ignored.
    pub fn apply(&self, mutations: &[Mutation]) {
        let now_seconds = self.options.clock.now_seconds();
        for mutation in mutations {
            self.storage.apply(mutation, now_seconds);
        }
    }

    /// Drops expired data of all tables. Writes do it for the partitions they touch; this is for those that
    /// nobody writes to any more.
    pub fn purge(&self) {
        let now_seconds = self.options.clock.now_seconds();
        for table in self.catalog().tables() {
            if let Some(store) = self.storage.table(&table.id) {
                store.purge(table, now_seconds);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn run(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        parsed: &Parsed,
        keyspace: Option<&str>,
        planned: &Planned,
        values: &Values,
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        self.authorize(session, catalog, parsed, keyspace)?;
        let values = bind_values(&planned.binds, values)?;
        match &planned.plan {
            Plan::Select(plan) => self
                .select(session, catalog, plan, &values, params)
                .map(QueryResult::Rows),
            Plan::Modify(plan) => self.modify(session, catalog, &[(plan, &values)], false, None, params),
            Plan::Batch(batch) => self.run_batch(session, catalog, batch, &values, params),
            Plan::Truncate(table) => {
                self.refuse_virtual(table)?;
                if let Some(store) = self.storage.table(&table.id) {
                    store.truncate();
                }
                Ok(QueryResult::Void)
            }
            Plan::Use(name) => {
                catalog
                    .keyspace(name)
                    .ok_or_else(|| CqlError::invalid(format!("Keyspace '{name}' does not exist")))?;
                session.keyspace = Some(name.clone());
                Ok(QueryResult::SetKeyspace(name.clone()))
            }
            Plan::Schema => self.execute_ddl(keyspace, &parsed.statement),
            Plan::Administration => {
                let context = VirtualContext { catalog, session };
                self.options.administration.execute(&context, &parsed.statement)
            }
        }
    }

    fn run_batch(
        &self,
        session: &mut Session,
        catalog: &Arc<Catalog>,
        batch: &BatchPlan,
        values: &[BindValue],
        params: &QueryParams,
    ) -> Result<QueryResult, CqlError> {
        let context = FunctionContext {
            now_micros: self.options.clock.now_micros(),
        };
        let timestamp = match &batch.timestamp {
            None => None,
            Some(expr) => match expr.evaluate(values, &context)? {
                BindValue::Value(value) => value[..].try_into().ok().map(i64::from_be_bytes),
                BindValue::Unset => None,
                BindValue::Null => return Err(CqlError::invalid("Invalid null value of timestamp")),
            },
        };
        let plans: Vec<(&ModifyPlan, &[BindValue])> =
            batch.statements.iter().map(|plan| (plan, values)).collect();
        self.modify(session, catalog, &plans, true, timestamp, params)
    }

    fn authorize(
        &self,
        session: &Session,
        catalog: &Catalog,
        parsed: &Parsed,
        keyspace: Option<&str>,
    ) -> Result<(), CqlError> {
        let context = VirtualContext { catalog, session };
        self.options
            .administration
            .authorize(&context, &parsed.statement, keyspace)
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
            dialect: Dialect::Scylla,
            lwt_with_tablets: true,
            tablets_by_default: false,
            datacenter: "datacenter1".to_owned(),
        }
    }
}
