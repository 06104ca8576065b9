//! Parsed statements to plans: names looked up, terms typed, rules checked.

use std::sync::Arc;

use uuid::Uuid;

use super::api::{BatchKind, ColumnSpec, ResultMetadata};
use super::modify::ModifyPlan;
use super::restriction::PartitionPlan;
use super::select::SelectPlan;
use super::terms::{Expr, Planner, Receiver};
use crate::cql::ast::data::{self, Batch, BatchItem};
use crate::cql::ast::{Parsed, QualifiedName, Statement};
use crate::error::CqlError;
use crate::schema::ddl::no_keyspace;
use crate::schema::{Catalog, TableSchema};
use crate::types::CqlType;

/// What executing a statement means.
#[derive(Debug, Clone)]
pub enum Plan {
    Select(Box<SelectPlan>),
    Modify(Box<ModifyPlan>),
    Batch(Box<BatchPlan>),
    Truncate(Arc<TableSchema>),
    Use(String),
    Schema,
    /// Roles, permissions, DESCRIBE.
    Administration,
}

#[derive(Debug, Clone)]
pub struct BatchPlan {
    pub kind: BatchKind,
    pub timestamp: Option<Expr>,
    pub statements: Vec<ModifyPlan>,
}

/// A plan and what its bind markers stand for.
#[derive(Debug, Clone)]
pub struct Planned {
    pub plan: Plan,
    pub binds: Vec<ColumnSpec>,
    /// Tables and their versions at planning: if one changed since, the plan is void.
    pub tables: Vec<(Uuid, Uuid, String, String)>,
}

impl Planned {
    /// Plans a statement for a session that uses `keyspace`.
    ///
    /// # Errors
    /// Invalid.
    pub fn new(catalog: &Catalog, keyspace: Option<&str>, parsed: &Parsed) -> Result<Self, CqlError> {
        let markers = parsed.markers.len();
        let (plan, binds) = match &parsed.statement {
            Statement::Select(select) => {
                let table = find_table(catalog, keyspace, &select.table)?;
                let mut planner = Planner::new(catalog, table, markers);
                plan_timeout(&mut planner, &select.using)?;
                let plan = SelectPlan::new(&mut planner, table, select)?;
                (Plan::Select(Box::new(plan)), planner.binds)
            }
            Statement::Insert(insert) => {
                let table = find_table(catalog, keyspace, &insert.table)?;
                let mut planner = Planner::new(catalog, table, markers);
                plan_timeout(&mut planner, &insert.using)?;
                let plan = ModifyPlan::insert(&mut planner, table, insert)?;
                (Plan::Modify(Box::new(plan)), planner.binds)
            }
            Statement::Update(update) => {
                let table = find_table(catalog, keyspace, &update.table)?;
                let mut planner = Planner::new(catalog, table, markers);
                plan_timeout(&mut planner, &update.using)?;
                let plan = ModifyPlan::update(&mut planner, table, update)?;
                (Plan::Modify(Box::new(plan)), planner.binds)
            }
            Statement::Delete(delete) => {
                let table = find_table(catalog, keyspace, &delete.table)?;
                let mut planner = Planner::new(catalog, table, markers);
                plan_timeout(&mut planner, &delete.using)?;
                let plan = ModifyPlan::delete(&mut planner, table, delete)?;
                (Plan::Modify(Box::new(plan)), planner.binds)
            }
            Statement::Batch(batch) => plan_batch(catalog, keyspace, batch, markers)?,
            Statement::Truncate(truncate) => (
                Plan::Truncate(find_table(catalog, keyspace, &truncate.table)?.clone()),
                Vec::new(),
            ),
            Statement::Use(name) => (Plan::Use(name.clone()), Vec::new()),
            Statement::CreateKeyspace(_)
            | Statement::AlterKeyspace(_)
            | Statement::DropKeyspace { .. }
            | Statement::CreateTable(_)
            | Statement::AlterTable(_)
            | Statement::DropTable(_)
            | Statement::CreateType(_)
            | Statement::AlterType(_)
            | Statement::DropType(_)
            | Statement::CreateIndex(_)
            | Statement::DropIndex(_)
            | Statement::CreateView(_)
            | Statement::DropView(_) => (Plan::Schema, Vec::new()),
            _ => (Plan::Administration, Vec::new()),
        };
        if binds.len() < markers {
            return Err(CqlError::invalid(
                "Bind variables are not allowed in this statement",
            ));
        }
        // A marker that no plan took has no place to go to.
        let binds: Option<Vec<_>> = binds.into_iter().collect();
        Ok(Self {
            tables: plan.tables(),
            plan,
            binds: binds.ok_or_else(|| CqlError::invalid("Bind variable cannot be used here"))?,
        })
    }

