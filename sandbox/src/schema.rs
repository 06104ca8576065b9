//! The schema: keyspaces, tables, user-defined types.
//!
//! A [`Catalog`] is an immutable snapshot; DDL makes the next one and readers keep theirs.

pub mod builder;
pub mod ddl;
pub mod partitioner;
pub mod type_name;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use crate::types::{CqlType, UdtDefinition};

/// All keyspaces at one schema version.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Changes with every DDL statement; what system.local and system.peers show as schema_version.
    pub version: Uuid,
    pub keyspaces: BTreeMap<String, Arc<KeyspaceSchema>>,
}

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

impl ColumnKind {
    pub fn is_primary_key(self) -> bool {
        matches!(self, ColumnKind::PartitionKey | ColumnKind::Clustering { .. })
    }
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
    pub cdc: Option<CdcOptions>,
    /// Set on a CDC log table: the name of its base table.
    pub cdc_log_of: Option<String>,
    /// Columns that ALTER TABLE dropped: name, type and when (µs), by name.
    pub dropped_columns: BTreeMap<String, (CqlType, i64)>,
    /// The next free `ColumnSchema::storage_id`.
    pub next_storage_id: u32,
    /// Secondary indexes by name: the indexed column. They make a restriction legal; reads filter.
    pub indexes: BTreeMap<String, String>,
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

impl Catalog {
    pub fn keyspace(&self, name: &str) -> Option<&Arc<KeyspaceSchema>> {
        self.keyspaces.get(name)
    }

    pub fn table(&self, keyspace: &str, table: &str) -> Option<&Arc<TableSchema>> {
        self.keyspaces.get(keyspace)?.tables.get(table)
    }

    /// All tables of all keyspaces, in name order.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableSchema>> {
        self.keyspaces
            .values()
            .flat_map(|keyspace| keyspace.tables.values())
    }
}

impl TableSchema {
    pub fn column(&self, name: &str) -> Option<&ColumnSchema> {
        self.column_id(name).map(|id| &self.columns[id])
    }

    pub fn column_id(&self, name: &str) -> Option<ColumnId> {
        self.by_name.get(name).copied()
    }

    /// True if writes must be logged.
    pub fn cdc_enabled(&self) -> bool {
        self.cdc.as_ref().is_some_and(|options| options.enabled)
    }

    pub fn is_counter(&self) -> bool {
        self.columns.iter().any(|column| column.ty == CqlType::Counter)
    }

    pub fn has_static(&self) -> bool {
        self.columns
            .iter()
            .any(|column| column.kind == ColumnKind::Static)
    }

    /// Sorts the columns into their order, renumbers `by_name`, keys and positions. Every change of `columns`
    /// ends with it; key columns keep their relative order through `position`.
    pub fn reindex(&mut self) {
        self.columns.sort_by(|a, b| {
            column_rank(a.kind)
                .cmp(&column_rank(b.kind))
                .then(a.position.cmp(&b.position))
                .then_with(|| a.name.as_bytes().cmp(b.name.as_bytes()))
        });
        let ids = |columns: &[ColumnSchema], rank: u8| {
            (0..columns.len())
                .filter(|&id| column_rank(columns[id].kind) == rank)
                .collect::<Vec<_>>()
        };
        self.partition_key = ids(&self.columns, 0);
        self.clustering_key = ids(&self.columns, 1);
        self.by_name = self
            .columns
            .iter()
            .enumerate()
            .map(|(id, column)| (column.name.clone(), id))
            .collect();
    }
}

fn column_rank(kind: ColumnKind) -> u8 {
    match kind {
        ColumnKind::PartitionKey => 0,
        ColumnKind::Clustering { .. } => 1,
        ColumnKind::Static => 2,
        ColumnKind::Regular => 3,
    }
}

impl Default for CdcOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            preimage: PreimageMode::Off,
            postimage: false,
            delta: DeltaMode::Full,
            ttl: 86_400,
        }
    }
}
