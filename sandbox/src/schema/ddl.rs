//! DDL: a statement and a catalog make the next catalog, or an error.

mod alter_table;
mod create_table;
mod keyspace;
mod options;
mod user_type;

use std::sync::Arc;

pub(crate) use options::MAX_TTL;
use uuid::Uuid;

use super::{Catalog, KeyspaceSchema, TableSchema};
use crate::cdc::log_rules;
use crate::cql::ast::definition::{CreateIndex, DropObject};
use crate::cql::ast::{QualifiedName, Statement};
use crate::error::{CqlError, ErrorKind};
use crate::query::api::SchemaChange;
use crate::query::hooks::Cdc;

/// What DDL needs to know beside the catalog.
pub struct DdlContext<'a> {
    /// The session's keyspace.
    pub keyspace: Option<&'a str>,
    pub cdc: &'a dyn Cdc,
    pub now_micros: i64,
    /// Whether a NetworkTopologyStrategy keyspace that does not say gets tablets.
    pub tablets_by_default: bool,
    /// What `replication_factor` of NetworkTopologyStrategy expands to.
    pub datacenter: &'a str,
}

/// What a statement made of the catalog it was given.
#[derive(Debug)]
pub enum Outcome {
    Changed(SchemaChange),
    /// IF [NOT] EXISTS had nothing to do.
    Unchanged,
}

/// Keyspaces that only the node itself changes.
pub const SYSTEM_KEYSPACES: [&str; 7] = [
    "system",
    "system_schema",
    "system_distributed",
    "system_distributed_everywhere",
    "system_auth",
    "system_traces",
    "system_views",
];

/// Applies one DDL statement to `catalog` (whose `version` is left to the caller). On an error the catalog may
/// be half changed: callers work on a copy.
///
/// # Errors
/// Invalid, Config, AlreadyExists, Syntax (an unknown property), Unauthorized (a system keyspace).
pub fn apply(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    statement: &Statement,
) -> Result<Outcome, CqlError> {
    match statement {
        Statement::CreateKeyspace(create) => keyspace::create(context, catalog, create),
        Statement::AlterKeyspace(alter) => keyspace::alter(context, catalog, alter),
        Statement::DropKeyspace { name, if_exists } => keyspace::drop(catalog, name, *if_exists),
        Statement::CreateTable(create) => create_table::create(context, catalog, create),
        Statement::AlterTable(alter) => alter_table::alter(context, catalog, alter),
        Statement::DropTable(drop) => drop_table(context, catalog, drop),
        Statement::CreateType(create) => user_type::create(context, catalog, create),
        Statement::AlterType(alter) => user_type::alter(context, catalog, alter),
        Statement::DropType(drop) => user_type::drop(context, catalog, drop),
        Statement::CreateIndex(create) => create_index(context, catalog, create),
        Statement::DropIndex(drop) => drop_index(context, catalog, drop),
        Statement::CreateView(_) | Statement::DropView(_) => Err(CqlError::invalid(
            "Materialized views are not supported by this node",
        )),
        _ => Err(CqlError::server("not a schema statement")),
    }
}

fn drop_table(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    drop: &DropObject,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &drop.name)?;
    refuse_system(&keyspace)?;
    let Some(table) = catalog.table(&keyspace, &name).cloned() else {
        if drop.if_exists {
            return Ok(Outcome::Unchanged);
        }
        return Err(CqlError::invalid(format!(
            "Cannot drop non existing table '{name}' in keyspace '{keyspace}'."
        )));
    };
    log_rules::refuse_drop(catalog, &table)?;
    let tables = &mut keyspace_mut(catalog, &keyspace)?.tables;
    tables.remove(&name);
    tables.retain(|_, other| other.cdc_log_of.as_deref() != Some(&name));
    Ok(changed("DROPPED", "TABLE", &keyspace, &name))
}

fn create_index(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    create: &CreateIndex,
) -> Result<Outcome, CqlError> {
    let mut table = TableSchema::clone(find_table(context, catalog, &create.table)?);
    let [target] = &create.targets[..] else {
        return Err(CqlError::invalid("Only indexes on one column are supported"));
    };
    let column = target
        .split_once('(')
        .map_or(&target[..], |(_, rest)| rest.trim_end_matches(')'));
    let found = table.column(column);
    let kind =
        found.ok_or_else(|| CqlError::invalid(format!("No column definition found for column {column}")))?;
    if table.partition_key.len() == 1 && kind.kind == super::ColumnKind::PartitionKey {
        return Err(CqlError::invalid(format!(
            "Cannot create secondary index on partition key column {column}"
        )));
    }
    let column = column.to_owned();
    let name = create
        .name
        .clone()
        .unwrap_or_else(|| format!("{}_{column}_idx", table.name));
    let taken = catalog.keyspace(&table.keyspace).is_some_and(|keyspace| {
        keyspace
            .tables
            .values()
            .any(|table| table.indexes.contains_key(&name))
    });
    if taken {
        if create.if_not_exists {
            return Ok(Outcome::Unchanged);
        }
        return Err(CqlError::invalid(format!("Index {name} already exists")));
    }
    table.indexes.insert(name, column);
    put_table(context, catalog, table, "UPDATED")
}

