//! Reads: of stored tables, of virtual ones, and of the row that a write is about.

use std::sync::Arc;

use bytes::Bytes;

use super::Engine;
use super::write::SERIAL;
use crate::error::CqlError;
use crate::query::api::{BindValue, QueryParams, Rows, Session};
use crate::query::hooks::{CurrentRow, CurrentRows, CurrentValue};
use crate::query::modify::ConditionRow;
use crate::query::restriction::Partitions;
use crate::query::select::{SelectPlan, SelectRun, serialize_multi};
use crate::query::virtual_table::{VirtualContext, VirtualTable};
use crate::schema::{Catalog, ColumnKind, TableSchema};
use crate::storage::Storage;
use crate::storage::mutation::{Cell, CellChange, ClusteringKey, Liveness, Mutation, PartitionKey};
use crate::storage::ordered;
use crate::storage::partition::Partition;
use crate::storage::row_map::ByteRange;
use crate::storage::table::TableStore;
use crate::storage::view::{ColumnMap, Slot};
use crate::types::function::FunctionContext;

/// Consistency level ANY.
const ANY: u16 = 0;

impl Engine {
    pub(super) fn select(
        &self,
        session: &Session,
        catalog: &Arc<Catalog>,
        plan: &SelectPlan,
        values: &[BindValue],
        params: &QueryParams,
    ) -> Result<Rows, CqlError> {
        if params.consistency == ANY {
            return Err(CqlError::invalid(
                "ANY ConsistencyLevel is only supported for writes",
            ));
        }
        let table = &plan.table;
        let stored = !self.virtual_tables.contains_key(&table.id);
        if stored && SERIAL.contains(&params.consistency) {
            let context = FunctionContext {
                now_micros: self.options.clock.now_micros(),
            };
            match plan.filter.partitions.evaluate(table, values, &context)? {
                Partitions::Keys(keys) if keys.len() == 1 => self.finish_round(table, &keys[0]),
                _ => {
                    return Err(CqlError::invalid(
                        "SERIAL/LOCAL_SERIAL consistency may only be requested for one partition at a time",
                    ));
                }
            }
        }
        let hidden = self.options.read_faults.before_read(session, table)?;
        let run = SelectRun {
            plan,
            values,
            params,
            now_micros: self.options.clock.now_micros(),
            hidden,
            dialect: self.options.dialect,
        };
        match self.virtual_tables.get(&table.id) {
            Some(virtual_table) => {
                let context = VirtualContext { catalog, session };
                run.execute(Some(&materialize(&**virtual_table, &context)?))
            }
            None => run.execute(self.storage.table(&table.id).as_deref()),
        }
    }

    pub(super) fn refuse_virtual(&self, table: &TableSchema) -> Result<(), CqlError> {
        if self.virtual_tables.contains_key(&table.id) {
            return Err(CqlError::invalid(format!(
                "Table {}.{} is read-only",
                table.keyspace, table.name
            )));
        }
        Ok(())
    }

    pub(super) fn current_rows(&self, now_seconds: i64) -> StoredRows<'_> {
        StoredRows {
            storage: &self.storage,
            now_seconds,
        }
    }
}

/// Rows as they are in storage now.
pub(super) struct StoredRows<'a> {
    storage: &'a Storage,
    now_seconds: i64,
}

