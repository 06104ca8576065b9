//! tables, scylla_tables, views.

use std::sync::Arc;

use bytes::Bytes;

use super::{NamedRow, frozen_map, text_map};
use crate::cdc::options::encode_extension;
use crate::schema::builder::TableBuilder;
use crate::schema::{Catalog, Partitioner, TableSchema};
use crate::system::value;
use crate::types::CqlType;

const CDC_PARTITIONER: &str = "com.scylladb.dht.CDCPartitioner";

/// ScyllaDB's defaults of the options that a table did not set.
const DEFAULT_CACHING: &str = "{'keys': 'ALL', 'rows_per_partition': 'ALL'}";
const DEFAULT_COMPACTION: &str = "{'class': 'IncrementalCompactionStrategy'}";
const DEFAULT_COMPRESSION: &str = "{'sstable_compression': 'org.apache.cassandra.io.compress.LZ4Compressor'}";
const DEFAULT_SPECULATIVE_RETRY: &str = "99.0PERCENTILE";

pub(super) fn tables_schema() -> TableSchema {
    with_options("tables", "table_name")
        .regular(
            "flags",
            CqlType::Set {
                element: Arc::new(CqlType::Text),
                frozen: true,
            },
        )
        .build()
}

pub(super) fn tables(catalog: &Catalog) -> Vec<NamedRow> {
    catalog.tables().map(|table| table_row(table)).collect()
}

pub(super) fn scylla_tables_schema() -> TableSchema {
    TableBuilder::new("system_schema", "scylla_tables")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("table_name", CqlType::Text)
        .regular("cdc", frozen_map(CqlType::Text))
        .regular("in_memory", CqlType::Boolean)
        .regular("partitioner", CqlType::Text)
        .regular("version", CqlType::Uuid)
        .build()
}

/// `cdc` stays null: the option is in `tables.extensions`.
pub(super) fn scylla_tables(catalog: &Catalog) -> Vec<NamedRow> {
    catalog
        .tables()
        .map(|table| {
            let partitioner = match table.partitioner {
                Partitioner::Murmur3 => None,
                Partitioner::Cdc => value::text(CDC_PARTITIONER),
            };
            vec![
                ("keyspace_name", value::text(&table.keyspace)),
                ("table_name", value::text(&table.name)),
                ("partitioner", partitioner),
                ("version", value::uuid(table.version)),
            ]
        })
        .collect()
}

pub(super) fn views_schema() -> TableSchema {
    with_options("views", "view_name")
        .regular("base_table_id", CqlType::Uuid)
        .regular("base_table_name", CqlType::Text)
        .regular("include_all_columns", CqlType::Boolean)
        .regular("where_clause", CqlType::Text)
        .build()
}

/// The options that tables and views have in common.
fn with_options(name: &str, key: &str) -> TableBuilder {
    TableBuilder::new("system_schema", name)
        .partition_key("keyspace_name", CqlType::Text)
        .clustering(key, CqlType::Text)
        .regular("bloom_filter_fp_chance", CqlType::Double)
        .regular("caching", frozen_map(CqlType::Text))
        .regular("comment", CqlType::Text)
        .regular("compaction", frozen_map(CqlType::Text))
        .regular("compression", frozen_map(CqlType::Text))
        .regular("crc_check_chance", CqlType::Double)
        .regular("dclocal_read_repair_chance", CqlType::Double)
        .regular("default_time_to_live", CqlType::Int)
        .regular("extensions", frozen_map(CqlType::Blob))
        .regular("gc_grace_seconds", CqlType::Int)
        .regular("id", CqlType::Uuid)
        .regular("max_index_interval", CqlType::Int)
        .regular("memtable_flush_period_in_ms", CqlType::Int)
        .regular("min_index_interval", CqlType::Int)
        .regular("read_repair_chance", CqlType::Double)
        .regular("speculative_retry", CqlType::Text)
}

fn table_row(table: &TableSchema) -> NamedRow {
    let map = |name: &str, default: &str| {
        let text = table.options.get(name).map_or(default, String::as_str);
        value::text_map(text_map::entries(text))
    };
    let double = |name: &str, default: f64| value::double(number(table, name).unwrap_or(default));
    let int = |name: &str, default: i32| value::int(number(table, name).unwrap_or(default));
    let retry = table.options.get("speculative_retry");
    vec![
        ("keyspace_name", value::text(&table.keyspace)),
        ("table_name", value::text(&table.name)),
        ("bloom_filter_fp_chance", double("bloom_filter_fp_chance", 0.01)),
        ("caching", map("caching", DEFAULT_CACHING)),
        ("comment", value::text(&table.comment)),
        ("compaction", map("compaction", DEFAULT_COMPACTION)),
        ("compression", map("compression", DEFAULT_COMPRESSION)),
        ("crc_check_chance", double("crc_check_chance", 1.0)),
        (
            "dclocal_read_repair_chance",
            double("dclocal_read_repair_chance", 0.0),
        ),
        ("default_time_to_live", value::int(table.default_time_to_live)),
        ("extensions", extensions(table)),
        ("flags", value::text_set(["compound".to_owned()])),
        ("gc_grace_seconds", value::int(table.gc_grace_seconds)),
        ("id", value::uuid(table.id)),
        ("max_index_interval", int("max_index_interval", 2048)),
        (
            "memtable_flush_period_in_ms",
            int("memtable_flush_period_in_ms", 0),
        ),
        ("min_index_interval", int("min_index_interval", 128)),
        ("read_repair_chance", double("read_repair_chance", 0.0)),
        (
            "speculative_retry",
            value::text(retry.map_or(DEFAULT_SPECULATIVE_RETRY, String::as_str)),
        ),
    ]
}

/// Where readers of other languages look whether a table has CDC, and with which options.
fn extensions(table: &TableSchema) -> Option<Bytes> {
    let cdc = table
        .cdc
        .as_ref()
        .map(|options| ("cdc", encode_extension(options)));
    value::map(cdc)
}

fn number<T: std::str::FromStr>(table: &TableSchema, name: &str) -> Option<T> {
    table.options.get(name)?.parse().ok()
}