fn drop_index(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    drop: &DropObject,
) -> Result<Outcome, CqlError> {
    let (keyspace, name) = locate(context, &drop.name)?;
    let found = catalog.keyspace(&keyspace).and_then(|keyspace| {
        keyspace
            .tables
            .values()
            .find(|table| table.indexes.contains_key(&name))
            .cloned()
    });
    let Some(table) = found else {
        if drop.if_exists {
            return Ok(Outcome::Unchanged);
        }
        return Err(CqlError::invalid(format!(
            "Index '{name}' could not be found in any of the tables of keyspace '{keyspace}'"
        )));
    };
    let mut table = TableSchema::clone(&table);
    table.indexes.remove(&name);
    put_table(context, catalog, table, "UPDATED")
}

/// Stores a new version of a table and brings its CDC log along.
fn put_table(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    mut table: TableSchema,
    change: &'static str,
) -> Result<Outcome, CqlError> {
    table.reindex();
    table.version = Uuid::new_v4();
    let log_name = format!("{}_scylla_cdc_log", table.name);
    let is_log_of = |log: &&Arc<TableSchema>| log.cdc_log_of.as_deref() == Some(&table.name);
    let existing = catalog
        .table(&table.keyspace, &log_name)
        .filter(is_log_of)
        .cloned();
    let outcome = changed(change, "TABLE", &table.keyspace, &table.name);
    let log = if table.cdc_enabled() || existing.is_some() {
        let mut log = context.cdc.log_table(catalog, &table, existing.as_deref())?;
        if existing.is_none() {
            log.id = Uuid::new_v4();
        }
        log.version = Uuid::new_v4();
        Some(log)
    } else {
        None
    };
    let tables = &mut keyspace_mut(catalog, &table.keyspace)?.tables;
    tables.insert(table.name.clone(), Arc::new(table));
    if let Some(log) = log {
        tables.insert(log.name.clone(), Arc::new(log));
    }
    Ok(outcome)
}

fn changed(change: &'static str, target: &'static str, keyspace: &str, name: &str) -> Outcome {
    Outcome::Changed(SchemaChange {
        change,
        target,
        keyspace: keyspace.to_owned(),
        name: name.to_owned(),
    })
}

/// Keyspace and name of an object that may be written without its keyspace.
fn locate(context: &DdlContext<'_>, name: &QualifiedName) -> Result<(String, String), CqlError> {
    let keyspace = name
        .keyspace
        .as_deref()
        .or(context.keyspace)
        .ok_or_else(no_keyspace)?;
    Ok((keyspace.to_owned(), name.name.clone()))
}

/// The answer to an unqualified name in a session without a keyspace.
pub fn no_keyspace() -> CqlError {
    CqlError::invalid(
        "No keyspace has been specified. USE a keyspace, or explicitly specify keyspace.tablename",
    )
}

fn refuse_system(keyspace: &str) -> Result<(), CqlError> {
    if SYSTEM_KEYSPACES.contains(&keyspace) {
        return Err(CqlError::new(
            ErrorKind::Unauthorized,
            format!("{keyspace} keyspace is not user-modifiable."),
        ));
    }
    Ok(())
}

fn missing_keyspace(keyspace: &str) -> CqlError {
    CqlError::invalid(format!("Keyspace '{keyspace}' does not exist"))
}

fn keyspace_mut<'a>(catalog: &'a mut Catalog, name: &str) -> Result<&'a mut KeyspaceSchema, CqlError> {
    catalog
        .keyspaces
        .get_mut(name)
        .map(Arc::make_mut)
        .ok_or_else(|| missing_keyspace(name))
}

fn find_table<'a>(
    context: &DdlContext<'_>,
    catalog: &'a Catalog,
    name: &QualifiedName,
) -> Result<&'a Arc<TableSchema>, CqlError> {
    let (keyspace, name) = locate(context, name)?;
    refuse_system(&keyspace)?;
    catalog
        .keyspace(&keyspace)
        .ok_or_else(|| missing_keyspace(&keyspace))?;
    catalog
        .table(&keyspace, &name)
        .ok_or_else(|| CqlError::invalid(format!("Table '{keyspace}.{name}' doesn't exist")))
}

/// ScyllaDB: at most 48 word characters.
fn check_name(kind: &str, name: &str) -> Result<(), CqlError> {
    let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !word {
        return Err(CqlError::invalid(format!(
            "\"{name}\" is not a valid {kind} name"
        )));
    }
    if name.len() > 48 {
        return Err(CqlError::invalid(format!(
            "{kind} names shouldn't be more than 48 characters long (got \"{name}\")"
        )));
    }
    Ok(())
}
