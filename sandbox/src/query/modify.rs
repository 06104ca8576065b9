//! INSERT, UPDATE and DELETE: plans, and the mutations they make.

mod build;
mod change;
mod condition;
mod delete;
mod insert;
mod operation;
mod update;

use std::sync::Arc;

pub use build::WriteTime;
pub(crate) use build::check_timestamp;
pub use condition::{ConditionPlan, ConditionRow};

use super::restriction::{ClusteringPlan, PartitionPlan};
use super::terms::{Expr, Planner, Receiver};
use crate::cql::ast::data::{Condition, Delete, Insert, Update, Using};
use crate::error::CqlError;
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::types::CqlType;
use operation::Operation;

/// One planned INSERT, UPDATE or DELETE.
#[derive(Debug, Clone)]
pub struct ModifyPlan {
    pub table: Arc<TableSchema>,
    kind: ModifyKind,
    pub partitions: PartitionPlan,
    pub clustering: ClusteringPlan,
    operations: Vec<(ColumnId, Operation)>,
    timestamp: Option<Expr>,
    ttl: Option<Expr>,
    pub condition: ConditionPlan,
    /// INSERT JSON: the document, and whether absent columns stay as they are. Its values follow the bound
    /// ones, one per column of the table.
    json: Option<(Expr, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModifyKind {
    Insert,
    Update,
    Delete,
}

impl ModifyPlan {
    /// # Errors
    /// Invalid.
    pub fn insert(
        planner: &mut Planner<'_>,
        table: &Arc<TableSchema>,
        insert: &Insert,
    ) -> Result<Self, CqlError> {
        insert::plan(planner, table, insert)
    }

    /// # Errors
    /// Invalid.
    pub fn update(
        planner: &mut Planner<'_>,
        table: &Arc<TableSchema>,
        update: &Update,
    ) -> Result<Self, CqlError> {
        update::plan(planner, table, update)
    }

    /// # Errors
    /// Invalid.
    pub fn delete(
        planner: &mut Planner<'_>,
        table: &Arc<TableSchema>,
        delete: &Delete,
    ) -> Result<Self, CqlError> {
        delete::plan(planner, table, delete)
    }

    pub fn is_conditional(&self) -> bool {
        !matches!(self.condition, ConditionPlan::None)
    }

    pub fn has_timestamp(&self) -> bool {
        self.timestamp.is_some()
    }

    /// True if only static columns are written.
    pub fn only_static(&self) -> bool {
        !self.operations.is_empty() && self.operations.iter().all(|(id, _)| is_static(&self.table, *id))
    }

    /// True if rows have to be read before they are written (list elements by index or value).
    pub fn reads_before_write(&self) -> bool {
        self.operations
            .iter()
            .any(|(id, operation)| operation.reads(&self.table.columns[*id].ty))
    }
}

fn is_static(table: &TableSchema, id: ColumnId) -> bool {
    table.columns[id].kind == ColumnKind::Static
}

/// USING TIMESTAMP and TTL.
fn plan_using(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    using: &Using,
    condition: &Condition,
) -> Result<(Option<Expr>, Option<Expr>), CqlError> {
    if table.is_counter() {
        if using.timestamp.is_some() {
            return Err(CqlError::invalid(
                "Cannot provide custom timestamp for counter updates",
            ));
        }
        if using.ttl.is_some() {
            return Err(CqlError::invalid("Cannot provide custom TTL for counter updates"));
        }
        if *condition != Condition::None {
            return Err(CqlError::invalid(
                "Conditional updates are not supported on counter tables",
            ));
        }
    }
    if *condition != Condition::None && using.timestamp.is_some() {
        return Err(CqlError::invalid(
            "Cannot provide custom timestamp for conditional updates",
        ));
    }
    let timestamp = using
        .timestamp
        .as_ref()
        .map(|term| planner.plan(term, &Receiver::new("[timestamp]", CqlType::Bigint)));
    let ttl = using
        .ttl
        .as_ref()
        .map(|term| planner.plan(term, &Receiver::new("[ttl]", CqlType::Int)));
    Ok((timestamp.transpose()?, ttl.transpose()?))
}

fn missing_partition_key(table: &TableSchema, missing: ColumnId) -> CqlError {
    CqlError::invalid(format!(
        "Some partition key parts are missing: {}",
        table.columns[missing].name
    ))
}

fn missing_clustering_key(table: &TableSchema, given: usize) -> CqlError {
    let missing: Vec<_> = table.clustering_key[given..]
        .iter()
        .map(|id| table.columns[*id].name.as_str())
        .collect();
    CqlError::invalid(format!(
        "Some clustering keys are missing: {}",
        missing.join(", ")
    ))
}
