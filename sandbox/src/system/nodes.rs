//! The nodes as their own tables show them. `local` and `peers` answer for the node that the client is
//! connected to.

use std::sync::Arc;

use uuid::Uuid;

use super::{CQL_VERSION, value};
use crate::cluster::{Cluster, Node};
use crate::error::CqlError;
use crate::query::virtual_table::{VirtualContext, VirtualRow, VirtualTable};
use crate::schema::TableSchema;
use crate::schema::builder::TableBuilder;
use crate::types::CqlType;

const PARTITIONER: &str = "org.apache.cassandra.dht.Murmur3Partitioner";

/// What `system.local` and `system.peers` say alike.
const FEATURES: &str = "CDC,UDA,VIEW_VIRTUAL_COLUMNS";

/// All tables of this module.
pub(super) fn tables(cluster: &Arc<Cluster>) -> impl Iterator<Item = Arc<dyn VirtualTable>> {
    let definitions: [(TableSchema, Fill); 4] = [
        (local(), local_rows),
        (peers(), peer_rows),
        (versions(), version_rows),
        (cluster_status(), cluster_status_rows),
    ];
    definitions.into_iter().map(|(schema, fill)| {
        Arc::new(NodeTable {
            schema: Arc::new(schema),
            cluster: cluster.clone(),
            fill,
        }) as Arc<dyn VirtualTable>
    })
}

type Fill = fn(&Cluster, &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError>;

struct NodeTable {
    schema: Arc<TableSchema>,
    cluster: Arc<Cluster>,
    fill: Fill,
}

impl VirtualTable for NodeTable {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        (self.fill)(&self.cluster, context)
    }
}

/// A table of the keyspace `system` with one key column.
fn table(name: &str, key: (&str, CqlType), columns: &[(&str, CqlType)]) -> TableSchema {
    let builder = TableBuilder::new("system", name).partition_key(key.0, key.1);
    columns
        .iter()
        .fold(builder, |builder, (name, ty)| builder.regular(name, ty.clone()))
        .build()
}

fn local() -> TableSchema {
    let truncated_at = CqlType::Map {
        key: Arc::new(CqlType::Uuid),
        value: Arc::new(CqlType::Blob),
        frozen: false,
    };
    let columns = [
        ("bootstrapped", CqlType::Text),
        ("broadcast_address", CqlType::Inet),
        ("cluster_name", CqlType::Text),
        ("cql_version", CqlType::Text),
        ("data_center", CqlType::Text),
        ("gossip_generation", CqlType::Int),
        ("host_id", CqlType::Uuid),
        ("listen_address", CqlType::Inet),
        ("native_protocol_version", CqlType::Text),
        ("partitioner", CqlType::Text),
        ("rack", CqlType::Text),
        ("release_version", CqlType::Text),
        ("rpc_address", CqlType::Inet),
        ("schema_version", CqlType::Uuid),
        ("supported_features", CqlType::Text),
        ("tokens", value::text_set_type()),
        ("truncated_at", truncated_at),
    ];
    table("local", ("key", CqlType::Text), &columns)
}

fn local_rows(cluster: &Cluster, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
    let node = connected_node(cluster, context)?;
    Ok(vec![vec![
        value::text("local"),
        value::text("COMPLETED"),
        value::inet(node.ip()),
        value::text(&cluster.name),
        value::text(CQL_VERSION),
        value::text(&cluster.datacenter),
        value::int(1),
        value::uuid(node.host_id),
        value::inet(node.ip()),
        value::text("4"),
        value::text(PARTITIONER),
        value::text(&node.rack),
        value::text(&cluster.release_version),
        value::inet(node.ip()),
        value::uuid(context.catalog.version),
        value::text(FEATURES),
        tokens(node),
        None,
    ]])
}

fn peers() -> TableSchema {
    let columns = [
        ("data_center", CqlType::Text),
        ("host_id", CqlType::Uuid),
        ("preferred_ip", CqlType::Inet),
        ("rack", CqlType::Text),
        ("release_version", CqlType::Text),
        ("rpc_address", CqlType::Inet),
        ("schema_version", CqlType::Uuid),
        ("supported_features", CqlType::Text),
        ("tokens", value::text_set_type()),
    ];
    table("peers", ("peer", CqlType::Inet), &columns)
}

