//! Which rows of a partition a WHERE means, as far as clustering order can tell.

use bytes::Bytes;

use super::partition::{KeyPart, key_part, product};
use super::{Filter, Restriction, RestrictionValues, Target, TupleExpr, is_lower, is_upper, required};
use crate::cql::ast::data::Operator;
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::terms::Expr;
use crate::schema::{ColumnKind, TableSchema};
use crate::storage::mutation::{Bound, ClusteringKey};
use crate::storage::ordered;
use crate::storage::partition::byte_range;
use crate::storage::row_map::ByteRange;
use crate::types::composite;
use crate::types::function::FunctionContext;

/// Equalities on the first clustering columns, then at most one slice.
#[derive(Debug, Clone)]
pub struct ClusteringPlan {
    prefix: Vec<PrefixPart>,
    slice: Option<Slice>,
    /// Restrictions that the slice covers only roughly (columns of both directions).
    rough: Vec<Restriction>,
    /// The prefix names every clustering column.
    full: bool,
}

#[derive(Debug, Clone)]
enum PrefixPart {
    Column(KeyPart),
    Tuples(usize, RestrictionValues),
}

#[derive(Debug, Clone, Default)]
struct Slice {
    descending: bool,
    /// In the order of values, not of rows: values and whether they are included.
    lower: Option<(SliceValues, bool)>,
    upper: Option<(SliceValues, bool)>,
}

#[derive(Debug, Clone)]
enum SliceValues {
    Components(Vec<Expr>),
    /// A serialized tuple of so many components.
    Whole(Expr, usize),
}

/// First and last key or prefix; None is open.
pub(crate) type KeyBounds = (Option<Bound>, Option<Bound>);

impl ClusteringPlan {
    /// Takes what clustering order can tell out of `rest`.
    pub(super) fn take(table: &TableSchema, rest: &mut Vec<&Restriction>) -> Result<Self, CqlError> {
        let mut plan = Self {
            prefix: Vec::new(),
            slice: None,
            rough: Vec::new(),
            full: false,
        };
        let mut position = 0;
        while let Some(&id) = table.clustering_key.get(position) {
            let starts_here = |one: &&Restriction| match &one.subject {
                Target::Column(column) => *column == id,
                Target::Tuple(columns) => columns[0] == id,
                _ => false,
            };
            let equality = rest
                .iter()
                .position(|one| starts_here(one) && matches!(one.operator, Operator::Eq | Operator::In));
            let Some(found) = equality else {
                plan.take_slice(table, rest, starts_here);
                break;
            };
            let restriction = rest.remove(found);
            match (&restriction.subject, key_part(restriction)) {
                (Target::Column(_), Some(part)) => {
                    plan.prefix.push(PrefixPart::Column(part));
                    position += 1;
                }
                (Target::Tuple(columns), _) => {
                    plan.prefix
                        .push(PrefixPart::Tuples(columns.len(), restriction.values.clone()));
                    position += columns.len();
                }
                _ => {
                    return Err(CqlError::invalid(
                        "Unsupported restriction on a clustering column",
                    ));
                }
            }
        }
        plan.full = position == table.clustering_key.len();
        Ok(plan)
    }

    /// Keys given column by column, as INSERT does; all of them or none.
    pub fn from_parts(parts: Vec<KeyPart>, full: bool) -> Self {
        Self {
            prefix: parts.into_iter().map(PrefixPart::Column).collect(),
            slice: None,
            rough: Vec::new(),
            full,
        }
    }

    pub fn is_restricted(&self) -> bool {
        !self.prefix.is_empty() || self.slice.is_some()
    }

    /// True if every clustering column is given: single rows are meant.
    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn has_slice(&self) -> bool {
        self.slice.is_some()
    }

    /// How many leading clustering columns are given by equality.
    pub fn prefix_len(&self) -> usize {
        self.prefix
            .iter()
            .map(|part| match part {
                PrefixPart::Column(_) => 1,
                PrefixPart::Tuples(count, _) => *count,
            })
            .sum()
    }

    /// True if a leading column is restricted by IN.
    pub fn has_in(&self) -> bool {
        self.prefix.iter().any(|part| match part {
            PrefixPart::Column(part) => !matches!(part, KeyPart::One(_)),
            PrefixPart::Tuples(_, values) => {
                matches!(values, RestrictionValues::Tuples(_) | RestrictionValues::List(_))
            }
        })
    }

