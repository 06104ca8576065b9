//! system_schema: the catalog as tables (ScyllaDB `db/schema_tables.cc`).

mod columns;
mod keyspaces;
mod tables;
mod text_map;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::CqlError;
use crate::query::virtual_table::{VirtualContext, VirtualRow, VirtualTable};
use crate::schema::builder::TableBuilder;
use crate::schema::{Catalog, TableSchema};
use crate::types::CqlType;

/// One of the tables: what it looks like and how it is filled.
struct SchemaTable {
    schema: Arc<TableSchema>,
    fill: Fill,
}

type Fill = fn(&Catalog) -> Vec<NamedRow>;

/// Values by column name; columns that are not named are null.
type NamedRow = Vec<(&'static str, Option<Bytes>)>;

pub(super) fn tables() -> Vec<Arc<dyn VirtualTable>> {
    let definitions: [(TableSchema, Fill); 15] = [
        (keyspaces::keyspaces_schema(), keyspaces::keyspaces),
        (keyspaces::scylla_keyspaces_schema(), keyspaces::scylla_keyspaces),
        (keyspaces::types_schema(), keyspaces::types),
        (tables::tables_schema(), tables::tables),
        (tables::scylla_tables_schema(), tables::scylla_tables),
        (tables::views_schema(), nothing),
        (columns::columns_schema(), columns::columns),
        (columns::dropped_columns_schema(), columns::dropped_columns),
        (columns::indexes_schema(), columns::indexes),
        (columns::computed_columns_schema(), nothing),
        (columns::view_virtual_columns_schema(), nothing),
        (functions_schema(), nothing),
        (aggregates_schema(), nothing),
        (triggers_schema(), nothing),
        (scylla_aggregates_schema(), nothing),
    ];
    let table = |(schema, fill)| {
        Arc::new(SchemaTable {
            schema: Arc::new(schema),
            fill,
        }) as Arc<dyn VirtualTable>
    };
    definitions.into_iter().map(table).collect()
}

impl VirtualTable for SchemaTable {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        let in_order = |named: NamedRow| {
            let mut row = vec![None; self.schema.columns.len()];
            for (name, value) in named {
                if let Some(column) = self.schema.column_id(name) {
                    row[column] = value;
                }
            }
            row
        };
        Ok((self.fill)(context.catalog).into_iter().map(in_order).collect())
    }
}

/// What cannot be created here has no rows.
fn nothing(_: &Catalog) -> Vec<NamedRow> {
    Vec::new()
}

fn functions_schema() -> TableSchema {
    TableBuilder::new("system_schema", "functions")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("function_name", CqlType::Text)
        .clustering("argument_types", frozen_list())
        .regular("argument_names", frozen_list())
        .regular("body", CqlType::Text)
        .regular("called_on_null_input", CqlType::Boolean)
        .regular("language", CqlType::Text)
        .regular("return_type", CqlType::Text)
        .build()
}

fn aggregates_schema() -> TableSchema {
    TableBuilder::new("system_schema", "aggregates")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("aggregate_name", CqlType::Text)
        .clustering("argument_types", frozen_list())
        .regular("final_func", CqlType::Text)
        .regular("initcond", CqlType::Text)
        .regular("return_type", CqlType::Text)
        .regular("state_func", CqlType::Text)
        .regular("state_type", CqlType::Text)
        .build()
}

fn scylla_aggregates_schema() -> TableSchema {
    TableBuilder::new("system_schema", "scylla_aggregates")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("aggregate_name", CqlType::Text)
        .clustering("argument_types", frozen_list())
        .regular("reduce_func", CqlType::Text)
        .regular("state_type", CqlType::Text)
        .build()
}

fn triggers_schema() -> TableSchema {
    TableBuilder::new("system_schema", "triggers")
        .partition_key("keyspace_name", CqlType::Text)
        .clustering("table_name", CqlType::Text)
        .clustering("trigger_name", CqlType::Text)
        .regular("options", frozen_map(CqlType::Text))
        .build()
}

fn frozen_list() -> CqlType {
    CqlType::List {
        element: Arc::new(CqlType::Text),
        frozen: true,
    }
}

