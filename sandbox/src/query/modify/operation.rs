//! What a write does to one column, and the cell changes it makes.

use bytes::Bytes;

use super::build::{ColumnWrite, list_path};
use crate::error::CqlError;
use crate::query::api::BindValue;
use crate::query::terms::Expr;
use crate::schema::ColumnSchema;
use crate::storage::mutation::CellChange;
use crate::types::{CqlType, composite};

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Set(Expr),
    /// Append, union, put, counter increment.
    Add(Expr),
    /// Remove values, keys or elements; counter decrement.
    Subtract(Expr),
    Prepend(Expr),
    SetElement {
        key: Expr,
        value: Expr,
    },
    SetField {
        index: i16,
        value: Expr,
    },
    Delete,
    DeleteElement(Expr),
    DeleteField(i16),
}

impl Operation {
    /// True if it leaves other parts of the column alone, so that several can be in one statement.
    pub(super) fn is_partial(&self) -> bool {
        !matches!(self, Operation::Set(_) | Operation::Delete)
    }

    pub(super) fn reads(&self, ty: &CqlType) -> bool {
        matches!(ty, CqlType::List { frozen: false, .. })
            && matches!(
                self,
                Operation::SetElement { .. } | Operation::DeleteElement(_) | Operation::Subtract(_)
            )
    }

    /// The change of a cell; None: nothing (an unset value).
    pub(super) fn apply(
        &self,
        column: &ColumnSchema,
        write: &ColumnWrite<'_>,
    ) -> Result<Option<CellChange>, CqlError> {
        match self {
            Operation::Set(expr) => match (write.value(expr)?, column.ty.is_multi_cell()) {
                (BindValue::Unset, _) => Ok(None),
                (BindValue::Null, false) => Ok(Some(CellChange::Atomic(write.dead()))),
                (BindValue::Value(value), false) => Ok(Some(CellChange::Atomic(write.shared_cell(value)))),
                (BindValue::Null, true) => Ok(Some(replace(write, Vec::new()))),
                (BindValue::Value(value), true) => {
                    let elements = elements_of(column, &value, write)?;
                    Ok(Some(replace(write, elements)))
                }
            },
            Operation::Delete if column.ty.is_multi_cell() => Ok(Some(CellChange::Multi {
                tombstone: Some(write.tombstone(write.timestamp)),
                elements: Vec::new(),
            })),
            Operation::Delete => Ok(Some(CellChange::Atomic(write.dead()))),
            Operation::Add(expr) | Operation::Subtract(expr) if column.ty == CqlType::Counter => {
                let delta = counter_delta(write.value(expr)?)?;
                let sign = if matches!(self, Operation::Add(_)) { 1 } else { -1 };
                Ok(delta.map(|delta| CellChange::CounterDelta {
                    delta: i64::wrapping_mul(delta, sign),
                    timestamp: write.timestamp,
                }))
            }
            Operation::Add(expr) => some_value(write.value(expr)?, |value| {
                let elements = elements_of(column, &value, write)?;
                Ok(elements_change(elements))
            }),
            Operation::Prepend(expr) => some_value(write.value(expr)?, |value| {
                let items = composite::split_list(&value).map_err(malformed)?;
                // The last item is the first to be put in front.
                let mut elements: Vec<_> = items
                    .iter()
                    .rev()
                    .map(|item| (list_path(write.now_micros, true), write.cell(item)))
                    .collect();
                elements.reverse();
                Ok(elements_change(elements))
            }),
            Operation::Subtract(expr) => some_value(write.value(expr)?, |value| {
                let items = composite::split_list(&value).map_err(malformed)?;
                let dead = |path: &[u8]| (Bytes::copy_from_slice(path), write.dead());
                let elements = if let CqlType::List { .. } = column.ty {
                    let list = write.current_list()?;
                    let removed = list.iter().filter(|(_, have)| items.contains(&&have[..]));
                    removed.map(|(path, _)| dead(path)).collect()
                } else {
                    items.into_iter().map(dead).collect()
                };
                Ok(elements_change(elements))
            }),
            Operation::SetElement { key, value } => set_element(column, key, value, write),
            Operation::SetField { index, value } => {
                let path = Bytes::copy_from_slice(&index.to_be_bytes());
                element(path, write.value(value)?, write)
            }
            Operation::DeleteElement(key) => {
                let BindValue::Value(key) = write.value(key)? else {
                    return Err(CqlError::invalid(format!(
                        "Invalid null value for {}",
                        column.name
                    )));
                };
                let path = match column.ty {
                    CqlType::List { .. } => list_element(write, &key, "deletion of")?,
                    _ => key,
                };
                element(path, BindValue::Null, write)
            }
            Operation::DeleteField(index) => element(
                Bytes::copy_from_slice(&index.to_be_bytes()),
                BindValue::Null,
                write,
            ),
        }
    }
}

