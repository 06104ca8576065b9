//! The statements that would make what is there. What a table did not set is left out: the node's defaults
//! apply to the copy too.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cdc::options;
use crate::schema::builder::DEFAULT_GC_GRACE_SECONDS;
use crate::schema::type_name::{quoted, type_name};
use crate::schema::{ColumnKind, KeyspaceSchema, TableSchema};
use crate::types::{CqlType, UdtDefinition};

pub(super) fn create_keyspace(keyspace: &KeyspaceSchema) -> String {
    let mut text = format!(
        "CREATE KEYSPACE {} WITH replication = {} AND durable_writes = {}",
        quoted(&keyspace.name),
        map(&keyspace.replication),
        keyspace.durable_writes
    );
    match keyspace.initial_tablets {
        Some(0) => text.push_str(" AND tablets = {'enabled': true}"),
        Some(initial) => text.push_str(&format!(
            " AND tablets = {{'enabled': true, 'initial': {initial}}}"
        )),
        None => text.push_str(" AND tablets = {'enabled': false}"),
    }
    text + ";"
}

pub(super) fn create_type(definition: &UdtDefinition) -> String {
    let fields = definition.fields.iter();
    let fields: Vec<String> = fields
        .map(|(name, ty)| format!("    {} {}", quoted(name), type_name(ty)))
        .collect();
    format!(
        "CREATE TYPE {}.{} (\n{}\n);",
        quoted(&definition.keyspace),
        quoted(&definition.name),
        fields.join(",\n")
    )
}

pub(super) fn create_index(table: &TableSchema, index: &str) -> String {
    let column = table.indexes.get(index).map(String::as_str).unwrap_or_default();
    format!(
        "CREATE INDEX {} ON {}.{} ({});",
        quoted(index),
        quoted(&table.keyspace),
        quoted(&table.name),
        quoted(column)
    )
}

pub(super) fn create_table(table: &TableSchema) -> String {
    let mut lines: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let suffix = if column.kind == ColumnKind::Static {
                " static"
            } else {
                ""
            };
            format!("    {} {}{suffix}", quoted(&column.name), type_name(&column.ty))
        })
        .collect();
    lines.push(format!("    PRIMARY KEY ({})", primary_key(table)));
    let properties = properties(table);
    format!(
        "CREATE TABLE {}.{} (\n{}\n){}{};",
        quoted(&table.keyspace),
        quoted(&table.name),
        lines.join(",\n"),
        if properties.is_empty() { "" } else { " WITH " },
        properties.join("\n    AND ")
    )
}

/// The types of a keyspace, those that others are made of first.
pub(super) fn types_in_order(keyspace: &KeyspaceSchema) -> Vec<&Arc<UdtDefinition>> {
    let mut ordered: Vec<&Arc<UdtDefinition>> = Vec::new();
    for definition in keyspace.types.values() {
        place(keyspace, definition, &mut ordered);
    }
    ordered
}

/// Types cannot contain themselves, so this ends.
fn place<'a>(
    keyspace: &'a KeyspaceSchema,
    definition: &'a Arc<UdtDefinition>,
    ordered: &mut Vec<&'a Arc<UdtDefinition>>,
) {
    if ordered.iter().any(|placed| placed.name == definition.name) {
        return;
    }
    for (_, ty) in &definition.fields {
        for name in types_within(ty) {
            if let Some(inner) = keyspace.types.get(name) {
                place(keyspace, inner, ordered);
            }
        }
    }
    ordered.push(definition);
}

fn types_within(ty: &CqlType) -> Vec<&str> {
    match ty {
        CqlType::Udt { definition, .. } => vec![&definition.name],
        CqlType::List { element, .. } | CqlType::Set { element, .. } | CqlType::Vector { element, .. } => {
            types_within(element)
        }
        CqlType::Map { key, value, .. } => [types_within(key), types_within(value)].concat(),
        CqlType::Tuple(fields) => fields.iter().flat_map(types_within).collect(),
        _ => Vec::new(),
    }
}

fn primary_key(table: &TableSchema) -> String {
    let names =
        |ids: &[usize]| -> Vec<String> { ids.iter().map(|id| quoted(&table.columns[*id].name)).collect() };
    let partition = names(&table.partition_key);
    let mut parts = match partition.as_slice() {
        [only] => vec![only.clone()],
        several => vec![format!("({})", several.join(", "))],
    };
    parts.extend(names(&table.clustering_key));
    parts.join(", ")
}

fn properties(table: &TableSchema) -> Vec<String> {
    let mut properties = Vec::new();
    if !table.clustering_key.is_empty() {
        let order = table.clustering_key.iter().map(|id| {
            let column = &table.columns[*id];
            let descending = column.kind == ColumnKind::Clustering { descending: true };
            format!(
                "{} {}",
                quoted(&column.name),
                if descending { "DESC" } else { "ASC" }
            )
        });
        properties.push(format!(
            "CLUSTERING ORDER BY ({})",
            order.collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(cdc) = &table.cdc {
        let named = options::to_map(cdc)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        properties.push(format!("cdc = {}", map(&named.collect())));
    }
    if !table.comment.is_empty() {
        properties.push(format!("comment = {}", text(&table.comment)));
    }
    if table.default_time_to_live != 0 {
        properties.push(format!("default_time_to_live = {}", table.default_time_to_live));
    }
    if table.gc_grace_seconds != DEFAULT_GC_GRACE_SECONDS {
        properties.push(format!("gc_grace_seconds = {}", table.gc_grace_seconds));
    }
    for (name, value) in &table.options {
        let plain = value.starts_with('{')
            || value.parse::<f64>().is_ok()
            || matches!(value.as_str(), "true" | "false");
        properties.push(format!(
            "{name} = {}",
            if plain { value.clone() } else { text(value) }
        ));
    }
    properties
}

fn map(entries: &BTreeMap<String, String>) -> String {
    let entries = entries.iter();
    let entries: Vec<String> = entries
        .map(|(name, value)| format!("{}: {}", text(name), text(value)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
