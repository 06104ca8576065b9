//! WHERE clauses: relations to partitions, clustering ranges and filters.

mod clustering;
mod filter;
mod partition;

pub use clustering::ClusteringPlan;
pub use filter::{BoundFilters, Filter, FilterRow, Filters};
pub use partition::{KeyPart, PartitionPlan, Partitions};

use super::terms::{Expr, Planner, Receiver};
use crate::cql::ast::data::{Operator, Relation, RelationValue, Subject};
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::schema::{ColumnId, ColumnKind, TableSchema};
use crate::types::CqlType;
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

/// Looks up and plans the relations of a WHERE.
///
/// # Errors
/// Invalid: an unknown column, an operator that does not fit, ...
pub fn resolve(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    relations: &[Relation],
) -> Result<Vec<Restriction>, CqlError> {
    relations
        .iter()
        .map(|relation| resolve_one(planner, table, relation))
        .collect()
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

fn resolve_one(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    relation: &Relation,
) -> Result<Restriction, CqlError> {
    let (subject, receiver) = match &relation.subject {
        Subject::Column(name) => {
            let id = find_column(table, name)?;
            (Target::Column(id), column_receiver(table, id, relation.operator)?)
        }
        Subject::Token(names) => {
            let key: Vec<_> = table
                .partition_key
                .iter()
                .map(|id| &table.columns[*id].name)
                .collect();
            if !names.iter().eq(key) {
                return Err(CqlError::invalid(
                    "The token function arguments must be in the partition key order",
                ));
            }
            if matches!(
                relation.operator,
                Operator::In | Operator::Contains | Operator::Like | Operator::NotEq
            ) {
                return Err(CqlError::invalid("IN cannot be used with the token function"));
            }
            (
                Target::Token,
                Receiver::new("partition key token", CqlType::Bigint),
            )
        }
        Subject::Tuple(names) => return resolve_tuple(planner, table, names, relation),
        Subject::Element { column, key } => {
            let id = find_column(table, column)?;
            let CqlType::Map {
                key: key_type, value, ..
            } = &table.columns[id].ty
            else {
                return Err(CqlError::invalid(format!(
                    "Column {column} cannot be used as a map"
                )));
            };
            if relation.operator != Operator::Eq {
                return Err(CqlError::invalid(
                    "Only EQ relations are supported on map entries",
                ));
            }
            let key = planner.plan(
                key,
                &Receiver::new(format!("key({column})"), CqlType::clone(key_type)),
            )?;
            let receiver = Receiver::new(format!("value({column})"), CqlType::clone(value));
            (Target::Element(id, Box::new(ExprKey(key))), receiver)
        }
        Subject::Field { column, .. } => {
            return Err(CqlError::invalid(format!(
                "Field selection of {column} is not allowed in WHERE"
            )));
        }
    };
    let values = plan_values(planner, relation, &receiver)?;
    Ok(Restriction {
        subject,
        operator: relation.operator,
        values,
    })
}

/// What values of a relation on a column are checked against.
fn column_receiver(table: &TableSchema, id: ColumnId, operator: Operator) -> Result<Receiver, CqlError> {
    let column = &table.columns[id];
    let name = &column.name;
    let ty = match (operator, &column.ty) {
        (Operator::Contains, CqlType::List { element, .. } | CqlType::Set { element, .. }) => {
            return Ok(Receiver::new(format!("value({name})"), CqlType::clone(element)));
        }
        (Operator::Contains, CqlType::Map { value, .. }) => {
            return Ok(Receiver::new(format!("value({name})"), CqlType::clone(value)));
        }
        (Operator::ContainsKey, CqlType::Map { key, .. }) => {
            return Ok(Receiver::new(format!("key({name})"), CqlType::clone(key)));
        }
        (Operator::Contains, _) => {
            return Err(CqlError::invalid(format!(
                "Cannot use CONTAINS on non-collection column {name}"
            )));
        }
        (Operator::ContainsKey, _) => {
            return Err(CqlError::invalid(format!(
                "Cannot use CONTAINS KEY on non-map column {name}"
            )));
        }
        (Operator::NotEq, _) => {
            return Err(CqlError::invalid(format!(
                "Unsupported \"!=\" relation: {name} != ?"
            )));
        }
        (Operator::IsNotNull, _) => {
            return Err(CqlError::invalid(format!(
                "restriction '{name} IS NOT null' is only supported in materialized view creation"
            )));
        }
        (Operator::Like, CqlType::Text | CqlType::Ascii) => column.ty.clone(),
        (Operator::Like, _) => {
            return Err(CqlError::invalid(format!(
                "LIKE is allowed only on string types, which {name} is not"
            )));
        }
        (
            Operator::Less | Operator::LessOrEq | Operator::Greater | Operator::GreaterOrEq,
            CqlType::Duration,
        ) => {
            return Err(CqlError::invalid(
                "Slice restrictions are not supported on duration columns",
            ));
        }
        (_, ty) if ty.is_multi_cell() => {
            return Err(CqlError::invalid(format!(
                "Collection column '{name}' cannot be restricted by this relation"
            )));
        }
        (_, ty) => ty.clone(),
    };
    Ok(Receiver::new(name.clone(), ty))
}

fn plan_values(
    planner: &mut Planner<'_>,
    relation: &Relation,
    receiver: &Receiver,
) -> Result<RestrictionValues, CqlError> {
    Ok(match (&relation.value, relation.operator) {
        (RelationValue::None, _) => RestrictionValues::None,
        (RelationValue::One(term), Operator::In) => {
            let list = CqlType::List {
                element: std::sync::Arc::new(receiver.ty.clone()),
                frozen: true,
            };
            let receiver = Receiver::new(format!("in({})", receiver.name), list);
            RestrictionValues::List(planner.plan(term, &receiver)?)
        }
        (RelationValue::One(term), _) => RestrictionValues::One(planner.plan(term, receiver)?),
        (RelationValue::Many(terms), _) => {
            let terms: Result<Vec<_>, _> = terms.iter().map(|term| planner.plan(term, receiver)).collect();
            RestrictionValues::Many(terms?)
        }
    })
}

fn resolve_tuple(
    planner: &mut Planner<'_>,
    table: &TableSchema,
    names: &[String],
    relation: &Relation,
) -> Result<Restriction, CqlError> {
    let ids: Result<Vec<_>, _> = names.iter().map(|name| find_column(table, name)).collect();
    let ids = ids?;
    for (i, id) in ids.iter().enumerate() {
        let name = &table.columns[*id].name;
        let Some(position) = table.clustering_key.iter().position(|key| key == id) else {
            return Err(CqlError::invalid(format!(
                "Multi-column relations can only be applied to clustering columns but was applied to: {name}"
            )));
        };
        let first = table
            .clustering_key
            .iter()
            .position(|key| *key == ids[0])
            .unwrap_or(position);
        if ids[..i].contains(id) {
            return Err(CqlError::invalid(format!(
                "Column \"{name}\" appeared twice in a relation"
            )));
        }
        if position != first + i {
            return Err(CqlError::invalid(
                "Clustering columns must appear in the PRIMARY KEY order in multi-column relations",
            ));
        }
    }
    let types: Vec<_> = ids.iter().map(|id| table.columns[*id].ty.clone()).collect();
    let name = format!("({})", names.join(","));
    let receiver = Receiver::new(name, CqlType::Tuple(types.clone().into()));
    let mut component = |term: &crate::cql::ast::term::Term| match term {
        crate::cql::ast::term::Term::Tuple(items) if items.len() == ids.len() => {
            let planned: Result<Vec<_>, _> = items
                .iter()
                .zip(&ids)
                .map(|(item, id)| {
                    let column = &table.columns[*id];
                    planner.plan(item, &Receiver::new(column.name.clone(), column.ty.clone()))
                })
                .collect();
            planned.map(TupleExpr::Components)
        }
        crate::cql::ast::term::Term::Tuple(items) => Err(CqlError::invalid(format!(
            "Expected {} elements in value tuple, but got {}",
            ids.len(),
            items.len()
        ))),
        other => planner.plan(other, &receiver).map(TupleExpr::Whole),
    };
    let values = match (&relation.value, relation.operator) {
        (RelationValue::Many(terms), Operator::In) => {
            RestrictionValues::Tuples(terms.iter().map(&mut component).collect::<Result<_, _>>()?)
        }
        (RelationValue::One(_), Operator::In) => {
            return resolve_tuple_in_marker(planner, relation, ids, receiver);
        }
        (
            RelationValue::One(term),
            Operator::Eq | Operator::Less | Operator::LessOrEq | Operator::Greater | Operator::GreaterOrEq,
        ) => match component(term)? {
            TupleExpr::Components(components) => RestrictionValues::Tuple(components),
            TupleExpr::Whole(expr) => RestrictionValues::Tuples(vec![TupleExpr::Whole(expr)]),
        },
        _ => {
            return Err(CqlError::invalid(format!(
                "{:?} cannot be used for multi-column relations",
                relation.operator
            )));
        }
    };
    Ok(Restriction {
        subject: Target::Tuple(ids),
        operator: relation.operator,
        values,
    })
}

/// `(a, b) IN ?`.
fn resolve_tuple_in_marker(
    planner: &mut Planner<'_>,
    relation: &Relation,
    ids: Vec<ColumnId>,
    receiver: Receiver,
) -> Result<Restriction, CqlError> {
    let values = plan_values(planner, relation, &receiver)?;
    Ok(Restriction {
        subject: Target::Tuple(ids),
        operator: relation.operator,
        values,
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
