//! One write's log rows: a record per (partition, timestamp), in it pre-images, changes, post-images
//! (ScyllaDB `cdc/log.cc`).

mod images;
mod layout;
mod record;
mod split;

use std::sync::Arc;

use crate::cdc::stream_id::StreamId;
use crate::error::CqlError;
use crate::query::hooks::CurrentRows;
use crate::schema::{PreimageMode, TableSchema};
use crate::storage::mutation::{Mutation, Timestamp};

use images::{Affected, Images};
pub use layout::LogLayout;
use record::Record;

/// What the log rows of one write depend on beside the write itself.
pub struct Surroundings<'a> {
    pub layout: &'a LogLayout,
    /// The coordinator's clock, seconds: log rows expire by it, not by their `cdc$time`.
    pub now_seconds: i64,
    pub rows: &'a dyn CurrentRows,
    /// The stream for a timestamp.
    pub stream: &'a dyn Fn(Timestamp) -> Result<StreamId, CqlError>,
    /// 64 random bits for a record's timeuuid.
    pub random: &'a dyn Fn() -> u64,
}

/// The log mutations of one base mutation, one per timestamp in it, ascending.
///
/// # Errors
/// Those of `Surroundings::stream`: a timestamp that no stream covers.
pub fn log_mutations(base: &Mutation, around: &Surroundings<'_>) -> Result<Vec<Mutation>, CqlError> {
    let Some(options) = &base.table.cdc else {
        return Ok(Vec::new());
    };
    let preimage = options.preimage != PreimageMode::Off;
    let records = split::records(base);
    let mut images = if preimage || options.postimage {
        let whole = options.postimage || options.preimage == PreimageMode::Full;
        Images::load(base, around.rows, whole)
    } else {
        Images::default()
    };
    let keys = base.key.components(&base.table);
    let count = records.len();
    let mut result = Vec::with_capacity(count);
    for (index, (timestamp, deltas)) in records.into_iter().enumerate() {
        let stream = (around.stream)(timestamp)?;
        let mut record = Record::new(around, stream, timestamp, options, &keys);
        let affected = if preimage || options.postimage {
            Affected::of(&base.table, &deltas)
        } else {
            Affected::default()
        };
        if preimage {
            images.write_before(&mut record, &affected, options.preimage, &base.table);
        }
        // The state before the next record is the state after this one.
        let follow = options.postimage || (preimage && index + 1 < count);
        for delta in &deltas {
            record.delta(delta, &base.table);
            images.touch(delta);
            if follow {
                images.apply(delta, &base.table);
            }
        }
        if options.postimage {
            images.write_after(&mut record, &affected, &base.table);
        }
        result.extend(record.finish());
    }
    Ok(result)
}

/// Finds out where the log of `base` keeps what. Cheap enough for tests, cached for writes.
///
/// # Errors
/// Server if the log lacks a column, which means that base and log are of different schema versions.
pub fn layout(base: &TableSchema, log: &Arc<TableSchema>) -> Result<LogLayout, CqlError> {
    LogLayout::new(base, log)
}

#[cfg(test)]
mod tests;
