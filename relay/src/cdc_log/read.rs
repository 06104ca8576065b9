//! One page of log rows.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::deserialize::row::{ColumnIterator, DeserializeRow};
use scylla::deserialize::value::DeserializeValue;
use scylla::deserialize::{DeserializationError, TypeCheckError};
use scylla::frame::response::result::ColumnSpec;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::routing::partitioner::{Murmur3Partitioner, Partitioner, PartitionerHasher};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimeuuid, CqlValue};

use super::errors;
use super::table::OutboxTable;
use crate::model::{CdcTime, SourcePosition, StreamId};
use crate::ports::{LogError, LogPage, LogQuery, LogRow, Operation, PageState};

/// Columns of every query, in front of the others.
const METADATA: [&str; 5] = [
    "cdc$stream_id",
    "cdc$time",
    "cdc$batch_seq_no",
    "cdc$operation",
    "cdc$end_of_batch",
];

/// Which columns are selected, and what each is for.
pub(super) struct RowPlan {
    columns: Vec<String>,
    partition_key: usize,
    clustering_key: usize,
    /// Per mapped column, in order.
    mapped: usize,
    /// The mapped column that each `cdc$deleted_` column belongs to.
    deleted: Vec<usize>,
}

impl RowPlan {
    pub(super) fn new(table: &OutboxTable, mapped: &[String]) -> Self {
        let mut columns: Vec<String> = METADATA.map(str::to_owned).into();
        columns.extend(table.partition_key.iter().cloned());
        columns.extend(table.clustering_key.iter().map(|key| key.name.clone()));
        columns.extend(mapped.iter().cloned());
        let mut deleted = Vec::new();
        for (index, name) in mapped.iter().enumerate() {
            // Key columns have no deleted_ twin.
            if !table.is_key(name) {
                columns.push(format!("cdc$deleted_{name}"));
                deleted.push(index);
            }
        }
        Self {
            columns,
            partition_key: table.partition_key.len(),
            clustering_key: table.clustering_key.len(),
            mapped: mapped.len(),
            deleted,
        }
    }