    /// True if the tables are as they were at planning.
    pub fn is_current(&self, catalog: &Catalog) -> bool {
        self.tables.iter().all(|(id, version, keyspace, name)| {
            catalog
                .table(keyspace, name)
                .is_some_and(|table| table.id == *id && table.version == *version)
        })
    }

    /// For each partition key column the marker that gives it; empty if one is not given by a marker.
    pub fn partition_key_binds(&self) -> Vec<u16> {
        let markers = |partitions: &PartitionPlan| partitions.markers().unwrap_or_default();
        match &self.plan {
            Plan::Select(select) => markers(&select.filter.partitions),
            Plan::Modify(modify) => markers(&modify.partitions),
            _ => Vec::new(),
        }
    }

    /// The statements of a conditional write, and whether they are a batch.
    pub fn conditional(&self) -> Option<(&[ModifyPlan], bool)> {
        let (statements, batch) = match &self.plan {
            Plan::Modify(modify) => (std::slice::from_ref(modify.as_ref()), false),
            Plan::Batch(batch) => (&batch.statements[..], true),
            _ => return None,
        };
        let conditional = statements.iter().any(ModifyPlan::is_conditional);
        conditional.then_some((statements, batch))
    }

    /// None: no rows come back, or their columns depend on the outcome.
    pub fn result(&self) -> Option<Arc<ResultMetadata>> {
        match &self.plan {
            Plan::Select(select) => Some(select.metadata.clone()),
            _ => None,
        }
    }
}

impl Plan {
    fn tables(&self) -> Vec<(Uuid, Uuid, String, String)> {
        let of = |table: &TableSchema| {
            (
                table.id,
                table.version,
                table.keyspace.clone(),
                table.name.clone(),
            )
        };
        match self {
            Plan::Select(select) => vec![of(&select.table)],
            Plan::Modify(modify) => vec![of(&modify.table)],
            Plan::Batch(batch) => batch
                .statements
                .iter()
                .map(|statement| of(&statement.table))
                .collect(),
            Plan::Truncate(table) => vec![of(table)],
            Plan::Use(_) | Plan::Schema | Plan::Administration => Vec::new(),
        }
    }
}

type Binds = Vec<Option<ColumnSpec>>;

