//! Planning what SET and the targets of DELETE do to columns.

use super::operation::Operation;
use crate::cql::ast::data::{Change, DeleteTarget};
use crate::error::CqlError;
use crate::query::terms::{Planner, Receiver};
use crate::schema::ColumnSchema;
use crate::types::CqlType;

pub(super) fn plan_change(
    planner: &mut Planner<'_>,
    column: &ColumnSchema,
    change: &Change,
) -> Result<Operation, CqlError> {
    let name = &column.name;
    let whole = Receiver::new(name.clone(), column.ty.clone());
    let is_counter = column.ty == CqlType::Counter;
    Ok(match (change, &column.ty) {
        (Change::Set(_), CqlType::Counter) => {
            return Err(CqlError::invalid(format!(
                "Cannot set the value of counter column {name} (counters can only be incremented/decremented, \
                 not set)"
            )));
        }
        (Change::Set(term), _) => Operation::Set(planner.plan(term, &whole)?),
        (Change::Add(term), _) if is_counter => {
            Operation::Add(planner.plan(term, &Receiver::new(name.clone(), CqlType::Bigint))?)
        }
        (Change::Subtract(term), _) if is_counter => {
            Operation::Subtract(planner.plan(term, &Receiver::new(name.clone(), CqlType::Bigint))?)
        }
        (Change::SetField { field, value }, CqlType::Udt { frozen: false, .. }) => {
            let (index, ty) = field_of(column, field)?;
            Operation::SetField {
                index,
                value: planner.plan(value, &Receiver::new(format!("{name}.{field}"), ty))?,
            }
        }
        (Change::SetField { .. }, CqlType::Udt { .. }) => {
            return Err(CqlError::invalid(format!(
                "Invalid operation on frozen UDT column {name}"
            )));
        }
        (_, CqlType::List { .. } | CqlType::Set { .. } | CqlType::Map { .. }) => {
            return plan_collection_change(planner, column, change);
        }
        (Change::Add(_) | Change::Subtract(_), _) => {
            return Err(CqlError::invalid(format!(
                "Invalid operation for non counter column {name}"
            )));
        }
        _ => return Err(CqlError::invalid(format!("Invalid operation for column {name}"))),
    })
}

/// What is done to a part of a list, set or map.
fn plan_collection_change(
    planner: &mut Planner<'_>,
    column: &ColumnSchema,
    change: &Change,
) -> Result<Operation, CqlError> {
    let name = &column.name;
    let whole = Receiver::new(name.clone(), column.ty.clone());
    Ok(match (change, &column.ty) {
        (
            Change::Add(_) | Change::Subtract(_) | Change::Prepend(_) | Change::SetElement { .. },
            CqlType::List { frozen: true, .. }
            | CqlType::Set { frozen: true, .. }
            | CqlType::Map { frozen: true, .. },
        ) => {
            return Err(CqlError::invalid(format!(
                "Invalid operation on frozen collection column {name}"
            )));
        }
        (Change::Add(term), CqlType::List { .. } | CqlType::Set { .. } | CqlType::Map { .. }) => {
            Operation::Add(planner.plan(term, &whole)?)
        }
        (Change::Subtract(term), CqlType::List { .. } | CqlType::Set { .. }) => {
            Operation::Subtract(planner.plan(term, &whole)?)
        }
        (Change::Subtract(term), CqlType::Map { key, .. }) => {
            let keys = CqlType::Set {
                element: key.clone(),
                frozen: true,
            };
            Operation::Subtract(planner.plan(term, &Receiver::new(name.clone(), keys))?)
        }
        (Change::Prepend(term), CqlType::List { .. }) => Operation::Prepend(planner.plan(term, &whole)?),
        (Change::SetElement { key, value }, CqlType::List { element, .. }) => Operation::SetElement {
            key: planner.plan(key, &Receiver::new(format!("idx({name})"), CqlType::Int))?,
            value: planner.plan(
                value,
                &Receiver::new(format!("value({name})"), CqlType::clone(element)),
            )?,
        },
        (
            Change::SetElement { key, value },
            CqlType::Map {
                key: key_type,
                value: value_type,
                ..
            },
        ) => Operation::SetElement {
            key: planner.plan(
                key,
                &Receiver::new(format!("key({name})"), CqlType::clone(key_type)),
            )?,
            value: planner.plan(
                value,
                &Receiver::new(format!("value({name})"), CqlType::clone(value_type)),
            )?,
        },
        _ => return Err(CqlError::invalid(format!("Invalid operation for column {name}"))),
    })
}

pub(super) fn plan_deletion(
    planner: &mut Planner<'_>,
    column: &ColumnSchema,
    target: &DeleteTarget,
) -> Result<Operation, CqlError> {
    let name = &column.name;
    match target {
        DeleteTarget::Column(_) => Ok(Operation::Delete),
        DeleteTarget::Field { field, .. } if matches!(column.ty, CqlType::Udt { frozen: false, .. }) => {
            Ok(Operation::DeleteField(field_of(column, field)?.0))
        }
        DeleteTarget::Field { .. } => Err(CqlError::invalid(format!(
            "Invalid field deletion operation for column {name}"
        ))),
        DeleteTarget::Element { key, .. } => {
            let receiver = match &column.ty {
                CqlType::List { frozen: false, .. } => Receiver::new(format!("idx({name})"), CqlType::Int),
                CqlType::Set {
                    element,
                    frozen: false,
                } => Receiver::new(format!("value({name})"), CqlType::clone(element)),
                CqlType::Map {
                    key, frozen: false, ..
                } => Receiver::new(format!("key({name})"), CqlType::clone(key)),
                _ => {
                    return Err(CqlError::invalid(format!(
                        "Invalid deletion operation for column {name} that is no non-frozen collection"
                    )));
                }
            };
            Ok(Operation::DeleteElement(planner.plan(key, &receiver)?))
        }
    }
}

/// The index and type of a UDT's field.
pub(super) fn field_of(column: &ColumnSchema, field: &str) -> Result<(i16, CqlType), CqlError> {
    let CqlType::Udt { definition, .. } = &column.ty else {
        return Err(CqlError::invalid(format!(
            "Column {} is no user-defined type",
            column.name
        )));
    };
    let found = definition.fields.iter().position(|(name, _)| name == field);
    let index = found.and_then(|index| i16::try_from(index).ok()).ok_or_else(|| {
        CqlError::invalid(format!(
            "UDT column {} does not have a field named {field}",
            column.name
        ))
    })?;
    Ok((index, definition.fields[index as usize].1.clone()))
}
