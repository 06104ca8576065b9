//! Where ownership and checkpoints are kept.

use std::future::Future;

use crate::journal::{Incarnation, Mark};
use crate::model::{Micros, RowId, SlotId};

/// Keeps, for one identity, who owns each slot, which processes live, and each slot's checkpoint. Every conditional
/// method decides by one linearizable step on the slot's partition; one whose answer was lost has found out what
/// became of it before it returns.
pub trait StateStore: Send + Sync + 'static {
    /// Who owns what, all 64 slots. May be slightly stale: claims are decided by their condition, not by this.
    fn slots(&self) -> impl Future<Output = Result<Vec<SlotRow>, StateError>> + Send;

    fn processes(&self) -> impl Future<Output = Result<Vec<ProcessRow>, StateError>> + Send;

    /// Renews this process's heartbeat. Beats that arrive out of order, or later than a retirement of an earlier one,
    /// count by their number.
    fn beat(&self, row: &ProcessRow) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Removes a process that has ended, as it was last seen: if it beats after all, it is back.
    fn retire(&self, last_seen: &ProcessRow) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Takes a slot whose epoch is still `seen`, raising it by one.
    fn claim(
        &self,
        slot: SlotId,
        seen: Option<Epoch>,
        owner: &str,
    ) -> impl Future<Output = Result<Conditional<Epoch>, StateError>> + Send;

    /// Gives a slot up; its epoch stays. `clean`: no transaction has anything of it, so whoever takes it next need not
    /// fence anybody, and the id that its row names goes.
    fn release(
        &self,
        slot: SlotId,
        epoch: Epoch,
        clean: bool,
    ) -> impl Future<Output = Result<Conditional<()>, StateError>> + Send;

    /// Reads what a slot's row holds, linearizably. Call it only after a claim.
    fn load(&self, slot: SlotId) -> impl Future<Output = Result<Loaded, StateError>> + Send;

    /// Names the transactional id under which the slot's events are written from now on.
    fn record_id(
        &self,
        slot: SlotId,
        epoch: Epoch,
        id: &str,
    ) -> impl Future<Output = Result<Conditional<()>, StateError>> + Send;

    /// The incarnation of the journal that belongs to these checkpoints; None if there never was one.
    fn incarnation(&self) -> impl Future<Output = Result<Option<Incarnation>, StateError>> + Send;

    /// Records the journal's incarnation unless one is recorded; the one that is recorded now.
    fn record_incarnation(
        &self,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<Incarnation, StateError>> + Send;

    /// Writes a slot's checkpoint if its epoch is still `epoch` and the checkpoint is the one that `save` follows: each
    /// save takes place once or not at all, in order, however late a lost one arrives.
    fn save(
        &self,
        slot: SlotId,
        epoch: Epoch,
        save: &Save,
    ) -> impl Future<Output = Result<Conditional<()>, StateError>> + Send;
}

/// Rises with every change of owner and never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    pub slot: SlotId,
    /// None: released, or never owned.
    pub owner: Option<String>,
    /// None: never owned.
    pub epoch: Option<Epoch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    pub process: String,
    /// Rises with each renewal. To others only that it moves means something.
    pub beat: i64,
    pub placement: Placement,
}

/// How a process comes by its slots. Never both kinds under one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// `--share i/n`.
    Pinned,
    /// `--share auto`.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditional<T> {
    Applied(T),
    /// Somebody else's epoch stands there.
    Fenced,
}

/// What a slot's row holds for whoever has claimed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// None if there never was one.
    pub checkpoint: Option<Checkpoint>,
    /// The transactional id of a former owner, which may still have a transaction open.
    pub transactional_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub bound: Micros,
    /// Up to where it holds what the journal says.
    pub mark: Mark,
    /// (second of `cdc$time`, id) of what is resolved at or above the bound.
    pub resolved: Vec<(i64, RowId)>,
    /// The segments that hold them.
    pub segments: Vec<SegmentKey>,
    /// Rises with every save.
    pub revision: i64,
}

/// Where a segment stands in its slot's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey {
    pub second: i64,
    pub revision: i64,
}

/// One step from a checkpoint to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    pub bound: Micros,
    pub mark: Mark,
    /// The revision that this one takes the place of; 0: there is none.
    pub follows: i64,
    pub revision: i64,
    pub add: Vec<(SegmentKey, Vec<RowId>)>,
    pub remove: Vec<SegmentKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Worth retrying.
    #[error("state store unavailable while trying to {action}: {detail}")]
    Unavailable { action: &'static str, detail: String },
    /// Table missing, permission denied, tablets where LWT is refused: somebody has to act.
    #[error("state store cannot {action}: {detail}")]
    Configuration { action: &'static str, detail: String },
    /// A save whose answer was lost took place after it seemed not to have: read the checkpoint before the next save.
    #[error("checkpoint of slot {slot} was saved by an earlier attempt whose answer was lost")]
    Superseded { slot: SlotId },
    /// Corrupt, of a newer version, or another identity's: refused, never guessed at.
    #[error("checkpoint of slot {slot} refused: {detail}")]
    Unreadable { slot: SlotId, detail: String },
}

impl StateError {
    /// Stable name for metric labels, condition reasons and log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "StateUnavailable",
            Self::Configuration { .. } => "StateConfiguration",
            Self::Superseded { .. } => "CheckpointSuperseded",
            Self::Unreadable { .. } => "CheckpointUnreadable",
        }
    }
}
