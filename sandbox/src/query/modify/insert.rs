//! Planning INSERT.

use std::sync::Arc;

use super::operation::Operation;
use super::{ModifyKind, ModifyPlan, condition, missing_clustering_key, missing_partition_key, plan_using};
use crate::cql::ast::data::{Insert, InsertSource};
use crate::cql::ast::term::Term;
use crate::error::CqlError;
use crate::query::restriction::{ClusteringPlan, KeyPart, PartitionPlan, find_column};
use crate::query::terms::{Expr, Planner, Receiver};
use crate::schema::{ColumnId, TableSchema};
use crate::types::CqlType;

pub(super) fn plan(
    planner: &mut Planner<'_>,
    table: &Arc<TableSchema>,
    insert: &Insert,
) -> Result<ModifyPlan, CqlError> {
    if table.is_counter() {
        return Err(CqlError::invalid(
            "INSERT statements are not allowed on counter tables, use UPDATE instead",
        ));
    }
    let (given, json) = match &insert.source {
        InsertSource::Values { columns, values } => (plan_values(planner, table, columns, values)?, None),
        InsertSource::Json { value, default_unset } => {
            let document = planner.plan(value, &Receiver::new("[json]", CqlType::Text))?;
            let first = planner.binds.len();
            let columns = (0..table.columns.len())
                .map(|id| (id, Expr::Marker(first + id)))
                .collect();
            (columns, Some((document, *default_unset)))
        }
    };
    let value_of = |id: &ColumnId| {
        given
            .iter()
            .find(|(column, _)| column == id)
            .map(|(_, expr)| expr.clone())
    };
    let mut partition = Vec::new();
    for id in &table.partition_key {
        let value = value_of(id).ok_or_else(|| missing_partition_key(table, *id))?;
        partition.push(KeyPart::One(value));
    }
    let clustering: Vec<_> = table
        .clustering_key
        .iter()
        .map_while(&value_of)
        .map(KeyPart::One)
        .collect();
    let operations: Vec<_> = given
        .iter()
        .filter(|(id, _)| !table.columns[*id].kind.is_primary_key())
        .map(|(id, expr)| (*id, Operation::Set(expr.clone())))
        .collect();
    let full = clustering.len() == table.clustering_key.len();
    let only_static = !operations.is_empty() && operations.iter().all(|(id, _)| super::is_static(table, *id));
    let some_given = table.clustering_key.iter().any(|id| value_of(id).is_some());
    if !full && (some_given || !only_static) {
        let given = table
            .clustering_key
            .iter()
            .take_while(|id| value_of(id).is_some())
            .count();
        return Err(missing_clustering_key(table, given));
    }
    let (timestamp, ttl) = plan_using(planner, table, &insert.using, &insert.condition)?;
    Ok(ModifyPlan {
        table: table.clone(),
        kind: ModifyKind::Insert,
        partitions: PartitionPlan::Keys(partition),
        clustering: ClusteringPlan::from_parts(clustering, full),
        operations,
        timestamp,
        ttl,
        condition: condition::plan(planner, table, &insert.condition)?,
        json,
    })
}

fn plan_values(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    columns: &[String],
    values: &[Term],
) -> Result<Vec<(ColumnId, Expr)>, CqlError> {
    if columns.len() != values.len() {
        return Err(CqlError::invalid("Unmatched column names/values"));
    }
    let mut planned: Vec<(ColumnId, Expr)> = Vec::with_capacity(columns.len());
    for (name, term) in columns.iter().zip(values) {
        let id = find_column(table, name)?;
        if planned.iter().any(|(have, _)| *have == id) {
            return Err(CqlError::invalid(format!(
                "The column names contains duplicates: {name}"
            )));
        }
        let receiver = Receiver::new(name.clone(), table.columns[id].ty.clone());
        planned.push((id, planner.plan(term, &receiver)?));
    }
    planned.sort_by_key(|(id, _)| *id);
    Ok(planned)
}
