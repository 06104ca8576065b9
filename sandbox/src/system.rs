//! The virtual tables that drivers connect by: `nodes` (system.local, system.peers, ...) and `schema`
//! (system_schema). Columns as in ScyllaDB's `db/system_keyspace.cc` and `db/virtual_tables.cc`.

mod nodes;
mod schema;
mod value;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::query::virtual_table::VirtualTable;

/// What ScyllaDB says: drivers pick their schema parser by it (3.x: system_schema, and no virtual keyspaces).
pub const RELEASE_VERSION: &str = "3.0.8";

/// The CQL language version.
pub const CQL_VERSION: &str = "3.3.1";

/// All tables of this module.
pub fn tables(cluster: &Arc<Cluster>) -> Vec<Arc<dyn VirtualTable>> {
    nodes::tables(cluster).chain(schema::tables()).collect()
}
