//! Reads a slot's partition: owner, epoch and checkpoint. What is not as it was written is refused.

use scylla::response::query_result::QueryResult;

use super::typed;
use crate::model::SlotId;
use crate::ports::{Checkpoint, Epoch, SegmentKey, StateError};
use crate::state::checkpoint::{FORMAT, base_checksum, decode_segment};

/// A slot's partition as read.
pub(super) struct Partition {
    pub(super) owner: Option<String>,
    pub(super) epoch: Option<Epoch>,
    pub(super) checkpoint: Option<Checkpoint>,
}

type PartitionRow = (
    Option<String>,
    Option<i64>,
    Option<i32>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<Vec<u8>>,
);

impl Partition {
    pub(super) fn read(identity: &str, slot: SlotId, result: QueryResult) -> Result<Self, StateError> {
        let rows = typed::<PartitionRow>(result, "load a checkpoint")?;
        let mut partition = Self {
            owner: None,
            epoch: None,
            checkpoint: None,
        };
        for (owner, epoch, format, bound, revision, checksum, second, segment_revision, ids) in rows {
            partition.owner = owner;
            partition.epoch = epoch.map(Epoch);
            if let Some(format) = format {
                let base = partition.checkpoint.get_or_insert_default();
                (base.bound, base.revision) = check_base(identity, slot, format, bound, revision, checksum)?;
            }
            let (Some(second), Some(revision), Some(blob)) = (second, segment_revision, ids) else {
                continue;
            };
            let key = SegmentKey { second, revision };
            let refuse = |detail: String| StateError::Unreadable { slot, detail };
            let ids = decode_segment(identity, slot, key, &blob).ok_or_else(|| {
                refuse(format!(
                    "the segment of second {second}, revision {revision} is corrupt"
                ))
            })?;
            let Some(base) = &mut partition.checkpoint else {
                return Err(refuse("segments without a base row".into()));
            };
            base.segments.push(key);
            base.resolved.extend(ids.into_iter().map(|id| (second, id)));
        }
        Ok(partition)
    }
}

fn check_base(
    identity: &str,
    slot: SlotId,
    format: i32,
    bound: Option<i64>,
    revision: Option<i64>,
    checksum: Option<i64>,
) -> Result<(i64, i64), StateError> {
    let refuse = |detail: String| StateError::Unreadable { slot, detail };
    if format != FORMAT {
        return Err(refuse(format!(
            "it has format {format}, this version reads format {FORMAT}; run the version that wrote it"
        )));
    }
    let (Some(bound), Some(revision)) = (bound, revision) else {
        return Err(refuse("its bound or revision is missing".into()));
    };
    if checksum != Some(base_checksum(identity, slot, bound, revision)) {
        return Err(refuse(format!(
            "its checksum does not match (identity \"{identity}\", bound {bound})"
        )));
    }
    Ok((bound, revision))
}
