//! The CDC log of one table, and the streams that it is cut into.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use scylla::value::CqlValue;

use crate::model::{CdcTime, Micros, SourcePosition, StreamId};

/// Reads one table's CDC log. Every method may be called concurrently.
pub trait ChangeLog: Send + Sync + 'static {
    /// Every stream set that may still hold rows, oldest first: CDC generations of a vnode keyspace, or the
    /// stream sets of a tablet table. One learned late appears with its own (old) start.
    fn stream_sets(&self) -> impl Future<Output = Result<Vec<StreamSet>, LogError>> + Send;

    /// What the source says of itself now.
    fn capture(&self) -> impl Future<Output = Result<Capture, LogError>> + Send {
        std::future::ready(Ok(Capture::default()))
    }

    /// How long the log keeps what is written now, as [`Self::capture`] found it last; zero is for ever. None if the
    /// source does not tell.
    fn ttl(&self) -> Option<Duration> {
        None
    }

    /// One page of one query. Within a stream rows come in log order; pages may cut a record.
    fn read(&self, query: LogQuery) -> impl Future<Output = Result<LogPage, LogError>> + Send;
}

/// What the source says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capture {
    /// Why what is written now leaves no trace in the log, or one without its values.
    pub hidden: Option<String>,
    /// The source's wall clock; None if it does not tell.
    pub time: Option<Micros>,
}

/// The streams that receive all writes whose timestamps lie from `start` up to the next set's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSet {
    pub start: Micros,
    /// By token range.
    pub streams: Vec<Stream>,
}

/// A stream and the tokens `(after, until]` of the base table's partition keys that it serves. The streams of one
/// vnode (one per shard) share the vnode's range. `after == until` is the whole ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    pub id: StreamId,
    pub after: i64,
    pub until: i64,
}

/// A query over some streams and a time range.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// At most 100: ScyllaDB's default limit for the keys of one `IN`.
    pub streams: Arc<[StreamId]>,
    /// Inclusive.
    pub from: CdcTime,
    /// Exclusive; None has no upper bound: rows may be dated ahead of our clock.
    pub until: Option<CdcTime>,
    pub columns: Columns,
    /// Rows.
    pub page_size: i32,
    pub page: Option<PageState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Only what tells rows apart and which slot they belong to.
    Identity,
    /// Also the columns that events are made of.
    Full,
}

/// Opaque to the reader; of the implementation's own making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageState(pub bytes::Bytes);

#[derive(Debug, Clone, Default)]
pub struct LogPage {
    pub rows: Vec<LogRow>,
    /// Where the next page starts; None if this was the last.
    pub next: Option<PageState>,
}

/// A row of the log.
#[derive(Debug, Clone)]
pub struct LogRow {
    pub position: SourcePosition,
    pub operation: Operation,
    pub end_of_batch: bool,
    /// Token of the outbox row's partition key, which decides its slot.
    pub token: i64,
    /// The outbox row's primary key, serialized: rows of one record that describe the same outbox row share it.
    pub key: Arc<[u8]>,
    /// In the order of the mapped columns that the log was opened with; empty in an identity query. None is null
    /// or untouched.
    pub values: Vec<Option<CqlValue>>,
    /// Bit i is set if `cdc$deleted_<mapped column i>` is true.
    pub deleted: u64,
}

/// `cdc$operation` (ScyllaDB `cdc/log.hh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    PreImage,
    Update,
    Insert,
    RowDelete,
    PartitionDelete,
    RangeDelete,
    PostImage,
    /// The server deleted the row itself, by per-row TTL.
    Expiration,
    /// A code that this version does not know. Never an event, always counted.
    Unknown(i8),
}

/// Why the log could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Worth retrying: time-out, overload, connection, replica down.
    #[error("{0}")]
    Transient(String),
    /// The server refuses for load; retried with fewer queries.
    #[error("{0}")]
    Overloaded(String),
    /// Table or column missing, CDC off, permission denied: somebody has to act; retried slowly.
    #[error("{0}")]
    Configuration(String),
}

impl LogError {
    /// Stable name for metric labels, condition reasons and log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Transient(_) => "SourceUnavailable",
            Self::Overloaded(_) => "SourceOverloaded",
            Self::Configuration(_) => "SourceConfiguration",
        }
    }
}
