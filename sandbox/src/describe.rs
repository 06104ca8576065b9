//! DESCRIBE on the server's side, in the form of Cassandra 4.0 and ScyllaDB: names, or statements that make
//! things again.

mod statements;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cql::ast::QualifiedName;
use crate::cql::ast::definition::{Describe, DescribeTarget};
use crate::error::CqlError;
use crate::query::api::{ColumnSpec, QueryResult, ResultMetadata, Rows};
use crate::query::virtual_table::VirtualContext;
use crate::schema::ddl::SYSTEM_KEYSPACES;
use crate::schema::{Catalog, KeyspaceSchema, TableSchema};
use crate::types::CqlType;

/// One line of an answer: keyspace, kind, name and, unless only names are asked for, a statement.
struct Element {
    keyspace: String,
    kind: &'static str,
    name: String,
    statement: String,
}

/// # Errors
/// Invalid: something of that name does not exist, or no keyspace is in use where one is needed.
pub(crate) fn describe(
    cluster: &Cluster,
    context: &VirtualContext<'_>,
    describe: &Describe,
) -> Result<QueryResult, CqlError> {
    let catalog = context.catalog;
    let used = context.session.keyspace.as_deref();
    let elements = match &describe.what {
        DescribeTarget::Cluster => return Ok(cluster_answer(cluster)),
        DescribeTarget::Keyspaces => {
            return Ok(names(
                catalog.keyspaces.values().map(|keyspace| keyspace_name(keyspace)),
            ));
        }
        DescribeTarget::Tables => {
            let tables = keyspaces(catalog, used).flat_map(|keyspace| keyspace.tables.values());
            return Ok(names(tables.map(|table| table_name(table))));
        }
        DescribeTarget::Types => {
            let types = keyspaces(catalog, used).flat_map(|keyspace| keyspace.types.values());
            return Ok(names(types.map(|definition| Element {
                keyspace: definition.keyspace.clone(),
                kind: "type",
                name: definition.name.clone(),
                statement: String::new(),
            })));
        }
        DescribeTarget::Functions | DescribeTarget::Aggregates => return Ok(names(std::iter::empty())),
        DescribeTarget::Schema { full } => {
            let shown = catalog
                .keyspaces
                .values()
                .filter(|keyspace| *full || !is_system(&keyspace.name));
            shown.flat_map(|keyspace| whole_keyspace(keyspace)).collect()
        }
        DescribeTarget::Keyspace { name, only } => {
            let keyspace = find_keyspace(catalog, name.as_deref().or(used))?;
            match only {
                true => vec![keyspace_element(keyspace)],
                false => whole_keyspace(keyspace),
            }
        }
        DescribeTarget::Table(name) => table_elements(find_table(catalog, used, name)?),
        DescribeTarget::Type(name) => vec![find_type(catalog, used, name)?],
        DescribeTarget::Index(name) => vec![find_index(catalog, used, name)?],
        DescribeTarget::Any(name) => anything(catalog, used, name)?,
        DescribeTarget::View(name) | DescribeTarget::Function(name) | DescribeTarget::Aggregate(name) => {
            return Err(not_found(&name.name, name.keyspace.as_deref().or(used)));
        }
    };
    Ok(with_statements(elements))
}

/// A bare name: a keyspace, a table, a type or an index, in this order.
fn anything(catalog: &Catalog, used: Option<&str>, name: &QualifiedName) -> Result<Vec<Element>, CqlError> {
    if name.keyspace.is_none()
        && let Some(keyspace) = catalog.keyspace(&name.name)
    {
        return Ok(whole_keyspace(keyspace));
    }
    if let Ok(table) = find_table(catalog, used, name) {
        return Ok(table_elements(table));
    }
    let found = find_type(catalog, used, name).or_else(|_| find_index(catalog, used, name));
    found.map(|element| vec![element])
}

/// Types before the tables that use them. CDC logs come with their tables and are left out.
fn whole_keyspace(keyspace: &KeyspaceSchema) -> Vec<Element> {
    let mut elements = vec![keyspace_element(keyspace)];
    let types = statements::types_in_order(keyspace);
    elements.extend(types.into_iter().map(|definition| Element {
        keyspace: keyspace.name.clone(),
        kind: "type",
        name: definition.name.clone(),
        statement: statements::create_type(definition),
    }));
    let tables = keyspace
        .tables
        .values()
        .filter(|table| table.cdc_log_of.is_none());
    elements.extend(tables.flat_map(|table| table_elements(table)));
    elements
}

fn keyspace_element(keyspace: &KeyspaceSchema) -> Element {
    Element {
        statement: statements::create_keyspace(keyspace),
        ..keyspace_name(keyspace)
    }
}