    pub(super) fn columns(&self) -> String {
        self.columns
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn row(&self, mut columns: ColumnIterator<'_, '_>) -> Result<LogRow, DeserializationError> {
        let (stream, time): (&[u8], CqlTimeuuid) = (next(&mut columns)?, next(&mut columns)?);
        let batch_seq_no: i32 = next(&mut columns)?;
        let operation: i8 = next(&mut columns)?;
        let end_of_batch: Option<bool> = next(&mut columns)?;
        let (key, token) = primary_key(&mut columns, self.partition_key, self.clustering_key)?;
        let mut values = Vec::with_capacity(self.mapped);
        for _ in 0..self.mapped {
            values.push(next::<Option<CqlValue>>(&mut columns)?);
        }
        let mut deleted = 0_u64;
        for index in &self.deleted {
            if next::<Option<bool>>(&mut columns)? == Some(true) {
                deleted |= 1 << index;
            }
        }
        Ok(LogRow {
            position: SourcePosition {
                stream: StreamId(
                    stream
                        .try_into()
                        .map_err(|_| DeserializationError::new(NotAStreamId))?,
                ),
                time: CdcTime(time.into()),
                batch_seq_no,
            },
            operation: operation_of(operation),
            end_of_batch: end_of_batch == Some(true),
            token,
            key,
            values,
            deleted,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cdc$stream_id has not 16 bytes")]
struct NotAStreamId;

#[derive(Debug, thiserror::Error)]
#[error("the row has fewer columns than were selected")]
struct TooFewColumns;

/// The primary key in the next columns, each part as (i32 length or -1 for null, value), and the token of its partition
/// key.
pub(crate) fn primary_key(
    columns: &mut ColumnIterator<'_, '_>,
    partition_key: usize,
    clustering_key: usize,
) -> Result<(Arc<[u8]>, i64), DeserializationError> {
    let mut hash = Murmur3Partitioner.build_hasher();
    let mut key = Vec::with_capacity(64);
    for index in 0..partition_key + clustering_key {
        let slice = columns.next().transpose()?.and_then(|column| column.slice);
        let Some(bytes) = slice.map(|slice| slice.as_slice()) else {
            key.extend_from_slice(&(-1_i32).to_be_bytes());
            continue;
        };
        if index < partition_key {
            hash_component(&mut hash, bytes, partition_key > 1);
        }
        key.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        key.extend_from_slice(bytes);
    }
    Ok((key.into(), hash.finish().value()))
}

/// A partition key of several columns is hashed as (u16 length, value, 0) each.
fn hash_component(hash: &mut impl PartitionerHasher, bytes: &[u8], composite: bool) {
    if !composite {
        return hash.write(bytes);
    }
    hash.write(&(bytes.len() as u16).to_be_bytes());
    hash.write(bytes);
    hash.write(&[0]);
}

pub(crate) fn next<'frame, 'metadata, T: DeserializeValue<'frame, 'metadata>>(
    columns: &mut ColumnIterator<'frame, 'metadata>,
) -> Result<T, DeserializationError> {
    let column = columns
        .next()
        .transpose()?
        .ok_or_else(|| DeserializationError::new(TooFewColumns))?;
    T::deserialize(column.spec.typ(), column.slice)
}

fn operation_of(code: i8) -> Operation {
    match code {
        0 => Operation::PreImage,
        1 => Operation::Update,
        2 => Operation::Insert,
        3 => Operation::RowDelete,
        4 => Operation::PartitionDelete,
        5..=8 => Operation::RangeDelete,
        9 => Operation::PostImage,
        -3 | -4 => Operation::Expiration,
        other => Operation::Unknown(other),
    }
}

/// A row as the driver hands it out: its columns, not yet decoded, because decoding needs the plan.
pub(crate) struct Raw<'frame, 'metadata>(pub(crate) ColumnIterator<'frame, 'metadata>);

impl<'frame, 'metadata> DeserializeRow<'frame, 'metadata> for Raw<'frame, 'metadata> {
    /// Types are checked value by value.
    fn type_check(_: &[ColumnSpec<'_>]) -> Result<(), TypeCheckError> {
        Ok(())
    }

    fn deserialize(row: ColumnIterator<'frame, 'metadata>) -> Result<Self, DeserializationError> {
        Ok(Self(row))
    }
}

pub(super) async fn page(
    session: &Session,
    open: &PreparedStatement,
    bounded: &PreparedStatement,
    plan: &RowPlan,
    query: LogQuery,
) -> Result<LogPage, LogError> {
    let streams: Vec<CqlValue> = query
        .streams
        .iter()
        .map(|stream| CqlValue::Blob(stream.0.to_vec()))
        .collect();
    let mut values = vec![CqlValue::List(streams), CqlValue::Timeuuid(query.from.0.into())];
    values.extend(query.until.map(|until| CqlValue::Timeuuid(until.0.into())));
    let mut statement = if query.until.is_some() {
        bounded.clone()
    } else {
        open.clone()
    };
    statement.set_page_size(query.page_size);
    let decode = |columns: ColumnIterator<'_, '_>| plan.row(columns);
    let (rows, next) = fetch(session, &statement, values, query.page, "log", decode).await?;
    Ok(LogPage { rows, next })
}

/// One page, each row by `decode`; `what` names the table in errors.
pub(crate) async fn fetch<T>(
    session: &Session,
    statement: &PreparedStatement,
    values: impl SerializeRow,
    page: Option<PageState>,
    what: &str,
    mut decode: impl FnMut(ColumnIterator<'_, '_>) -> Result<T, DeserializationError>,
) -> Result<(Vec<T>, Option<PageState>), LogError> {
    let state = page.map_or_else(PagingState::start, |page| {
        PagingState::new_from_raw_bytes(Arc::<[u8]>::from(&*page.0))
    });
    let result = session.execute_single_page(statement, values, state).await;
    let (result, next) = result.map_err(|error| errors::executing(&error))?;
    let unreadable =
        |error: &dyn std::fmt::Display| LogError::Configuration(format!("unreadable {what} row: {error}"));
    let result = result.into_rows_result().map_err(|error| unreadable(&error))?;
    let mut rows = Vec::with_capacity(result.rows_num());
    for row in result.rows::<Raw<'_, '_>>().map_err(|error| unreadable(&error))? {
        let row = row.and_then(|row| decode(row.0));
        rows.push(row.map_err(|error| unreadable(&error))?);
    }
    let next = match next {
        PagingStateResponse::HasMorePages { state } => state
            .as_bytes_slice()
            .map(|bytes| PageState(bytes::Bytes::copy_from_slice(bytes))),
        PagingStateResponse::NoMorePages => None,
    };
    Ok((rows, next))
}