    pub(super) fn residual(&self) -> impl Iterator<Item = Filter> + '_ {
        self.rough.iter().cloned().map(Filter::new)
    }

    /// The keys of single rows in clustering order; every clustering column must be given.
    ///
    /// # Errors
    /// Invalid: null or unset values; Server: too many.
    pub fn keys(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Vec<ClusteringKey>, CqlError> {
        let mut keys: Vec<_> = self
            .prefixes(table, values, context)?
            .iter()
            .map(|values| make_key(table, values))
            .collect();
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// Bounds in clustering order, disjoint and ascending.
    ///
    /// # Errors
    /// As `keys`.
    pub fn bounds(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Vec<KeyBounds>, CqlError> {
        let mut prefixes = self.prefixes(table, values, context)?;
        prefixes.sort_by_cached_key(|values| make_key(table, values));
        prefixes.dedup_by_key(|values| make_key(table, values));
        let Some(slice) = &self.slice else {
            let whole = |values: &Vec<Bytes>| {
                let bound = (!values.is_empty()).then(|| bound(table, values, true));
                (bound.clone(), bound)
            };
            return Ok(prefixes.iter().map(whole).collect());
        };
        let lower = slice
            .lower
            .as_ref()
            .map(|(bound, included)| Ok::<_, CqlError>((bound.evaluate(values, context)?, *included)));
        let upper = slice
            .upper
            .as_ref()
            .map(|(bound, included)| Ok::<_, CqlError>((bound.evaluate(values, context)?, *included)));
        let (mut first, mut last) = (lower.transpose()?, upper.transpose()?);
        if slice.descending {
            std::mem::swap(&mut first, &mut last);
        }
        let with_prefix = |prefix: &Vec<Bytes>, end: &Option<(Vec<Bytes>, bool)>| match end {
            Some((values, included)) => Some(bound(table, &[&prefix[..], &values[..]].concat(), *included)),
            None => (!prefix.is_empty()).then(|| bound(table, prefix, true)),
        };
        Ok(prefixes
            .iter()
            .map(|prefix| (with_prefix(prefix, &first), with_prefix(prefix, &last)))
            .collect())
    }

    /// The same as byte ranges.
    ///
    /// # Errors
    /// As `keys`.
    pub fn ranges(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Vec<ByteRange>, CqlError> {
        if !self.is_restricted() {
            return Ok(vec![ByteRange::default()]);
        }
        let bounds = self.bounds(table, values, context)?;
        Ok(bounds
            .iter()
            .map(|(start, end)| byte_range(start.as_ref(), end.as_ref()))
            .collect())
    }

    fn take_slice(
        &mut self,
        table: &TableSchema,
        rest: &mut Vec<&Restriction>,
        starts_here: impl Fn(&&Restriction) -> bool,
    ) {
        let is_slice =
            |one: &&Restriction| starts_here(one) && (is_lower(one.operator) || is_upper(one.operator));
        let taken: Vec<_> = rest.iter().copied().filter(is_slice).collect();
        if taken.is_empty() {
            return;
        }
        rest.retain(|one| !is_slice(one));
        let mut slice = Slice::default();
        for restriction in taken {
            let columns = match &restriction.subject {
                Target::Tuple(columns) => columns.clone(),
                Target::Column(column) => vec![*column],
                _ => continue,
            };
            let descending =
                |id: &usize| table.columns[*id].kind == ColumnKind::Clustering { descending: true };
            slice.descending = descending(&columns[0]);
            let mixed = columns.iter().any(|id| descending(id) != slice.descending);
            let mut inclusive = matches!(restriction.operator, Operator::LessOrEq | Operator::GreaterOrEq);
            let mut bound = match &restriction.values {
                RestrictionValues::One(expr) => SliceValues::Components(vec![expr.clone()]),
                RestrictionValues::Tuple(exprs) => SliceValues::Components(exprs.clone()),
                RestrictionValues::Tuples(tuples) => match &tuples[0] {
                    TupleExpr::Whole(expr) => SliceValues::Whole(expr.clone(), columns.len()),
                    TupleExpr::Components(exprs) => SliceValues::Components(exprs.clone()),
                },
                _ => continue,
            };
            if mixed {
                // Rows between the bounds are not contiguous: the first column bounds them, a filter decides.
                self.rough.push(restriction.clone());
                inclusive = true;
                bound = match bound {
                    SliceValues::Components(mut exprs) => {
                        exprs.truncate(1);
                        SliceValues::Components(exprs)
                    }
                    SliceValues::Whole(expr, _) => SliceValues::Whole(expr, 1),
                };
            }
            let side = if is_lower(restriction.operator) {
                &mut slice.lower
            } else {
                &mut slice.upper
            };
            *side = Some((bound, inclusive));
        }
        self.slice = Some(slice);
    }

    /// All combinations of the leading columns' values.
    fn prefixes(
        &self,
        table: &TableSchema,
        values: &[BindValue],
        context: &FunctionContext,
    ) -> Result<Vec<Vec<Bytes>>, CqlError> {
        let mut prefixes = vec![Vec::new()];
        let mut position = 0;
        for part in &self.prefix {
            let (count, choices) = match part {
                PrefixPart::Column(part) => {
                    let name = &table.columns[table.clustering_key[position]].name;
                    let column = part.evaluate(values, context, name)?;
                    (1, column.into_iter().map(|value| vec![value]).collect())
                }
                PrefixPart::Tuples(count, tuples) => (*count, tuple_values(tuples, *count, values, context)?),
            };
            position += count;
            prefixes = combine(prefixes, choices)?;
        }
        Ok(prefixes)
    }
}

impl SliceValues {
    fn evaluate(&self, values: &[BindValue], context: &FunctionContext) -> Result<Vec<Bytes>, CqlError> {
        match self {
            SliceValues::Components(exprs) => exprs
                .iter()
                .map(|expr| required(expr, values, context, "clustering key"))
                .collect(),
            SliceValues::Whole(expr, count) => {
                let mut components = split_tuple(&required(expr, values, context, "clustering key")?, None)?;
                components.truncate(*count);
                Ok(components)
            }
        }
    }
}

fn combine(heads: Vec<Vec<Bytes>>, tails: Vec<Vec<Bytes>>) -> Result<Vec<Vec<Bytes>>, CqlError> {
    if let ([head], [tail]) = (&heads[..], &tails[..]) {
        return Ok(vec![[&head[..], &tail[..]].concat()]);
    }
    // `product` counts; combining by index keeps heads and tails whole.
    let index = |n: usize| {
        (0..n)
            .map(|i| Bytes::copy_from_slice(&i.to_be_bytes()))
            .collect::<Vec<_>>()
    };
    product(vec![index(heads.len()), index(tails.len())], "clustering-key")?;
    Ok(heads
        .iter()
        .flat_map(|head| tails.iter().map(move |tail| [&head[..], &tail[..]].concat()))
        .collect())
}

fn tuple_values(
    tuples: &RestrictionValues,
    count: usize,
    values: &[BindValue],
    context: &FunctionContext,
) -> Result<Vec<Vec<Bytes>>, CqlError> {
    let components = |exprs: &[Expr]| {
        exprs
            .iter()
            .map(|expr| required(expr, values, context, "clustering key"))
            .collect::<Result<Vec<_>, _>>()
    };
    match tuples {
        RestrictionValues::Tuple(exprs) => Ok(vec![components(exprs)?]),
        RestrictionValues::Tuples(tuples) => tuples
            .iter()
            .map(|tuple| match tuple {
                TupleExpr::Components(exprs) => components(exprs),
                TupleExpr::Whole(expr) => {
                    split_tuple(&required(expr, values, context, "clustering key")?, Some(count))
                }
            })
            .collect(),
        RestrictionValues::List(expr) => {
            let list = required(expr, values, context, "clustering key")?;
            let tuples =
                composite::split_list(&list).map_err(|error| CqlError::invalid(error.to_string()))?;
            tuples
                .into_iter()
                .map(|tuple| split_tuple(&list.slice_ref(tuple), Some(count)))
                .collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// The components of a tuple, none of which may be null; `count` of them if it is given.
fn split_tuple(tuple: &Bytes, count: Option<usize>) -> Result<Vec<Bytes>, CqlError> {
    let components = composite::split_tuple(tuple, count.unwrap_or(usize::MAX))
        .map_err(|error| CqlError::invalid(error.to_string()))?;
    if count.is_some_and(|count| components.len() != count) {
        return Err(CqlError::invalid(format!(
            "Expected {} elements in value tuple, but got {}",
            count.unwrap_or_default(),
            components.len()
        )));
    }
    components
        .into_iter()
        .map(|component| {
            let value =
                component.ok_or_else(|| CqlError::invalid("Invalid null value in condition for a tuple"))?;
            Ok(tuple.slice_ref(value))
        })
        .collect()
}

fn make_key(table: &TableSchema, values: &[Bytes]) -> ClusteringKey {
    let values: Vec<&[u8]> = values.iter().map(|value| &value[..]).collect();
    ordered::clustering_key(table, &values)
}

fn bound(table: &TableSchema, values: &[Bytes], inclusive: bool) -> Bound {
    Bound {
        prefix: make_key(table, values),
        inclusive,
    }
}
