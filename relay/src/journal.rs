//! The journal of exactly-once: a compacted topic in which every transaction says, per slot, which ids it resolved.
//! It closes the gap between what is committed in Kafka and the last checkpoint in ScyllaDB. Pure; `ports::Journal`
//! carries it.

mod head;
mod numbering;
mod record;
mod replay;
mod writer;

use uuid::Uuid;

pub use head::{Opening, Survey, opening};
pub use numbering::{Numbering, PLACES};
pub use record::{Entry, FORMAT, Head, Record, Unreadable, decode};
pub use replay::{Replay, Replayed};
pub use writer::{SealError, Writer};

use crate::model::SlotId;

/// One life of a journal: drawn when its topic is first used, and kept beside the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(pub Uuid);

/// Number of a record among those of its slot, from 1. Zero: none.
pub type Sequence = u64;

/// How much of the journal a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Whatever the checkpoint lacks stands here or behind.
    pub offset: i64,
    /// The last record that it holds.
    pub sequence: Sequence,
}

/// A journal that does not hold what it should. Guessing would repeat events, so nothing is taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "it does not begin with its head; it was emptied, or deleted and made again, so what its last transactions \
         delivered is not known any more"
    )]
    Headless,
    #[error("it belongs to identity \"{0}\"; every identity needs a journal of its own")]
    AnotherIdentity(String),
    #[error(
        "the record at offset {0} is of another incarnation than the state keyspace names; the topic was made again, \
         or another keyspace holds its state"
    )]
    AnotherIncarnation(i64),
    #[error(
        "it holds records, but the state keyspace names no incarnation; the state was reset, or another keyspace holds \
         it"
    )]
    UnknownIncarnation,
    #[error(
        "it ends at offset {end}, but the checkpoint of slot {slot} names offset {mark}; records are missing"
    )]
    TooShort { slot: SlotId, end: i64, mark: i64 },
    #[error(
        "records of slot {slot} are missing: {found} follows where {expected} should be (offset {offset})"
    )]
    Gap {
        slot: SlotId,
        expected: Sequence,
        found: Sequence,
        offset: i64,
    },
    #[error("the record at offset {offset} {what}")]
    Unreadable { offset: i64, what: Unreadable },
}

#[cfg(test)]
mod tests;
