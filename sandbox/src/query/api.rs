//! What a client's request carries into the engine and what comes back, free of the wire protocol.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::CqlType;

/// What one connection (or one user of the Rust API) keeps between requests.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Set by `USE`.
    pub keyspace: Option<String>,
    /// The authenticated role; None without authentication.
    pub user: Option<String>,
    /// Index of the node that the client is connected to (virtual tables differ per node).
    pub node: usize,
    /// The highest server-side timestamp given out (µs): they rise strictly within a session.
    pub last_timestamp: i64,
}

/// A bound value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindValue {
    Null,
    /// Leaves the column as it is.
    Unset,
    Value(Bytes),
}

/// Values of a request, by position or (protocol flag 0x40) by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    Positional(Vec<BindValue>),
    Named(Vec<(String, BindValue)>),
}

/// Query parameters of QUERY, EXECUTE and BATCH.
#[derive(Debug, Clone)]
pub struct QueryParams {
    /// Consistency level code of the protocol.
    pub consistency: u16,
    pub serial_consistency: Option<u16>,
    /// Rows per page. None: all rows in one answer.
    pub page_size: Option<i32>,
    pub paging_state: Option<Bytes>,
    /// Default timestamp of the client, µs.
    pub timestamp: Option<i64>,
}

/// A bind marker or a result column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    pub keyspace: Arc<str>,
    pub table: Arc<str>,
    pub name: String,
    pub ty: CqlType,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultMetadata {
    pub columns: Vec<ColumnSpec>,
}

/// Rows as they stand in a RESULT frame behind metadata and row count: `[i32 length][bytes]` per value, length
/// -1 for null.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub metadata: Arc<ResultMetadata>,
    pub row_count: i32,
    pub data: Vec<u8>,
    /// Some only if there may be more pages, which takes a page size in the request.
    pub paging_state: Option<Bytes>,
}

#[derive(Debug, Clone)]
pub enum QueryResult {
    Void,
    Rows(Rows),
    SetKeyspace(String),
    SchemaChange(SchemaChange),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// `CREATED`, `UPDATED` or `DROPPED`.
    pub change: &'static str,
    /// `KEYSPACE`, `TABLE` or `TYPE`.
    pub target: &'static str,
    pub keyspace: String,
    /// Table or type; empty for a keyspace.
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    Logged,
    Unlogged,
    Counter,
}

/// One statement of a BATCH frame.
#[derive(Debug, Clone)]
pub enum BatchStatement {
    Text(String),
    /// Id of a prepared statement.
    Prepared(Bytes),
}

impl Default for QueryParams {
    fn default() -> Self {
        Self {
            // LOCAL_QUORUM, as the drivers have it.
            consistency: 6,
            serial_consistency: None,
            page_size: None,
            paging_state: None,
            timestamp: None,
        }
    }
}

impl Default for Values {
    fn default() -> Self {
        Values::Positional(Vec::new())
    }
}

impl Rows {
    /// Decodes into one vector per row: for tests and for the node's own queries.
    pub fn to_vec(&self) -> Vec<Vec<Option<Bytes>>> {
        let mut rest = &self.data[..];
        let mut value = || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (value, tail) = match usize::try_from(i32::from_be_bytes(*length)) {
                Ok(length) => (Some(Bytes::copy_from_slice(tail.get(..length)?)), &tail[length..]),
                Err(_) => (None, tail),
            };
            rest = tail;
            Some(value)
        };
        (0..self.row_count)
            .map(|_| (0..self.metadata.columns.len()).map_while(|_| value()).collect())
            .collect()
    }
}
