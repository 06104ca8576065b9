//! Which tables a schema change concerns beside the one that the statement names: a CDC log comes, changes and
//! goes with its base table, and clients that keep the schema must hear of it.

use crate::query::api::SchemaChange;
use crate::schema::{Catalog, TableSchema};

/// The change itself, and that of the log if the table has one before or after.
pub(super) fn all_of(change: &SchemaChange, before: &Catalog, after: &Catalog) -> Vec<SchemaChange> {
    let mut changes = vec![change.clone()];
    if change.target != "TABLE" {
        return changes;
    }
    let (old, new) = (log_of(before, change), log_of(after, change));
    let kind = match (&old, &new) {
        (None, Some(_)) => "CREATED",
        (Some(old), Some(new)) if old.version != new.version => "UPDATED",
        (Some(_), None) => "DROPPED",
        _ => return changes,
    };
    if let Some(log) = new.or(old) {
        changes.push(SchemaChange {
            change: kind,
            name: log.name.clone(),
            ..change.clone()
        });
    }
    changes
}

fn log_of<'a>(catalog: &'a Catalog, change: &SchemaChange) -> Option<&'a TableSchema> {
    let tables = &catalog.keyspace(&change.keyspace)?.tables;
    let log = tables.get(&crate::cdc::log_schema::log_name(&change.name))?;
    (log.cdc_log_of.as_ref() == Some(&change.name)).then_some(log)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::schema::KeyspaceSchema;
    use crate::schema::builder::TableBuilder;
    use crate::types::CqlType;

    fn catalog(log_version: Option<u128>) -> Catalog {
        let mut tables = BTreeMap::new();
        if let Some(version) = log_version {
            let log = TableBuilder::new("ks", "t_scylla_cdc_log")
                .partition_key("k", CqlType::Blob)
                .with(|table| {
                    table.cdc_log_of = Some("t".into());
                    table.version = Uuid::from_u128(version);
                })
                .build();
            tables.insert(log.name.clone(), Arc::new(log));
        }
        let keyspace = KeyspaceSchema {
            name: "ks".into(),
            replication: BTreeMap::new(),
            durable_writes: true,
            initial_tablets: None,
            tables,
            types: BTreeMap::new(),
        };
        let mut catalog = Catalog::default();
        catalog.keyspaces.insert("ks".into(), Arc::new(keyspace));
        catalog
    }

    #[test]
    fn logs_change_with_their_tables() {
        let check = |before: Option<u128>, after: Option<u128>, expected: &[&str]| {
            let change = SchemaChange {
                change: "UPDATED",
                target: "TABLE",
                keyspace: "ks".into(),
                name: "t".into(),
            };
            let found = all_of(&change, &catalog(before), &catalog(after));
            let found: Vec<String> = found
                .iter()
                .map(|one| format!("{} {}", one.change, one.name))
                .collect();
            assert_eq!(found, expected);
        };
        check(None, None, &["UPDATED t"]);
        check(None, Some(1), &["UPDATED t", "CREATED t_scylla_cdc_log"]);
        check(Some(1), Some(2), &["UPDATED t", "UPDATED t_scylla_cdc_log"]);
        check(Some(1), Some(1), &["UPDATED t"]);
        check(Some(1), None, &["UPDATED t", "DROPPED t_scylla_cdc_log"]);
    }
}