fn set_element(
    column: &ColumnSchema,
    key: &Expr,
    value: &Expr,
    write: &ColumnWrite<'_>,
) -> Result<Option<CellChange>, CqlError> {
    let key = match write.value(key)? {
        BindValue::Value(key) => key,
        BindValue::Null => {
            let what = if matches!(column.ty, CqlType::Map { .. }) {
                "map key"
            } else {
                "list index"
            };
            return Err(CqlError::invalid(format!("Invalid null {what}")));
        }
        BindValue::Unset => return Err(CqlError::invalid("Invalid unset map key or list index")),
    };
    let value = write.value(value)?;
    let path = match column.ty {
        CqlType::List { .. } => list_element(write, &key, "set of")?,
        _ => key,
    };
    element(path, value, write)
}

/// The path of a list's element by its index.
fn list_element(write: &ColumnWrite<'_>, index: &[u8], what: &str) -> Result<Bytes, CqlError> {
    let list = write.current_list()?;
    if list.is_empty() {
        return Err(CqlError::invalid(format!(
            "Attempted {what} an element on a list which is null"
        )));
    }
    let index = index.try_into().map_or(-1, i32::from_be_bytes);
    let found = usize::try_from(index).ok().and_then(|index| list.get(index));
    found.map(|(path, _)| path.clone()).ok_or_else(|| {
        CqlError::invalid(format!(
            "List index {index} out of bound, list has size {}",
            list.len()
        ))
    })
}

fn element(path: Bytes, value: BindValue, write: &ColumnWrite<'_>) -> Result<Option<CellChange>, CqlError> {
    Ok(match value {
        BindValue::Unset => None,
        BindValue::Null => Some(elements_change(vec![(path, write.dead())])),
        BindValue::Value(value) => Some(elements_change(vec![(path, write.cell(&value))])),
    })
}

type Elements = Vec<(Bytes, crate::storage::mutation::Cell)>;

fn elements_change(elements: Elements) -> CellChange {
    CellChange::Multi {
        tombstone: None,
        elements,
    }
}

/// A whole collection is a deletion just before, then its elements.
fn replace(write: &ColumnWrite<'_>, elements: Elements) -> CellChange {
    CellChange::Multi {
        tombstone: Some(write.tombstone(write.timestamp.saturating_sub(1))),
        elements,
    }
}

fn elements_of(column: &ColumnSchema, value: &Bytes, write: &ColumnWrite<'_>) -> Result<Elements, CqlError> {
    Ok(match &column.ty {
        CqlType::List { .. } => composite::split_list(value)
            .map_err(malformed)?
            .into_iter()
            .map(|item| (list_path(write.now_micros, false), write.cell(item)))
            .collect(),
        CqlType::Set { .. } => composite::split_list(value)
            .map_err(malformed)?
            .into_iter()
            .map(|item| (Bytes::copy_from_slice(item), write.cell(&[])))
            .collect(),
        CqlType::Map { .. } => composite::split_map(value)
            .map_err(malformed)?
            .into_iter()
            .map(|(key, item)| (Bytes::copy_from_slice(key), write.cell(item)))
            .collect(),
        CqlType::Udt { definition, .. } => composite::split_tuple(value, definition.fields.len())
            .map_err(malformed)?
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let path = Bytes::copy_from_slice(&(index as i16).to_be_bytes());
                Some((path, write.cell(item?)))
            })
            .collect(),
        _ => return Err(CqlError::server("not a column of several cells")),
    })
}

fn some_value(
    value: BindValue,
    change: impl FnOnce(Bytes) -> Result<CellChange, CqlError>,
) -> Result<Option<CellChange>, CqlError> {
    match value {
        BindValue::Value(value) => change(value).map(Some),
        BindValue::Null | BindValue::Unset => Ok(None),
    }
}

fn counter_delta(value: BindValue) -> Result<Option<i64>, CqlError> {
    match value {
        BindValue::Unset => Ok(None),
        BindValue::Null => Err(CqlError::invalid("Invalid null value for counter increment")),
        BindValue::Value(value) => {
            let bytes = value[..]
                .try_into()
                .map_err(|_| CqlError::invalid("Invalid counter increment"))?;
            Ok(Some(i64::from_be_bytes(bytes)))
        }
    }
}

fn malformed(error: composite::Malformed) -> CqlError {
    CqlError::invalid(error.to_string())
}
