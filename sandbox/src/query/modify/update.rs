//! Planning UPDATE.

use std::sync::Arc;

use super::operation::Operation;
use super::{
    ModifyKind, ModifyPlan, change, condition, missing_clustering_key, missing_partition_key, plan_using,
};
use crate::cql::ast::data::{Condition, Relation, Update};
use crate::error::CqlError;
use crate::query::restriction::{self, WherePlan, find_column};
use crate::query::terms::Planner;
use crate::schema::{ColumnId, ColumnKind, TableSchema};

pub(super) fn plan(
    planner: &mut Planner<'_>,
    table: &Arc<TableSchema>,
    update: &Update,
) -> Result<ModifyPlan, CqlError> {
    // Markers are numbered in the order of the text: USING, SET, WHERE, IF. The order here does not matter.
    let (timestamp, ttl) = plan_using(planner, table, &update.using, &update.condition)?;
    let mut operations: Vec<(ColumnId, Operation)> = Vec::new();
    for assignment in &update.assignments {
        let id = find_column(table, &assignment.column)?;
        let column = &table.columns[id];
        if column.kind.is_primary_key() {
            return Err(CqlError::invalid(format!(
                "PRIMARY KEY part {} found in SET part",
                column.name
            )));
        }
        let operation = change::plan_change(planner, column, &assignment.change)?;
        let conflicts = |(have, earlier): &(ColumnId, Operation)| {
            *have == id && !(earlier.is_partial() && operation.is_partial())
        };
        if operations.iter().any(conflicts) {
            return Err(CqlError::syntax(format!(
                "Multiple incompatible setting of column {}",
                column.name
            )));
        }
        operations.push((id, operation));
    }
    operations.sort_by_key(|(id, _)| *id);
    let filter = plan_where(planner, table, &update.filter)?;
    let only_static = operations
        .iter()
        .all(|(id, _)| table.columns[*id].kind == ColumnKind::Static);
    if only_static && filter.clustering.is_restricted() && update.condition == Condition::None {
        return Err(CqlError::invalid(
            "Invalid restrictions on clustering columns since the UPDATE statement modifies only static columns",
        ));
    }
    if filter.clustering.has_slice() {
        return Err(CqlError::invalid(
            "Slice restrictions are not supported on the clustering columns in UPDATE statements",
        ));
    }
    if !only_static && !filter.clustering.is_full() {
        return Err(missing_clustering_key(table, filter.clustering.prefix_len()));
    }
    condition::check_keys(&update.condition, &filter)?;
    Ok(ModifyPlan {
        table: table.clone(),
        kind: ModifyKind::Update,
        partitions: filter.partitions,
        clustering: filter.clustering,
        operations,
        timestamp,
        ttl,
        condition: condition::plan(planner, table, &update.condition)?,
        json: None,
    })
}

/// The WHERE of a write: primary key columns only, the whole partition key by equality.
pub(super) fn plan_where(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    relations: &[Relation],
) -> Result<WherePlan, CqlError> {
    let restrictions = restriction::resolve(planner, table, relations)?;
    if restrictions
        .iter()
        .any(|one| one.subject == restriction::Target::Token)
    {
        return Err(CqlError::invalid(
            "The token function cannot be used in WHERE clauses for writes",
        ));
    }
    let plan = restriction::plan(table, &restrictions)?;
    if !plan.partitions.is_keys() {
        let named = |id: &&ColumnId| {
            restrictions.iter().any(|one| {
                one.subject == restriction::Target::Column(**id)
                    && matches!(
                        one.operator,
                        crate::cql::ast::data::Operator::Eq | crate::cql::ast::data::Operator::In
                    )
            })
        };
        let missing = table
            .partition_key
            .iter()
            .find(|id| !named(id))
            .unwrap_or(&table.partition_key[0]);
        return Err(missing_partition_key(table, *missing));
    }
    let filtered = plan
        .filters
        .0
        .iter()
        .flat_map(|filter| filter.columns())
        .collect::<Vec<_>>();
    if let Some(column) = filtered
        .iter()
        .find(|id| !table.columns[**id].kind.is_primary_key())
    {
        return Err(CqlError::invalid(format!(
            "Non PRIMARY KEY columns found in where clause: {}",
            table.columns[*column].name
        )));
    }
    if let Some(column) = filtered.first() {
        return Err(CqlError::invalid(format!(
            "PRIMARY KEY column \"{}\" cannot be restricted as preceding column is not restricted",
            table.columns[*column].name
        )));
    }
    Ok(plan)
}
