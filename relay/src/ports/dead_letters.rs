//! Where events go that the broker will not take.

use std::future::Future;
use std::sync::Arc;

use uuid::Uuid;

use crate::dead_letters::stored::Stored;
use crate::encode::Message;
use crate::ledger::Known;
use crate::model::{Micros, RowId, SlotId, SourcePosition};
use crate::ports::{Epoch, ErrorClass, Outcome};

/// Writes dead letters.
pub trait DeadLetters: Send + Sync + 'static {
    /// Returns Ok only once all of them are durable, in order. Writing one twice has the effect of writing it once,
    /// as far as the target knows identity (a topic holds it twice, under the same event id). Those that wait for a commit
    /// are refused if their slot was taken since.
    fn write(&self, letters: &[DeadLetter]) -> impl Future<Output = Result<(), DeadLetterError>> + Send;

    /// The transaction that resolved the events of these dead letters is committed: nobody may deliver them any more. Of no
    /// effect on those of a slot that was taken since: they are decided already.
    fn settle(&self, letters: &[Lettered]) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = letters;
        std::future::ready(Ok(()))
    }

    /// A slot was taken under this epoch whose former owner delivered in transactions: from now on a former owner's dead
    /// letters are refused. Settles those whose events are resolved, and removes those whose events are not, because these
    /// are delivered again. `resolved` tells which; None: the slot is not ours any more.
    fn recover(
        &self,
        slot: SlotId,
        epoch: Epoch,
        resolved: impl Fn(&SourcePosition) -> Option<bool> + Send + Sync,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = (slot, epoch, resolved);
        std::future::ready(Ok(()))
    }

    /// Likewise for letters whose replays were in a transaction: removes those whose replay is resolved, and has the others
    /// replayed. `known` tells what is known of a replay. After [`Self::recover`].
    fn recover_replays(
        &self,
        slot: SlotId,
        epoch: Epoch,
        known: impl Fn(Micros, RowId) -> Known + Send + Sync,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = (slot, epoch, known);
        std::future::ready(Ok(()))
    }

    /// The replay of a letter, begun at this time, goes into a transaction. False, and of no effect, if the slot was taken
    /// by somebody else.
    fn sending(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        begun: Micros,
        epoch: Epoch,
    ) -> impl Future<Output = Result<bool, DeadLetterError>> + Send {
        let _ = (slot, position, begun, epoch);
        std::future::ready(Ok(false))
    }

    /// The aggregates of a slot's dead letters, each once, and no more than `limit` of them. A target that cannot be
    /// read has none to tell.
    fn aggregates(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<String>, DeadLetterError>> + Send {
        let _ = (slot, limit);
        std::future::ready(Ok(Vec::new()))
    }

    /// Whether letters can be read, so that they may be replayed. Without it nobody calls what follows.
    fn replays(&self) -> bool {
        false
    }

    /// Requests for replays that nobody has carried out yet, of all slots.
    fn requests(&self) -> impl Future<Output = Result<Vec<ReplayRequest>, DeadLetterError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Says that letters of the slot are asked for: whoever owns it will look.
    fn request(&self, slot: SlotId) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = slot;
        std::future::ready(Ok(()))
    }

    /// No letter that the request was made for is asked for any more.
    fn carried_out(
        &self,
        request: &ReplayRequest,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = request;
        std::future::ready(Ok(()))
    }

    /// The letters of a slot whose replay is asked for, in the order of the log, and no more than `limit` of them.
    fn asked(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SourcePosition>, DeadLetterError>> + Send {
        let _ = (slot, limit);
        std::future::ready(Ok(Vec::new()))
    }

    /// Shows each letter of a slot, in the order of the log, undecided ones too.
    fn standing(
        &self,
        slot: SlotId,
        see: impl FnMut(Standing<'_>) + Send,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = (slot, see);
        std::future::ready(Ok(()))
    }

    /// A letter; None if there is none any more.
    fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> impl Future<Output = Result<Option<Stored>, DeadLetterError>> + Send {
        let _ = (slot, position);
        std::future::ready(Ok(None))
    }

    /// Gives a letter another status. `owner`: in exactly-once, of no effect if the slot was taken from it.
    fn mark(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        status: &'static str,
        owner: Option<Epoch>,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = (slot, position, status, owner);
        std::future::ready(Ok(()))
    }

    /// Removes a letter, because its event was delivered. `owner`: see [`Self::mark`].
    fn remove(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        owner: Option<Epoch>,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        let _ = (slot, position, owner);
        std::future::ready(Ok(()))
    }
}

impl<D: DeadLetters> DeadLetters for std::sync::Arc<D> {
    fn write(&self, letters: &[DeadLetter]) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().write(letters)
    }

    fn settle(&self, letters: &[Lettered]) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().settle(letters)
    }

    fn recover(
        &self,
        slot: SlotId,
        epoch: Epoch,
        resolved: impl Fn(&SourcePosition) -> Option<bool> + Send + Sync,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().recover(slot, epoch, resolved)
    }

    fn recover_replays(
        &self,
        slot: SlotId,
        epoch: Epoch,
        known: impl Fn(Micros, RowId) -> Known + Send + Sync,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().recover_replays(slot, epoch, known)
    }

    fn sending(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        begun: Micros,
        epoch: Epoch,
    ) -> impl Future<Output = Result<bool, DeadLetterError>> + Send {
        self.as_ref().sending(slot, position, begun, epoch)
    }

    fn aggregates(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<String>, DeadLetterError>> + Send {
        self.as_ref().aggregates(slot, limit)
    }

    fn replays(&self) -> bool {
        self.as_ref().replays()
    }

    fn requests(&self) -> impl Future<Output = Result<Vec<ReplayRequest>, DeadLetterError>> + Send {
        self.as_ref().requests()
    }

    fn request(&self, slot: SlotId) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().request(slot)
    }

    fn carried_out(
        &self,
        request: &ReplayRequest,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().carried_out(request)
    }

    fn asked(
        &self,
        slot: SlotId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SourcePosition>, DeadLetterError>> + Send {
        self.as_ref().asked(slot, limit)
    }

    fn standing(
        &self,
        slot: SlotId,
        see: impl FnMut(Standing<'_>) + Send,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().standing(slot, see)
    }

    fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> impl Future<Output = Result<Option<Stored>, DeadLetterError>> + Send {
        self.as_ref().letter(slot, position)
    }

    fn mark(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        status: &'static str,
        owner: Option<Epoch>,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().mark(slot, position, status, owner)
    }

    fn remove(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        owner: Option<Epoch>,
    ) -> impl Future<Output = Result<(), DeadLetterError>> + Send {
        self.as_ref().remove(slot, position, owner)
    }
}

/// What a look at all letters of a slot shows of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    pub position: SourcePosition,
    pub event_id: &'a str,
    pub aggregate_id: Option<&'a str>,
    /// See [`Reason::name`].
    pub class: Option<&'a str>,
    pub status: Option<&'a str>,
    pub last_failed_at: Option<Micros>,
}

