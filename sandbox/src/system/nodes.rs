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

pub(super) struct Local {
    cluster: Arc<Cluster>,
    schema: Arc<TableSchema>,
}

pub(super) struct Peers {
    cluster: Arc<Cluster>,
    schema: Arc<TableSchema>,
}

pub(super) struct Versions {
    schema: Arc<TableSchema>,
}

pub(super) struct ClusterStatus {
    cluster: Arc<Cluster>,
    schema: Arc<TableSchema>,
}

impl Local {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        let truncated_at = CqlType::Map {
            key: Arc::new(CqlType::Uuid),
            value: Arc::new(CqlType::Blob),
            frozen: false,
        };
        let schema = TableBuilder::new("system", "local")
            .partition_key("key", CqlType::Text)
            .regular("bootstrapped", CqlType::Text)
            .regular("broadcast_address", CqlType::Inet)
            .regular("cluster_name", CqlType::Text)
            .regular("cql_version", CqlType::Text)
            .regular("data_center", CqlType::Text)
            .regular("gossip_generation", CqlType::Int)
            .regular("host_id", CqlType::Uuid)
            .regular("listen_address", CqlType::Inet)
            .regular("native_protocol_version", CqlType::Text)
            .regular("partitioner", CqlType::Text)
            .regular("rack", CqlType::Text)
            .regular("release_version", CqlType::Text)
            .regular("rpc_address", CqlType::Inet)
            .regular("schema_version", CqlType::Uuid)
            .regular("supported_features", CqlType::Text)
            .regular("tokens", value::text_set_type())
            .regular("truncated_at", truncated_at)
            .build();
        Self {
            cluster,
            schema: Arc::new(schema),
        }
    }
}

impl VirtualTable for Local {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        let node = connected_node(&self.cluster, context)?;
        Ok(vec![vec![
            value::text("local"),
            value::text("COMPLETED"),
            value::inet(node.ip()),
            value::text(&self.cluster.name),
            value::text(CQL_VERSION),
            value::text(&self.cluster.datacenter),
            value::int(1),
            value::uuid(node.host_id),
            value::inet(node.ip()),
            value::text("4"),
            value::text(PARTITIONER),
            value::text(&node.rack),
            value::text(&self.cluster.release_version),
            value::inet(node.ip()),
            value::uuid(context.catalog.version),
            value::text("CDC,UDA,VIEW_VIRTUAL_COLUMNS"),
            tokens(node),
            None,
        ]])
    }
}

impl Peers {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        let schema = TableBuilder::new("system", "peers")
            .partition_key("peer", CqlType::Inet)
            .regular("data_center", CqlType::Text)
            .regular("host_id", CqlType::Uuid)
            .regular("preferred_ip", CqlType::Inet)
            .regular("rack", CqlType::Text)
            .regular("release_version", CqlType::Text)
            .regular("rpc_address", CqlType::Inet)
            .regular("schema_version", CqlType::Uuid)
            .regular("supported_features", CqlType::Text)
            .regular("tokens", value::text_set_type())
            .build();
        Self {
            cluster,
            schema: Arc::new(schema),
        }
    }
}

impl VirtualTable for Peers {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        let connected = connected_node(&self.cluster, context)?.index;
        let others = self.cluster.nodes().iter().filter(|node| node.index != connected);
        Ok(others
            .map(|node| {
                vec![
                    value::inet(node.ip()),
                    value::text(&self.cluster.datacenter),
                    value::uuid(node.host_id),
                    None,
                    value::text(&node.rack),
                    value::text(&self.cluster.release_version),
                    value::inet(node.ip()),
                    value::uuid(context.catalog.version),
                    value::text("CDC,UDA,VIEW_VIRTUAL_COLUMNS"),
                    tokens(node),
                ]
            })
            .collect())
    }
}

impl Versions {
    pub(super) fn new() -> Self {
        let schema = TableBuilder::new("system", "versions")
            .partition_key("key", CqlType::Text)
            .regular("build_id", CqlType::Text)
            .regular("build_mode", CqlType::Text)
            .regular("version", CqlType::Text)
            .build();
        Self {
            schema: Arc::new(schema),
        }
    }
}

impl VirtualTable for Versions {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    /// The version says what this is, so that nobody takes it for ScyllaDB itself.
    fn rows(&self, _context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
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
}

impl ClusterStatus {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        let schema = TableBuilder::new("system", "cluster_status")
            .partition_key("peer", CqlType::Inet)
            .regular("dc", CqlType::Text)
            .regular("host_id", CqlType::Uuid)
            .regular("load", CqlType::Text)
            .regular("owns", CqlType::Float)
            .regular("status", CqlType::Text)
            .regular("tokens", CqlType::Int)
            .regular("up", CqlType::Boolean)
            .build();
        Self {
            cluster,
            schema: Arc::new(schema),
        }
    }
}

impl VirtualTable for ClusterStatus {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, _context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        let nodes = self.cluster.nodes();
        let share = 1.0 / nodes.len() as f32;
        Ok(nodes
            .iter()
            .map(|node| {
                vec![
                    value::inet(node.ip()),
                    value::text(&self.cluster.datacenter),
                    value::uuid(node.host_id),
                    None,
                    value::float(share),
                    value::text("NORMAL"),
                    value::int(node.tokens.len() as i32),
                    value::boolean(node.is_up()),
                ]
            })
            .collect())
    }
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
            for table in super::super::tables(&cluster).into_iter().take(4) {
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
