//! keyspaces, scylla_keyspaces, types.

use super::{NamedRow, frozen_list, frozen_map};
use crate::schema::builder::TableBuilder;
use crate::schema::type_name::type_name;
use crate::schema::{Catalog, TableSchema};
use crate::system::value;
use crate::types::CqlType;

pub(super) fn keyspaces_schema() -> TableSchema {
    TableBuilder::new("system_schema", "keyspaces")
        .partition_key("keyspace_name", CqlType::Text)
        .regular("durable_writes", CqlType::Boolean)
        .regular("replication", frozen_map(CqlType::Text))
        .build()
}

pub(super) fn keyspaces(catalog: &Catalog) -> Vec<NamedRow> {
    let keyspaces = catalog.keyspaces.values();
    keyspaces
        .map(|keyspace| {
            vec![
                ("keyspace_name", value::text(&keyspace.name)),
                ("durable_writes", value::boolean(keyspace.durable_writes)),
                ("replication", value::text_map(&keyspace.replication)),
            ]
        })
        .collect()
}

pub(super) fn scylla_keyspaces_schema() -> TableSchema {
    TableBuilder::new("system_schema", "scylla_keyspaces")
        .partition_key("keyspace_name", CqlType::Text)
        .regular("initial_tablets", CqlType::Int)
        .regular("storage_options", frozen_map(CqlType::Text))
        .regular("storage_type", CqlType::Text)
        .build()
}

/// `initial_tablets` is what tells readers of CDC logs where to find the streams: null means vnodes.
pub(super) fn scylla_keyspaces(catalog: &Catalog) -> Vec<NamedRow> {
    let keyspaces = catalog.keyspaces.values();
    keyspaces
        .map(|keyspace| {
            vec![
                ("keyspace_name", value::text(&keyspace.name)),
                ("initial_tablets", keyspace.initial_tablets.and_then(value::int)),
            ]
        })
        .collect()
}

pub(super) fn types_schema() -> TableSchema {
    TableBuilder::new("system_schema", "types")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("type_name", CqlType::Text)
        .regular("field_names", frozen_list())
        .regular("field_types", frozen_list())
        .build()
}

pub(super) fn types(catalog: &Catalog) -> Vec<NamedRow> {
    let definitions = catalog
        .keyspaces
        .values()
        .flat_map(|keyspace| keyspace.types.values());
    definitions
        .map(|definition| {
            let names = definition.fields.iter().map(|(name, _)| name.clone());
            let types = definition.fields.iter().map(|(_, ty)| type_name(ty));
            vec![
                ("keyspace_name", value::text(&definition.keyspace)),
                ("type_name", value::text(&definition.name)),
                ("field_names", value::text_list(names)),
                ("field_types", value::text_list(types)),
            ]
        })
        .collect()
}
