//! Relations of a WHERE with their columns looked up and their terms planned.

use super::{ExprKey, Restriction, RestrictionValues, Target, TupleExpr, find_column};
use crate::cql::ast::data::{Operator, Relation, RelationValue, Subject};
use crate::cql::ast::term::Term;
use crate::error::CqlError;
use crate::query::terms::{Planner, Receiver};
use crate::schema::{ColumnId, TableSchema};
use crate::types::CqlType;

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
    if names.is_empty() {
        return Err(CqlError::invalid(
            "A multi-column relation names at least one column",
        ));
    }
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
    let mut component = |term: &Term| match term {
        Term::Tuple(items) if items.len() == ids.len() => {
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
        Term::Tuple(items) => Err(CqlError::invalid(format!(
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
