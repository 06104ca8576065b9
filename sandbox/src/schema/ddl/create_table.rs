//! CREATE TABLE.

use super::options::TableOptions;
use super::{DdlContext, Outcome, check_name, locate, missing_keyspace, put_table, refuse_system};
use crate::cql::ast::definition::{ColumnDefinition, CreateTable, Direction, PrimaryKey};
use crate::error::{CqlError, ErrorKind};
use crate::schema::builder::TableBuilder;
use crate::schema::type_name::{resolve_type, type_name};
use crate::schema::{Catalog, ColumnKind, TableSchema};
use crate::types::CqlType;

pub(super) fn create(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    create: &CreateTable,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &create.name)?;
    refuse_system(&keyspace)?;
    check_name("Table", &name)?;
    let tables = &catalog
        .keyspace(&keyspace)
        .ok_or_else(|| missing_keyspace(&keyspace))?
        .tables;
    if tables.contains_key(&name) {
        if create.if_not_exists {
            return Ok(Outcome::Unchanged);
        }
        return Err(CqlError::new(
            ErrorKind::AlreadyExists {
                keyspace: keyspace.clone(),
                table: name.clone(),
            },
            format!("Cannot add already existing table \"{name}\" to keyspace \"{keyspace}\""),
        ));
    }
    if create.compact_storage {
        return Err(CqlError::invalid(
            "COMPACT STORAGE tables are not supported by this node",
        ));
    }
    let mut table = columns(catalog, &keyspace, &name, create)?;
    let options = TableOptions::read(&create.properties)?;
    table.id = options.id.unwrap_or_else(uuid::Uuid::new_v4);
    options.apply(context, &mut table, false)?;
    put_table(context, catalog, table, "CREATED")
}

fn columns(
    catalog: &Catalog,
    keyspace: &str,
    name: &str,
    create: &CreateTable,
) -> Result<TableSchema, CqlError> {
    let key = match &create.primary_keys[..] {
        [key] => key,
        [] => {
            return Err(CqlError::invalid(
                "No PRIMARY KEY specified (exactly one required)",
            ));
        }
        _ => {
            return Err(CqlError::invalid(
                "Multiple PRIMARY KEYs specified (exactly one required)",
            ));
        }
    };
    let mut typed: Vec<(&ColumnDefinition, CqlType)> = Vec::new();
    for column in &create.columns {
        if typed.iter().any(|(earlier, _)| earlier.name == column.name) {
            return Err(CqlError::invalid(format!(
                "Multiple definition of identifier {}",
                column.name
            )));
        }
        typed.push((column, resolve_type(catalog, keyspace, &column.ty)?));
    }
    check_key(key, &typed)?;
    check_counters(key, &typed)?;
    let mut builder = TableBuilder::new(keyspace, name);
    for part in &key.partition {
        builder = builder.push(part, ColumnKind::PartitionKey, type_of(part, &typed)?);
    }
    let order = clustering_order(key, create)?;
    for (part, descending) in key.clustering.iter().zip(order) {
        builder = builder.push(
            part,
            ColumnKind::Clustering { descending },
            type_of(part, &typed)?,
        );
    }
    for (column, ty) in typed {
        if key.partition.contains(&column.name) || key.clustering.contains(&column.name) {
            continue;
        }
        if column.is_static && key.clustering.is_empty() {
            return Err(CqlError::invalid(
                "Static columns are only useful (and thus allowed) if the table has at least one clustering column",
            ));
        }
        let kind = if column.is_static {
            ColumnKind::Static
        } else {
            ColumnKind::Regular
        };
        builder = builder.push(&column.name, kind, ty);
    }
    Ok(builder.build())
}

fn type_of(name: &str, typed: &[(&ColumnDefinition, CqlType)]) -> Result<CqlType, CqlError> {
    typed
        .iter()
        .find(|(column, _)| column.name == name)
        .map(|(_, ty)| ty.clone())
        .ok_or_else(|| CqlError::invalid(format!("Unknown definition {name} referenced in PRIMARY KEY")))
}

fn check_key(key: &PrimaryKey, typed: &[(&ColumnDefinition, CqlType)]) -> Result<(), CqlError> {
    let parts: Vec<_> = key.partition.iter().chain(&key.clustering).collect();
    for (i, part) in parts.iter().enumerate() {
        if parts[..i].contains(part) {
            return Err(CqlError::invalid(format!(
                "Duplicate definition of {part} referenced in PRIMARY KEY"
            )));
        }
        let ty = type_of(part, typed)?;
        if ty.is_multi_cell() {
            let kind = if matches!(ty, CqlType::Udt { .. }) {
                "user-defined type"
            } else {
                "collection type"
            };
            return Err(CqlError::invalid(format!(
                "Invalid non-frozen {kind} for PRIMARY KEY component {part}"
            )));
        }
        if matches!(ty, CqlType::Duration | CqlType::Counter) {
            return Err(CqlError::invalid(format!(
                "{} type is not supported for PRIMARY KEY part {part}",
                type_name(&ty)
            )));
        }
        if typed
            .iter()
            .any(|(column, _)| column.name == **part && column.is_static)
        {
            return Err(CqlError::invalid(format!(
                "Static column {part} cannot be part of the PRIMARY KEY"
            )));
        }
    }
    Ok(())
}

fn check_counters(key: &PrimaryKey, typed: &[(&ColumnDefinition, CqlType)]) -> Result<(), CqlError> {
    let in_key = |name: &String| key.partition.contains(name) || key.clustering.contains(name);
    let mut values = typed.iter().filter(|(column, _)| !in_key(&column.name));
    let counters = values.clone().filter(|(_, ty)| *ty == CqlType::Counter).count();
    if counters > 0 && values.any(|(_, ty)| *ty != CqlType::Counter) {
        return Err(CqlError::invalid(
            "Cannot mix counter and non counter columns in the same table",
        ));
    }
    Ok(())
}

/// For each clustering column whether it is descending.
fn clustering_order(key: &PrimaryKey, create: &CreateTable) -> Result<Vec<bool>, CqlError> {
    if create.clustering_order.is_empty() {
        return Ok(vec![false; key.clustering.len()]);
    }
    for (name, _) in &create.clustering_order {
        if !key.clustering.contains(name) {
            return Err(CqlError::invalid(
                "Only clustering key columns can be defined in CLUSTERING ORDER directive",
            ));
        }
    }
    let mut order = Vec::new();
    for (position, part) in key.clustering.iter().enumerate() {
        let Some((name, direction)) = create.clustering_order.get(position) else {
            return Err(CqlError::invalid(format!(
                "Missing CLUSTERING ORDER for column {part}"
            )));
        };
        if name != part {
            return Err(CqlError::invalid(format!(
                "The order of columns in the CLUSTERING ORDER directive must be the one of the clustering key \
                 ({part} must appear before {name})"
            )));
        }
        order.push(*direction == Direction::Descending);
    }
    if create.clustering_order.len() > order.len() {
        return Err(CqlError::invalid(
            "Only clustering key columns can be defined in CLUSTERING ORDER directive",
        ));
    }
    Ok(order)
}
