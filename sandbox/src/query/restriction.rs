//! WHERE clauses: relations to partitions, clustering ranges and filters.

mod clustering;
mod filter;
mod partition;
mod resolve;

pub use clustering::ClusteringPlan;
pub use filter::{BoundFilters, Filter, FilterRow, Filters};
pub use partition::{KeyPart, PartitionPlan, Partitions};
pub use resolve::resolve;

use super::terms::Expr;
use crate::cql::ast::data::Operator;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::types::function::FunctionContext;

/// One relation with names looked up and terms planned.
#[derive(Debug, Clone)]
pub struct Restriction {
    pub subject: Target,
    pub operator: Operator,
    pub values: RestrictionValues,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Column(ColumnId),
    Token,
    /// Several clustering columns.
    Tuple(Vec<ColumnId>),
    /// `m['k']`; the key.
    Element(ColumnId, Box<ExprKey>),
}

/// An expression as part of a target.
#[derive(Debug, Clone)]
pub struct ExprKey(pub Expr);

impl PartialEq for ExprKey {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

#[derive(Debug, Clone)]
pub enum RestrictionValues {
    None,
    One(Expr),
    /// `IN (a, b)`.
    Many(Vec<Expr>),
    /// `IN ?`: one serialized list.
    List(Expr),
    /// One tuple, its components planned one by one.
    Tuple(Vec<Expr>),
    /// `(a, b) IN ((1, 2), (3, 4))`.
    Tuples(Vec<TupleExpr>),
}

#[derive(Debug, Clone)]
pub enum TupleExpr {
    Components(Vec<Expr>),
    /// A marker or anything else that yields a serialized tuple.
    Whole(Expr),
}

/// Everything that a WHERE says about which rows are meant.
#[derive(Debug, Clone)]
pub struct WherePlan {
    pub partitions: PartitionPlan,
    pub clustering: ClusteringPlan,
    pub filters: Filters,
    /// True if rows have to be looked at one by one, which takes ALLOW FILTERING.
    pub needs_filtering: bool,
}

/// Sorts restrictions into keys, ranges and filters.
///
/// # Errors
/// Invalid: contradicting restrictions.
pub fn plan(table: &TableSchema, restrictions: &[Restriction]) -> Result<WherePlan, CqlError> {
    check_repeated(table, restrictions)?;
    let mut rest: Vec<&Restriction> = restrictions.iter().collect();
    let partitions = PartitionPlan::take(table, &mut rest)?;
    let partition_filtered = rest.iter().any(|restriction| {
        matches!(restriction.subject, Target::Column(id) if table.columns[id].kind == ColumnKind::PartitionKey)
    });
    let clustering = ClusteringPlan::take(table, &mut rest)?;
    let mut filters: Vec<_> = rest.into_iter().cloned().map(Filter::new).collect();
    let indexed = |filter: &Filter| {
        filter.column().is_some_and(|id| {
            filter.is_equality() && table.indexes.values().any(|name| *name == table.columns[id].name)
        })
    };
    let by_index = filters.iter().any(indexed);
    let unindexed = filters.iter().filter(|filter| !indexed(filter)).count();
    filters.extend(clustering.residual());
    let scans_with_range = !partitions.is_keys() && clustering.is_restricted();
    Ok(WherePlan {
        needs_filtering: partition_filtered && !by_index || unindexed > 0 || scans_with_range && !by_index,
        partitions,
        clustering,
        filters: Filters(filters),
    })
}

/// One column may have a lower and an upper bound, else one restriction.
fn check_repeated(table: &TableSchema, restrictions: &[Restriction]) -> Result<(), CqlError> {
    for (i, restriction) in restrictions.iter().enumerate() {
        for earlier in &restrictions[..i] {
            if earlier.subject != restriction.subject {
                continue;
            }
            let name = match &restriction.subject {
                Target::Column(id) => table.columns[*id].name.clone(),
                Target::Token => "token".to_owned(),
                Target::Tuple(ids) => {
                    let names: Vec<_> = ids.iter().map(|id| table.columns[*id].name.clone()).collect();
                    names.join(", ")
                }
                Target::Element(..) => continue,
            };
            let exclusive = |operator| matches!(operator, Operator::Eq | Operator::In);
            if exclusive(earlier.operator) || exclusive(restriction.operator) {
                return Err(CqlError::invalid(format!(
                    "{name} cannot be restricted by more than one relation if it includes an Equal"
                )));
            }
            if is_lower(earlier.operator) && is_lower(restriction.operator)
                || is_upper(earlier.operator) && is_upper(restriction.operator)
            {
                return Err(CqlError::invalid(format!(
                    "More than one restriction was found for the {} bound on {name}",
                    if is_lower(restriction.operator) {
                        "start"
                    } else {
                        "end"
                    }
                )));
            }
        }
    }
    Ok(())
}

fn is_lower(operator: Operator) -> bool {
    matches!(operator, Operator::Greater | Operator::GreaterOrEq)
}

fn is_upper(operator: Operator) -> bool {
    matches!(operator, Operator::Less | Operator::LessOrEq)
}

/// A column by name.
///
/// # Errors
/// Invalid.
pub fn find_column(table: &TableSchema, name: &str) -> Result<ColumnId, CqlError> {
    table.column_id(name).ok_or_else(|| {
        CqlError::invalid(format!(
            "Undefined column name {name} in table {}.{}",
            table.keyspace, table.name
        ))
    })
}

/// A value that may be neither null nor unset.
fn required(
    expr: &Expr,
    values: &[BindValue],
    context: &FunctionContext,
    column: &str,
) -> Result<bytes::Bytes, CqlError> {
    match expr.evaluate(values, context)? {
        BindValue::Value(value) => Ok(value),
        BindValue::Null => Err(CqlError::invalid(format!(
            "Invalid null value in condition for column {column}"
        ))),
        BindValue::Unset => Err(CqlError::invalid(format!(
            "Invalid unset value for column {column}"
        ))),
    }
}