fn peer_rows(cluster: &Cluster, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
    let connected = connected_node(cluster, context)?.index;
    let others = cluster.nodes().iter().filter(|node| node.index != connected);
    let row = |node: &Node| {
        vec![
            value::inet(node.ip()),
            value::text(&cluster.datacenter),
            value::uuid(node.host_id),
            None,
            value::text(&node.rack),
            value::text(&cluster.release_version),
            value::inet(node.ip()),
            value::uuid(context.catalog.version),
            value::text(FEATURES),
            tokens(node),
        ]
    };
    Ok(others.map(row).collect())
}

fn versions() -> TableSchema {
    let columns = ["build_id", "build_mode", "version"].map(|name| (name, CqlType::Text));
    table("versions", ("key", CqlType::Text), &columns)
}

/// The version says what this is, so that nobody takes it for ScyllaDB itself.
fn version_rows(_: &Cluster, _: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
    let build_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, env!("CARGO_PKG_VERSION").as_bytes());
    Ok(vec![vec![
        value::text("local"),
        value::text(&build_id.simple().to_string()),
        value::text(if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        }),
        value::text(concat!("outbox-sandbox-", env!("CARGO_PKG_VERSION"))),
    ]])
}

fn cluster_status() -> TableSchema {
    let columns = [
        ("dc", CqlType::Text),
        ("host_id", CqlType::Uuid),
        ("load", CqlType::Text),
        ("owns", CqlType::Float),
        ("status", CqlType::Text),
        ("tokens", CqlType::Int),
        ("up", CqlType::Boolean),
    ];
    table("cluster_status", ("peer", CqlType::Inet), &columns)
}

fn cluster_status_rows(cluster: &Cluster, _: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
    let nodes = cluster.nodes();
    let share = 1.0 / nodes.len() as f32;
    let row = |node: &Node| {
        vec![
            value::inet(node.ip()),
            value::text(&cluster.datacenter),
            value::uuid(node.host_id),
            None,
            value::float(share),
            value::text("NORMAL"),
            value::int(node.tokens.len() as i32),
            value::boolean(node.is_up()),
        ]
    };
    Ok(nodes.iter().map(row).collect())
}

fn connected_node<'a>(cluster: &'a Cluster, context: &VirtualContext<'_>) -> Result<&'a Node, CqlError> {
    let index = context.session.node;
    cluster
        .node(index)
        .ok_or_else(|| CqlError::server(format!("There is no node {index} in this cluster")))
}

fn tokens(node: &Node) -> Option<bytes::Bytes> {
    value::text_set(node.tokens.iter().map(i64::to_string))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::cluster::Topology;
    use crate::query::api::Session;
    use crate::schema::Catalog;

    #[test]
    fn rows_match_their_columns_and_differ_per_node() {
        let topology = Topology {
            cluster_name: "test".into(),
            datacenter: "datacenter1".into(),
            release_version: "3.0.8".into(),
            nodes: 3,
            tokens_per_node: 2,
        };
        let cluster = Arc::new(Cluster::new(&topology, SocketAddr::from(([127, 0, 0, 1], 9042))));
        let catalog = Catalog::default();
        for node in 0..3 {
            let session = Session {
                node,
                ..Session::default()
            };
            let context = VirtualContext {
                catalog: &catalog,
                session: &session,
            };
            for table in tables(&cluster) {
                let schema = table.schema();
                let rows = table.rows(&context).unwrap();
                assert_eq!(
                    rows.len(),
                    if schema.name == "local" || schema.name == "versions" {
                        1
                    } else if schema.name == "peers" {
                        2
                    } else {
                        3
                    }
                );
                for row in &rows {
                    assert_eq!(row.len(), schema.columns.len(), "{}", schema.name);
                }
                if schema.name == "local" {
                    let address = schema.column_id("rpc_address").unwrap();
                    assert_eq!(
                        rows[0][address].as_deref(),
                        Some(&[127, 0, 0, node as u8 + 1][..])
                    );
                }
            }
        }
    }
}
