//! Which partitions a WHERE means.

use std::ops::Bound;

use bytes::Bytes;

use super::{Restriction, RestrictionValues, Target, is_lower, is_upper, required};
use crate::cql::ast::data::Operator;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::terms::Expr;
use crate::schema::TableSchema;
use crate::storage::mutation::PartitionKey;
use crate::storage::ordered;
use crate::storage::table::RingRange;
use crate::types::composite;
use crate::types::function::FunctionContext;

/// ScyllaDB's `max_partition_key_restrictions_per_query`, and the same for clustering keys.
pub(super) const MAX_IN_PRODUCT: usize = 100;

#[derive(Debug, Clone)]
pub enum PartitionPlan {
    /// One per partition key column.
    Keys(Vec<KeyPart>),
    /// A stretch of the ring by token: value and whether it is included.
    Ring {
        lower: Option<(Expr, bool)>,
        upper: Option<(Expr, bool)>,
    },
}

/// The values that one key column may have.
#[derive(Debug, Clone)]
pub enum KeyPart {
    One(Expr),
    Many(Vec<Expr>),
    /// One serialized list.
    List(Expr),
}

/// The partitions of one execution.
#[derive(Debug, Clone)]
pub enum Partitions {
    /// In the order of their values, column by column, each once: ScyllaDB sorts the values of an IN before it combines
    /// them, and reads the partitions in that order (`cql3/restrictions/statement_restrictions.cc`, `to_sorted_vector`
    /// and `partition_ranges_from_singles`; `service/storage_proxy.cc`, `query_singular`).
    Keys(Vec<PartitionKey>),
    Ring(RingRange),
}

impl PartitionPlan {
    /// Takes what says which partitions are meant out of `rest`.
    pub(super) fn take(table: &TableSchema, rest: &mut Vec<&Restriction>) -> Result<Self, CqlError> {
        let parts: Option<Vec<_>> = table
            .partition_key
            .iter()
            .map(|id| {
                rest.iter()
                    .find(|one| one.subject == Target::Column(*id))
                    .and_then(|one| key_part(one))
            })
            .collect();
        let tokens: Vec<_> = rest
            .iter()
            .copied()
            .filter(|one| one.subject == Target::Token)
            .collect();
        if let Some(parts) = parts {
            if !tokens.is_empty() {
                return Err(CqlError::invalid(
                    "Columns cannot be restricted by both a normal relation and a token relation",
                ));
            }
            rest.retain(
                |one| !matches!(one.subject, Target::Column(id) if table.partition_key.contains(&id)),
            );
            return Ok(PartitionPlan::Keys(parts));
        }
        rest.retain(|one| one.subject != Target::Token);
        let (mut lower, mut upper) = (None, None);
        for token in tokens {
            let RestrictionValues::One(expr) = &token.values else {
                continue;
            };
            let inclusive = !matches!(token.operator, Operator::Less | Operator::Greater);
            if token.operator == Operator::Eq || is_lower(token.operator) {
                lower = Some((expr.clone(), inclusive));
            }
            if token.operator == Operator::Eq || is_upper(token.operator) {
                upper = Some((expr.clone(), inclusive));
            }
        }
        Ok(PartitionPlan::Ring { lower, upper })
    }

    pub fn is_keys(&self) -> bool {
        matches!(self, PartitionPlan::Keys(_))
    }

    /// True if more than one partition may be read.
    pub fn may_be_several(&self) -> bool {
        match self {
            PartitionPlan::Keys(parts) => parts.iter().any(|part| !matches!(part, KeyPart::One(_))),
            PartitionPlan::Ring { .. } => true,
        }
    }

    /// For each partition key column the marker that gives it, if all are given by markers: routing.
    pub fn markers(&self) -> Option<Vec<u16>> {
        let PartitionPlan::Keys(parts) = self else {
            return None;
        };
        parts
            .iter()
            .map(|part| match part {
                KeyPart::One(Expr::Marker(index)) => u16::try_from(*index).ok(),
                _ => None,
            })
            .collect()
    }