/// Somebody asks for the replay of letters of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRequest {
    pub slot: SlotId,
    /// A UUID of version 1: two requests are never the same.
    pub id: Uuid,
}

/// Where a dead letter is whose event was resolved by a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lettered {
    pub slot: SlotId,
    pub position: SourcePosition,
    /// Under which its slot was owned.
    pub epoch: Epoch,
}

/// An event that was given up, with what a person needs to judge it and a replay to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub slot: SlotId,
    pub position: SourcePosition,
    /// The event's own id, or a UUIDv5 of its position.
    pub event_id: String,
    pub aggregate_id: Option<String>,
    pub event_type: Option<Arc<str>>,
    pub created_at: Option<Micros>,
    /// As it was, or would have been, sent; its topic is empty and its key None if they could not be found out.
    pub message: Message,
    pub reason: Reason,
    /// Its event is resolved only by the commit of a transaction, which settles the letter; the epoch under which its slot
    /// is owned. None: it waits for people at once.
    pub pending: Option<Epoch>,
    pub error: String,
    pub outcome: Outcome,
    /// Failed attempts.
    pub failures: u32,
    pub first_failed_at: Micros,
    pub last_failed_at: Micros,
}

/// Why an event became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The broker, or the check before it, can never accept it.
    Rejected,
    /// Its attempts were used up (`when: Exhausted`); the class is that of the last error.
    Exhausted(ErrorClass),
    /// An earlier event of its aggregate is a dead letter (`onAggregate: Hold`).
    Held,
    /// Reconciliation found its row, and the guarantee does not allow to deliver it unasked (`guarantee: ExactlyOnce`).
    Reconciled,
}

impl Reason {
    /// Stable name for the dead-letter table, headers and log fields.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "message",
            Self::Exhausted(ErrorClass::Configuration) => "configuration",
            Self::Exhausted(_) => "transient",
            Self::Held => "held",
            Self::Reconciled => "reconciled",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dead letter not written to {target}: {detail}")]
pub struct DeadLetterError {
    pub target: String,
    pub detail: String,
    /// Somebody else has taken a slot of theirs: nothing of it may be delivered any more.
    pub fenced: bool,
}