fn table_elements(table: &TableSchema) -> Vec<Element> {
    let mut elements = vec![Element {
        statement: statements::create_table(table),
        ..table_name(table)
    }];
    elements.extend(table.indexes.keys().map(|index| index_element(table, index)));
    elements
}

fn index_element(table: &TableSchema, index: &str) -> Element {
    Element {
        keyspace: table.keyspace.clone(),
        kind: "index",
        name: index.to_owned(),
        statement: statements::create_index(table, index),
    }
}

fn keyspace_name(keyspace: &KeyspaceSchema) -> Element {
    Element {
        keyspace: keyspace.name.clone(),
        kind: "keyspace",
        name: keyspace.name.clone(),
        statement: String::new(),
    }
}

fn table_name(table: &TableSchema) -> Element {
    Element {
        keyspace: table.keyspace.clone(),
        kind: "table",
        name: table.name.clone(),
        statement: String::new(),
    }
}

/// The keyspace in use, or all.
fn keyspaces<'a>(
    catalog: &'a Catalog,
    used: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<KeyspaceSchema>> {
    let keyspaces = catalog.keyspaces.values();
    keyspaces.filter(move |keyspace| used.is_none_or(|used| used == keyspace.name))
}

fn find_keyspace<'a>(catalog: &'a Catalog, name: Option<&str>) -> Result<&'a KeyspaceSchema, CqlError> {
    let name = name.ok_or_else(|| CqlError::invalid("No keyspace specified and no current keyspace"))?;
    let found = catalog.keyspace(name).map(Arc::as_ref);
    found.ok_or_else(|| CqlError::invalid(format!("'{name}' not found in keyspaces")))
}

fn find_table<'a>(
    catalog: &'a Catalog,
    used: Option<&str>,
    name: &QualifiedName,
) -> Result<&'a TableSchema, CqlError> {
    let keyspace = find_keyspace(catalog, name.keyspace.as_deref().or(used))?;
    let found = keyspace.tables.get(&name.name).map(Arc::as_ref);
    found.ok_or_else(|| not_found(&name.name, Some(&keyspace.name)))
}

fn find_type(catalog: &Catalog, used: Option<&str>, name: &QualifiedName) -> Result<Element, CqlError> {
    let keyspace = find_keyspace(catalog, name.keyspace.as_deref().or(used))?;
    let found = keyspace.types.get(&name.name);
    let definition = found.ok_or_else(|| not_found(&name.name, Some(&keyspace.name)))?;
    Ok(Element {
        keyspace: keyspace.name.clone(),
        kind: "type",
        name: name.name.clone(),
        statement: statements::create_type(definition),
    })
}

fn find_index(catalog: &Catalog, used: Option<&str>, name: &QualifiedName) -> Result<Element, CqlError> {
    let keyspace = find_keyspace(catalog, name.keyspace.as_deref().or(used))?;
    let mut tables = keyspace.tables.values();
    let table = tables.find(|table| table.indexes.contains_key(&name.name));
    let table = table.ok_or_else(|| not_found(&name.name, Some(&keyspace.name)))?;
    Ok(index_element(table, &name.name))
}

fn not_found(name: &str, keyspace: Option<&str>) -> CqlError {
    CqlError::invalid(match keyspace {
        Some(keyspace) => format!("'{name}' not found in keyspace '{keyspace}'"),
        None => format!("'{name}' not found in keyspaces"),
    })
}

fn is_system(keyspace: &str) -> bool {
    SYSTEM_KEYSPACES.contains(&keyspace)
}

fn cluster_answer(cluster: &Cluster) -> QueryResult {
    let row = [
        cluster.name.clone(),
        "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
        "org.apache.cassandra.locator.SimpleSnitch".to_owned(),
    ];
    answer(&["cluster", "partitioner", "snitch"], vec![row.to_vec()])
}

fn names(elements: impl Iterator<Item = Element>) -> QueryResult {
    let row = |element: Element| vec![element.keyspace, element.kind.to_owned(), element.name];
    answer(&["keyspace_name", "type", "name"], elements.map(row).collect())
}

fn with_statements(elements: Vec<Element>) -> QueryResult {
    let row = |element: Element| {
        vec![
            element.keyspace,
            element.kind.to_owned(),
            element.name,
            element.statement,
        ]
    };
    let rows = elements.into_iter().map(row).collect();
    answer(&["keyspace_name", "type", "name", "create_statement"], rows)
}

