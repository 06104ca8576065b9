//! Makes tables that the node itself owns: system tables, virtual tables, CDC logs.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{ColumnKind, ColumnSchema, Partitioner, TableSchema};
use crate::types::CqlType;

/// Builds a [`TableSchema`] column by column; key columns in key order.
///
/// The id is derived from the name, as ScyllaDB derives those of system tables, so that all nodes agree.
pub struct TableBuilder {
    table: TableSchema,
}

/// ScyllaDB's default: 10 days, in seconds.
pub const DEFAULT_GC_GRACE_SECONDS: i32 = 864_000;

impl TableBuilder {
    pub fn new(keyspace: &str, name: &str) -> Self {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{keyspace}.{name}").as_bytes());
        let table = TableSchema {
            id,
            version: id,
            keyspace: keyspace.to_owned(),
            name: name.to_owned(),
            columns: Vec::new(),
            by_name: HashMap::new(),
            partition_key: Vec::new(),
            clustering_key: Vec::new(),
            partitioner: Partitioner::Murmur3,
            default_time_to_live: 0,
            gc_grace_seconds: DEFAULT_GC_GRACE_SECONDS,
            comment: String::new(),
            options: BTreeMap::new(),
            cdc: None,
            cdc_log_of: None,
            dropped_columns: BTreeMap::new(),
            next_storage_id: 0,
            indexes: BTreeMap::new(),
        };
        Self { table }
    }

    #[must_use]
    pub fn partition_key(self, name: &str, ty: CqlType) -> Self {
        self.push(name, ColumnKind::PartitionKey, ty)
    }

    #[must_use]
    pub fn clustering(self, name: &str, ty: CqlType) -> Self {
        self.push(name, ColumnKind::Clustering { descending: false }, ty)
    }

    #[must_use]
    pub fn clustering_desc(self, name: &str, ty: CqlType) -> Self {
        self.push(name, ColumnKind::Clustering { descending: true }, ty)
    }

    #[must_use]
    pub fn static_column(self, name: &str, ty: CqlType) -> Self {
        self.push(name, ColumnKind::Static, ty)
    }

    #[must_use]
    pub fn regular(self, name: &str, ty: CqlType) -> Self {
        self.push(name, ColumnKind::Regular, ty)
    }

    /// Any kind, for code that derives one table from another.
    #[must_use]
    pub fn push(mut self, name: &str, kind: ColumnKind, ty: CqlType) -> Self {
        let same_kind = |column: &&ColumnSchema| match kind {
            ColumnKind::Clustering { .. } => matches!(column.kind, ColumnKind::Clustering { .. }),
            other => column.kind == other,
        };
        let position = if kind.is_primary_key() {
            self.table.columns.iter().filter(same_kind).count() as i32
        } else {
            -1
        };
        self.table.columns.push(ColumnSchema {
            name: name.to_owned(),
            kind,
            position,
            ty,
            storage_id: self.table.next_storage_id,
        });
        self.table.next_storage_id += 1;
        self
    }

    /// Sets what the other methods do not (options, comment, partitioner, ...).
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut TableSchema)) -> Self {
        change(&mut self.table);
        self
    }

    pub fn build(mut self) -> TableSchema {
        self.table.reindex();
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_select_order() {
        let table = TableBuilder::new("ks", "t")
            .regular("b", CqlType::Int)
            .regular("a", CqlType::Int)
            .static_column("s", CqlType::Int)
            .clustering_desc("z", CqlType::Int)
            .clustering("c", CqlType::Int)
            .partition_key("p2", CqlType::Int)
            .partition_key("p1", CqlType::Int)
            .build();
        let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["p2", "p1", "z", "c", "s", "a", "b"]);
        assert_eq!(table.partition_key, [0, 1]);
        assert_eq!(table.clustering_key, [2, 3]);
        assert_eq!(table.column_id("a"), Some(5));
    }
}
