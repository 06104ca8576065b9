//! Tables whose content is computed when they are read: system.local, system_schema.*, system.cdc_streams, ...

use std::sync::Arc;

use bytes::Bytes;

use super::api::Session;
use crate::error::CqlError;
use crate::schema::{Catalog, TableSchema};

/// One row in the order of `TableSchema::columns`, values serialized, None for null.
pub type VirtualRow = Vec<Option<Bytes>>;

/// A read-only table that code provides. SELECT works on it with everything it has (WHERE, ORDER BY, paging,
/// aggregates); writes and DDL are refused. Its schema shows in system_schema like any other.
pub trait VirtualTable: Send + Sync {
    fn schema(&self) -> Arc<TableSchema>;

    /// All rows, in any order; key columns are never None.
    ///
    /// # Errors
    /// Whatever the reader shall get instead of rows.
    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError>;
}

/// What a virtual table may depend on.
pub struct VirtualContext<'a> {
    pub catalog: &'a Catalog,
    pub session: &'a Session,
}