/// Rows of text.
fn answer(columns: &[&str], rows: Vec<Vec<String>>) -> QueryResult {
    let (keyspace, table): (Arc<str>, Arc<str>) = (Arc::from("system"), Arc::from("describe"));
    let columns = columns.iter().map(|name| ColumnSpec {
        keyspace: keyspace.clone(),
        table: table.clone(),
        name: (*name).to_owned(),
        ty: CqlType::Text,
    });
    let mut data = Vec::new();
    for value in rows.iter().flatten() {
        // A statement is as long as its table has columns: far below 2 GiB.
        data.extend_from_slice(&(value.len() as i32).to_be_bytes());
        data.extend_from_slice(value.as_bytes());
    }
    QueryResult::Rows(Rows {
        metadata: Arc::new(ResultMetadata {
            columns: columns.collect(),
        }),
        row_count: rows.len() as i32,
        data,
        paging_state: None,
    })
}

#[cfg(test)]
mod tests {
    use crate::Sandbox;
    use crate::query::api::{QueryParams, QueryResult, Session, Values};

    fn run(sandbox: &Sandbox, text: &str) -> Result<Vec<Vec<String>>, String> {
        let (values, params) = (Values::default(), QueryParams::default());
        let result = sandbox
            .engine()
            .query(&mut Session::default(), text, &values, &params);
        let rows = match result.map_err(|error| error.message)? {
            QueryResult::Rows(rows) => rows.to_vec(),
            _ => Vec::new(),
        };
        let text = |cell: Option<bytes::Bytes>| String::from_utf8(cell.unwrap_or_default().to_vec()).unwrap();
        Ok(rows
            .into_iter()
            .map(|row| row.into_iter().map(text).collect())
            .collect())
    }

    /// What DESCRIBE says makes the same again.
    #[tokio::test]
    async fn statements_make_what_they_describe() {
        let (first, second) = (
            Sandbox::builder().start().await.unwrap(),
            Sandbox::builder().start().await.unwrap(),
        );
        for statement in [
            "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TYPE ks.b (x int)",
            "CREATE TYPE ks.a (\"Y\" frozen<list<frozen<b>>>)",
            "CREATE TABLE ks.t (p int, q text, c timeuuid, s text static, v frozen<a>, m map<int, text>, \
             PRIMARY KEY ((p, q), c)) WITH CLUSTERING ORDER BY (c DESC) AND comment = 'it''s' \
             AND compaction = {'class': 'LeveledCompactionStrategy'} AND gc_grace_seconds = 7 \
             AND cdc = {'enabled': true, 'preimage': 'full'}",
            "CREATE TABLE ks.\"Plain\" (k int PRIMARY KEY, v int)",
            "CREATE INDEX by_v ON ks.\"Plain\" (v)",
        ] {
            run(&first, statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        let described = run(&first, "DESCRIBE KEYSPACE ks").unwrap();
        let kinds: Vec<&str> = described.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(kinds, ["keyspace", "type", "type", "table", "index", "table"]);
        assert!(
            described[5][3].contains("PRIMARY KEY ((p, q), c)"),
            "{}",
            described[5][3]
        );
        for row in &described {
            run(&second, &row[3]).unwrap_or_else(|error| panic!("{}: {error}", row[3]));
        }
        assert_eq!(run(&second, "DESCRIBE KEYSPACE ks").unwrap(), described);
        assert_eq!(run(&second, "DESCRIBE ks").unwrap(), described);
        assert_eq!(run(&second, "DESCRIBE SCHEMA").unwrap(), described);
    }

    #[tokio::test]
    async fn names_and_what_is_not_there() {
        let sandbox = Sandbox::builder().cluster_name("here").start().await.unwrap();
        assert_eq!(run(&sandbox, "DESCRIBE CLUSTER").unwrap()[0][0], "here");
        let keyspaces = run(&sandbox, "DESCRIBE KEYSPACES").unwrap();
        assert!(
            keyspaces.iter().any(|row| row[2] == "system_schema"),
            "{keyspaces:?}"
        );
        let tables = run(&sandbox, "DESC TABLES").unwrap();
        assert!(tables.contains(&vec!["system".into(), "table".into(), "local".into()]));
        let check = |text: &str, expected: &str| assert_eq!(run(&sandbox, text).unwrap_err(), expected);
        check(
            "DESCRIBE KEYSPACE",
            "No keyspace specified and no current keyspace",
        );
        check("DESCRIBE KEYSPACE nope", "'nope' not found in keyspaces");
        check(
            "DESCRIBE TABLE system.nope",
            "'nope' not found in keyspace 'system'",
        );
        check("DESCRIBE system.nope", "'nope' not found in keyspace 'system'");
    }
}
