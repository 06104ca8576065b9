//! The schema: keyspaces, tables, user-defined types.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use crate::types::{CqlType, UdtDefinition};

/// One keyspace and what it holds. A change makes a new value; readers keep the one they started with.
#[derive(Debug, Clone)]
pub struct KeyspaceSchema {
    pub name: String,
    /// `class` and the per-datacenter factors, as in system_schema.keyspaces.
    pub replication: BTreeMap<String, String>,
    pub durable_writes: bool,
    /// Some(n): the keyspace uses tablets, n being `initial` (0 if not given). None: vnodes.
    pub initial_tablets: Option<i32>,
    pub tables: BTreeMap<String, Arc<TableSchema>>,
    pub types: BTreeMap<String, Arc<UdtDefinition>>,
}

/// Where a column stands in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    PartitionKey,
    Clustering { descending: bool },
    Static,
    Regular,
}

/// Position of a column in `TableSchema::columns`; stable for the life of one schema version only.
pub type ColumnId = usize;

#[derive(Debug, Clone)]
pub struct ColumnSchema {
    pub name: String,
    pub kind: ColumnKind,
    /// Position within the partition or clustering key, else -1 (as system_schema.columns has it).
    pub position: i32,
    pub ty: CqlType,
    /// Identity that survives ALTER TABLE: stored cells are keyed by it, so a column that was dropped and
    /// added again under its old name does not see its old cells.
    pub storage_id: u32,
}

/// How keys become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioner {
    Murmur3,
    /// `com.scylladb.dht.CDCPartitioner`: the first eight bytes of a 16-byte key, big-endian.
    Cdc,
}

#[derive(Debug, Clone)]
pub struct TableSchema {
    pub id: Uuid,
    pub version: Uuid,
    pub keyspace: String,
    pub name: String,
    /// Partition key, clustering key, then static and regular columns by name bytes: the order of `SELECT *`.
    pub columns: Vec<ColumnSchema>,
    pub by_name: HashMap<String, ColumnId>,
    pub partition_key: Vec<ColumnId>,
    pub clustering_key: Vec<ColumnId>,
    pub partitioner: Partitioner,
    pub default_time_to_live: i32,
    pub gc_grace_seconds: i32,
    pub comment: String,
    /// The remaining table options, as text, for system_schema.tables and DESCRIBE.
    pub options: BTreeMap<String, String>,
    /// `WITH cdc = {...}` as last given; None if it never was.
    pub cdc: Option<crate::schema::CdcOptions>,
    /// Set on a CDC log table: the name of its base table.
    pub cdc_log_of: Option<String>,
}

/// The `cdc` table option (ScyllaDB `cdc/cdc_options.hh`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdcOptions {
    pub enabled: bool,
    pub preimage: PreimageMode,
    pub postimage: bool,
    pub delta: DeltaMode,
    /// Seconds; 0 keeps log rows for ever. Default 86400.
    pub ttl: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreimageMode {
    Off,
    /// Only the columns that the write touches.
    Touched,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaMode {
    Full,
    Keys,
}
