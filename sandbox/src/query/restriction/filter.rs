//! Restrictions that are checked row by row.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{Restriction, RestrictionValues, Target, TupleExpr, required};
use crate::cql::ast::data::Operator;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::schema::{ColumnId, TableSchema};
use crate::storage::ordered;
use crate::storage::view::Slot;
use crate::types::function::FunctionContext;
use crate::types::{CqlType, composite};

#[derive(Debug, Clone)]
pub struct Filter(Restriction);

#[derive(Debug, Clone, Default)]
pub struct Filters(pub Vec<Filter>);

/// Filters of one execution: values are evaluated once, not per row.
#[derive(Debug, Default)]
pub struct BoundFilters(Vec<BoundFilter>);

#[derive(Debug)]
struct BoundFilter {
    target: BoundTarget,
    operator: Operator,
    /// One tuple per choice, one value per column.
    choices: Vec<Vec<Bytes>>,
}

#[derive(Debug)]
enum BoundTarget {
    Columns(Vec<ColumnId>),
    Element(ColumnId, Bytes),
}

/// What filters look at.
pub struct FilterRow<'a> {
    pub table: &'a TableSchema,
    pub slots: &'a [Slot<'a>],
    pub now_seconds: i64,
}

impl Filter {
    pub(super) fn new(restriction: Restriction) -> Self {
        Self(restriction)
    }

    /// The one column it is about.
    pub fn column(&self) -> Option<ColumnId> {
        match self.0.subject {
            Target::Column(id) | Target::Element(id, _) => Some(id),
            _ => None,
        }
    }

    pub fn columns(&self) -> Vec<ColumnId> {
        match &self.0.subject {
            Target::Column(id) | Target::Element(id, _) => vec![*id],
            Target::Tuple(ids) => ids.clone(),
            Target::Token => Vec::new(),
        }
    }

    pub fn is_equality(&self) -> bool {
        matches!(
            self.0.operator,
            Operator::Eq | Operator::Contains | Operator::ContainsKey
        )
    }
}

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// Invalid: null or unset values.
    pub fn bind(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<BoundFilters, CqlError> {
        self.0
            .iter()
            .map(|filter| bind(&filter.0, table, values, context))
            .collect::<Result<_, _>>()
            .map(BoundFilters)
    }
}

impl BoundFilters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn accept(&self, row: &FilterRow<'_>) -> bool {
        self.0.iter().all(|filter| filter.accepts(row))
    }
}

impl BoundFilter {
    fn accepts(&self, row: &FilterRow<'_>) -> bool {
        match &self.target {
            BoundTarget::Element(id, key) => {
                let CqlType::Map {
                    key: key_type, value, ..
                } = &row.table.columns[*id].ty
                else {
                    return false;
                };
                let found = entries(&row.slots[*id], row.now_seconds)
                    .into_iter()
                    .find(|(have, _)| ordered::compare(key_type, have, key).is_eq());
                found.is_some_and(|(_, have)| ordered::compare(value, have, &self.choices[0][0]).is_eq())
            }
            BoundTarget::Columns(ids) => match self.operator {
                Operator::Contains | Operator::ContainsKey => self.contains(ids[0], row),
                _ => self.compares(ids, row),
            },
        }
    }