fn plan_batch(
    catalog: &Catalog,
    keyspace: Option<&str>,
    batch: &Batch,
    markers: usize,
) -> Result<(Plan, Binds), CqlError> {
    let mut binds: Binds = vec![None; markers];
    let mut statements = Vec::new();
    let mut timestamp = None;
    for item in &batch.statements {
        let (name, using) = match item {
            BatchItem::Insert(insert) => (&insert.table, &insert.using),
            BatchItem::Update(update) => (&update.table, &update.using),
            BatchItem::Delete(delete) => (&delete.table, &delete.using),
        };
        let table = find_table(catalog, keyspace, name)?;
        let mut planner = Planner::new(catalog, table, markers);
        if timestamp.is_none()
            && let Some(term) = &batch.using.timestamp
        {
            timestamp = Some(planner.plan(term, &Receiver::new("[timestamp]", CqlType::Bigint))?);
        }
        plan_timeout(&mut planner, using)?;
        statements.push(match item {
            BatchItem::Insert(insert) => ModifyPlan::insert(&mut planner, table, insert)?,
            BatchItem::Update(update) => ModifyPlan::update(&mut planner, table, update)?,
            BatchItem::Delete(delete) => ModifyPlan::delete(&mut planner, table, delete)?,
        });
        for (slot, found) in binds.iter_mut().zip(planner.binds) {
            if slot.is_none() {
                *slot = found;
            }
        }
    }
    if batch.using.ttl.is_some() {
        return Err(CqlError::invalid(
            "Global TTL on the BATCH statement is not supported.",
        ));
    }
    let kind = match batch.kind {
        data::BatchKind::Logged => BatchKind::Logged,
        data::BatchKind::Unlogged => BatchKind::Unlogged,
        data::BatchKind::Counter => BatchKind::Counter,
    };
    let plan = BatchPlan {
        kind,
        timestamp,
        statements,
    };
    plan.check()?;
    Ok((Plan::Batch(Box::new(plan)), binds))
}

impl BatchPlan {
    fn check(&self) -> Result<(), CqlError> {
        Self::check_all(self.kind, self.timestamp.is_some(), self.statements.iter())
    }

    /// The rules that a batch keeps whatever values are bound.
    ///
    /// # Errors
    /// Invalid.
    pub fn check_all<'a>(
        kind: BatchKind,
        timestamp: bool,
        statements: impl Iterator<Item = &'a ModifyPlan> + Clone,
    ) -> Result<(), CqlError> {
        let refuse = |problem: &str| Err(CqlError::invalid(problem));
        let conditional = statements.clone().any(ModifyPlan::is_conditional);
        if timestamp {
            if conditional {
                return refuse("Cannot provide custom timestamp for conditional BATCH");
            }
            if kind == BatchKind::Counter {
                return refuse("Cannot provide custom timestamp for counter BATCH");
            }
            if statements.clone().any(ModifyPlan::has_timestamp) {
                return refuse("Timestamp must be set either on BATCH or individual statements");
            }
        }
        let counters = statements
            .clone()
            .filter(|statement| statement.table.is_counter())
            .count();
        let others = statements.clone().count() - counters;
        match kind {
            BatchKind::Counter if others > 0 => {
                return refuse("Cannot include non-counter statement in a counter batch");
            }
            BatchKind::Logged if counters > 0 => {
                return refuse("Cannot include a counter statement in a logged batch");
            }
            BatchKind::Unlogged if counters > 0 && others > 0 => {
                return refuse("Counter and non-counter mutations cannot exist in the same batch");
            }
            _ => {}
        }
        let mut tables = statements.map(|statement| statement.table.id);
        let first = tables.next();
        if conditional && tables.any(|table| Some(table) != first) {
            return refuse("Batch with conditions cannot span multiple tables");
        }
        Ok(())
    }
}

/// `USING TIMEOUT` is checked and ignored: this node answers at once.
fn plan_timeout(planner: &mut Planner<'_>, using: &data::Using) -> Result<(), CqlError> {
    if let Some(term) = &using.timeout {
        planner.plan(term, &Receiver::new("[timeout]", CqlType::Duration))?;
    }
    Ok(())
}

/// The table that a statement names.
///
/// # Errors
/// Invalid.
pub fn find_table<'a>(
    catalog: &'a Catalog,
    keyspace: Option<&str>,
    name: &QualifiedName,
) -> Result<&'a Arc<TableSchema>, CqlError> {
    let keyspace = name.keyspace.as_deref().or(keyspace).ok_or_else(no_keyspace)?;
    let tables = &catalog
        .keyspace(keyspace)
        .ok_or_else(|| CqlError::invalid(format!("Keyspace {keyspace} does not exist")))?
        .tables;
    tables
        .get(&name.name)
        .ok_or_else(|| CqlError::invalid(format!("unconfigured table {}", name.name)))
}