/// `frozen<map<text, ...>>`.
fn frozen_map(value: CqlType) -> CqlType {
    CqlType::Map {
        key: Arc::new(CqlType::Text),
        value: Arc::new(value),
        frozen: true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::query::api::Session;
    use crate::schema::{CdcOptions, KeyspaceSchema};

    fn catalog() -> Catalog {
        let table = TableBuilder::new("ks", "t")
            .partition_key("b", CqlType::Int)
            .partition_key("a", CqlType::Int)
            .clustering_desc("c", CqlType::Timeuuid)
            .static_column("s", frozen_map(CqlType::Blob))
            .with(|table| {
                table.cdc = Some(CdcOptions::default());
                table
                    .options
                    .insert("compaction".into(), "{'class': 'X', 'it''s': ''}".into());
                table.indexes.insert("by_s".into(), "s".into());
            })
            .build();
        let keyspace = KeyspaceSchema {
            name: "ks".into(),
            replication: BTreeMap::from([("class".into(), "SimpleStrategy".into())]),
            durable_writes: true,
            initial_tablets: Some(0),
            tables: BTreeMap::from([("t".into(), Arc::new(table))]),
            types: BTreeMap::new(),
        };
        let mut catalog = Catalog::default();
        catalog.keyspaces.insert("ks".into(), Arc::new(keyspace));
        catalog
    }

    /// The columns named, as text where they are text, else in hex; one line per row.
    fn read(table: &str, columns: &[&str]) -> Vec<String> {
        let (catalog, session) = (catalog(), Session::default());
        let context = VirtualContext {
            catalog: &catalog,
            session: &session,
        };
        let tables = tables();
        let table = tables.iter().find(|found| found.schema().name == table).unwrap();
        let schema = table.schema();
        let rows = table.rows(&context).unwrap();
        let show = |row: &VirtualRow, name: &str| {
            let id = schema.column_id(name).unwrap();
            match (&row[id], &schema.columns[id].ty) {
                (None, _) => "-".to_owned(),
                (Some(value), CqlType::Text) => String::from_utf8(value.to_vec()).unwrap(),
                (Some(value), _) => hex::encode(value),
            }
        };
        rows.iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|name| show(row, name))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    }

    #[test]
    fn the_catalog_shows() {
        assert_eq!(
            read(
                "columns",
                &["column_name", "kind", "clustering_order", "position", "type"]
            ),
            [
                "b partition_key none 00000000 int",
                "a partition_key none 00000001 int",
                "c clustering desc 00000000 timeuuid",
                "s static none ffffffff frozen<map<text, blob>>",
            ]
        );
        assert_eq!(read("keyspaces", &["keyspace_name", "durable_writes"]), ["ks 01"]);
        assert_eq!(
            read("scylla_keyspaces", &["keyspace_name", "initial_tablets"]),
            ["ks 00000000"]
        );
        assert_eq!(
            read("scylla_tables", &["table_name", "partitioner", "cdc"]),
            ["t - -"]
        );
        assert_eq!(read("indexes", &["index_name", "kind"]), ["by_s COMPOSITES"]);
        // {'class': 'X', "it's": ''}
        let compaction = "0000000200000005636c61737300000001580000000469742773".to_owned() + "00000000";
        assert_eq!(read("tables", &["compaction"]), [compaction]);
        let extensions = read("tables", &["extensions"]).remove(0);
        assert!(
            extensions.starts_with(&format!("0000000100000003{}", hex::encode("cdc"))),
            "{extensions}"
        );
    }

    #[test]
    fn columns_that_rows_name_exist() {
        let catalog = catalog();
        for table in tables() {
            let schema = table.schema();
            assert!(schema.columns.iter().all(|column| !column.name.is_empty()));
            let session = Session::default();
            let context = VirtualContext {
                catalog: &catalog,
                session: &session,
            };
            for row in table.rows(&context).unwrap() {
                for column in schema.partition_key.iter().chain(&schema.clustering_key) {
                    assert!(
                        row[*column].is_some(),
                        "{}.{}",
                        schema.name,
                        schema.columns[*column].name
                    );
                }
            }
        }
        let fills: [(TableSchema, Fill); 4] = [
            (keyspaces::keyspaces_schema(), keyspaces::keyspaces),
            (tables::tables_schema(), tables::tables),
            (columns::columns_schema(), columns::columns),
            (columns::indexes_schema(), columns::indexes),
        ];
        for (schema, fill) in fills {
            for (name, _) in fill(&catalog).into_iter().flatten() {
                assert!(schema.column(name).is_some(), "{}.{name}", schema.name);
            }
        }
    }
}
