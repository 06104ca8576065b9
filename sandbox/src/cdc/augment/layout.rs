//! Which log column stands for which base column, found once per schema version.

use std::sync::Arc;

use crate::cdc::log_schema::{END_OF_BATCH, OPERATION, TTL, deleted_elements_name, deleted_name};
use crate::error::CqlError;
use crate::schema::{ColumnId, TableSchema};

#[derive(Debug)]
pub struct LogLayout {
    pub(in crate::cdc) log: Arc<TableSchema>,
    pub(super) operation: ColumnId,
    pub(super) ttl: ColumnId,
    pub(super) end_of_batch: ColumnId,
    /// Log columns of the base's partition and clustering key columns, in key order.
    pub(super) partition_key: Vec<ColumnId>,
    pub(super) clustering_key: Vec<ColumnId>,
    /// By base column; None for key columns.
    data: Vec<Option<DataColumns>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DataColumns {
    pub(super) value: ColumnId,
    pub(super) deleted: ColumnId,
    /// Only for columns of several cells.
    pub(super) deleted_elements: Option<ColumnId>,
}

impl LogLayout {
    pub(super) fn new(base: &TableSchema, log: &Arc<TableSchema>) -> Result<Self, CqlError> {
        let find = |name: &str| {
            log.column_id(name).ok_or_else(|| {
                CqlError::server(format!(
                    "CDC log schema for {}.{} does not have base column {name}",
                    log.keyspace, log.name
                ))
            })
        };
        let keys = |columns: &[ColumnId]| {
            columns
                .iter()
                .map(|column| find(&base.columns[*column].name))
                .collect::<Result<Vec<_>, _>>()
        };
        let data = base
            .columns
            .iter()
            .map(|column| {
                if column.kind.is_primary_key() {
                    return Ok(None);
                }
                Ok(Some(DataColumns {
                    value: find(&column.name)?,
                    deleted: find(&deleted_name(&column.name))?,
                    deleted_elements: match column.ty.is_multi_cell() {
                        true => Some(find(&deleted_elements_name(&column.name))?),
                        false => None,
                    },
                }))
            })
            .collect::<Result<_, CqlError>>()?;
        Ok(Self {
            log: log.clone(),
            operation: find(OPERATION)?,
            ttl: find(TTL)?,
            end_of_batch: find(END_OF_BATCH)?,
            partition_key: keys(&base.partition_key)?,
            clustering_key: keys(&base.clustering_key)?,
            data,
        })
    }

    /// The log columns of a static or regular base column.
    pub(super) fn data(&self, column: ColumnId) -> Option<DataColumns> {
        self.data.get(column).copied().flatten()
    }
}
