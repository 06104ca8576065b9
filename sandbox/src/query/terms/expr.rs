//! Planned values, and what bound values make of them.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::storage::ordered;
use crate::types::function::{Function, FunctionContext};
use crate::types::{CqlType, composite};

/// A planned value.
#[derive(Debug, Clone)]
pub enum Expr {
    Constant(Option<Bytes>),
    Marker(usize),
    List(Vec<Expr>),
    Set(CqlType, Vec<Expr>),
    Map(CqlType, Vec<(Expr, Expr)>),
    /// Tuples and UDTs: a missing component is null.
    Tuple(Vec<Expr>),
    /// Elements of fixed width, side by side.
    Vector(Vec<Expr>),
    Call(Arc<Function>, Vec<Expr>),
}

impl Expr {
    /// The value that bound values make of it. Errors and conversions were settled by planning, but for what
    /// bound values bring in.
    ///
    /// # Errors
    /// Invalid: null or unset inside a collection, a function that fails.
    pub fn evaluate(&self, values: &[BindValue], context: &FunctionContext) -> Result<BindValue, CqlError> {
        let plain = |expr: &Expr| match expr.evaluate(values, context)? {
            BindValue::Value(value) => Ok(value),
            BindValue::Null => Err(CqlError::invalid("null is not supported inside collections")),
            BindValue::Unset => Err(CqlError::invalid(
                "unset value is not supported inside collections",
            )),
        };
        Ok(BindValue::Value(match self {
            Expr::Constant(None) => return Ok(BindValue::Null),
            Expr::Constant(Some(value)) => value.clone(),
            Expr::Marker(index) => {
                return values
                    .get(*index)
                    .cloned()
                    .ok_or_else(|| CqlError::invalid("Invalid amount of bind variables"));
            }
            Expr::List(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(plain).collect();
                composite::join_list(&items?)
            }
            Expr::Set(ty, items) => {
                let mut items = items.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
                items.sort_by(|a, b| ordered::compare(ty, a, b));
                items.dedup_by(|a, b| ordered::compare(ty, a, b).is_eq());
                composite::join_list(&items)
            }
            Expr::Map(ty, entries) => {
                let pair = |(key, value): &(Expr, Expr)| Ok::<_, CqlError>((plain(key)?, plain(value)?));
                let mut pairs = entries.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
                // A key that is written twice keeps its last value.
                pairs.reverse();
                pairs.sort_by(|(a, _), (b, _)| ordered::compare(ty, a, b));
                pairs.dedup_by(|(a, _), (b, _)| ordered::compare(ty, a, b).is_eq());
                composite::join_map(&pairs)
            }
            Expr::Tuple(items) => {
                let mut components = Vec::with_capacity(items.len());
                for item in items {
                    components.push(match item.evaluate(values, context)? {
                        BindValue::Value(value) => Some(value),
                        BindValue::Null => None,
                        BindValue::Unset => {
                            return Err(CqlError::invalid("Invalid unset value for tuple or UDT field"));
                        }
                    });
                }
                composite::join_tuple(&components)
            }
            Expr::Vector(items) => items
                .iter()
                .map(plain)
                .collect::<Result<Vec<_>, _>>()?
                .concat()
                .into(),
            Expr::Call(function, arguments) => {
                let mut evaluated = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    evaluated.push(match argument.evaluate(values, context)? {
                        BindValue::Value(value) => Some(value),
                        BindValue::Null => None,
                        BindValue::Unset => {
                            return Err(CqlError::invalid(format!(
                                "Invalid unset value for argument in call to function {}",
                                function.name
                            )));
                        }
                    });
                }
                match function.call(context, &evaluated)? {
                    Some(value) => value,
                    None => return Ok(BindValue::Null),
                }
            }
        }))
    }

    /// The same as a constant if nothing in it depends on bound values or time.
    pub(super) fn folded(self) -> Self {
        if !self.is_constant() {
            return self;
        }
        match self.evaluate(&[], &FunctionContext { now_micros: 0 }) {
            Ok(BindValue::Value(value)) => Expr::Constant(Some(value)),
            _ => self,
        }
    }

    fn is_constant(&self) -> bool {
        match self {
            Expr::Constant(_) => true,
            Expr::Marker(_) | Expr::Call(..) => false,
            Expr::List(items) | Expr::Set(_, items) | Expr::Tuple(items) | Expr::Vector(items) => {
                items.iter().all(Expr::is_constant)
            }
            Expr::Map(_, entries) => entries
                .iter()
                .all(|(key, value)| key.is_constant() && value.is_constant()),
        }
    }
}
