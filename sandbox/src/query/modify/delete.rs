//! Planning DELETE.

use std::sync::Arc;

use super::operation::Operation;
use super::update::plan_where;
use super::{ModifyKind, ModifyPlan, change, condition, is_static, missing_clustering_key, plan_using};
use crate::cql::ast::data::{Condition, Delete, DeleteTarget};
use crate::error::CqlError;
use crate::query::restriction::find_column;
use crate::query::terms::Planner;
use crate::schema::{ColumnId, TableSchema};

pub(super) fn plan(
    planner: &mut Planner<'_>,
    table: &Arc<TableSchema>,
    delete: &Delete,
) -> Result<ModifyPlan, CqlError> {
    let (timestamp, _) = plan_using(planner, table, &delete.using, &delete.condition)?;
    let mut operations: Vec<(ColumnId, Operation)> = Vec::new();
    for target in &delete.targets {
        let name = match target {
            DeleteTarget::Column(name) => name,
            DeleteTarget::Element { column, .. } | DeleteTarget::Field { column, .. } => column,
        };
        let id = find_column(table, name)?;
        if table.columns[id].kind.is_primary_key() {
            return Err(CqlError::invalid(format!(
                "Invalid identifier {name} for deletion (should not be a PRIMARY KEY part)"
            )));
        }
        operations.push((id, change::plan_deletion(planner, &table.columns[id], target)?));
    }
    operations.sort_by_key(|(id, _)| *id);
    let filter = plan_where(planner, table, &delete.filter)?;
    let clustering = &filter.clustering;
    let only_static = !operations.is_empty() && operations.iter().all(|(id, _)| is_static(table, *id));
    if only_static && clustering.is_restricted() && delete.condition == Condition::None {
        return Err(CqlError::invalid(
            "Invalid restrictions on clustering columns since the DELETE statement modifies only static columns",
        ));
    }
    if !operations.is_empty() && !only_static && !clustering.is_full() {
        if clustering.has_slice() {
            return Err(CqlError::invalid(
                "Range deletions are not supported for specific columns",
            ));
        }
        return Err(missing_clustering_key(table, clustering.prefix_len()));
    }
    condition::check_keys(&delete.condition, &filter)?;
    let condition = condition::plan(planner, table, &delete.condition)?;
    let about_rows = !only_static || !condition.only_static(table);
    if delete.condition != Condition::None && !filter.clustering.is_full() && about_rows {
        return Err(CqlError::invalid(
            "DELETE statements must restrict all PRIMARY KEY columns with equality relations in order to \
             delete non static columns",
        ));
    }
    Ok(ModifyPlan {
        table: table.clone(),
        kind: ModifyKind::Delete,
        partitions: filter.partitions,
        clustering: filter.clustering,
        operations,
        timestamp,
        ttl: None,
        condition,
        json: None,
    })
}
