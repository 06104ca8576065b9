//! columns, dropped_columns, indexes, and two tables about columns of views.

use super::{NamedRow, frozen_map};
use crate::schema::builder::TableBuilder;
use crate::schema::type_name::type_name;
use crate::schema::{Catalog, ColumnKind, ColumnSchema, TableSchema};
use crate::system::value;
use crate::types::CqlType;

pub(super) fn columns_schema() -> TableSchema {
    per_column("columns")
        .regular("clustering_order", CqlType::Text)
        .regular("column_name_bytes", CqlType::Blob)
        .regular("kind", CqlType::Text)
        .regular("position", CqlType::Int)
        .regular("type", CqlType::Text)
        .build()
}

pub(super) fn columns(catalog: &Catalog) -> Vec<NamedRow> {
    let of_table = |table: &TableSchema| -> Vec<NamedRow> {
        let row = |column: &ColumnSchema| {
            vec![
                ("keyspace_name", value::text(&table.keyspace)),
                ("table_name", value::text(&table.name)),
                ("column_name", value::text(&column.name)),
                ("clustering_order", value::text(clustering_order(column.kind))),
                ("column_name_bytes", value::text(&column.name)),
                ("kind", value::text(kind_name(column.kind))),
                ("position", value::int(column.position)),
                ("type", value::text(&type_name(&column.ty))),
            ]
        };
        table.columns.iter().map(row).collect()
    };
    catalog.tables().flat_map(|table| of_table(table)).collect()
}

pub(super) fn dropped_columns_schema() -> TableSchema {
    per_column("dropped_columns")
        .regular("dropped_time", CqlType::Timestamp)
        .regular("type", CqlType::Text)
        .build()
}

pub(super) fn dropped_columns(catalog: &Catalog) -> Vec<NamedRow> {
    let of_table = |table: &TableSchema| -> Vec<NamedRow> {
        let row = |(name, (ty, dropped_micros)): (&String, &(CqlType, i64))| {
            vec![
                ("keyspace_name", value::text(&table.keyspace)),
                ("table_name", value::text(&table.name)),
                ("column_name", value::text(name)),
                ("dropped_time", value::timestamp(dropped_micros / 1_000)),
                ("type", value::text(&type_name(ty))),
            ]
        };
        table.dropped_columns.iter().map(row).collect()
    };
    catalog.tables().flat_map(|table| of_table(table)).collect()
}

pub(super) fn indexes_schema() -> TableSchema {
    TableBuilder::new("system_schema", "indexes")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("table_name", CqlType::Text)
        .clustering("index_name", CqlType::Text)
        .regular("kind", CqlType::Text)
        .regular("options", frozen_map(CqlType::Text))
        .build()
}

pub(super) fn indexes(catalog: &Catalog) -> Vec<NamedRow> {
    let of_table = |table: &TableSchema| -> Vec<NamedRow> {
        let row = |(name, column): (&String, &String)| {
            vec![
                ("keyspace_name", value::text(&table.keyspace)),
                ("table_name", value::text(&table.name)),
                ("index_name", value::text(name)),
                ("kind", value::text("COMPOSITES")),
                ("options", value::text_map([("target", column)])),
            ]
        };
        table.indexes.iter().map(row).collect()
    };
    catalog.tables().flat_map(|table| of_table(table)).collect()
}

pub(super) fn computed_columns_schema() -> TableSchema {
    per_column("computed_columns")
        .regular("computation", CqlType::Blob)
        .build()
}

pub(super) fn view_virtual_columns_schema() -> TableSchema {
    TableBuilder::new("system_schema", "view_virtual_columns")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("view_name", CqlType::Text)
        .clustering("column_name", CqlType::Text)
        .regular("clustering_order", CqlType::Text)
        .regular("column_name_bytes", CqlType::Blob)
        .regular("kind", CqlType::Text)
        .regular("position", CqlType::Int)
        .regular("type", CqlType::Text)
        .build()
}

fn per_column(name: &str) -> TableBuilder {
    TableBuilder::new("system_schema", name)
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("table_name", CqlType::Text)
        .clustering("column_name", CqlType::Text)
}

fn clustering_order(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Clustering { descending: true } => "desc",
        ColumnKind::Clustering { descending: false } => "asc",
        ColumnKind::PartitionKey | ColumnKind::Static | ColumnKind::Regular => "none",
    }
}

fn kind_name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::PartitionKey => "partition_key",
        ColumnKind::Clustering { .. } => "clustering",
        ColumnKind::Static => "static",
        ColumnKind::Regular => "regular",
    }
}