    /// # Errors
    /// Invalid: null, unset, empty or oversized keys; Server: too many.
    pub fn evaluate(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Partitions, CqlError> {
        match self {
            PartitionPlan::Keys(parts) => keys(table, parts, values, context).map(Partitions::Keys),
            PartitionPlan::Ring { lower, upper } => {
                let token = |bound: &Option<(Expr, bool)>| {
                    let Some((expr, inclusive)) = bound else {
                        return Ok(None);
                    };
                    let value = required(expr, values, context, "partition key token")?;
                    let token = value
                        .first_chunk::<8>()
                        .map_or(i64::MIN, |bytes| i64::from_be_bytes(*bytes));
                    Ok::<_, CqlError>(Some((token, *inclusive)))
                };
                Ok(Partitions::Ring(ring_range(token(lower)?, token(upper)?)))
            }
        }
    }
}

impl KeyPart {
    pub(super) fn evaluate(
        &self,
        values: &[BindValue],
        context: &FunctionContext,
        column: &str,
    ) -> Result<Vec<Bytes>, CqlError> {
        match self {
            KeyPart::One(expr) => Ok(vec![required(expr, values, context, column)?]),
            KeyPart::Many(exprs) => exprs
                .iter()
                .map(|expr| required(expr, values, context, column))
                .collect(),
            KeyPart::List(expr) => {
                let list = required(expr, values, context, column)?;
                let items = composite::split_list(&list)
                    .map_err(|error| CqlError::invalid(format!("Invalid list for in({column}): {error}")))?;
                Ok(items.into_iter().map(|item| list.slice_ref(item)).collect())
            }
        }
    }
}

pub(super) fn key_part(restriction: &Restriction) -> Option<KeyPart> {
    match (restriction.operator, &restriction.values) {
        (Operator::Eq, RestrictionValues::One(expr)) => Some(KeyPart::One(expr.clone())),
        (Operator::In, RestrictionValues::Many(exprs)) => Some(KeyPart::Many(exprs.clone())),
        (Operator::In, RestrictionValues::List(expr)) => Some(KeyPart::List(expr.clone())),
        _ => None,
    }
}

/// All combinations of the values of each part, the last part changing fastest.
///
/// # Errors
/// Server, as ScyllaDB has it: more than `MAX_IN_PRODUCT`.
pub(super) fn product(parts: Vec<Vec<Bytes>>, what: &str) -> Result<Vec<Vec<Bytes>>, CqlError> {
    let size = parts
        .iter()
        .try_fold(1usize, |size, part| size.checked_mul(part.len()));
    if size.is_none_or(|size| size > MAX_IN_PRODUCT) {
        return Err(CqlError::server(format!(
            "size of {what} IN list or {what} cartesian product of IN list {} is greater than maximum {MAX_IN_PRODUCT}",
            size.unwrap_or(usize::MAX)
        )));
    }
    let mut combinations = vec![Vec::with_capacity(parts.len())];
    for part in parts {
        combinations = combinations
            .into_iter()
            .flat_map(|head| {
                part.iter().map(move |value| {
                    let mut longer = head.clone();
                    longer.push(value.clone());
                    longer
                })
            })
            .collect();
    }
    Ok(combinations)
}

fn keys(
    table: &TableSchema,
    parts: &[KeyPart],
    values: &[BindValue],
    context: &FunctionContext,
) -> Result<Vec<PartitionKey>, CqlError> {
    let mut columns = Vec::with_capacity(parts.len());
    for (part, id) in parts.iter().zip(&table.partition_key) {
        let column = &table.columns[*id];
        let mut choices = part.evaluate(values, context, &column.name)?;
        for value in &choices {
            check_size(value, parts.len() == 1)?;
        }
        choices.sort_by(|a, b| ordered::compare(&column.ty, a, b));
        choices.dedup();
        columns.push(choices);
    }
    if let [only] = &columns[..]
        && let [value] = &only[..]
    {
        return Ok(vec![table.make_partition_key(std::slice::from_ref(value))]);
    }
    let combined = product(columns, "partition-key")?;
    Ok(combined
        .iter()
        .map(|values| table.make_partition_key(values))
        .collect())
}

fn check_size(value: &Bytes, alone: bool) -> Result<(), CqlError> {
    if alone && value.is_empty() {
        return Err(CqlError::invalid("Key may not be empty"));
    }
    if value.len() > usize::from(u16::MAX) {
        return Err(CqlError::invalid(format!(
            "Key length of {} is longer than maximum of {}",
            value.len(),
            u16::MAX
        )));
    }
    Ok(())
}

fn ring_range(lower: Option<(i64, bool)>, upper: Option<(i64, bool)>) -> RingRange {
    let start = match lower {
        None => Bound::Unbounded,
        Some((token, true)) => Bound::Included(PartitionKey::first_of(token)),
        Some((i64::MAX, false)) => Bound::Excluded(PartitionKey::last_of_ring()),
        Some((token, false)) => Bound::Included(PartitionKey::first_of(token + 1)),
    };
    let end = match upper {
        None | Some((i64::MAX, true)) => Bound::Unbounded,
        Some((token, true)) => Bound::Excluded(PartitionKey::first_of(token + 1)),
        Some((token, false)) => Bound::Excluded(PartitionKey::first_of(token)),
    };
    (start, end)
}
