//! ALTER TABLE.

use super::options::TableOptions;
use super::{DdlContext, Outcome, find_table, put_table};
use crate::cdc::log_rules;
use crate::cql::ast::definition::{AlterTable, ColumnDefinition, TableChange};
use crate::cql::ast::term::{Term, TypeExpr};
use crate::error::CqlError;
use crate::schema::type_name::{resolve_type, type_name};
use crate::schema::{Catalog, ColumnKind, ColumnSchema, TableSchema};
use crate::types::CqlType;

pub(super) fn alter(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    alter: &AlterTable,
) -> Result<Outcome, CqlError> {
    let mut table = match find_table(context, catalog, &alter.name) {
        Ok(table) => TableSchema::clone(table),
        Err(_) if alter.if_exists => return Ok(Outcome::Unchanged),
        Err(error) => return Err(error),
    };
    match &alter.change {
        TableChange::With(_) => {}
        TableChange::Rename(_) => log_rules::refuse_rename(catalog, &table)?,
        _ => log_rules::refuse_column_change(catalog, &table)?,
    }
    match &alter.change {
        TableChange::Add {
            columns,
            if_not_exists,
        } => {
            for column in columns {
                if !(*if_not_exists && table.column(&column.name).is_some()) {
                    add(catalog, &mut table, column)?;
                }
            }
        }
        TableChange::Drop {
            columns,
            if_exists,
            timestamp,
        } => {
            let at = drop_timestamp(timestamp.as_ref(), context.now_micros)?;
            for column in columns {
                if !(*if_exists && table.column(column).is_none()) {
                    drop_column(&mut table, column, at)?;
                }
            }
        }
        TableChange::Rename(pairs) => {
            for (from, to) in pairs {
                rename(&mut table, from, to)?;
            }
        }
        TableChange::AlterType { column, ty } => alter_type(catalog, &mut table, column, ty)?,
        TableChange::With(properties) => TableOptions::read(properties)?.apply(context, &mut table, true)?,
    }
    put_table(context, catalog, table, "UPDATED")
}

fn add(catalog: &Catalog, table: &mut TableSchema, column: &ColumnDefinition) -> Result<(), CqlError> {
    let name = &column.name;
    if table.column(name).is_some() {
        return Err(CqlError::invalid(format!(
            "Invalid column name {name} because it conflicts with an existing column"
        )));
    }
    let ty = resolve_type(catalog, &table.keyspace, &column.ty)?;
    let has_values = table.columns.iter().any(|column| !column.kind.is_primary_key());
    if has_values && (ty == CqlType::Counter) != table.is_counter() {
        return Err(CqlError::invalid(
            "Cannot mix counter and non counter columns in the same table",
        ));
    }
    if column.is_static && table.clustering_key.is_empty() {
        return Err(CqlError::invalid(
            "Static columns are only useful (and thus allowed) if the table has at least one clustering column",
        ));
    }
    if let Some((dropped, _)) = table.dropped_columns.get(name)
        && *dropped != ty
    {
        return Err(CqlError::invalid(format!(
            "Cannot re-add previously dropped column '{name}' of type {}, incompatible with previous type {}",
            type_name(&ty),
            type_name(dropped)
        )));
    }
    table.columns.push(ColumnSchema {
        name: name.clone(),
        kind: if column.is_static {
            ColumnKind::Static
        } else {
            ColumnKind::Regular
        },
        position: -1,
        ty,
        storage_id: table.next_storage_id,
    });
    table.next_storage_id += 1;
    table.reindex();
    Ok(())
}

fn drop_column(table: &mut TableSchema, name: &str, at: i64) -> Result<(), CqlError> {
    let id = table.column_id(name).ok_or_else(|| unknown_column(table, name))?;
    if table.columns[id].kind.is_primary_key() {
        return Err(CqlError::invalid(format!("Cannot drop PRIMARY KEY part {name}")));
    }
    if let Some((index, _)) = table.indexes.iter().find(|(_, column)| *column == name) {
        return Err(CqlError::invalid(format!(
            "Cannot drop column {name} because it has dependent secondary indexes ({index})"
        )));
    }
    let dropped = table.columns.remove(id);
    table.dropped_columns.insert(dropped.name, (dropped.ty, at));
    table.reindex();
    Ok(())
}

fn rename(table: &mut TableSchema, from: &str, to: &str) -> Result<(), CqlError> {
    let id = table.column_id(from).ok_or_else(|| {
        CqlError::invalid(format!(
            "Cannot rename unknown column {from} in table {}",
            table.name
        ))
    })?;
    if table.column(to).is_some() {
        return Err(CqlError::invalid(format!(
            "Cannot rename column {from} to {to} in table {}; another column of that name already exist",
            table.name
        )));
    }
    if !table.columns[id].kind.is_primary_key() {
        return Err(CqlError::invalid(format!(
            "Cannot rename non PRIMARY KEY part {from}"
        )));
    }
    table.columns[id].name = to.to_owned();
    table.reindex();
    Ok(())
}

/// ScyllaDB allows types whose values stay valid byte for byte.
fn alter_type(
    catalog: &Catalog,
    table: &mut TableSchema,
    column: &str,
    written: &TypeExpr,
) -> Result<(), CqlError> {
    let new = resolve_type(catalog, &table.keyspace, written)?;
    let id = table
        .column_id(column)
        .ok_or_else(|| unknown_column(table, column))?;
    let old = &table.columns[id].ty;
    let compatible = *old == new
        || new == CqlType::Blob && !old.is_multi_cell() && *old != CqlType::Counter
        || matches!(
            (old, &new),
            (CqlType::Ascii, CqlType::Text)
                | (CqlType::Timeuuid, CqlType::Uuid)
                | (CqlType::Int | CqlType::Bigint, CqlType::Varint)
                | (CqlType::Timestamp, CqlType::Bigint)
                | (CqlType::Bigint, CqlType::Timestamp)
        );
    let reordered = matches!(table.columns[id].kind, ColumnKind::Clustering { .. }) && *old != new;
    if !compatible || reordered {
        return Err(CqlError::config(format!(
            "Cannot change {column} from type {} to type {}: types are incompatible.",
            type_name(old),
            type_name(&new)
        )));
    }
    table.columns[id].ty = new;
    Ok(())
}

fn drop_timestamp(term: Option<&Term>, now: i64) -> Result<i64, CqlError> {
    match term {
        None => Ok(now),
        Some(Term::Literal(literal)) => literal
            .text
            .parse()
            .map_err(|_| CqlError::invalid(format!("Invalid timestamp value {}", literal.text))),
        Some(_) => Err(CqlError::invalid("USING TIMESTAMP of ALTER TABLE takes a number")),
    }
}

fn unknown_column(table: &TableSchema, name: &str) -> CqlError {
    CqlError::invalid(format!("Column {name} was not found in table {}", table.name))
}
