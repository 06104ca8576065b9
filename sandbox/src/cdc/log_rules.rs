//! What may not be done to a log table by its own name.

use crate::error::{CqlError, ErrorKind};
use crate::schema::{Catalog, TableSchema};

/// Refuses ALTER TABLE ADD, DROP and ALTER of a log's columns, which follow its base table's.
///
/// # Errors
/// Invalid if `table` is a log.
pub fn refuse_column_change(catalog: &Catalog, table: &TableSchema) -> Result<(), CqlError> {
    let reason = match state(catalog, table) {
        State::NotALog => return Ok(()),
        State::Attached => "Modify the base table instead.",
        State::Detached => {
            "Although the base table has deactivated CDC, this table will continue being a CDC log table until it \
             is dropped. Enable CDC on the base table again to change its columns and the log's with them."
        }
    };
    Err(CqlError::invalid(format!(
        "You cannot modify the set of columns of a CDC log table directly. {reason}"
    )))
}

/// Refuses ALTER TABLE RENAME of a log's columns.
///
/// # Errors
/// Invalid if `table` is a log.
pub fn refuse_rename(catalog: &Catalog, table: &TableSchema) -> Result<(), CqlError> {
    match state(catalog, table) {
        State::NotALog => Ok(()),
        State::Attached => Err(CqlError::invalid("Cannot rename a column of a CDC log table.")),
        State::Detached => Err(CqlError::invalid(
            "You cannot rename a column of a CDC log table. Although the base table has deactivated CDC, this table \
             will continue being a CDC log table until it is dropped.",
        )),
    }
}

/// Refuses DROP TABLE of a log that is in use; a detached one may go.
///
/// # Errors
/// Unauthorized, as ScyllaDB has it.
pub fn refuse_drop(catalog: &Catalog, table: &TableSchema) -> Result<(), CqlError> {
    match state(catalog, table) {
        State::Attached => Err(CqlError::new(
            ErrorKind::Unauthorized,
            format!("Cannot DROP cdc log table {}", table.name),
        )),
        State::NotALog | State::Detached => Ok(()),
    }
}

/// Refuses conditional writes to a log.
///
/// # Errors
/// Invalid if `table` is a log.
pub fn refuse_conditional(table: &TableSchema) -> Result<(), CqlError> {
    match table.cdc_log_of {
        Some(_) => Err(CqlError::invalid(format!(
            "LWT is not supported on CDC log tables: {}.{}",
            table.keyspace, table.name
        ))),
        None => Ok(()),
    }
}

enum State {
    NotALog,
    /// The base table writes to it.
    Attached,
    /// The base table has CDC no more.
    Detached,
}

fn state(catalog: &Catalog, table: &TableSchema) -> State {
    let Some(base) = &table.cdc_log_of else {
        return State::NotALog;
    };
    match catalog.table(&table.keyspace, base) {
        Some(base) if base.cdc_enabled() => State::Attached,
        _ => State::Detached,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{refuse_column_change, refuse_conditional, refuse_drop, refuse_rename};
    use crate::cdc::log_schema::log_table;
    use crate::error::ErrorKind;
    use crate::schema::builder::TableBuilder;
    use crate::schema::{Catalog, CdcOptions, KeyspaceSchema, TableSchema};
    use crate::types::CqlType;

    fn catalog(cdc_enabled: bool) -> (Catalog, Arc<TableSchema>, Arc<TableSchema>) {
        let table = |enabled| {
            let options = CdcOptions {
                enabled,
                ..CdcOptions::default()
            };
            let builder = TableBuilder::new("ks", "t").partition_key("pk", CqlType::Int);
            Arc::new(builder.with(|table| table.cdc = Some(options)).build())
        };
        let log = log_table(&Catalog::default(), &table(true), None, 0).unwrap();
        let (base, log) = (table(cdc_enabled), Arc::new(log));
        let tables = [base.clone(), log.clone()].map(|table| (table.name.clone(), table));
        let keyspace = KeyspaceSchema {
            name: "ks".into(),
            replication: BTreeMap::new(),
            durable_writes: true,
            initial_tablets: None,
            tables: BTreeMap::from(tables),
            types: BTreeMap::new(),
        };
        let keyspaces = BTreeMap::from([("ks".to_string(), Arc::new(keyspace))]);
        let catalog = Catalog {
            keyspaces,
            ..Catalog::default()
        };
        (catalog, base, log)
    }

    #[test]
    fn a_log_is_guarded_while_it_exists_and_undroppable_while_in_use() {
        for (enabled, droppable) in [(true, Err(ErrorKind::Unauthorized)), (false, Ok(()))] {
            let (catalog, base, log) = catalog(enabled);
            let kind = |result: Result<(), crate::error::CqlError>| result.map_err(|error| error.kind);
            assert_eq!(
                kind(refuse_column_change(&catalog, &log)),
                Err(ErrorKind::Invalid)
            );
            assert_eq!(kind(refuse_rename(&catalog, &log)), Err(ErrorKind::Invalid));
            assert_eq!(kind(refuse_conditional(&log)), Err(ErrorKind::Invalid));
            assert_eq!(kind(refuse_drop(&catalog, &log)), droppable);
            assert_eq!(kind(refuse_column_change(&catalog, &base)), Ok(()));
            assert_eq!(kind(refuse_rename(&catalog, &base)), Ok(()));
            assert_eq!(kind(refuse_drop(&catalog, &base)), Ok(()));
            assert_eq!(kind(refuse_conditional(&base)), Ok(()));
        }
    }
}