    fn compares(&self, ids: &[ColumnId], row: &FilterRow<'_>) -> bool {
        let have: Option<Vec<&[u8]>> = ids.iter().map(|id| row.slots[*id].bytes()).collect();
        let Some(have) = have else { return false };
        if self.operator == Operator::Like {
            return like(have[0], &self.choices[0][0]);
        }
        self.choices.iter().any(|choice| {
            let order = ids
                .iter()
                .zip(&have)
                .zip(choice)
                .map(|((id, have), want)| ordered::compare(&row.table.columns[*id].ty, have, want))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal);
            match self.operator {
                Operator::Eq | Operator::In => order.is_eq(),
                Operator::NotEq => order.is_ne(),
                Operator::Less => order.is_lt(),
                Operator::LessOrEq => order.is_le(),
                Operator::Greater => order.is_gt(),
                Operator::GreaterOrEq => order.is_ge(),
                _ => false,
            }
        })
    }

    fn contains(&self, id: ColumnId, row: &FilterRow<'_>) -> bool {
        let want = &self.choices[0][0];
        let (ty, by_key) = match &row.table.columns[id].ty {
            CqlType::Map { key, .. } if self.operator == Operator::ContainsKey => (key, true),
            CqlType::Map { value, .. } => (value, false),
            CqlType::Set { element, .. } => (element, true),
            CqlType::List { element, .. } => (element, false),
            _ => return false,
        };
        let slot = &row.slots[id];
        if let (Slot::Atomic { value, .. } | Slot::Key(value), CqlType::Set { .. } | CqlType::List { .. }) =
            (slot, &row.table.columns[id].ty)
        {
            let items = composite::split_list(value).unwrap_or_default();
            return items
                .into_iter()
                .any(|item| ordered::compare(ty, item, want).is_eq());
        }
        entries(slot, row.now_seconds)
            .into_iter()
            .any(|(key, value)| ordered::compare(ty, if by_key { key } else { value }, want).is_eq())
    }
}

/// Path and value of each element of a map or multi-cell collection.
fn entries<'a>(slot: &'a Slot<'a>, now_seconds: i64) -> Vec<(&'a [u8], &'a [u8])> {
    match slot {
        Slot::Multi(multi) => multi
            .live(now_seconds)
            .map(|(path, _, value)| (&path[..], &value[..]))
            .collect(),
        Slot::Atomic { value, .. } | Slot::Key(value) => composite::split_map(value).unwrap_or_default(),
        Slot::Absent => Vec::new(),
    }
}

fn bind(
    restriction: &Restriction,
    table: &TableSchema,
    values: &[BindValue],
    context: &FunctionContext,
) -> Result<BoundFilter, CqlError> {
    let name = match &restriction.subject {
        Target::Column(id) | Target::Element(id, _) => table.columns[*id].name.as_str(),
        _ => "clustering key",
    };
    let one = |expr| required(expr, values, context, name);
    let tuple = |expr| {
        let whole = one(expr)?;
        let components = composite::split_tuple(&whole, usize::MAX)
            .map_err(|error| CqlError::invalid(error.to_string()))?;
        Ok::<_, CqlError>(
            components
                .into_iter()
                .flatten()
                .map(|item| whole.slice_ref(item))
                .collect(),
        )
    };
    let choices: Vec<Vec<Bytes>> = match &restriction.values {
        RestrictionValues::None => Vec::new(),
        RestrictionValues::One(expr) => vec![vec![one(expr)?]],
        RestrictionValues::Many(exprs) => exprs
            .iter()
            .map(|expr| Ok(vec![one(expr)?]))
            .collect::<Result<_, CqlError>>()?,
        RestrictionValues::List(expr) => {
            let list = one(expr)?;
            let items = composite::split_list(&list).map_err(|error| CqlError::invalid(error.to_string()))?;
            items.into_iter().map(|item| vec![list.slice_ref(item)]).collect()
        }
        RestrictionValues::Tuple(exprs) => vec![exprs.iter().map(one).collect::<Result<_, _>>()?],
        RestrictionValues::Tuples(tuples) => tuples
            .iter()
            .map(|choice| match choice {
                TupleExpr::Components(exprs) => exprs.iter().map(one).collect(),
                TupleExpr::Whole(expr) => tuple(expr),
            })
            .collect::<Result<_, _>>()?,
    };
    let target = match &restriction.subject {
        Target::Column(id) => BoundTarget::Columns(vec![*id]),
        Target::Tuple(ids) => BoundTarget::Columns(ids.clone()),
        Target::Element(id, key) => BoundTarget::Element(*id, one(&key.0)?),
        Target::Token => return Err(CqlError::server("a token restriction is no filter")),
    };
    Ok(BoundFilter {
        target,
        operator: restriction.operator,
        choices,
    })
}

/// SQL's LIKE with `%` for any bytes.
fn like(value: &[u8], pattern: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'%');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = value.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle.iter().filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == *part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
