//! CREATE, ALTER and DROP TYPE.

use std::sync::Arc;

use uuid::Uuid;

use super::{DdlContext, Outcome, changed, keyspace_mut, locate, missing_keyspace, refuse_system};
use crate::cql::ast::definition::{AlterType, CreateType, DropObject, TypeChange};
use crate::error::CqlError;
use crate::schema::type_name::{resolve_type, type_name, uses_udt, with_udt};
use crate::schema::{Catalog, KeyspaceSchema};
use crate::types::{CqlType, UdtDefinition};

pub(super) fn create(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    create: &CreateType,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &create.name)?;
    refuse_system(&keyspace)?;
    let types = &catalog
        .keyspace(&keyspace)
        .ok_or_else(|| missing_keyspace(&keyspace))?
        .types;
    if types.contains_key(&name) {
        if create.if_not_exists {
            return Ok(Outcome::Unchanged);
        }
        return Err(CqlError::invalid(format!(
            "A user type of name {keyspace}.{name} already exists"
        )));
    }
    let mut fields: Vec<(String, CqlType)> = Vec::new();
    for (field, written) in &create.fields {
        let ty = resolve_type(catalog, &keyspace, written)?;
        push_field(&mut fields, field, ty)?;
    }
    let definition = UdtDefinition {
        keyspace: keyspace.clone(),
        name: name.clone(),
        fields,
    };
    keyspace_mut(catalog, &keyspace)?
        .types
        .insert(name.clone(), Arc::new(definition));
    Ok(changed("CREATED", "TYPE", &keyspace, &name))
}

pub(super) fn alter(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    alter: &AlterType,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &alter.name)?;
    refuse_system(&keyspace)?;
    let found = catalog
        .keyspace(&keyspace)
        .and_then(|keyspace| keyspace.types.get(&name));
    let Some(old) = found else {
        return if alter.if_exists {
            Ok(Outcome::Unchanged)
        } else {
            Err(missing_type(&keyspace, &name))
        };
    };
    let mut fields = old.fields.clone();
    match &alter.change {
        TypeChange::Add(new) => {
            for (field, written) in new {
                let ty = resolve_type(catalog, &keyspace, written)?;
                push_field(&mut fields, field, ty)?;
            }
        }
        TypeChange::Rename(pairs) => {
            for (from, to) in pairs {
                if fields.iter().any(|(name, _)| name == to) {
                    return Err(CqlError::invalid(format!(
                        "Duplicate field name {to} in type {name}"
                    )));
                }
                let field = fields.iter_mut().find(|(name, _)| name == from);
                let field =
                    field.ok_or_else(|| CqlError::invalid(format!("Unknown field {from} in type {name}")))?;
                field.0.clone_from(to);
            }
        }
        TypeChange::AlterField { field, .. } => {
            return Err(CqlError::invalid(format!(
                "Altering field types is not allowed (field {field} of type {name})"
            )));
        }
    }
    let new = Arc::new(UdtDefinition {
        keyspace: keyspace.clone(),
        name: name.clone(),
        fields,
    });
    replace(keyspace_mut(catalog, &keyspace)?, &new);
    Ok(changed("UPDATED", "TYPE", &keyspace, &name))
}

pub(super) fn drop(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    drop: &DropObject,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &drop.name)?;
    refuse_system(&keyspace)?;
    let found = catalog
        .keyspace(&keyspace)
        .and_then(|keyspace| keyspace.types.get(&name))
        .cloned();
    let Some(definition) = found else {
        return if drop.if_exists {
            Ok(Outcome::Unchanged)
        } else {
            Err(missing_type(&keyspace, &name))
        };
    };
    let schema = keyspace_mut(catalog, &keyspace)?;
    for other in schema.types.values().filter(|other| other.name != name) {
        if other.fields.iter().any(|(_, ty)| uses_udt(ty, &definition)) {
            return Err(CqlError::invalid(format!(
                "Cannot drop user type {keyspace}.{name} as it is still used by user type {}",
                other.name
            )));
        }
    }
    for table in schema.tables.values() {
        if table
            .columns
            .iter()
            .any(|column| uses_udt(&column.ty, &definition))
        {
            return Err(CqlError::invalid(format!(
                "Cannot drop user type {keyspace}.{name} as it is still used by table {keyspace}.{}",
                table.name
            )));
        }
    }
    schema.types.remove(&name);
    Ok(changed("DROPPED", "TYPE", &keyspace, &name))
}

/// Puts the new definition wherever the old one was used.
fn replace(keyspace: &mut KeyspaceSchema, new: &Arc<UdtDefinition>) {
    for definition in keyspace.types.values_mut() {
        if definition.name == new.name {
            *definition = new.clone();
        } else if definition.fields.iter().any(|(_, ty)| uses_udt(ty, new)) {
            let fields = definition
                .fields
                .iter()
                .map(|(name, ty)| (name.clone(), with_udt(ty, new)))
                .collect();
            *definition = Arc::new(UdtDefinition {
                keyspace: definition.keyspace.clone(),
                name: definition.name.clone(),
                fields,
            });
        }
    }
    for table in keyspace.tables.values_mut() {
        if table.columns.iter().any(|column| uses_udt(&column.ty, new)) {
            let table = Arc::make_mut(table);
            table.version = Uuid::new_v4();
            for column in &mut table.columns {
                column.ty = with_udt(&column.ty, new);
            }
        }
    }
}

fn push_field(fields: &mut Vec<(String, CqlType)>, name: &str, ty: CqlType) -> Result<(), CqlError> {
    if fields.iter().any(|(have, _)| have == name) {
        return Err(CqlError::invalid(format!("Duplicate field name {name} in type")));
    }
    if ty == CqlType::Counter {
        return Err(CqlError::invalid("A user type cannot contain counters"));
    }
    if ty.is_multi_cell() {
        return Err(CqlError::invalid(format!(
            "A user type cannot contain non-frozen collections or UDTs: {}",
            type_name(&ty)
        )));
    }
    fields.push((name.to_owned(), ty));
    Ok(())
}

fn missing_type(keyspace: &str, name: &str) -> CqlError {
    CqlError::invalid(format!("No user type named {keyspace}.{name} exists."))
}
