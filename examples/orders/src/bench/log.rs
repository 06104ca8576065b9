//! The CDC log of the outbox, read by the bare driver as fast as it goes: every stream once, from its beginning.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::deserialize::row::{ColumnIterator, DeserializeRow};
use scylla::deserialize::{DeserializationError, TypeCheckError};
use scylla::frame::response::result::ColumnSpec;
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::BenchError;

/// Rows of a page.
const PAGE_ROWS: i32 = 5000;
/// Streams read side by side: enough to keep two cores busy with driver and node.
const READERS: usize = 8;

/// What the relay selects, but for the `cdc$deleted_` columns.
const COLUMNS: &str = "\"cdc$stream_id\", \"cdc$time\", \"cdc$batch_seq_no\", \"cdc$operation\", \"cdc$end_of_batch\", \
     aggregate_id, sequence_number, id, aggregate_type, event_type, payload, created_at";

/// The log of one outbox table.
pub(super) struct Log {
    session: Session,
    select: PreparedStatement,
    streams: Vec<Vec<u8>>,
}

/// One row of the log, undecoded. What is null is empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'frame> {
    pub(super) stream: &'frame [u8],
    pub(super) time: &'frame [u8],
    pub(super) batch_seq_no: &'frame [u8],
    pub(super) operation: &'frame [u8],
    pub(super) aggregate_id: &'frame [u8],
    pub(super) id: &'frame [u8],
    pub(super) aggregate_type: &'frame [u8],
    pub(super) event_type: &'frame [u8],
    pub(super) payload: &'frame [u8],
    pub(super) created_at: &'frame [u8],
}

impl Row<'_> {
    /// Whether the row is an insert or update (ScyllaDB `cdc/log.hh`): the outbox has no other.
    pub(super) fn is_event(&self) -> bool {
        matches!(self.operation, [1 | 2])
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        let values = [
            self.stream,
            self.time,
            self.batch_seq_no,
            self.operation,
            self.aggregate_id,
            self.id,
            self.aggregate_type,
            self.event_type,
            self.payload,
            self.created_at,
        ];
        values.iter().map(|value| value.len()).sum()
    }
}

impl<'frame, 'metadata> DeserializeRow<'frame, 'metadata> for Row<'frame> {
    /// Values stay bytes.
    fn type_check(_: &[ColumnSpec<'_>]) -> Result<(), TypeCheckError> {
        Ok(())
    }

    fn deserialize(mut columns: ColumnIterator<'frame, 'metadata>) -> Result<Self, DeserializationError> {
        let mut next = || -> Result<&'frame [u8], DeserializationError> {
            let slice = columns.next().transpose()?.and_then(|column| column.slice);
            Ok(slice.map(|slice| slice.as_slice()).unwrap_or_default())
        };
        let (stream, time, batch_seq_no, operation) = (next()?, next()?, next()?, next()?);
        let _end_of_batch = next()?;
        let aggregate_id = next()?;
        let _sequence_number = next()?;
        Ok(Self {
            stream,
            time,
            batch_seq_no,
            operation,
            aggregate_id,
            id: next()?,
            aggregate_type: next()?,
            event_type: next()?,
            payload: next()?,
            created_at: next()?,
        })
    }
}

impl Log {
    /// Finds the streams that have rows.
    pub(super) async fn open(session: Session, keyspace: &str) -> Result<Self, BenchError> {
        let log = format!("{keyspace}.outbox_messages_scylla_cdc_log");
        let failed = |error: &dyn std::fmt::Display| BenchError::new(format!("reading {log}"), error);
        let select = format!("SELECT {COLUMNS} FROM {log} WHERE \"cdc$stream_id\" = ? BYPASS CACHE");
        let mut select = session.prepare(select).await.map_err(|error| failed(&error))?;
        select.set_page_size(PAGE_ROWS);
        let rows = session
            .query_iter(format!("SELECT DISTINCT \"cdc$stream_id\" FROM {log}"), ())
            .await
            .map_err(|error| failed(&error))?
            .rows_stream::<(Vec<u8>,)>()
            .map_err(|error| failed(&error))?;
        let streams = rows.map_ok(|(stream,)| stream).try_collect().await;
        Ok(Self {
            streams: streams.map_err(|error| failed(&error))?,
            session,
            select,
        })
    }

    /// Gives every page to `visit`, those of a stream one after the other, several streams side by side.
    pub(super) async fn scan<V, F>(self: Arc<Self>, visit: V) -> Result<(), BenchError>
    where
        V: Fn(QueryRowsResult) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<(), BenchError>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (log, next, visit) = (Arc::clone(&self), Arc::clone(&next), visit.clone());
            readers.spawn(async move {
                while let Some(stream) = log.streams.get(next.fetch_add(1, Ordering::Relaxed)) {
                    log.read(stream, &visit).await?;
                }
                Ok(())
            });
        }
        while let Some(reader) = readers.join_next().await {
            reader.map_err(|error| BenchError::new("reading the log", error))??;
        }
        Ok(())
    }

    async fn read<V, F>(&self, stream: &[u8], visit: &V) -> Result<(), BenchError>
    where
        V: Fn(QueryRowsResult) -> F,
        F: Future<Output = Result<(), BenchError>>,
    {
        let failed = |error: &dyn std::fmt::Display| BenchError::new("reading the log", error);
        let mut state = PagingState::start();
        loop {
            let page = self
                .session
                .execute_single_page(&self.select, (stream,), state)
                .await;
            let (page, next) = page.map_err(|error| failed(&error))?;
            visit(page.into_rows_result().map_err(|error| failed(&error))?).await?;
            match next {
                PagingStateResponse::HasMorePages { state: next } => state = next,
                PagingStateResponse::NoMorePages => return Ok(()),
            }
        }
    }
}

/// A UUID from its bytes; nil if they are none, which no event has.
pub(super) fn uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}