impl StoredRows<'_> {
    /// The row that the conditions of a write look at.
    pub(super) fn condition_row(
        &self,
        table: &TableSchema,
        key: &PartitionKey,
        clustering: Option<&ClusteringKey>,
    ) -> ConditionRow {
        let nothing = ConditionRow {
            exists: false,
            values: vec![None; table.columns.len()],
        };
        let read = |partition: &Partition| {
            let map = ColumnMap::new(table, |_| true);
            let mut slots = vec![Slot::Absent; table.columns.len()];
            let static_live = partition
                .static_row()
                .is_some_and(|row| row.view(&map, self.now_seconds, &mut slots));
            let exists = match clustering {
                Some(clustering) => partition
                    .row(clustering)
                    .is_some_and(|row| row.view(&map, self.now_seconds, &mut slots)),
                None => static_live,
            };
            let mut values: Vec<_> = slots
                .iter()
                .zip(&table.columns)
                .map(|(slot, column)| self.value(slot, &column.ty))
                .collect();
            if exists || static_live {
                for (id, value) in table.partition_key.iter().zip(key.components(table)) {
                    values[*id] = Some(value);
                }
            }
            if let Some(clustering) = clustering.filter(|_| exists) {
                for (id, value) in table.clustering_key.iter().zip(clustering.values()) {
                    values[*id] = Some(Bytes::copy_from_slice(value));
                }
            }
            ConditionRow { exists, values }
        };
        let store = self.storage.table(&table.id);
        store.and_then(|store| store.read(key, read)).unwrap_or(nothing)
    }

    /// Whether the partition has any row, static columns apart.
    pub(super) fn any_row(&self, table: &TableSchema, key: &PartitionKey) -> bool {
        let read = |partition: &Partition| {
            let map = ColumnMap::new(table, |_| true);
            let mut slots = vec![Slot::Absent; table.columns.len()];
            let mut rows = partition.rows(&ByteRange::default());
            rows.any(|(_, row)| row.view(&map, self.now_seconds, &mut slots))
        };
        let store = self.storage.table(&table.id);
        store.and_then(|store| store.read(key, read)).unwrap_or(false)
    }

    fn value(&self, slot: &Slot<'_>, ty: &crate::types::CqlType) -> Option<Bytes> {
        match slot {
            Slot::Absent => None,
            Slot::Key(value) | Slot::Atomic { value, .. } => Some(Bytes::copy_from_slice(value)),
            Slot::Multi(multi) => Some(serialize_multi(multi, ty, self.now_seconds)),
        }
    }
}

impl CurrentRows for StoredRows<'_> {
    fn row(
        &self,
        table: &TableSchema,
        key: &PartitionKey,
        clustering: Option<&ClusteringKey>,
    ) -> Option<CurrentRow> {
        let read = |partition: &Partition| {
            let map = ColumnMap::new(table, |_| true);
            let mut slots = vec![Slot::Absent; table.columns.len()];
            let row = match clustering {
                Some(clustering) => partition.row(clustering),
                None => partition.static_row(),
            };
            if !row?.view(&map, self.now_seconds, &mut slots) {
                return None;
            }
            let cells = slots.iter().enumerate().filter_map(|(id, slot)| {
                let value = match slot {
                    Slot::Absent | Slot::Key(_) => return None,
                    Slot::Atomic { value, .. } => CurrentValue::Atomic(Bytes::copy_from_slice(value)),
                    Slot::Multi(multi) => CurrentValue::Multi(
                        multi
                            .live(self.now_seconds)
                            .map(|(path, _, value)| (path.clone(), value.clone()))
                            .collect(),
                    ),
                };
                Some((id, value))
            });
            Some(CurrentRow {
                cells: cells.collect(),
            })
        };
        self.storage.table(&table.id)?.read(key, read).flatten()
    }
}

/// The rows of a virtual table as if they had been stored, so that reads need to know one kind of table only.
fn materialize(table: &dyn VirtualTable, context: &VirtualContext<'_>) -> Result<TableStore, CqlError> {
    let schema = table.schema();
    let store = TableStore::default();
    for row in table.rows(context)? {
        let key_values = |ids: &[usize]| -> Result<Vec<Bytes>, CqlError> {
            ids.iter()
                .map(|id| {
                    row.get(*id).cloned().flatten().ok_or_else(|| {
                        CqlError::server(format!(
                            "a row of {}.{} lacks its key {}",
                            schema.keyspace, schema.name, schema.columns[*id].name
                        ))
                    })
                })
                .collect()
        };
        let key = schema.make_partition_key(&key_values(&schema.partition_key)?);
        let mut mutation = Mutation::new(schema.clone(), key);
        let clustering = key_values(&schema.clustering_key)?;
        let values: Vec<&[u8]> = clustering.iter().map(|value| &value[..]).collect();
        let change = mutation.row_mut(ordered::clustering_key(&schema, &values));
        change.marker = Some(Liveness {
            timestamp: 0,
            expiry: None,
        });
        for (id, (column, value)) in schema.columns.iter().zip(&row).enumerate() {
            if column.kind == ColumnKind::Regular && value.is_some() {
                let cell = Cell {
                    timestamp: 0,
                    value: value.clone(),
                    expiry: None,
                };
                change.cells.push((id, CellChange::Atomic(cell)));
            }
        }
        store.apply(&mutation, 0);
    }
    Ok(store)
}
