//! Reads a slot's partition: owner, epoch and checkpoint. What is not as it was written is refused.

use scylla::response::query_result::QueryResult;

use super::typed;
use crate::journal::Mark;
use crate::model::SlotId;
use crate::ports::{Epoch, Loaded, SegmentKey, StateError};
use crate::state::checkpoint::{Base, FORMAT, base_checksum, decode_segment};

/// A slot's partition as read.
pub struct Partition {
    pub owner: Option<String>,
    /// None if it was never claimed.
    pub epoch: Option<Epoch>,
    pub loaded: Loaded,
}

#[derive(scylla::DeserializeRow)]
struct PartitionRow {
    owner: Option<String>,
    epoch: Option<i64>,
    transactional_id: Option<String>,
    format: Option<i32>,
    bound: Option<i64>,
    saved_revision: Option<i64>,
    mark_offset: Option<i64>,
    mark_sequence: Option<i64>,
    checksum: Option<i64>,
    second: Option<i64>,
    revision: Option<i64>,
    ids: Option<Vec<u8>>,
}

impl Partition {
    pub(super) fn read(identity: &str, slot: SlotId, result: QueryResult) -> Result<Self, StateError> {
        let rows = typed::<PartitionRow>(result, "load a checkpoint")?;
        let mut partition = Self {
            owner: None,
            epoch: None,
            loaded: Loaded::default(),
        };
        for row in rows {
            if let Some(base) = base(identity, slot, &row)? {
                let checkpoint = partition.loaded.checkpoint.get_or_insert_default();
                (checkpoint.bound, checkpoint.mark) = (base.bound, base.mark);
                checkpoint.revision = base.revision;
            }
            partition.owner = row.owner;
            partition.epoch = row.epoch.map(Epoch);
            partition.loaded.transactional_id = row.transactional_id;
            let (Some(second), Some(revision), Some(blob)) = (row.second, row.revision, row.ids) else {
                continue;
            };
            let key = SegmentKey { second, revision };
            let refuse = |detail: String| StateError::Unreadable { slot, detail };
            let ids = decode_segment(identity, slot, key, &blob).ok_or_else(|| {
                refuse(format!(
                    "the segment of second {second}, revision {revision} is corrupt"
                ))
            })?;
            let Some(checkpoint) = &mut partition.loaded.checkpoint else {
                return Err(refuse("segments without a base row".into()));
            };
            checkpoint.segments.push(key);
            checkpoint.resolved.extend(ids.into_iter().map(|id| (second, id)));
        }
        Ok(partition)
    }
}

/// The base that a row of the partition repeats; None if nothing was ever saved.
fn base(identity: &str, slot: SlotId, row: &PartitionRow) -> Result<Option<Base>, StateError> {
    let refuse = |detail: String| StateError::Unreadable { slot, detail };
    let Some(format) = row.format else {
        return Ok(None);
    };
    if !(1..=FORMAT).contains(&format) {
        return Err(refuse(format!(
            "it has format {format}, this version reads formats 1 to {FORMAT}; run the version that wrote it"
        )));
    }
    let (Some(bound), Some(revision)) = (row.bound, row.saved_revision) else {
        return Err(refuse("its bound or revision is missing".into()));
    };
    let mark = Mark {
        offset: row.mark_offset.unwrap_or_default(),
        sequence: row.mark_sequence.unwrap_or_default().cast_unsigned(),
    };
    let base = Base {
        format,
        bound,
        revision,
        mark,
    };
    if row.checksum != Some(base_checksum(identity, slot, &base)) {
        return Err(refuse(format!(
            "its checksum does not match (identity \"{identity}\", bound {bound})"
        )));
    }
    Ok(Some(base))
}
